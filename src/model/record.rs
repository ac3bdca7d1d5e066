//! The record of a VM. libvirt stores it in the domain's `<metadata>` (`tools/virsh/metadata.rs`), so serde's names are
//! the names in its XML.
//!
//! It contains no secrets, because every user who may read a domain's XML may read it.

use std::{fmt, net::IpAddr};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{image::Verification, key::Key, specification::Specification};

/// The record of a VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmRecord {
    /// The phase of the VM's life.
    #[serde(rename = "@phase")]
    pub phase: Phase,
    /// When it was created (RFC 3339, UTC).
    #[serde(rename = "@created")]
    pub created: String,
    /// The version of vmprov that created it.
    #[serde(rename = "@by")]
    pub by: String,
    /// The name of the host or container that created it, for people.
    #[serde(rename = "@host", default)]
    pub host: String,
    /// When `reap` may delete it, or `None` if it does not expire.
    #[serde(rename = "@expires", default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<Timestamp>,
    /// Whether it is protected from deletion.
    #[serde(rename = "@protected", default, skip_serializing_if = "std::ops::Not::not")]
    pub protected: bool,
    /// The client that it was created for, or `None` for the operator on the command line.
    #[serde(rename = "@owner", default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// The image that its disk was created from, or `None` for a blank disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<Provenance>,
    /// The requested specification. Older versions did not record it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub specification: Option<StoredSpecification>,
    /// The login user that the seed configures, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// cloud-init's instance-id in the current seed.
    #[serde(rename = "instance-id", default, skip_serializing_if = "Option::is_none")]
    pub instance_id: Option<String>,
    /// The port forward to its SSH port, if the host cannot reach its network.
    #[serde(rename = "ssh-forward", default, skip_serializing_if = "Option::is_none")]
    pub forward: Option<PortForward>,
    /// The SSH keys that were given to it.
    #[serde(rename = "key", default)]
    pub keys: Vec<InjectedKey>,
    /// Its public SSH host keys, as in `known_hosts`.
    #[serde(rename = "host-key", default)]
    pub host_keys: Vec<String>,
    /// The volumes that are deleted with it.
    #[serde(rename = "volume", default)]
    pub volumes: Vec<OwnedVolume>,
}

/// The phase of a VM's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// `create` is running, or was killed.
    Creating,
    /// The VM is complete.
    Ready,
    /// `delete` is running, or was killed.
    Deleting,
    /// Not a VM but a test whether KVM works, which ends on its own or was killed.
    Probe,
}

/// The provenance of a VM's disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Provenance {
    /// The requested path or URL.
    #[serde(rename = "@source")]
    pub source: String,
    /// The SHA-256 of the original image file, in hexadecimal.
    #[serde(rename = "@sha256")]
    pub sha256: String,
    /// The base image: the volume that the disk is an overlay on.
    #[serde(rename = "@base")]
    pub base: String,
    /// How its content was verified at that time. Older versions did not record it.
    #[serde(rename = "@verification", default, skip_serializing_if = "Option::is_none")]
    pub verification: Option<Verification>,
}

/// A port of the host that is forwarded to the guest's SSH port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortForward {
    /// The address of the host.
    #[serde(rename = "@address")]
    pub address: IpAddr,
    /// The port at that address.
    #[serde(rename = "@port")]
    pub port: u16,
}

/// A specification, exactly as it was recorded, even if this version would write it differently.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredSpecification {
    /// The SHA-256 of its JSON, in hexadecimal.
    #[serde(rename = "@sha256")]
    pub sha256: String,
    /// Its JSON.
    #[serde(rename = "$text")]
    pub json: String,
}

impl From<&Specification> for StoredSpecification {
    fn from(specification: &Specification) -> Self {
        Self { sha256: specification.sha256(), json: specification.to_json() }
    }
}

/// A key that was given to a VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InjectedKey {
    /// Its name in the key store at that time.
    #[serde(rename = "@name")]
    pub name: String,
    /// Its fingerprint, `SHA256:…`.
    #[serde(rename = "@fingerprint")]
    pub fingerprint: String,
}

impl From<&Key> for InjectedKey {
    fn from(key: &Key) -> Self {
        Self { name: key.name.to_string(), fingerprint: key.fingerprint.clone() }
    }
}

/// A volume that belongs to a VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OwnedVolume {
    /// The pool that it is in.
    #[serde(rename = "@pool")]
    pub pool: String,
    /// Its name in that pool.
    #[serde(rename = "@name")]
    pub name: String,
    /// What it is for.
    #[serde(rename = "@role")]
    pub role: VolumeRole,
}

impl fmt::Display for OwnedVolume {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.pool, self.name)
    }
}

/// What a volume is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum VolumeRole {
    /// The VM's own disk.
    Disk,
    /// A NoCloud seed.
    Seed,
    /// An installer that was uploaded for this VM only.
    Installer,
    /// The output of the VM's serial console since its last start. libvirt writes it.
    Console,
}

impl VmRecord {
    /// Returns the record of a VM of which nothing has been created yet.
    pub fn new(host: String) -> Self {
        Self {
            phase: Phase::Creating,
            created: Timestamp::now().round(jiff::Unit::Second).unwrap_or_default().to_string(),
            by: env!("CARGO_PKG_VERSION").to_owned(),
            host,
            expires: None,
            protected: false,
            owner: None,
            image: None,
            specification: None,
            user: None,
            instance_id: None,
            forward: None,
            keys: Vec::new(),
            host_keys: Vec::new(),
            volumes: Vec::new(),
        }
    }

    /// Returns whether a create or delete of it is unfinished.
    pub fn is_incomplete(&self) -> bool {
        self.phase != Phase::Ready
    }

    /// Returns whether a volume is deleted with it.
    pub fn owns(&self, pool: &str, volume: &str) -> bool {
        self.volumes.iter().any(|owned| owned.pool == pool && owned.name == volume)
    }

    /// Returns whether it has a seed.
    pub fn has_seed(&self) -> bool {
        self.volumes.iter().any(|volume| volume.role == VolumeRole::Seed)
    }
}
