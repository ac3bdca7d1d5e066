//! What all checks share: one connection to libvirt, and what can be examined through it.

use std::{cell::OnceCell, time::Duration};

use super::CALL_LIMIT;
use crate::{
    error::{Error, Result},
    ops::Host,
    store::system,
    tools::virsh::{Confinement, Versions},
};

/// Where a check applies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reach {
    /// On this machine, whichever libvirt is used.
    Machine,
    /// Wherever libvirt answers.
    Libvirt,
    /// Wherever libvirt answers, except for a session, which has no networks.
    Networks,
    /// Where libvirt and its guests are on this machine.
    Here,
    /// Where the system's libvirt, not that of a session, and its guests are on this machine.
    System,
}

/// Where libvirt and its guests are.
#[derive(Debug, Clone, PartialEq, Eq)]
enum LibvirtHost {
    System,
    Session,
    Elsewhere,
    /// A driver that does not run QEMU on this machine.
    Other(String),
}

/// The host during one run of checks.
pub(super) struct Context {
    /// The host. Its calls have a time limit.
    pub(super) host: Host,
    place: LibvirtHost,
    versions: OnceCell<Result<Versions>>,
    confinement: OnceCell<Result<Confinement>>,
}

impl Context {
    pub(super) fn new(host: &Host) -> Self {
        let host = host.with_time_limit(CALL_LIMIT);
        let place = place(host.virsh.uri(), host.virsh.is_local());
        Self { host, place, versions: OnceCell::new(), confinement: OnceCell::new() }
    }

    /// Returns the time limit of a call.
    pub(super) fn limit(&self) -> Duration {
        self.host.runner.limit.unwrap_or(CALL_LIMIT)
    }

    /// Returns the versions of libvirt and the hypervisor, which are read once.
    pub(super) fn versions(&self) -> Result<&Versions, &Error> {
        self.versions.get_or_init(|| self.host.virsh.versions()).as_ref()
    }

    /// Returns how guests are confined, which is read once.
    pub(super) fn confinement(&self) -> Result<&Confinement> {
        self.confinement.get_or_init(|| self.host.virsh.confinement()).as_ref().map_err(Clone::clone)
    }

    /// Returns whether the connection is to the user's session.
    pub(super) fn is_session(&self) -> bool {
        self.place == LibvirtHost::Session
    }

    /// Returns whether the folders of pools are on this machine.
    pub(super) fn sees_files(&self) -> bool {
        self.why_not(Reach::Here).is_none()
    }

    /// Returns the virsh command line that does this.
    pub(super) fn virsh(&self, args: &[&str]) -> String {
        self.host.virsh.command(args)
    }

    /// Returns why a check of this scope does not apply here, if so.
    pub(super) fn why_not(&self, scope: Reach) -> Option<String> {
        self.why_not_at(scope).or_else(|| self.other_host().filter(|_| matches!(scope, Reach::Here | Reach::System)))
    }

    /// Returns that libvirt answers on this machine, but its files are elsewhere: in a container that has its socket.
    fn other_host(&self) -> Option<String> {
        let libvirts = self.versions().ok()?.host.as_deref()?;
        let name = system::host_name();
        let own = name.split('.').next()?;
        (libvirts != own).then(|| {
            format!("libvirt runs on host `{libvirts}`, whose files and devices are not visible on this one, `{own}`")
        })
    }

    fn why_not_at(&self, scope: Reach) -> Option<String> {
        let reason = match (scope, &self.place) {
            (Reach::Machine | Reach::Libvirt, _)
            | (_, LibvirtHost::System)
            | (Reach::Here, LibvirtHost::Session)
            | (Reach::Networks, LibvirtHost::Elsewhere | LibvirtHost::Other(_)) => return None,
            (_, LibvirtHost::Session) => "does not apply to a session (qemu:///session)".to_owned(),
            (_, LibvirtHost::Elsewhere) => {
                "libvirt is on another machine, which cannot be checked from here".to_owned()
            }
            (_, LibvirtHost::Other(driver)) => format!("libvirt's driver `{driver}` runs no guests on this machine"),
        };
        Some(reason)
    }
}

/// Returns where the libvirt of a URI is: `DRIVER[+TRANSPORT]://[HOST]/PATH`.
fn place(uri: &str, is_local: bool) -> LibvirtHost {
    let (scheme, rest) = uri.split_once("://").unwrap_or((uri, ""));
    let driver = scheme.split('+').next().unwrap_or_default();
    let path = rest.find('/').map_or("", |at| &rest[at..]);
    match driver {
        _ if !is_local => LibvirtHost::Elsewhere,
        "qemu" if path.starts_with("/session") => LibvirtHost::Session,
        "qemu" => LibvirtHost::System,
        other => LibvirtHost::Other(other.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_uri_determines_where_libvirt_is() {
        for (uri, expected) in [
            ("qemu:///system", LibvirtHost::System),
            ("qemu+unix:///system?socket=/x/session", LibvirtHost::System),
            ("qemu:///session", LibvirtHost::Session),
            ("qemu+ssh://host/session", LibvirtHost::Elsewhere),
            ("qemu+ssh://host/system", LibvirtHost::Elsewhere),
            ("test:///default", LibvirtHost::Other("test".to_owned())),
            ("test+unix:///default", LibvirtHost::Other("test".to_owned())),
        ] {
            assert_eq!(place(uri, !uri.contains("host")), expected, "{uri}");
        }
    }
}
