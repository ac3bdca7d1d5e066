//! Whether KVM works on a host, remembered until its next boot, because finding out takes a second.
//!
//! A cache: it may be deleted at any time, and failing to write it costs that second again.

use camino::{Utf8Path, Utf8PathBuf};
use serde::{Deserialize, Serialize};

use crate::model::digest;

/// What trying KVM has shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// A guest's code was executed.
    Works,
    /// It was not, and why.
    Fails(String),
}

#[derive(Serialize, Deserialize)]
struct Entry {
    /// The kernel's id of this boot: firmware settings and modules change between boots.
    boot: String,
    uri: String,
    verdict: Verdict,
}

/// What was found out during this boot.
pub fn read(folder: &Utf8Path, uri: &str) -> Option<Verdict> {
    let entry: Entry = serde_json::from_slice(&std::fs::read(path_of(folder, uri)).ok()?).ok()?;
    (entry.boot == boot_id()? && entry.uri == uri).then_some(entry.verdict)
}

/// Remembers what was found out.
pub fn write(folder: &Utf8Path, uri: &str, verdict: &Verdict) {
    let Some(boot) = boot_id() else { return };
    let entry = Entry { boot, uri: uri.to_owned(), verdict: verdict.clone() };
    let path = path_of(folder, uri);
    let write = || -> std::io::Result<()> {
        std::fs::create_dir_all(folder)?;
        let mut file = tempfile::NamedTempFile::new_in(folder)?;
        serde_json::to_writer(&mut file, &entry)?;
        file.persist(&path)?;
        Ok(())
    };
    if let Err(error) = write() {
        tracing::debug!("cannot remember in `{path}` whether KVM works: {error}");
    }
}

fn boot_id() -> Option<String> {
    let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    Some(id.trim().to_owned())
}

fn path_of(folder: &Utf8Path, uri: &str) -> Utf8PathBuf {
    folder.join(format!("kvm-{}.json", &digest::of(uri.as_bytes())[..8]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verdict_holds_for_its_uri_and_boot() {
        let folder = tempfile::tempdir().unwrap();
        let folder = Utf8Path::from_path(folder.path()).unwrap();
        let verdict = Verdict::Fails("boom".to_owned());
        write(folder, "qemu:///system", &verdict);
        assert_eq!(read(folder, "qemu:///system"), Some(verdict));
        assert_eq!(read(folder, "qemu:///session"), None);
        let path = path_of(folder, "qemu:///system");
        let other = std::fs::read_to_string(&path).unwrap().replace(&boot_id().unwrap(), "another boot");
        std::fs::write(&path, other).unwrap();
        assert_eq!(read(folder, "qemu:///system"), None);
    }
}
