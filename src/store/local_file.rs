//! [`LocalFile`]: a local file that is opened once and read through that descriptor. Swapping its path after the check
//! has no effect.

use std::{
    fs::{File, Metadata},
    io,
    os::fd::{AsRawFd, OwnedFd},
    sync::Arc,
};

use camino::{Utf8Path, Utf8PathBuf};
use rustix::{
    fs::{Mode, OFlags, ResolveFlags, open, openat2},
    io::Errno,
};

/// A file that stays open. Clones share it.
#[derive(Debug, Clone)]
pub struct LocalFile {
    file: Arc<File>,
    path: Utf8PathBuf,
}

/// Flags for opening a file whose type is not known yet. `O_PATH` has no side effects, not even on a device.
const PATH_ONLY: OFlags = OFlags::PATH.union(OFlags::CLOEXEC);

impl LocalFile {
    /// Opens a file, following symbolic links.
    pub fn open(path: &Utf8Path) -> io::Result<Self> {
        Self::of(open(path.as_std_path(), PATH_ONLY, Mode::empty())?)
    }

    /// Opens a file by a path relative to `folder`. Returns `None` if the path leads out of the folder.
    ///
    /// The kernel resolves the path (`openat2`, Linux 5.6) and stops before it leaves the folder, so that nothing
    /// outside is accessed. An absolute symbolic link counts as outside, wherever it points.
    pub fn open_beneath(folder: &Utf8Path, path: &Utf8Path) -> io::Result<Option<Self>> {
        let root = match open(folder.as_std_path(), PATH_ONLY | OFlags::DIRECTORY, Mode::empty()) {
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
            root => root?,
        };
        let path = if path.as_str().is_empty() { Utf8Path::new(".") } else { path };
        match openat2(
            &root,
            path.as_std_path(),
            PATH_ONLY,
            Mode::empty(),
            ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS,
        ) {
            Err(Errno::XDEV) => Ok(None),
            found => Self::of(found?).map(Some),
        }
    }

    /// Reopens a regular file for reading. For other types, [`Self::metadata`] shows that it is not a regular file.
    fn of(found: OwnedFd) -> io::Result<Self> {
        let by_fd = format!("/proc/self/fd/{}", found.as_raw_fd());
        let path = Utf8PathBuf::from_path_buf(std::fs::read_link(&by_fd)?)
            .map_err(|_| io::Error::from(io::ErrorKind::InvalidFilename))?;
        let file = if File::from(found.try_clone()?).metadata()?.is_file() { File::open(by_fd)? } else { found.into() };
        Ok(Self { file: Arc::new(file), path })
    }

    /// Returns the path without symbolic links. It is for messages only, because it may lead elsewhere later.
    pub fn path(&self) -> &Utf8Path {
        &self.path
    }

    /// Returns a path by which this process and its child processes read exactly this file.
    pub fn access(&self) -> Utf8PathBuf {
        format!("/proc/{}/fd/{}", std::process::id(), self.file.as_raw_fd()).into()
    }

    /// Returns the metadata of the file.
    pub fn metadata(&self) -> io::Result<Metadata> {
        self.file.metadata()
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use super::*;

    #[test]
    fn a_path_that_leaves_the_folder_is_refused_whether_or_not_its_target_exists() {
        let outside = tempfile::tempdir().unwrap();
        let root = Utf8Path::from_path(outside.path()).unwrap().canonicalize_utf8().unwrap();
        let folder = root.join("in");
        fs::create_dir_all(folder.join("sub")).unwrap();
        fs::write(folder.join("sub/file"), "x").unwrap();
        fs::write(root.join("secret"), "x").unwrap();
        symlink("sub/file", folder.join("link")).unwrap();
        symlink("..", folder.join("out")).unwrap();
        symlink(root.join("secret"), folder.join("existing")).unwrap();
        symlink(root.join("nothing"), folder.join("dangling")).unwrap();
        let open = |folder: &Utf8Path, path: &str| LocalFile::open_beneath(folder, Utf8Path::new(path));
        let resolve = |path: &str| open(&folder, path).map(|file| file.map(|file| file.path));
        for path in ["sub/file", "link", "sub/../sub/./file"] {
            assert_eq!(resolve(path).unwrap(), Some(folder.join("sub/file")), "{path}");
        }
        assert_eq!(resolve("").unwrap(), Some(folder.clone()));
        for path in ["../secret", "../nothing", "out/secret", "out/nothing", "existing", "dangling", "/etc/passwd"] {
            assert_eq!(resolve(path).unwrap(), None, "{path}");
        }
        assert_eq!(resolve("nothing").unwrap_err().kind(), io::ErrorKind::NotFound);
        assert!(open(&root.join("no folder"), "x").unwrap().is_none());
    }

    #[test]
    fn an_open_file_is_read_even_if_its_path_leads_elsewhere_later() {
        let folder = tempfile::tempdir().unwrap();
        let root = Utf8Path::from_path(folder.path()).unwrap();
        fs::write(root.join("first"), "first").unwrap();
        fs::write(root.join("second"), "second").unwrap();
        symlink("first", root.join("link")).unwrap();
        let file = LocalFile::open(&root.join("link")).unwrap();
        fs::remove_file(root.join("link")).unwrap();
        symlink("second", root.join("link")).unwrap();
        fs::remove_file(root.join("first")).unwrap();
        assert_eq!(fs::read_to_string(file.access()).unwrap(), "first");
        assert!(!LocalFile::open(root).unwrap().metadata().unwrap().is_file());
        assert!(!LocalFile::open(Utf8Path::new("/dev/null")).unwrap().metadata().unwrap().is_file());
    }
}
