//! vmprov's record of a VM, in the domain's `<metadata>`. libvirt thus serves as the database and the journal.
//!
//! It contains no secrets, because everyone who may read the domain's XML can read it.

use std::fmt;

use quick_xml::{
    NsReader,
    events::Event,
    name::{Namespace, ResolveResult},
};
use uuid::Uuid;

use super::{Virsh, from_xml};
use crate::{
    error::{Error, Result},
    model::record::VmRecord,
};

/// The XML namespace of vmprov's element. The number is the version of the schema.
pub(super) const NAMESPACE: &str = "urn:vmprov:vm:1";

/// The namespace of the mark that a shutdown of the guest was requested. It is set only on the running domain, so it
/// disappears when the domain stops.
const STOPPING: &str = "urn:vmprov:stopping:1";

impl VmRecord {
    /// Returns vmprov's element for a domain's `<metadata>`.
    pub(super) fn to_domain_xml(&self) -> Result<String> {
        let xml = self.to_xml("vmprov:vm")?;
        Ok(xml.replacen("<vmprov:vm", &format!("<vmprov:vm xmlns:vmprov=\"{NAMESPACE}\""), 1))
    }

    /// Returns the record as XML. All characters except printable ASCII are written as character references, so that
    /// virsh can read the XML from its standard input.
    fn to_xml(&self, root: &str) -> Result<String> {
        let xml = quick_xml::se::to_string_with_root(root, self)
            .map_err(|error| Error::internal("cannot write a VM's metadata").because(error))?;
        Ok(xml.chars().fold(String::new(), |xml, character| match character {
            ' '..='~' => xml + character.encode_utf8(&mut [0; 4]),
            _ => xml + &format!("&#{};", u32::from(character)),
        }))
    }

    /// Parses the element as `virsh metadata` prints it, without a namespace.
    pub(super) fn from_element(xml: &str) -> Result<Self> {
        from_xml("vmprov metadata", xml)
    }

    /// Parses vmprov's element in a domain's XML. Returns none if the VM is not managed by vmprov.
    pub(super) fn from_domain_xml(xml: &str) -> Result<Option<Self>> {
        element(xml, NAMESPACE)?.map(Self::from_element).transpose()
    }
}

/// Returns whether a shutdown of the running domain was requested.
pub(super) fn is_stopping(xml: &str) -> Result<bool> {
    Ok(element(xml, STOPPING)?.is_some())
}

/// Returns the element of a namespace in a domain's XML. serde ignores namespaces, so it would take a foreign
/// `<other:vm>` for vmprov's.
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
    /// Replaces vmprov's element in a domain's configuration and, if `live`, in the running domain too.
    pub fn set_metadata(&self, uuid: Uuid, metadata: &VmRecord, live: bool) -> Result<()> {
        let (uuid, xml) = (uuid.to_string(), metadata.to_xml("vm")?);
        let mut args =
            vec!["metadata", "--domain", &uuid, "--uri", NAMESPACE, "--key", "vmprov", "--set", &xml, "--config"];
        if live {
            args.push("--live");
        }
        self.change_all("update the VM's metadata", &[&args])
    }

    /// Starts a domain and replaces vmprov's element, in one process. If either fails, the caller must roll back both.
    /// So it does no harm that virsh continues after the first has failed.
    pub fn start_and_note(&self, uuid: Uuid, metadata: &VmRecord) -> Result<()> {
        let (uuid, xml) = (uuid.to_string(), metadata.to_xml("vm")?);
        let note =
            ["metadata", "--domain", &uuid, "--uri", NAMESPACE, "--key", "vmprov", "--set", &xml, "--config", "--live"];
        self.change_all("start the VM", &[&["start", "--domain", &uuid], &note])
    }

    /// Marks a running domain as shutting down.
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
        self.change("mark the VM as shutting down", &args)
    }

    /// Removes that mark.
    pub fn unmark_stopping(&self, uuid: Uuid) -> Result<()> {
        let args = ["metadata", "--domain", &uuid.to_string(), "--uri", STOPPING, "--remove", "--live"];
        self.change("remove the mark that the VM is shutting down", &args)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{
        image::Verification,
        record::{InjectedKey, OwnedVolume, Phase, PortForward, Provenance, StoredSpecification, VolumeRole},
    };

    fn metadata() -> VmRecord {
        VmRecord {
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
            specification: Some(StoredSpecification {
                sha256: "ab".repeat(32),
                json: r#"{"image":"/tmp/a \"b\" <c>&'d'; \\ü","n":1}"#.to_owned(),
            }),
            user: Some("debian".to_owned()),
            instance_id: Some("i-1".to_owned()),
            forward: Some(PortForward { address: [127, 0, 0, 1].into(), port: 22_022 }),
            keys: vec![InjectedKey { name: "k".to_owned(), fingerprint: "SHA256:x".to_owned() }],
            host_keys: vec!["ssh-ed25519 AAAA".to_owned()],
            volumes: vec![
                OwnedVolume { pool: "p q".to_owned(), name: "web.qcow2".to_owned(), role: VolumeRole::Disk },
                OwnedVolume { pool: "p q".to_owned(), name: "web-seed.iso".to_owned(), role: VolumeRole::Seed },
            ],
        }
    }

    #[test]
    fn a_written_record_is_parsed_unchanged() {
        let record = metadata();
        let xml = format!(
            "<domain><metadata><o:vm xmlns:o=\"urn:o\"><x/></o:vm>{}</metadata></domain>",
            record.to_domain_xml().unwrap()
        );
        assert_eq!(VmRecord::from_domain_xml(&xml).unwrap(), Some(record.clone()));
        assert_eq!(VmRecord::from_element(&record.to_xml("vm").unwrap()).unwrap(), record);
        assert!(record.has_seed());
    }

    #[test]
    fn a_record_of_an_older_version_is_parsed() {
        let xml = "<vm phase='ready' created='2026-11-23T03:00:00Z' by='0.1.0'/>";
        let record = VmRecord::from_element(xml).unwrap();
        assert_eq!((record.expires, record.protected, &record.specification), (None, false, &None));
        let written = record.to_xml("vm").unwrap();
        assert!(
            !written.contains("expires")
                && !written.contains("owner")
                && !written.contains("protected")
                && !written.contains("specification"),
            "{written}"
        );
    }

    #[test]
    fn a_foreign_element_of_the_same_name_is_ignored() {
        let xml = "<domain><metadata><o:vm xmlns:o=\"urn:other\" phase=\"x\"/></metadata><vm/></domain>";
        assert_eq!(VmRecord::from_domain_xml(xml).unwrap(), None);
    }
}
