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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_refused_with_both_figures() {
        let folder = Utf8Path::new("/");
        require(folder, 0).unwrap();
        let error = require(folder, u64::MAX).unwrap_err();
        assert_eq!(error.code, crate::error::Code::Conflict);
        assert!(error.message.contains(" left, and ") && error.message.contains("are to be written"), "{error}");
        assert_eq!(left(Utf8Path::new("/nowhere/at/all")).unwrap_err().code, crate::error::Code::NotFound);
    }
}
