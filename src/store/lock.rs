//! Locks between the vmprov processes of one user of one machine.
//!
//! Correctness does not rest on them (libvirt's names are the atomic reservations, and its leases reach other users and
//! machines); they keep two processes from doing the same work twice, and show which processes live.

use std::{
    fs::{File, OpenOptions, TryLockError},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use crate::{
    cancel::Cancel,
    error::{Code, Error, Result},
    model::digest,
    store::system,
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
        let path = path_of(what)?;
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
        // other for one that stays, so there is a second look.
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

/// Removes the lock files that killed processes left. One that is held stays.
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
    let entries =
        folder().and_then(|folder| std::fs::read_dir(folder).map_err(|error| Error::io("list the locks", &error)));
    let entries = entries.into_iter().flatten().filter_map(Result::ok);
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

/// One file for each thing that can be locked.
fn path_of(what: &str) -> Result<PathBuf> {
    Ok(folder()?.join(format!("{PREFIX}{}{SUFFIX}", &digest::of(what.as_bytes())[..16])))
}

/// Which processes these locks reach: those of one boot of a machine that share the folder. Containers have one each.
pub fn place() -> Result<String> {
    let folder = folder()?;
    let metadata = std::fs::metadata(&folder);
    let metadata = metadata.map_err(|error| Error::io(format!("look at `{}`", folder.display()), &error))?;
    let boot = system::fact("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    Ok(format!("{boot} {}:{}", metadata.dev(), metadata.ino()))
}

/// The folder of this user's locks. It is nobody else's, because whoever can open a lock can hold it.
fn folder() -> Result<PathBuf> {
    let uid = rustix::process::geteuid();
    let run = PathBuf::from(format!("/run/user/{}", uid.as_raw()));
    // A container may have a /run that cannot be written to, and a service no /run/user.
    let own = if uid.is_root() {
        Some(PathBuf::from("/run/vmprov-locks"))
    } else {
        is_private(&run).then(|| run.join("vmprov"))
    };
    if let Some(folder) = own.filter(|folder| make_private(folder).is_ok()) {
        return Ok(folder);
    }
    let folder = PathBuf::from(format!("/tmp/vmprov-{}", uid.as_raw()));
    make_private(&folder).map_err(|error| {
        Error::io(format!("use the folder `{}` for locks", folder.display()), &error)
            .hint("It must belong to this user alone (mode 0700). Check whose it is, and remove it.")
    })?;
    Ok(folder)
}

/// Makes a folder that nobody else can enter, unless it is there.
fn make_private(folder: &Path) -> std::io::Result<()> {
    match std::fs::DirBuilder::new().mode(0o700).create(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => Err(error),
        _ if is_private(folder) => Ok(()),
        _ => Err(std::io::Error::new(std::io::ErrorKind::PermissionDenied, "others can enter it, or it is theirs")),
    }
}

/// Whether a path is a folder of this user that nobody else can enter.
fn is_private(folder: &Path) -> bool {
    std::fs::symlink_metadata(folder).is_ok_and(|metadata| {
        metadata.is_dir() && metadata.uid() == rustix::process::geteuid().as_raw() && metadata.mode() & 0o777 == 0o700
    })
}

/// Opens a lock's file, and makes it where it is missing.
fn open(path: &Path) -> std::io::Result<File> {
    let no_link = rustix::fs::OFlags::NOFOLLOW.bits().cast_signed();
    OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).custom_flags(no_link).open(path)
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
        assert!(!path_of(&what).unwrap().exists(), "the lock file was left behind");
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
        assert!(!path_of(&what).unwrap().exists(), "the lock file was left behind");
    }
}
