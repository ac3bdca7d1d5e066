//! Which libvirt is meant when nobody says: the system's, or the user's own where that is not to be had.

use std::{io::ErrorKind, os::unix::net::UnixStream, path::Path, time::Duration};

use rustix::process::geteuid;

use crate::{
    error::Code,
    store::accounts::{Account, group_name},
    tools::{Runner, virsh::Virsh},
};

/// The system's libvirt, which has networks and starts VMs with the host.
pub const SYSTEM: &str = "qemu:///system";

/// The user's own, which needs no privilege.
pub const SESSION: &str = "qemu:///session";

/// The sockets of the system's libvirt: of its one daemon, or of the one for QEMU (libvirt's `daemons.rst`).
const SOCKETS: [&str; 2] = ["/run/libvirt/libvirt-sock", "/run/libvirt/virtqemud-sock"];

/// Those daemons themselves, which a session starts by itself.
const DAEMONS: [&str; 4] =
    ["/usr/sbin/libvirtd", "/usr/sbin/virtqemud", "/usr/bin/libvirtd", "/usr/local/sbin/libvirtd"];

/// How long the system's libvirt may take to say whether it lets this user in.
const LIMIT: Duration = Duration::from_secs(20);

/// A connection that was chosen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Connection {
    /// Its URI.
    pub uri: &'static str,
    /// Why it is not the system's.
    pub because: Option<String>,
}

/// Chooses the connection. root always means the system's.
pub fn choose() -> Connection {
    let because = if geteuid().is_root() { None } else { why_not_system(&Runner::default()) };
    // Without a daemon to start, the system's error says better what is missing.
    let because = because.filter(|_| DAEMONS.iter().any(|daemon| Path::new(daemon).exists()));
    Connection { uri: if because.is_some() { SESSION } else { SYSTEM }, because }
}

/// The group whose members may use the system's libvirt (`unix_sock_group` of Debian's and Fedora's packages).
const GROUP: &str = "libvirt";

/// Why this user cannot use the system's libvirt; none where they can, or could if it ran: that it is down must not look
/// as if their VMs were gone.
fn why_not_system(runner: &Runner) -> Option<String> {
    let own = Account::own();
    let is_member = Account::of(own.uid, own.gids[0]).gids.iter().chain(&own.gids).any(|gid| group_name(*gid) == GROUP);
    let mut because = "it is not running".to_owned();
    for socket in SOCKETS {
        match UnixStream::connect(socket) {
            // Whom a group lets in is in; a socket that is open to all has polkit behind it.
            Ok(_) if !is_open_to_all(socket) => return None,
            Ok(_) => return refused_by_polkit(runner),
            Err(_) if is_member => return None,
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => because = format!("{socket}: {error}"),
        }
    }
    Some(because)
}

fn is_open_to_all(socket: &str) -> bool {
    use std::os::unix::fs::PermissionsExt;
    std::fs::metadata(socket).is_ok_and(|metadata| metadata.permissions().mode() & 0o002 != 0)
}

fn refused_by_polkit(runner: &Runner) -> Option<String> {
    let refused = Virsh::new(SYSTEM.to_owned(), runner.clone()).connects(LIMIT).err()?;
    matches!(refused.code, Code::Denied | Code::Unreachable).then(|| refused.cause.unwrap_or(refused.message))
}
