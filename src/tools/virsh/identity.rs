//! The identity of the hypervisor behind a connection, independent of the URI's spelling.

use serde::Deserialize;

use super::{Virsh, from_xml};
use crate::error::Result;

/// The virsh command whose output contains the host's UUID.
pub(super) const CAPABILITIES: &[&str] = &["capabilities"];

#[derive(Deserialize)]
struct RawCapabilities {
    host: RawHost,
}

#[derive(Deserialize)]
struct RawHost {
    uuid: Option<String>,
}

impl Virsh {
    /// Returns the identity of the hypervisor: libvirt's driver and host UUID, and for a session also the user. Two
    /// URIs of the same libvirt have the same identity, in every process and on every machine.
    ///
    /// It is read once for each connection. [`Self::inventory`] reads it along with everything else. A driver that reports
    /// no UUID (libvirt's test driver) is identified by its URI.
    pub fn hypervisor(&self) -> Result<String> {
        if let Some(known) = self.identity.get() {
            return Ok(known.clone());
        }
        let xml = self.read("read libvirt's host UUID", CAPABILITIES)?;
        self.remember_hypervisor(&xml)
    }

    /// Stores the identity found in the XML of the capabilities.
    pub(super) fn remember_hypervisor(&self, capabilities: &str) -> Result<String> {
        let raw: RawCapabilities = from_xml("capabilities", capabilities)?;
        let identity = identity(&self.uri, raw.host.uuid.as_deref(), rustix::process::geteuid().as_raw());
        Ok(self.identity.get_or_init(|| identity).clone())
    }
}

/// Returns the identity of the libvirt at `uri`. `user` is the ID of this machine's user.
fn identity(uri: &str, host_uuid: Option<&str>, user: u32) -> String {
    let Some(uuid) = host_uuid else { return uri.to_owned() };
    let (scheme, rest) = uri.split_once("://").unwrap_or((uri, ""));
    let driver = scheme.split('+').next().unwrap_or(scheme);
    let (address, _parameters) = rest.split_once('?').unwrap_or((rest, ""));
    let (authority, path) = address.split_once('/').unwrap_or((address, ""));
    match (path, authority) {
        ("session", "") => format!("{driver} {uuid} session of user {user}"),
        // Only the other machine knows which user's session this is.
        ("session", authority) => format!("{driver} {uuid} session at {authority}"),
        (path, _) => format!("{driver} {uuid} {path}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uris_of_the_same_libvirt_have_the_same_identity() {
        let of = |uri| identity(uri, Some("U"), 1000);
        let system = of("qemu:///system");
        assert_eq!(system, "qemu U system");
        for same in ["qemu+unix:///system", "qemu+unix:///system?socket=/run/x", "qemu+ssh://root@host/system"] {
            assert_eq!(of(same), system, "{same}");
        }
    }

    #[test]
    fn sessions_of_different_users_have_different_identities() {
        let of = |uri, uid| identity(uri, Some("U"), uid);
        assert_eq!(of("qemu:///session", 1), of("qemu+unix:///session", 1));
        assert_ne!(of("qemu:///session", 1), of("qemu:///session", 2));
        assert_ne!(of("qemu:///session", 1), of("qemu:///system", 1));
        assert_ne!(of("qemu+ssh://a@host/session", 1), of("qemu+ssh://b@host/session", 1));
        assert_eq!(identity("test:///default", None, 1), "test:///default");
    }
}
