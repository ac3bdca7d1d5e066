//! [`LocalFile`]: a local file that is opened once and read through that open file. A path that is swapped after the check
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

/// A file that is held open; clones share it.
#[derive(Debug, Clone)]
pub struct LocalFile {
    file: Arc<File>,
    path: Utf8PathBuf,
}

/// Flags for opening a file whose type is not known yet. `O_PATH` has no side effects, not even on a device.
const LOOK: OFlags = OFlags::PATH.union(OFlags::CLOEXEC);

impl LocalFile {
    /// Opens a file, following symbolic links.
    pub fn open(path: &Utf8Path) -> io::Result<Self> {
        Self::of(open(path.as_std_path(), LOOK, Mode::empty())?)
    }

    /// Opens a file by a path that begins at `folder`; none where that leads out of the folder. The kernel goes the way
    /// (`openat2`, Linux 5.6) and turns back before it leaves, so that nothing outside is looked at: an absolute link leads
    /// outside wherever it ends.
    pub fn open_beneath(folder: &Utf8Path, path: &Utf8Path) -> io::Result<Option<Self>> {
        let root = match open(folder.as_std_path(), LOOK | OFlags::DIRECTORY, Mode::empty()) {
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
            root => root?,
        };
        let path = if path.as_str().is_empty() { Utf8Path::new(".") } else { path };
        match openat2(
            &root,
            path.as_std_path(),
            LOOK,
            Mode::empty(),
            ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS,
        ) {
            Err(Errno::XDEV) => Ok(None),
            found => Self::of(found?).map(Some),
        }
    }

    /// Reopens a regular file for reading. For other types, [`Self::metadata`] shows that it is not a regular file.
    fn of(found: OwnedFd) -> io::Result<Self> {
        let by_number = format!("/proc/self/fd/{}", found.as_raw_fd());
        let path = Utf8PathBuf::from_path_buf(std::fs::read_link(&by_number)?)
            .map_err(|_| io::Error::from(io::ErrorKind::InvalidFilename))?;
        let file =
            if File::from(found.try_clone()?).metadata()?.is_file() { File::open(by_number)? } else { found.into() };
        Ok(Self { file: Arc::new(file), path })
    }

    /// Its path without symbolic links, for people: by the time that it is used it may lead elsewhere.
    pub fn path(&self) -> &Utf8Path {
        &self.path
    }

    /// The path by which this process and the programs that it starts read the very file.
    pub fn access(&self) -> Utf8PathBuf {
        format!("/proc/{}/fd/{}", std::process::id(), self.file.as_raw_fd()).into()
    }

    /// What it is.
    pub fn metadata(&self) -> io::Result<Metadata> {
        self.file.metadata()
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use super::*;

    #[test]
    fn a_way_that_leaves_the_folder_leads_nowhere_whether_or_not_something_is_there() {
        let outside = tempfile::tempdir().unwrap();
        let root = Utf8Path::from_path(outside.path()).unwrap().canonicalize_utf8().unwrap();
        let folder = root.join("in");
        fs::create_dir_all(folder.join("sub")).unwrap();
        fs::write(folder.join("sub/file"), "x").unwrap();
        fs::write(root.join("secret"), "x").unwrap();
        symlink("sub/file", folder.join("link")).unwrap();
        symlink("..", folder.join("out")).unwrap();
        symlink(root.join("secret"), folder.join("there")).unwrap();
        symlink(root.join("nothing"), folder.join("dangling")).unwrap();
        let open = |folder: &Utf8Path, path: &str| LocalFile::open_beneath(folder, Utf8Path::new(path));
        let resolve = |path: &str| open(&folder, path).map(|file| file.map(|file| file.path));
        for path in ["sub/file", "link", "sub/../sub/./file"] {
            assert_eq!(resolve(path).unwrap(), Some(folder.join("sub/file")), "{path}");
        }
        assert_eq!(resolve("").unwrap(), Some(folder.clone()));
        for path in ["../secret", "../nothing", "out/secret", "out/nothing", "there", "dangling", "/etc/passwd"] {
            assert_eq!(resolve(path).unwrap(), None, "{path}");
        }
        assert_eq!(resolve("nothing").unwrap_err().kind(), io::ErrorKind::NotFound);
        assert!(open(&root.join("no folder"), "x").unwrap().is_none());
    }
    #[test]
    fn what_was_opened_is_read_whatever_its_path_leads_to_later() {
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
