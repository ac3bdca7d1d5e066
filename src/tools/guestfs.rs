//! `virt-sysprep`: removes a guest's identity from its disk without starting it.
//!
//! It reads and writes the guest's file systems in an appliance, a small VM of its own (libguestfs 1.48).

use std::time::Duration;

use camino::Utf8Path;

use super::{Runner, Tool};
use crate::error::{Code, Error, Hint, Result};

/// The time limit. The emulated appliance takes half a minute just to start.
const LIMIT: Duration = Duration::from_mins(20);

/// The operations that remove a guest's identity. They keep its software and settings.
const OPERATIONS: &str = "machine-id,ssh-hostkeys,dhcp-client-state,udev-persistent-net,net-hwaddr,customize";

/// Further files to delete: cloud-init's state, so that it sees a new VM as a new instance; the files that it wrote
/// from the old instance's data (network, log); authorized keys; leases of other DHCP clients; random seeds.
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

/// Fails if virt-sysprep is not installed.
pub fn check(runner: &Runner) -> Result<()> {
    Tool::new("virt-sysprep").args(["--version"]).read(runner)?.text().map(drop)
}

/// Removes the identity of the guest in a qcow2 file. `emulate` means that KVM is known not to work.
pub fn remove_identity(runner: &Runner, file: &Utf8Path, emulate: bool) -> Result<()> {
    let attempt = |emulate: bool| {
        let delete = FILES.iter().flat_map(|file| ["--delete", file]);
        let tool = Tool::new("virt-sysprep")
            .args(["--quiet", "--no-network", "--format", "qcow2", "-a", file.as_str(), "--operations", OPERATIONS])
            .args(delete)
            // This comes last because `customize` creates a missing machine ID, which all clones would share.
            .args(["--truncate", "/etc/machine-id"])
            // The appliance runs as a plain QEMU process, not as a libvirt domain.
            .env("LIBGUESTFS_BACKEND", "direct")
            .limit(LIMIT);
        let tool = if emulate { tool.env("LIBGUESTFS_BACKEND_SETTINGS", "force_tcg") } else { tool };
        tool.read(runner)?.text().map(drop)
    };
    let explain = |error: Error| match error.code {
        Code::ToolFailed => error.hint(Hint::run(
            "Check what libguestfs lacks, often a kernel in /boot that this user can read",
            "libguestfs-test-tool",
        )),
        _ => error,
    };
    match attempt(emulate) {
        // A /dev/kvm that exists but does not work ends the appliance before it changes the file.
        Err(error) if error.code == Code::ToolFailed && !emulate && error.to_string().contains("guestfs_launch") => {
            attempt(true).map_err(explain)
        }
        result => result.map_err(explain),
    }
}
