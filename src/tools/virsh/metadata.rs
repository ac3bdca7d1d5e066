//! What vmprov knows of a VM, kept in the domain's own `<metadata>`: libvirt is the database, and the journal.
//!
//! No secret is written here: whoever may read a domain's XML may read this.

use std::{fmt, net::IpAddr};

use jiff::Timestamp;
use quick_xml::{
    NsReader,
    events::Event,
    name::{Namespace, ResolveResult},
};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{Virsh, from_xml};
use crate::{
    error::{Error, Result},
    model::{image::Verification, specification::Specification},
};

/// The XML namespace of vmprov's element; the number is the schema's version.
pub(super) const NAMESPACE: &str = "urn:vmprov:vm:1";

/// The namespace of a mark that says the guest has been asked to shut down. It is only ever set on the running
/// domain, so that it is gone when the domain is.
const STOPPING: &str = "urn:vmprov:stopping:1";

/// vmprov's element.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Metadata {
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
    pub specification: Option<NotedSpecification>,
    /// The user that keys are for, where a seed tells the guest of one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// cloud-init's instance-id in the current seed.
    #[serde(rename = "instance-id", default, skip_serializing_if = "Option::is_none")]
    pub instance_id: Option<String>,
    /// The way to its port of ssh, where its network is not one that the host can reach.
    #[serde(rename = "ssh-forward", default, skip_serializing_if = "Option::is_none")]
    pub forward: Option<Forward>,
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
pub struct Forward {
    /// The address of the host's.
    #[serde(rename = "@address")]
    pub address: IpAddr,
    /// The port there.
    #[serde(rename = "@port")]
    pub port: u16,
}

/// A specification, kept as it was when it was noted, also when another version would write another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NotedSpecification {
    /// The SHA-256 of its JSON, in hexadecimal.
    #[serde(rename = "@sha256")]
    pub sha256: String,
    /// Its JSON.
    #[serde(rename = "$text")]
    pub json: String,
}

impl From<&Specification> for NotedSpecification {
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
    pub role: Role,
}

impl fmt::Display for OwnedVolume {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.pool, self.name)
    }
}

/// What a volume is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// The VM's own disk.
    Disk,
    /// A NoCloud seed.
    Seed,
    /// An installer that was uploaded for this VM alone.
    Installer,
    /// What the VM has said on its serial console since its last start. libvirt writes it.
    Console,
}

impl Metadata {
    /// What is noted of a VM before anything of it is there.
    pub fn begun() -> Self {
        Self {
            phase: Phase::Creating,
            created: Timestamp::now().round(jiff::Unit::Second).unwrap_or_default().to_string(),
            by: env!("CARGO_PKG_VERSION").to_owned(),
            host: this_host(),
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

    /// vmprov's element as libvirt wants it inside `<metadata>`.
    pub(super) fn to_domain_xml(&self) -> Result<String> {
        let xml = self.to_xml("vmprov:vm")?;
        Ok(xml.replacen("<vmprov:vm", &format!("<vmprov:vm xmlns:vmprov=\"{NAMESPACE}\""), 1))
    }

    /// All beyond printable ASCII is in character references, so that virsh can read it from its standard input.
    fn to_xml(&self, root: &str) -> Result<String> {
        let xml = quick_xml::se::to_string_with_root(root, self)
            .map_err(|error| Error::internal("cannot write a VM's metadata").because(error))?;
        Ok(xml.chars().fold(String::new(), |xml, character| match character {
            ' '..='~' => xml + character.encode_utf8(&mut [0; 4]),
            _ => xml + &format!("&#{};", u32::from(character)),
        }))
    }

    /// Reads the element as `virsh metadata` prints it: without a namespace.
    pub(super) fn from_element(xml: &str) -> Result<Self> {
        from_xml("vmprov metadata", xml)
    }

    /// Reads vmprov's element out of a domain's whole XML; none is there when vmprov did not make the VM.
    pub(super) fn from_domain_xml(xml: &str) -> Result<Option<Self>> {
        element(xml, NAMESPACE)?.map(Self::from_element).transpose()
    }

    /// Whether a create or delete of it is unfinished.
    pub fn is_incomplete(&self) -> bool {
        self.phase != Phase::Ready
    }

    /// Whether it has a seed.
    pub fn has_seed(&self) -> bool {
        self.volumes.iter().any(|volume| volume.role == Role::Seed)
    }
}

/// The name of this machine or container.
fn this_host() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// Whether the running domain has been asked to shut down.
pub(super) fn is_stopping(xml: &str) -> Result<bool> {
    Ok(element(xml, STOPPING)?.is_some())
}

/// Cuts the element of a namespace out of a domain's XML. serde ignores namespaces, so a foreign `<other:vm>` would
/// be taken for ours.
fn element<'x>(xml: &'x str, namespace: &str) -> Result<Option<&'x str>> {
    let failed = |error: &dyn fmt::Display| Error::internal("cannot read a domain's XML").because(error);
    let position = |reader: &NsReader<&[u8]>| usize::try_from(reader.buffer_position()).map_err(|error| failed(&error));
    let ours = ResolveResult::Bound(Namespace(namespace));
    let mut reader = NsReader::from_str(xml);
    loop {
        let start = position(&reader)?;
        match reader.read_resolved_event().map_err(|error| failed(&error))? {
            (found, Event::Start(tag)) if found == ours => {
                let end = tag.to_end().into_owned();
                reader.read_to_end(end.name()).map_err(|error| failed(&error))?;
                return Ok(Some(&xml[start..position(&reader)?]));
            }
            (found, Event::Empty(_)) if found == ours => return Ok(Some(&xml[start..position(&reader)?])),
            (_, Event::Eof) => return Ok(None),
            _ => {}
        }
    }
}

