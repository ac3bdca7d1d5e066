//! `.part` files: what is on its way, removed when it has arrived, found and removed when whoever was at it was killed.

use std::{fs, time::Duration};

use camino::{Utf8Path, Utf8PathBuf};

use super::lock::Lock;
use crate::{
    cancel::Cancel,
    error::{Error, Result},
};

/// Takes a part for oneself.
pub(super) fn lock(part: &Utf8Path, limit: Duration, cancel: &Cancel) -> Result<Lock> {
    Lock::take(&format!("the file `{part}`"), limit, cancel)
}

/// What is known of a part, beside it.
pub(super) fn facts_of(part: &Utf8Path) -> Utf8PathBuf {
    part.with_extension("json")
}

/// Removes a part, and what is known of it.
pub(super) fn discard(part: &Utf8Path) {
    for path in [part, &facts_of(part)] {
        if let Err(error) = fs::remove_file(path) {
            tracing::debug!("`{path}` stays: {error}");
        }
    }
}

/// The parts that lie in a folder, and their sizes in bytes.
pub fn list(folder: &Utf8Path) -> Vec<(Utf8PathBuf, u64)> {
    let entries = folder.read_dir_utf8().into_iter().flatten().filter_map(std::result::Result::ok);
    let parts = entries.filter(|entry| entry.file_name().ends_with(".part"));
    parts.filter_map(|entry| Some((entry.path().to_owned(), entry.metadata().ok()?.len()))).collect()
}

/// The parts of a folder that nobody has written to for so long, and that nobody is at.
pub fn abandoned(folder: &Utf8Path, age: Duration) -> Vec<(Utf8PathBuf, u64)> {
    let is_old = |part: &Utf8Path| {
        let changed = part.metadata().and_then(|metadata| metadata.modified()).ok();
        changed.and_then(|changed| changed.elapsed().ok()).is_some_and(|since| since > age)
    };
    let is_idle = |part: &Utf8Path| lock(part, Duration::ZERO, &Cancel::default()).is_ok();
    list(folder).into_iter().filter(|(part, _)| is_old(part) && is_idle(part)).collect()
}

/// Removes a part, unless somebody is at it; true when it is gone.
pub fn remove(part: &Utf8Path) -> bool {
    let idle = lock(part, Duration::ZERO, &Cancel::default());
    if idle.is_ok() {
        discard(part);
    }
    idle.is_ok()
}

/// A file with a name, for programs that want one; it goes with its owner.
#[derive(Debug)]
pub struct Temporary {
    /// Where it is.
    pub path: Utf8PathBuf,
    _alone: Lock,
}

impl Temporary {
    /// An empty file in `folder` that only its owner may read.
    pub fn new(folder: &Utf8Path, name: &str) -> Result<Self> {
        let path = folder.join(format!("{name}.part"));
        let make = || {
            use std::os::unix::fs::OpenOptionsExt;
            fs::create_dir_all(folder)?;
            fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)
        };
        let alone = lock(&path, Duration::ZERO, &Cancel::default())?;
        make().map_err(|error| Error::io(format!("make the temporary file `{path}`"), &error))?;
        Ok(Self { path, _alone: alone })
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        discard(&self.path);
    }
}
