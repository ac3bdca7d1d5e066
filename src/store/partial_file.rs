//! `.part` files: incomplete files, which are removed on completion, or cleaned up after their process was killed.

use std::{fs, time::Duration};

use camino::{Utf8Path, Utf8PathBuf};

use super::lock::Lock;
use crate::{
    cancel::Cancel,
    error::{Error, Result},
};

/// Takes the exclusive lock on a `.part` file.
pub(super) fn lock(part: &Utf8Path, limit: Duration, cancel: &Cancel) -> Result<Lock> {
    Lock::take(&format!("the file `{part}`"), limit, cancel)
}

/// Returns the path of the facts about a `.part` file, which are beside it.
pub(super) fn facts_of(part: &Utf8Path) -> Utf8PathBuf {
    part.with_extension("json")
}

/// Removes a `.part` file and its facts.
pub(super) fn discard(part: &Utf8Path) {
    for path in [part, &facts_of(part)] {
        if let Err(error) = fs::remove_file(path) {
            tracing::debug!("cannot remove `{path}`: {error}");
        }
    }
}

/// Returns the `.part` files in a folder and their sizes in bytes.
pub fn list(folder: &Utf8Path) -> Vec<(Utf8PathBuf, u64)> {
    let entries = folder.read_dir_utf8().into_iter().flatten().filter_map(std::result::Result::ok);
    let parts = entries.filter(|entry| entry.file_name().ends_with(".part"));
    parts.filter_map(|entry| Some((entry.path().to_owned(), entry.metadata().ok()?.len()))).collect()
}

/// Returns the `.part` files in a folder that were last written longer than `age` ago and are not in use.
pub fn abandoned(folder: &Utf8Path, age: Duration) -> Vec<(Utf8PathBuf, u64)> {
    let is_old = |part: &Utf8Path| {
        let changed = part.metadata().and_then(|metadata| metadata.modified()).ok();
        changed.and_then(|changed| changed.elapsed().ok()).is_some_and(|since| since > age)
    };
    let is_idle = |part: &Utf8Path| lock(part, Duration::ZERO, &Cancel::default()).is_ok();
    list(folder).into_iter().filter(|(part, _)| is_old(part) && is_idle(part)).collect()
}

/// Removes a `.part` file unless it is in use. Returns whether it was removed.
pub fn remove(part: &Utf8Path) -> bool {
    let idle = lock(part, Duration::ZERO, &Cancel::default());
    if idle.is_ok() {
        discard(part);
    }
    idle.is_ok()
}

/// A temporary file with a path, for programs that need one. It is removed when this value is dropped.
#[derive(Debug)]
pub struct Temporary {
    /// Its path.
    pub path: Utf8PathBuf,
    _lock: Lock,
}

impl Temporary {
    /// Creates an empty file in `folder` that only its owner may read.
    pub fn new(folder: &Utf8Path, name: &str) -> Result<Self> {
        let path = folder.join(format!("{name}.part"));
        let create = || {
            use std::os::unix::fs::OpenOptionsExt;
            fs::create_dir_all(folder)?;
            fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)
        };
        let lock = lock(&path, Duration::ZERO, &Cancel::default())?;
        create().map_err(|error| Error::io(format!("create the temporary file `{path}`"), &error))?;
        Ok(Self { path, _lock: lock })
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        discard(&self.path);
    }
}
