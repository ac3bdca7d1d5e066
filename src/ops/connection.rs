//! The default connection: the system's libvirt, or the user's own if the system's cannot be used.

use std::{io::ErrorKind, os::unix::net::UnixStream, path::Path, time::Duration};

use rustix::process::geteuid;

use crate::{
    error::Code,
    store::accounts::{Account, group_name},
    tools::{Runner, virsh::Virsh},
};

/// The URI of the system's libvirt, which has networks and starts VMs with the host.
pub const SYSTEM: &str = "qemu:///system";

/// The URI of the user's own libvirt, which needs no privilege.
pub const SESSION: &str = "qemu:///session";

/// The sockets of the system's libvirt: of the monolithic daemon, and of the modular one for QEMU (libvirt's
/// `daemons.rst`).
const SOCKETS: [&str; 2] = ["/run/libvirt/libvirt-sock", "/run/libvirt/virtqemud-sock"];

/// The daemons, which libvirt starts itself for a session.
const DAEMONS: [&str; 4] =
    ["/usr/sbin/libvirtd", "/usr/sbin/virtqemud", "/usr/bin/libvirtd", "/usr/local/sbin/libvirtd"];

/// How long the system's libvirt may take to accept or refuse this user.
const LIMIT: Duration = Duration::from_secs(20);

/// The chosen connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Connection {
    /// Its URI.
    pub uri: &'static str,
    /// Why it is not the system's.
    pub because: Option<String>,
}

/// Chooses the connection. For root it is always the system's.
pub fn choose() -> Connection {
    let because = if geteuid().is_root() { None } else { why_not_system(&Runner::default()) };
    // If there is no daemon to start, the error of the system's connection tells better what is missing.
    let because = because.filter(|_| DAEMONS.iter().any(|daemon| Path::new(daemon).exists()));
    Connection { uri: if because.is_some() { SESSION } else { SYSTEM }, because }
}

/// The group whose members may use the system's libvirt (`unix_sock_group` of Debian's and Fedora's packages).
const GROUP: &str = "libvirt";

/// Returns why this user cannot use the system's libvirt. None if they can, or could if it ran: otherwise a stopped
/// daemon would look as if their VMs were gone.
fn why_not_system(runner: &Runner) -> Option<String> {
    let own = Account::own();
    let is_member = Account::of(own.uid, own.gids[0]).gids.iter().chain(&own.gids).any(|gid| group_name(*gid) == GROUP);
    let mut because = "it is not running".to_owned();
    for socket in SOCKETS {
        match UnixStream::connect(socket) {
            // A socket restricted to a group admits all its members; behind one that is open to all, polkit decides.
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
