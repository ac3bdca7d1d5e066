//! What vmprov records of a VM. libvirt keeps it in the domain's `<metadata>` (`tools/virsh/metadata.rs`), so serde's names are those of its XML.
//!
//! It holds no secret: everyone who may read a domain's XML may read it.

use std::{fmt, net::IpAddr};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{image::Verification, specification::Specification};

/// The record of a VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmRecord {
    /// How far the VM has come.
    #[serde(rename = "@phase")]
    pub phase: Phase,
    /// When it was created (RFC 3339, UTC).
    #[serde(rename = "@created")]
    pub created: String,
    /// The version of vmprov that created it.
    #[serde(rename = "@by")]
    pub by: String,
    /// The name of the machine or container that created it, for people.
    #[serde(rename = "@host", default)]
    pub host: String,
    /// When `reap` may delete it; none for a VM that does not expire.
    #[serde(rename = "@expires", default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<Timestamp>,
    /// Whether it is protected from being deleted.
    #[serde(rename = "@protected", default, skip_serializing_if = "std::ops::Not::not")]
    pub protected: bool,
    /// On whose behalf it was created, where that was not whoever has the rights of vmprov itself.
    #[serde(rename = "@owner", default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// The image that its disk came from; none for a blank disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<Provenance>,
    /// What it was asked to be; older versions did not note it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub specification: Option<StoredSpecification>,
    /// The user that keys are for, where a seed tells the guest of one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// cloud-init's instance-id in the current seed.
    #[serde(rename = "instance-id", default, skip_serializing_if = "Option::is_none")]
    pub instance_id: Option<String>,
    /// The way to its port of ssh, where its network is not one that the host can reach.
    #[serde(rename = "ssh-forward", default, skip_serializing_if = "Option::is_none")]
    pub forward: Option<PortForward>,
    /// The ssh keys that it has been given.
    #[serde(rename = "key", default)]
    pub keys: Vec<InjectedKey>,
    /// The public halves of its ssh host keys, as in `known_hosts`.
    #[serde(rename = "host-key", default)]
    pub host_keys: Vec<String>,
    /// The volumes that are deleted with it.
    #[serde(rename = "volume", default)]
    pub volumes: Vec<OwnedVolume>,
}

/// How far a VM has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// `create` is at it, or was killed.
    Creating,
    /// Whole.
    Ready,
    /// `delete` is at it, or was killed.
    Deleting,
    /// No VM at all: a test whether KVM works, which ends by itself or was killed.
    Probe,
}

/// Where a VM's disk came from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Provenance {
    /// The path or URL that was given.
    #[serde(rename = "@source")]
    pub source: String,
    /// The SHA-256 of the image as it was given, in hexadecimal.
    #[serde(rename = "@sha256")]
    pub sha256: String,
    /// The base volume that the disk is an overlay on.
    #[serde(rename = "@base")]
    pub base: String,
    /// What spoke for its content at the time; older versions did not note it.
    #[serde(rename = "@verification", default, skip_serializing_if = "Option::is_none")]
    pub verification: Option<Verification>,
}

/// A port of the host that leads to the guest's port of ssh.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortForward {
    /// The address of the host's.
    #[serde(rename = "@address")]
    pub address: IpAddr,
    /// The port there.
    #[serde(rename = "@port")]
    pub port: u16,
}

/// A specification, kept as it was when it was noted, also when another version would write another.
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

/// A key that a VM has been given.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InjectedKey {
    /// Its name in the key store at the time.
    #[serde(rename = "@name")]
    pub name: String,
    /// Its fingerprint, `SHA256:…`.
    #[serde(rename = "@fingerprint")]
    pub fingerprint: String,
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
    /// An installer that was uploaded for this VM alone.
    Installer,
    /// What the VM has said on its serial console since its last start. libvirt writes it.
    Console,
}

impl VmRecord {
    /// What is noted of a VM before anything of it is there.
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

    /// Whether a create or delete of it is unfinished.
    pub fn is_incomplete(&self) -> bool {
        self.phase != Phase::Ready
    }

    /// Whether it has a seed.
    pub fn has_seed(&self) -> bool {
        self.volumes.iter().any(|volume| volume.role == VolumeRole::Seed)
    }
}
