//! The key store is compared with OpenSSH, and tested with files that prevent an operation.
#![expect(clippy::unwrap_used, reason = "clippy knows only the functions marked as tests")]

mod files;
mod import;
mod openssh;

use std::{fs, os::unix::fs::PermissionsExt, path::Path, process::Command};

use camino::{Utf8Path, Utf8PathBuf};
use tempfile::TempDir;
use vmprov::{
    model::{
        key::{KeyKind, NewKey},
        name::Name,
    },
    store::keys::KeyStore,
};

/// A temporary folder that contains the store's folder.
pub(crate) struct Folder {
    pub(crate) path: Utf8PathBuf,
    _dir: TempDir,
}

impl Folder {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self { path: dir.path().to_owned().try_into().unwrap(), _dir: dir }
    }

    pub(crate) fn store(&self) -> KeyStore {
        KeyStore::new(&self.keys())
    }

    /// The store's folder, which the store creates.
    pub(crate) fn keys(&self) -> Utf8PathBuf {
        self.path.join("keys")
    }

    /// Generates a key with ssh-keygen outside the store.
    pub(crate) fn ssh_keygen(&self, file: &str, options: &[&str]) -> Utf8PathBuf {
        let path = self.path.join(file);
        run("ssh-keygen", &[&["-q", "-f", path.as_str()], options].concat());
        path
    }

    /// Writes a file outside the store.
    pub(crate) fn file(&self, file: &str, content: &str) -> Utf8PathBuf {
        let path = self.path.join(file);
        fs::write(&path, content).unwrap();
        path
    }
}

pub(crate) fn name(text: &str) -> Name {
    text.parse().unwrap()
}

pub(crate) fn new_key(text: &str, kind: KeyKind) -> NewKey {
    NewKey { name: name(text), comment: None, kind, bits: None }
}

pub(crate) fn ed25519(text: &str) -> NewKey {
    new_key(text, KeyKind::Ed25519)
}

pub(crate) fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {stderr}");
    String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
}

pub(crate) fn mode(path: impl AsRef<Path>) -> u32 {
    fs::symlink_metadata(path).unwrap().permissions().mode() & 0o7777
}

pub(crate) fn file_names(dir: &Utf8Path) -> Vec<String> {
    let mut names: Vec<_> = dir.read_dir_utf8().unwrap().map(|entry| entry.unwrap().file_name().to_owned()).collect();
    names.sort();
    names
}
