//! What the checks look with: one connection for all of them, and what can be seen through it.

use std::{cell::OnceCell, time::Duration};

use super::CALL_LIMIT;
use crate::{
    error::{Error, Result},
    ops::Host,
    store::system,
    tools::virsh::{Confinement, Versions},
};

/// Where a check can see anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reach {
    /// On this machine, whatever libvirt is used.
    Machine,
    /// Wherever libvirt answers.
    Libvirt,
    /// The same, but for a session, which has no networks.
    Networks,
    /// Where libvirt and its guests are on this machine.
    Here,
    /// The same, for the machine's libvirt and not for one of a session.
    System,
}

/// Where libvirt and its guests are.
#[derive(Debug, Clone, PartialEq, Eq)]
enum LibvirtHost {
    System,
    Session,
    Elsewhere,
    /// A driver that runs no QEMU here.
    Other(String),
}

/// One look at the host.
pub(super) struct Context {
    /// The host, none of whose calls take long.
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

    /// How long a call may take here.
    pub(super) fn limit(&self) -> Duration {
        self.host.runner.limit.unwrap_or(CALL_LIMIT)
    }

    /// Who answers: asked once.
    pub(super) fn versions(&self) -> Result<&Versions, &Error> {
        self.versions.get_or_init(|| self.host.virsh.versions()).as_ref()
    }

    /// How guests are confined: asked once.
    pub(super) fn confinement(&self) -> Result<&Confinement> {
        self.confinement.get_or_init(|| self.host.virsh.confinement()).as_ref().map_err(Clone::clone)
    }

    /// Whether libvirt is the user's own.
    pub(super) fn is_session(&self) -> bool {
        self.place == LibvirtHost::Session
    }

    /// Whether the folders of pools are this machine's.
    pub(super) fn sees_files(&self) -> bool {
        self.why_not(Reach::Here).is_none()
    }

    /// The call of virsh that a person types.
    pub(super) fn virsh(&self, args: &[&str]) -> String {
        self.host.virsh.command(args)
    }

    /// Why a check of this scope sees nothing here.
    pub(super) fn why_not(&self, scope: Reach) -> Option<String> {
        self.why_not_at(scope).or_else(|| self.other_host().filter(|_| matches!(scope, Reach::Here | Reach::System)))
    }

    /// That libvirt answers on this machine, and yet its files are others: this is a container that has its socket.
    fn other_host(&self) -> Option<String> {
        let libvirts = self.versions().ok()?.host.as_deref()?;
        let name = system::host_name();
        let own = name.split('.').next()?;
        (libvirts != own).then(|| {
            format!("libvirt calls its host `{libvirts}`, and this is `{own}`: its files and devices are not these")
        })
    }

    fn why_not_at(&self, scope: Reach) -> Option<String> {
        let reason = match (scope, &self.place) {
            (Reach::Machine | Reach::Libvirt, _)
            | (_, LibvirtHost::System)
            | (Reach::Here, LibvirtHost::Session)
            | (Reach::Networks, LibvirtHost::Elsewhere | LibvirtHost::Other(_)) => return None,
            (_, LibvirtHost::Session) => "a session (qemu:///session) has none of it".to_owned(),
            (_, LibvirtHost::Elsewhere) => {
                "libvirt is on another machine, which cannot be looked at from here".to_owned()
            }
            (_, LibvirtHost::Other(driver)) => format!("libvirt's driver `{driver}` runs nothing on this machine"),
        };
        Some(reason)
    }
}

/// What a URI says of the place: `DRIVER[+TRANSPORT]://[HOST]/PATH`.
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
    fn the_uri_says_where_libvirt_is() {
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
