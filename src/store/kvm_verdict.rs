//! A cache of whether KVM works on a hypervisor, because the probe takes a second.
//!
//! The cache may be deleted at any time. If it cannot be written, the next command probes again.

use std::time::Duration;

use camino::{Utf8Path, Utf8PathBuf};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::model::digest;

/// How long a verdict on another machine's hypervisor is valid, because its reboots cannot be seen from here.
const REMOTE_LIFETIME: Duration = Duration::from_hours(24);

/// The result of the probe.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// KVM executed a guest's code.
    Works,
    /// KVM failed for this reason.
    Fails(String),
}

/// What a verdict is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    /// The hypervisor's identity, however its URI is spelled.
    pub hypervisor: String,
    /// Whether it runs on this machine.
    pub is_local: bool,
}

#[derive(Serialize, Deserialize)]
struct Entry {
    hypervisor: String,
    /// The kernel's boot id, if the hypervisor is local: firmware settings and modules can change between boots.
    boot: Option<String>,
    time: Timestamp,
    verdict: Verdict,
}

/// Returns the cached verdict if it is still valid.
pub fn read(folder: &Utf8Path, key: &Key) -> Option<Verdict> {
    let entry: Entry = serde_json::from_slice(&std::fs::read(path_of(folder, key)).ok()?).ok()?;
    let is_valid = if key.is_local {
        entry.boot.is_some() && entry.boot == boot_id()
    } else {
        Duration::try_from(Timestamp::now().duration_since(entry.time)).is_ok_and(|age| age < REMOTE_LIFETIME)
    };
    (is_valid && entry.hypervisor == key.hypervisor).then_some(entry.verdict)
}

/// Returns whether KVM failed on any cached hypervisor. It predicts the result for one whose identity is not known yet.
pub fn has_failed(folder: &Utf8Path) -> bool {
    let entries = std::fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok);
    let mut verdicts = entries.filter(|entry| entry.file_name().to_string_lossy().starts_with("kvm-"));
    verdicts.any(|entry| {
        let entry = std::fs::read(entry.path()).ok().and_then(|json| serde_json::from_slice::<Entry>(&json).ok());
        entry.is_some_and(|entry| matches!(entry.verdict, Verdict::Fails(_)))
    })
}

/// Caches a verdict.
pub fn write(folder: &Utf8Path, key: &Key, verdict: &Verdict) {
    let boot = if key.is_local { boot_id() } else { None };
    let entry = Entry { hypervisor: key.hypervisor.clone(), boot, time: Timestamp::now(), verdict: verdict.clone() };
    let path = path_of(folder, key);
    let write = || -> std::io::Result<()> {
        std::fs::create_dir_all(folder)?;
        let mut file = tempfile::NamedTempFile::new_in(folder)?;
        serde_json::to_writer(&mut file, &entry)?;
        file.persist(&path)?;
        Ok(())
    };
    if let Err(error) = write() {
        tracing::debug!("cannot write the cache file `{path}`: {error}");
    }
}

fn boot_id() -> Option<String> {
    let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    Some(id.trim().to_owned())
}

/// Returns the path of the cache file. It differs for local and remote use, because machines may share the folder.
fn path_of(folder: &Utf8Path, key: &Key) -> Utf8PathBuf {
    let location = if key.is_local { "local" } else { "remote" };
    folder.join(format!("kvm-{}-{location}.json", &digest::of(key.hypervisor.as_bytes())[..8]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(is_local: bool) -> Key {
        Key { hypervisor: "qemu U system".to_owned(), is_local }
    }

    /// Replaces a text in the cache file of a key.
    fn rewrite(folder: &Utf8Path, key: &Key, from: &str, to: &str) {
        let path = path_of(folder, key);
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.contains(from), "{text}");
        std::fs::write(&path, text.replace(from, to)).unwrap();
    }

    #[test]
    fn a_verdict_is_valid_for_its_hypervisor_and_boot() {
        let folder = tempfile::tempdir().unwrap();
        let folder = Utf8Path::from_path(folder.path()).unwrap();
        let verdict = Verdict::Fails("boom".to_owned());
        write(folder, &key(true), &verdict);
        assert!(!has_failed(&folder.join("elsewhere")) && has_failed(folder));
        assert_eq!(read(folder, &key(true)), Some(verdict));
        assert_eq!(read(folder, &Key { hypervisor: "qemu U session of user 1".to_owned(), is_local: true }), None);
        assert_eq!(read(folder, &key(false)), None);
        rewrite(folder, &key(true), &boot_id().unwrap(), "another boot");
        assert_eq!(read(folder, &key(true)), None);
    }

    #[test]
    fn a_verdict_on_another_machine_is_valid_for_a_day_regardless_of_local_boots() {
        let folder = tempfile::tempdir().unwrap();
        let folder = Utf8Path::from_path(folder.path()).unwrap();
        write(folder, &key(false), &Verdict::Works);
        assert_eq!(read(folder, &key(false)), Some(Verdict::Works));
        let text = std::fs::read_to_string(path_of(folder, &key(false))).unwrap();
        assert!(!text.contains(&boot_id().unwrap()), "{text}");
        let time = serde_json::from_str::<Entry>(&text).unwrap().time;
        rewrite(folder, &key(false), &time.to_string(), &(time - REMOTE_LIFETIME).to_string());
        assert_eq!(read(folder, &key(false)), None);
        rewrite(folder, &key(false), &(time - REMOTE_LIFETIME).to_string(), &(time + REMOTE_LIFETIME).to_string());
        assert_eq!(read(folder, &key(false)), None, "a verdict from the future is accepted");
    }
}
