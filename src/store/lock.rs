//! Locks between vmprov processes of one machine.
//!
//! Correctness does not rest on them (libvirt's names are the atomic reservations); they keep two processes from doing
//! the same work twice, or half of each other's.

use std::{
    fs::{File, OpenOptions, TryLockError},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use crate::{
    cancel::Cancel,
    error::{Code, Error, Result},
    model::digest,
};

/// A lock that is held until it is dropped or the process ends.
#[derive(Debug)]
pub struct Lock {
    path: PathBuf,
    file: File,
}

/// How often a taken lock is looked at again.
const POLL: Duration = Duration::from_millis(100);

impl Lock {
    /// Takes the lock on `what`, waiting for another process at most `limit`.
    pub fn take(what: &str, limit: Duration, cancel: &Cancel) -> Result<Self> {
        Self::wait(what, limit, cancel, File::try_lock)
    }

    /// The same for one of several that may have it at once, as long as nobody has it alone.
    pub fn share(what: &str, limit: Duration, cancel: &Cancel) -> Result<Self> {
        Self::wait(what, limit, cancel, File::try_lock_shared)
    }

    fn wait(
        what: &str,
        limit: Duration,
        cancel: &Cancel,
        try_lock: impl Fn(&File) -> Result<(), TryLockError>,
    ) -> Result<Self> {
        let path = path_of(what);
        let failed = |error: &std::io::Error| Error::io(format!("lock `{}`", path.display()), error);
        let deadline = Instant::now() + limit;
        loop {
            let file = open(&path).map_err(|error| failed(&error))?;
            match try_lock(&file) {
                Ok(()) if is_at(&file, &path) => return Ok(Self { path, file }),
                Ok(()) => {} // its holder has just removed it: another process may have made a new one
                Err(TryLockError::WouldBlock) if Instant::now() < deadline => {
                    cancel.check()?;
                    std::thread::sleep(POLL);
                }
                Err(TryLockError::WouldBlock) => {
                    return Err(Error::new(Code::Busy, format!("another vmprov is working on {what}")).hint(format!(
                        "Try again when it is done; `fuser {}` shows which process it is.",
                        path.display()
                    )));
                }
                Err(TryLockError::Error(error)) => return Err(failed(&error)),
            }
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Removed by whoever has it alone: of several that share it, the last. Two who leave at once may each take the
        // other for one that stays, so there is a second look. Where removing is not permitted (another user's file), it
        // stays and does no harm.
        for _ in 0..2 {
            if self.file.try_lock().is_ok() && is_at(&self.file, &self.path) {
                if let Err(error) = std::fs::remove_file(&self.path) {
                    tracing::debug!("the lock `{}` stays: {error}", self.path.display());
                }
                break;
            }
            if let Err(error) = self.file.unlock() {
                tracing::debug!("cannot unlock `{}`: {error}", self.path.display());
            }
        }
    }
}

/// Whether the file that was locked is still the one that others would find.
fn is_at(file: &File, path: &Path) -> bool {
    let identity = |metadata: std::fs::Metadata| (metadata.dev(), metadata.ino());
    match (file.metadata(), std::fs::symlink_metadata(path)) {
        (Ok(held), Ok(there)) => identity(held) == identity(there),
        _ => false,
    }
}

/// Removes the lock files that killed processes left. One that is held stays, and so does another user's.
pub fn remove_stale() {
    each_stale(|path, file| drop(Lock { path, file }));
}

/// The lock files that killed processes left.
pub fn stale() -> Vec<PathBuf> {
    let mut found = Vec::new();
    each_stale(|path, _| found.push(path));
    found.sort();
    found
}

/// Hands over each lock file that nobody holds, locked.
fn each_stale(mut take: impl FnMut(PathBuf, File)) {
    let entries = std::fs::read_dir(folder()).into_iter().flatten().filter_map(Result::ok);
    let is_lock = |name: &str| name.starts_with(PREFIX) && name.ends_with(SUFFIX);
    for entry in entries.filter(|entry| entry.file_name().to_str().is_some_and(is_lock)) {
        let path = entry.path();
        if let Ok(file) = open(&path)
            && file.try_lock().is_ok()
            && is_at(&file, &path)
        {
            take(path, file);
        }
    }
}

const PREFIX: &str = "vmprov-";
const SUFFIX: &str = ".lock";

/// One file for each thing that can be locked, shared by all users of the machine.
fn path_of(what: &str) -> PathBuf {
    folder().join(format!("{PREFIX}{}{SUFFIX}", &digest::of(what.as_bytes())[..16]))
}

fn folder() -> PathBuf {
    let shared = PathBuf::from("/run/lock");
    if shared.is_dir() { shared } else { PathBuf::from("/tmp") }
}

/// Opens without creating first: in a sticky folder the kernel refuses `O_CREAT` on another user's file
/// (`fs.protected_regular`), but not a plain open.
fn open(path: &PathBuf) -> std::io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).custom_flags(rustix::fs::OFlags::NOFOLLOW.bits().cast_signed());
    match options.open(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            // flock needs no right to write, and the umask must not keep other users from reading.
            let file = OpenOptions::new().write(true).create_new(true).mode(0o644).open(path);
            match file {
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => options.open(path),
                result => result,
            }
        }
        result => result,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_excludes_until_it_is_dropped() {
        let what = format!("a test of process {}", std::process::id());
        let cancel = Cancel::default();
        let held = Lock::take(&what, Duration::ZERO, &cancel).unwrap();
        let error = Lock::take(&what, Duration::from_millis(10), &cancel).unwrap_err();
        assert_eq!(error.code, Code::Busy);
        drop(held);
        drop(Lock::take(&what, Duration::ZERO, &cancel).unwrap());
        assert!(!path_of(&what).exists(), "the lock file was left behind");
    }

    #[test]
    fn what_is_shared_excludes_until_the_last_one_drops_it() {
        let what = format!("a shared test of process {}", std::process::id());
        let cancel = Cancel::default();
        let [first, second] = [(); 2].map(|()| Lock::share(&what, Duration::ZERO, &cancel).unwrap());
        drop(first);
        let refused = Lock::take(&what, Duration::ZERO, &cancel);
        assert_eq!(refused.unwrap_err().code, Code::Busy);
        drop(second);
        let held = Lock::take(&what, Duration::ZERO, &cancel).unwrap();
        assert_eq!(Lock::share(&what, Duration::ZERO, &cancel).unwrap_err().code, Code::Busy);
        drop(held);
        assert!(!path_of(&what).exists(), "the lock file was left behind");
    }
}
