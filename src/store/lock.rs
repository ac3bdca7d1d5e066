//! Locks between the vmprov processes of one user of one machine.
//!
//! Correctness does not depend on them: libvirt's names are the atomic reservations, and the leases in libvirt work
//! across users and machines. The locks keep two processes from doing the same work twice, and show which processes are
//! still running.

use std::{
    fs::{File, OpenOptions, TryLockError},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use crate::{
    cancel::Cancel,
    error::{Code, Error, Hint, Result},
    model::digest,
    store::system,
};

/// A lock. It is held until this value is dropped or the process ends.
#[derive(Debug)]
pub struct Lock {
    path: PathBuf,
    file: File,
}

/// The interval between two attempts to take a lock.
const POLL: Duration = Duration::from_millis(100);

impl Lock {
    /// Takes the exclusive lock on `what`. Waits at most `limit` for other processes.
    pub fn take(what: &str, limit: Duration, cancel: &Cancel) -> Result<Self> {
        Self::wait(what, limit, cancel, File::try_lock)
    }

    /// Takes a shared lock on `what`: several processes may hold it at once, but not beside an exclusive one.
    pub fn share(what: &str, limit: Duration, cancel: &Cancel) -> Result<Self> {
        Self::wait(what, limit, cancel, File::try_lock_shared)
    }

    fn wait(
        what: &str,
        limit: Duration,
        cancel: &Cancel,
        try_lock: impl Fn(&File) -> Result<(), TryLockError>,
    ) -> Result<Self> {
        let path = path_of(what)?;
        let failed = |error: &std::io::Error| Error::io(format!("lock `{}`", path.display()), error);
        let deadline = Instant::now() + limit;
        loop {
            let file = open(&path).map_err(|error| failed(&error))?;
            match try_lock(&file) {
                Ok(()) if is_current(&file, &path) => return Ok(Self { path, file }),
                Ok(()) => {} // Its holder has just removed it, so another process may have created a new one.
                Err(TryLockError::WouldBlock) if Instant::now() < deadline => {
                    cancel.check()?;
                    std::thread::sleep(POLL);
                }
                Err(TryLockError::WouldBlock) => {
                    let command = format!("fuser {}", shell_words::quote(&path.to_string_lossy()));
                    return Err(Error::new(Code::Busy, format!("another vmprov is working on {what}"))
                        .hint("Try again when it is done")
                        .hint(Hint::run("Find its process", command)));
                }
                Err(TryLockError::Error(error)) => return Err(failed(&error)),
            }
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // An exclusive holder removes the file, and so does the last of several that share it. If two are dropped at
        // once, each may still see the other's lock, so it is tried a second time.
        for _ in 0..2 {
            if self.file.try_lock().is_ok() && is_current(&self.file, &self.path) {
                if let Err(error) = std::fs::remove_file(&self.path) {
                    tracing::debug!("cannot remove the lock `{}`: {error}", self.path.display());
                }
                break;
            }
            if let Err(error) = self.file.unlock() {
                tracing::debug!("cannot unlock `{}`: {error}", self.path.display());
            }
        }
    }
}

/// Returns whether the locked file is still the one at this path, which other processes would open.
fn is_current(file: &File, path: &Path) -> bool {
    let identity = |metadata: std::fs::Metadata| (metadata.dev(), metadata.ino());
    match (file.metadata(), std::fs::symlink_metadata(path)) {
        (Ok(held), Ok(current)) => identity(held) == identity(current),
        _ => false,
    }
}

/// Removes the lock files that killed processes left behind. Held locks stay.
pub fn remove_stale() {
    for_each_stale(|path, file| drop(Lock { path, file }));
}

/// Returns the lock files that killed processes left behind.
pub fn stale() -> Vec<PathBuf> {
    let mut found = Vec::new();
    for_each_stale(|path, _| found.push(path));
    found.sort();
    found
}

/// Locks each lock file that no process holds, and passes it to `take`.
fn for_each_stale(mut take: impl FnMut(PathBuf, File)) {
    let entries =
        folder().and_then(|folder| std::fs::read_dir(folder).map_err(|error| Error::io("list the locks", &error)));
    let entries = entries.into_iter().flatten().filter_map(Result::ok);
    let is_lock = |name: &str| name.starts_with(PREFIX) && name.ends_with(SUFFIX);
    for entry in entries.filter(|entry| entry.file_name().to_str().is_some_and(is_lock)) {
        let path = entry.path();
        if let Ok(file) = open(&path)
            && file.try_lock().is_ok()
            && is_current(&file, &path)
        {
            take(path, file);
        }
    }
}

const PREFIX: &str = "vmprov-";
const SUFFIX: &str = ".lock";

/// Returns the path of the lock file for `what`.
fn path_of(what: &str) -> Result<PathBuf> {
    Ok(folder()?.join(format!("{PREFIX}{}{SUFFIX}", &digest::of(what.as_bytes())[..16])))
}

/// Returns an identity shared by all processes that these locks cover: those of one boot that use the same folder.
///
/// Each container has a folder of its own.
pub fn place() -> Result<String> {
    let folder = folder()?;
    let metadata = std::fs::metadata(&folder);
    let metadata =
        metadata.map_err(|error| Error::io(format!("read the metadata of `{}`", folder.display()), &error))?;
    let boot = system::fact("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    Ok(format!("{boot} {}:{}", metadata.dev(), metadata.ino()))
}

/// Returns the folder of this user's locks. No other user may enter it, because who can open a lock file can hold it.
fn folder() -> Result<PathBuf> {
    let uid = rustix::process::geteuid();
    let run = PathBuf::from(format!("/run/user/{}", uid.as_raw()));
    // A container may have a read-only /run, and a service may have no /run/user.
    let preferred = if uid.is_root() {
        Some(PathBuf::from("/run/vmprov-locks"))
    } else {
        is_private(&run).then(|| run.join("vmprov"))
    };
    if let Some(folder) = preferred.filter(|folder| make_private(folder).is_ok()) {
        return Ok(folder);
    }
    let folder = PathBuf::from(format!("/tmp/vmprov-{}", uid.as_raw()));
    make_private(&folder).map_err(|error| {
        let command = format!("ls -ld {}", shell_words::quote(&folder.to_string_lossy()));
        Error::io(format!("use the folder `{}` for locks", folder.display()), &error)
            .hint(Hint::run("Check who owns it", command))
            .hint("Remove it, so that it can be created with mode 0700 for this user")
    })?;
    Ok(folder)
}

/// Creates a folder that only this user can enter, or accepts one that exists.
fn make_private(folder: &Path) -> std::io::Result<()> {
    match std::fs::DirBuilder::new().mode(0o700).create(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => Err(error),
        _ if is_private(folder) => Ok(()),
        _ => Err(std::io::Error::new(
            std::io::ErrorKind::PermissionDenied,
            "it belongs to another user, or its mode is not 0700",
        )),
    }
}

/// Returns whether a path is a folder that belongs to this user and that no other user can enter.
fn is_private(folder: &Path) -> bool {
    std::fs::symlink_metadata(folder).is_ok_and(|metadata| {
        metadata.is_dir() && metadata.uid() == rustix::process::geteuid().as_raw() && metadata.mode() & 0o777 == 0o700
    })
}

/// Opens a lock file, and creates it if it does not exist.
fn open(path: &Path) -> std::io::Result<File> {
    let no_link = rustix::fs::OFlags::NOFOLLOW.bits().cast_signed();
    OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).custom_flags(no_link).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exclusive_lock_excludes_others_until_it_is_dropped() {
        let what = format!("a test of process {}", std::process::id());
        let cancel = Cancel::default();
        let held = Lock::take(&what, Duration::ZERO, &cancel).unwrap();
        let error = Lock::take(&what, Duration::from_millis(10), &cancel).unwrap_err();
        assert_eq!(error.code, Code::Busy);
        drop(held);
        drop(Lock::take(&what, Duration::ZERO, &cancel).unwrap());
        assert!(!path_of(&what).unwrap().exists(), "the lock file was left behind");
    }

    #[test]
    fn a_shared_lock_excludes_an_exclusive_one_until_its_last_holder_drops_it() {
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
        assert!(!path_of(&what).unwrap().exists(), "the lock file was left behind");
    }
}
