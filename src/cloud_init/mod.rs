//! The four files of the NoCloud seed, which configures a guest at its first boot.
//!
//! The seed combines the operator's user data with vmprov's own configuration, so that neither undoes the other:
//!
//! - `parts` splits the operator's data as cloud-init does,
//! - `check` refuses settings that conflict with vmprov, and warns of content that it cannot check,
//! - `render` writes the operator's data first, unchanged, and vmprov's last, with directives for merging them.
//!
//! Nothing here does I/O. Facts about cloud-init come from its source code: 20.4.1 (Debian 11), 22.4.2 (Debian 12) and
//! 25.1.4 (Debian 13). File names below are relative to its `cloudinit/`. `tests/cloud_init` runs that code on seeds.

mod check;
mod gzip;
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

/// Everything that configures a guest through its seed.
///
/// The seed also contains all of it as `vmprov.json`, so that a later key injection can build the next seed without
/// loss. cloud-init ignores the extra file (`sources/DataSourceNoCloud.py` reads its files by name).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Seed {
    /// The instance id. A new one makes cloud-init run its per-instance modules again, which injects keys.
    pub instance_id: String,
    /// The VM's name, which becomes the guest's host name.
    pub hostname: Name,
    /// The login user for [`Self::authorized_keys`]. cloud-init creates it if the image does not have it.
    pub user: String,
    /// The MAC address of the VM's network interface, as libvirt writes it.
    pub mac: String,
    /// The public keys, one complete line each.
    pub authorized_keys: Vec<String>,
    /// The host keys. Without any, the guest generates its own.
    pub host_keys: Vec<HostKey>,
    /// The operator's user data, checked.
    pub user_data: Option<UserData>,
}

/// An SSH host key, generated on the host so that even the first connection can be verified.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostKey {
    /// The algorithm: `ed25519`, `ecdsa` or `rsa`, as in cloud-init and in the guest's file names (`config/cc_ssh.py`).
    pub algorithm: String,
    /// The private key, as OpenSSH PEM.
    pub private: String,
    /// The public key, as one line.
    pub public: String,
}

impl fmt::Debug for HostKey {
    /// Omits the private key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HostKey")
            .field("algorithm", &self.algorithm)
            .field("public", &self.public)
            .finish_non_exhaustive()
    }
}

impl Seed {
    /// Returns the name and the content of each file.
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
            Error::invalid("cannot read the seed's `vmprov.json`")
                .because(error)
                .hint("Create the VM again: its seed was modified, or another version of vmprov wrote it")
        })
    }

    fn meta_data(&self) -> Vec<u8> {
        render::yaml(&json!({"instance-id": self.instance_id, "local-hostname": self.hostname})).into_bytes()
    }

    /// Configures IPv4 by DHCP. IPv6 is left to router advertisements, which the guest accepts anyway.
    ///
    /// - There is no `dhcp6`: on a NAT network without IPv6, ifupdown would wait until `dhclient -6` gives up, and
    ///   `NetworkManager` would fail the connection, because cloud-init writes `may-fail=false`
    ///   (`net/network_manager.py`).
    /// - `set-name` is required: up to 20.4, without netplan, the configuration's key is used as the interface's name
    ///   (`handle_ethernets` in `net/network_state.py`), and the guest would have no network.
    /// - `dhcp-identifier` is for netplan: it makes the lease depend on the MAC address, which libvirt knows, instead
    ///   of the machine-id.
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
