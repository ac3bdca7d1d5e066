//! `virt-sysprep`: taking a guest's identity out of its disk, without starting it.
//!
//! It reads and writes the guest's file systems in an appliance of its own (libguestfs 1.48).

use std::time::Duration;

use camino::Utf8Path;

use super::{Runner, Tool};
use crate::error::{Code, Error, Result};

/// How long it may take: emulated, the appliance alone takes half a minute to start.
const LIMIT: Duration = Duration::from_mins(20);

/// What makes a guest the one that it is. Software and settings are left alone.
const OPERATIONS: &str = "machine-id,ssh-hostkeys,dhcp-client-state,udev-persistent-net,net-hwaddr,customize";

/// Files that go as well: cloud-init's state, so that a new VM is a new instance to it; what it wrote from the old
/// instance's data (network, log); who could log in; leases of other DHCP clients; seeds of random numbers.
const FILES: &[&str] = &[
    "/var/lib/cloud/*",
    "/var/log/cloud-init*.log",
    "/var/log/journal/*",
    "/etc/netplan/50-cloud-init.yaml",
    "/etc/network/interfaces.d/50-cloud-init*",
    "/etc/NetworkManager/system-connections/cloud-init-*",
    "/root/.ssh/authorized_keys",
    "/home/*/.ssh/authorized_keys",
    "/var/lib/NetworkManager/*lease*",
    "/var/lib/dhcpcd/*lease*",
    "/var/lib/systemd/random-seed",
    "/var/lib/urandom/random-seed",
    "/var/lib/dbus/machine-id",
];

/// Fails when it is not installed.
pub fn check(runner: &Runner) -> Result<()> {
    Tool::new("virt-sysprep").args(["--version"]).read(runner)?.text().map(drop)
}

/// Takes the identity out of the guest in a qcow2 file. `emulate`: KVM is known not to work.
pub fn remove_identity(runner: &Runner, file: &Utf8Path, emulate: bool) -> Result<()> {
    let once = |emulate: bool| {
        let delete = FILES.iter().flat_map(|file| ["--delete", file]);
        let tool = Tool::new("virt-sysprep")
            .args(["--quiet", "--no-network", "--format", "qcow2", "-a", file.as_str(), "--operations", OPERATIONS])
            .args(delete)
            // Last: customizing makes a new one where there is none, which all clones would share.
            .args(["--truncate", "/etc/machine-id"])
            // A process of its own, no domain of libvirt's.
            .env("LIBGUESTFS_BACKEND", "direct")
            .limit(LIMIT);
        let tool = if emulate { tool.env("LIBGUESTFS_BACKEND_SETTINGS", "force_tcg") } else { tool };
        tool.read(runner)?.text().map(drop)
    };
    let explain = |error: Error| match error.code {
        Code::ToolFailed => error.hint(
            "`libguestfs-test-tool` shows what libguestfs lacks: often a kernel in /boot that this user may read.",
        ),
        _ => error,
    };
    match once(emulate) {
        // KVM that is there and does not work ends the appliance before it has touched the file.
        Err(error) if error.code == Code::ToolFailed && !emulate && error.to_string().contains("guestfs_launch") => {
            once(true).map_err(explain)
        }
        result => result.map_err(explain),
    }
}