impl Virsh {
    /// Replaces vmprov's element of a domain, in its configuration and, when it runs, in the running domain too.
    pub fn set_metadata(&self, uuid: Uuid, metadata: &Metadata, live: bool) -> Result<()> {
        let (uuid, xml) = (uuid.to_string(), metadata.to_xml("vm")?);
        let mut args =
            vec!["metadata", "--domain", &uuid, "--uri", NAMESPACE, "--key", "vmprov", "--set", &xml, "--config"];
        if live {
            args.push("--live");
        }
        self.change_all("note in the VM's metadata how far it has come", &[&args])
    }

    /// Starts a domain and replaces vmprov's element of it, in one process. A failure of either is one of both, and is
    /// for the caller to undo; so it does no harm that virsh goes on after the first has failed.
    pub fn start_and_note(&self, uuid: Uuid, metadata: &Metadata) -> Result<()> {
        let (uuid, xml) = (uuid.to_string(), metadata.to_xml("vm")?);
        let note =
            ["metadata", "--domain", &uuid, "--uri", NAMESPACE, "--key", "vmprov", "--set", &xml, "--config", "--live"];
        self.change_all("start the VM", &[&["start", "--domain", &uuid], &note])
    }

    /// Marks a running domain as asked to shut down.
    pub fn mark_stopping(&self, uuid: Uuid) -> Result<()> {
        let uuid = uuid.to_string();
        let args = [
            "metadata",
            "--domain",
            &uuid,
            "--uri",
            STOPPING,
            "--key",
            "vmprov-stopping",
            "--set",
            "<stopping/>",
            "--live",
        ];
        self.change("mark the VM as asked to shut down", &args)
    }

    /// Takes that mark back.
    pub fn unmark_stopping(&self, uuid: Uuid) -> Result<()> {
        let args = ["metadata", "--domain", &uuid.to_string(), "--uri", STOPPING, "--remove", "--live"];
        self.change("take the mark back that the VM is asked to shut down", &args)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metadata() -> Metadata {
        Metadata {
            phase: Phase::Creating,
            created: "2026-11-23T03:00:00Z".to_owned(),
            by: "0.1.0".to_owned(),
            host: "h".to_owned(),
            expires: Some("2026-11-24T03:00:00Z".parse().unwrap()),
            protected: true,
            owner: Some("agent1".to_owned()),
            image: Some(Provenance {
                source: "/tmp/a \"b\" <c>&'d'.qcow2".to_owned(),
                sha256: "ab".repeat(32),
                base: "base-abab.qcow2".to_owned(),
                verification: Some(Verification::Signature),
            }),
            specification: Some(NotedSpecification {
                sha256: "ab".repeat(32),
                json: r#"{"image":"/tmp/a \"b\" <c>&'d'; \\ü","n":1}"#.to_owned(),
            }),
            user: Some("debian".to_owned()),
            instance_id: Some("i-1".to_owned()),
            forward: Some(Forward { address: [127, 0, 0, 1].into(), port: 22_022 }),
            keys: vec![InjectedKey { name: "k".to_owned(), fingerprint: "SHA256:x".to_owned() }],
            host_keys: vec!["ssh-ed25519 AAAA".to_owned()],
            volumes: vec![
                OwnedVolume { pool: "p q".to_owned(), name: "web.qcow2".to_owned(), role: Role::Disk },
                OwnedVolume { pool: "p q".to_owned(), name: "web-seed.iso".to_owned(), role: Role::Seed },
            ],
        }
    }

    #[test]
    fn what_is_written_is_read_back() {
        let whole = metadata();
        let xml = format!(
            "<domain><metadata><o:vm xmlns:o=\"urn:o\"><x/></o:vm>{}</metadata></domain>",
            whole.to_domain_xml().unwrap()
        );
        assert_eq!(Metadata::from_domain_xml(&xml).unwrap(), Some(whole.clone()));
        assert_eq!(Metadata::from_element(&whole.to_xml("vm").unwrap()).unwrap(), whole);
        assert!(whole.has_seed());
    }

    #[test]
    fn what_an_older_version_wrote_is_read() {
        let xml = "<vm phase='ready' created='2026-11-23T03:00:00Z' by='0.1.0'/>";
        let read = Metadata::from_element(xml).unwrap();
        assert_eq!((read.expires, read.protected, &read.specification), (None, false, &None));
        let written = read.to_xml("vm").unwrap();
        assert!(
            !written.contains("expires")
                && !written.contains("owner")
                && !written.contains("protected")
                && !written.contains("specification"),
            "{written}"
        );
    }

    #[test]
    fn a_foreign_element_of_the_same_name_is_not_ours() {
        let xml = "<domain><metadata><o:vm xmlns:o=\"urn:other\" phase=\"x\"/></metadata><vm/></domain>";
        assert_eq!(Metadata::from_domain_xml(xml).unwrap(), None);
    }
}
