//! [`Specification`]: the requested properties of a VM. They are stored with the VM, so that a later create can check
//! whether it requests the same.

use std::fmt;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{digest, size::human};

/// What to do if a VM with this name exists
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum IfExists {
    /// Keep it; fail
    #[default]
    Fail,
    /// Keep it; succeed if its specification matches
    Ok,
    /// Delete it and create a new one
    Replace,
}

/// The requested properties of a VM in canonical form: equivalent requests give equal specifications. The user data may
/// contain secrets, so only its digest is stored.
///
/// Specifications are compared by the digest of their JSON. A new member must therefore be left out when it has its
/// default value. Otherwise no VM of an older version would match its request any more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Specification {
    /// The image: a name, an absolute path or a URL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// The required checksum of the image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checksum: Option<String>,
    /// The installer's absolute path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub iso: Option<String>,
    /// The memory in MiB.
    pub memory_mib: u64,
    /// The virtual CPUs.
    pub vcpus: u32,
    /// The disk's size in bytes.
    pub disk_bytes: u64,
    /// The network.
    pub network: String,
    /// The keys, each with its fingerprint, ordered by name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ssh_keys: Vec<String>,
    /// The login user, if one was given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// The SHA-256 of the user data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_data: Option<String>,
    /// Whether the VM starts with the host.
    pub autostart: bool,
}

/// A member of a specification that differs, as text for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Difference {
    /// The name of the member in a request.
    pub member: &'static str,
    /// The current or recorded value.
    pub from: String,
    /// The requested value.
    pub to: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} -> {}", self.member, self.from, self.to)
    }
}

impl Specification {
    /// Returns the canonical JSON, in which it is stored.
    pub fn to_json(&self) -> String {
        // Serializing strings and numbers to a string does not fail.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Reads the output of [`Self::to_json`]. Returns `None` if the text has another form.
    pub fn from_json(json: &str) -> Option<Self> {
        serde_json::from_str(json).ok()
    }

    /// Returns the SHA-256 of its JSON, which identifies it.
    pub fn sha256(&self) -> String {
        digest::of(self.to_json().as_bytes())
    }

    /// Returns every member in which `wanted` differs.
    pub fn differences(&self, wanted: &Self) -> Vec<Difference> {
        let pairs = self.members().into_iter().zip(wanted.members());
        let differ = pairs.filter(|((_, from), (_, to))| from != to);
        differ.map(|((member, from), (_, to))| Difference { member, from, to }).collect()
    }

    fn members(&self) -> [(&'static str, String); 11] {
        let or_none = |text: &Option<String>| text.clone().unwrap_or_else(|| "none".to_owned());
        let keys = if self.ssh_keys.is_empty() { "none".to_owned() } else { self.ssh_keys.join(", ") };
        let sha256 = self.user_data.as_ref().map(|digest| format!("sha256:{digest}"));
        [
            ("image", or_none(&self.image)),
            ("checksum", or_none(&self.checksum)),
            ("iso", or_none(&self.iso)),
            ("memory", human(self.memory_mib << 20)),
            ("vcpus", self.vcpus.to_string()),
            ("diskSize", exact(self.disk_bytes)),
            ("network", self.network.clone()),
            ("sshKeys", keys),
            ("user", or_none(&self.user)),
            ("userData", or_none(&sha256)),
            ("autostart", self.autostart.to_string()),
        ]
    }
}

/// Returns a size for people, with the exact bytes if it was rounded: two sizes that differ must not look alike.
pub fn exact(bytes: u64) -> String {
    let text = human(bytes);
    if text.contains('.') { format!("{text} ({bytes} bytes)") } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn specification() -> Specification {
        Specification {
            image: Some("debian:12".to_owned()),
            checksum: None,
            iso: None,
            memory_mib: 2048,
            vcpus: 2,
            disk_bytes: 20 << 30,
            network: "default".to_owned(),
            ssh_keys: vec!["dev SHA256:x".to_owned()],
            user: None,
            user_data: None,
            autostart: false,
        }
    }

    /// Existing VMs store this form, so it must not change.
    #[test]
    fn its_json_form_is_fixed() {
        let json = "{\"image\":\"debian:12\",\"memoryMib\":2048,\"vcpus\":2,\"diskBytes\":21474836480,\
                    \"network\":\"default\",\"sshKeys\":[\"dev SHA256:x\"],\"autostart\":false}";
        assert_eq!(specification().to_json(), json);
        assert_eq!(Specification::from_json(json), Some(specification()));
        assert_eq!(specification().sha256(), digest::of(json.as_bytes()));
        assert_eq!(Specification::from_json("{}"), None);
    }

    #[test]
    fn every_difference_is_reported() {
        let other = Specification {
            image: None,
            checksum: Some("sha256:ab".to_owned()),
            iso: Some("/x.iso".to_owned()),
            memory_mib: 1536,
            vcpus: 4,
            disk_bytes: (20 << 30) + 512,
            network: "other".to_owned(),
            ssh_keys: Vec::new(),
            user: Some("me".to_owned()),
            user_data: Some("cd".to_owned()),
            autostart: true,
        };
        let differences: Vec<_> = specification().differences(&other).iter().map(ToString::to_string).collect();
        let expected = [
            "image: debian:12 -> none",
            "checksum: none -> sha256:ab",
            "iso: none -> /x.iso",
            "memory: 2G -> 1.5G",
            "vcpus: 2 -> 4",
            "diskSize: 20G -> 20.0G (21474836992 bytes)",
            "network: default -> other",
            "sshKeys: dev SHA256:x -> none",
            "user: none -> me",
            "userData: none -> sha256:cd",
            "autostart: false -> true",
        ];
        assert_eq!(differences, expected);
        assert_eq!(specification().differences(&specification()), []);
    }
}
