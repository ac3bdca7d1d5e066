//! Free disk space.

use camino::Utf8Path;

use crate::{
    error::{Error, Hint, Result},
    model::size::human,
};

/// The space that is left to other programs.
const RESERVE: u64 = 64 << 20;

/// Returns how many bytes may still be written to the disk of a folder.
pub fn left(folder: &Utf8Path) -> Result<u64> {
    let vfs = rustix::fs::statvfs(folder.as_std_path());
    let vfs = vfs.map_err(|error| Error::io(format!("read the free space of `{folder}`"), &error.into()))?;
    Ok((vfs.f_bavail * vfs.f_frsize).saturating_sub(RESERVE))
}

/// Fails if the disk of a folder has less than `bytes` left.
pub fn require(folder: &Utf8Path, bytes: u64) -> Result<()> {
    let left = left(folder)?;
    if bytes > left {
        let message = format!("not enough space in `{folder}`: {} free, {} needed", human(left), human(bytes));
        return Err(with_hints(Error::conflict(message)));
    }
    Ok(())
}

/// Adds what to do about a full disk.
pub(super) fn with_hints(error: Error) -> Error {
    error
        .hint(Hint::call_any("Remove images that no VM uses", "image_prune"))
        .hint("Set XDG_CACHE_HOME to a folder on another disk")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_little_space_is_refused_with_both_figures() {
        let folder = Utf8Path::new("/");
        require(folder, 0).unwrap();
        let error = require(folder, u64::MAX).unwrap_err();
        assert_eq!(error.code, crate::error::Code::Conflict);
        assert!(error.message.contains(" free, ") && error.message.ends_with(" needed"), "{error}");
        assert_eq!(left(Utf8Path::new("/nowhere/at/all")).unwrap_err().code, crate::error::Code::NotFound);
    }
}
