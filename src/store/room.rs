//! The room that is left on a disk.

use camino::Utf8Path;

use crate::{
    error::{Error, Result},
    model::size::human,
};

/// What is left alone for everybody else.
const RESERVE: u64 = 64 << 20;

/// The bytes that may still be written below a folder.
pub fn left(folder: &Utf8Path) -> Result<u64> {
    let looked = rustix::fs::statvfs(folder.as_std_path());
    let vfs = looked.map_err(|error| Error::io(format!("look at the disk of `{folder}`"), &error.into()))?;
    Ok((vfs.f_bavail * vfs.f_frsize).saturating_sub(RESERVE))
}

/// Refuses to begin what does not fit.
pub fn require(folder: &Utf8Path, bytes: u64) -> Result<()> {
    let left = left(folder)?;
    if bytes > left {
        return Err(Error::conflict(format!(
            "the disk of `{folder}` has {} left, and {} are to be written",
            human(left),
            human(bytes)
        ))
        .hint(
            "Free some space (`vmprov image prune` removes what no VM uses), or set XDG_CACHE_HOME to another disk.",
        ));
    }
    Ok(())
}
