//! What a guest is told at its first boot: the four files of its NoCloud seed.
//!
//! The operator's user data goes in beside vmprov's own configuration and neither undoes the other:
//!
//! - `parts` takes the operator's data apart as cloud-init does,
//! - `check` refuses what contradicts vmprov and warns of what cannot be looked into,
//! - `render` puts the operator's data first, unchanged, and vmprov's last, with directives on how to merge them.
//!
//! Nothing here does I/O. Facts about cloud-init were read in its own code: 20.4.1 (Debian 11), 22.4.2 (Debian 12) and
//! 25.1.4 (Debian 13). File names below are relative to its `cloudinit/`. `tests/cloud_init` runs that code on seeds.

mod check;
mod parts;
mod render;
#[cfg(test)]
mod tests;
mod user_data;

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::error::{Error, Result};
use crate::model::name::Name;

pub use user_data::UserData;

/// Everything that a guest is told through its seed.
///
/// It is also kept whole in the seed, as `vmprov.json`, so that a later inject can build the next seed with nothing
/// lost. cloud-init ignores the extra file (`sources/DataSourceNoCloud.py` asks for its files by name).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Seed {
    /// What makes cloud-init run its per-instance modules again: keys are injected with a new one.
    pub instance_id: String,
    /// The VM's name, which the guest gets as its host name.
    pub hostname: Name,
    /// Who logs in with [`Self::authorized_keys`]; made where the image does not have it.
    pub user: String,
    /// The address of the VM's network interface, as libvirt writes it.
    pub mac: String,
    /// Whole public key lines.
    pub authorized_keys: Vec<String>,
    /// Without any, the guest makes its own.
    pub host_keys: Vec<HostKey>,
    /// The operator's, checked.
    pub user_data: Option<UserData>,
}

/// An ssh host key, made on the host so that even the first connection can be verified.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostKey {
    /// `ed25519`, `ecdsa` or `rsa`: cloud-init's names, and those of the files in the guest (`config/cc_ssh.py`).
    pub algorithm: String,
    /// OpenSSH PEM.
    pub private: String,
    /// One line.
    pub public: String,
}

impl fmt::Debug for HostKey {
    /// Without the private half.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HostKey")
            .field("algorithm", &self.algorithm)
            .field("public", &self.public)
            .finish_non_exhaustive()
    }
}

impl Seed {
    /// The seed's files: name and content.
    pub fn files(&self) -> Vec<(&'static str, Vec<u8>)> {
        vec![
            ("meta-data", self.meta_data()),
            ("user-data", render::user_data(self)),
            ("network-config", self.network_config()),
            ("vmprov.json", format!("{:#}\n", json!(self)).into_bytes()),
        ]
    }

    /// Reads a seed back from its `vmprov.json`.
    pub fn from_json(bytes: &[u8]) -> Result<Self> {
        serde_json::from_slice(bytes).map_err(|error| {
            Error::invalid("the seed's `vmprov.json` cannot be read")
                .because(error)
                .hint("The seed was changed or made by another version of vmprov; make the VM again to get a new one.")
        })
    }

    fn meta_data(&self) -> Vec<u8> {
        render::yaml(&json!({"instance-id": self.instance_id, "local-hostname": self.hostname})).into_bytes()
    }

    /// Asks for IPv4 by DHCP and leaves IPv6 to the router advertisements that the guest listens to anyway.
    ///
    /// - `dhcp6` would cost a NAT network without IPv6 its boot time: ifupdown waits for `dhclient -6` to give up, and
    ///   `NetworkManager` fails the connection, because cloud-init writes `may-fail=false` (`net/network_manager.py`).
    /// - `set-name` is needed: up to 20.4, without netplan, the configuration's key is taken for the interface's name
    ///   (`handle_ethernets` in `net/network_state.py`), and the guest has no network.
    /// - `dhcp-identifier` is netplan's: the lease then follows the address that libvirt knows, not the machine-id.
    fn network_config(&self) -> Vec<u8> {
        let interface = "eth0";
        render::yaml(&json!({
            "version": 2,
            "ethernets": {interface: {
                "match": {"macaddress": self.mac.to_ascii_lowercase()},
                "set-name": interface,
                "dhcp4": true,
                "dhcp-identifier": "mac",
            }},
        }))
        .into_bytes()
    }
}
