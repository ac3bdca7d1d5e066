//! Files with secrets: created exclusively, synced to disk, removed unless they are kept, and read without leaving
//! copies in memory. Independent of the format of keys.

use std::{
    fs::{self, OpenOptions, Permissions},
    io::{self, ErrorKind, Read, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
};

use camino::{Utf8Path, Utf8PathBuf};
use rustix::fs::OFlags;
use zeroize::Zeroizing;

use crate::error::{Error, Result};

/// A file that this process created and removes again unless it is kept.
pub(super) struct NewFile {
    path: Utf8PathBuf,
    is_kept: bool,
}

impl NewFile {
    /// Creates a file and syncs it to disk. Fails if the path exists, even as a dangling link.
    pub(super) fn create(path: Utf8PathBuf, mode: u32, content: &[u8]) -> Result<Self> {
        // `create_new` means `O_EXCL`, with which the kernel does not follow links either.
        let opened = OpenOptions::new().write(true).create_new(true).mode(mode).open(&path);
        let mut file = opened.map_err(|error| Error::io(format!("create `{path}`"), &error))?;
        let created = Self { path, is_kept: false };
        // The mode is set again, because the umask may have cleared some of its bits.
        file.set_permissions(Permissions::from_mode(mode))
            .and_then(|()| file.write_all(content))
            .and_then(|()| file.sync_all())
            .map_err(|error| Error::io(format!("write `{}`", created.path), &error))?;
        Ok(created)
    }

    /// Keeps the file.
    pub(super) fn keep(mut self) {
        self.is_kept = true;
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        if !self.is_kept {
            // An error here is ignored, because the one that led here is more useful.
            drop(fs::remove_file(&self.path));
        }
    }
}

/// Removes a file, or a link but not its target. Returns whether it existed.
pub(super) fn remove(path: &Utf8Path) -> Result<bool> {
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(Error::io(format!("delete `{path}`"), &error)),
    }
}

/// Reads a file that the operator named. It may be a link, or the pipe of a `<(command)`.
pub(super) fn read(path: &Utf8Path, limit: usize) -> Result<Zeroizing<Vec<u8>>> {
    read_with(path, limit, OFlags::empty())
}

/// Reads a file of vmprov. Links are not followed, and a pipe does not block.
pub(super) fn read_own(path: &Utf8Path, limit: usize) -> Result<Zeroizing<Vec<u8>>> {
    read_with(path, limit, OFlags::NOFOLLOW | OFlags::NONBLOCK)
}

fn read_with(path: &Utf8Path, limit: usize, flags: OFlags) -> Result<Zeroizing<Vec<u8>>> {
    let content = read_up_to(path, limit + 1, flags).map_err(|error| Error::io(format!("read `{path}`"), &error))?;
    if content.len() > limit {
        return Err(Error::invalid(format!("`{path}` is longer than {limit} bytes")));
    }
    Ok(content)
}

fn read_up_to(path: &Utf8Path, limit: usize, flags: OFlags) -> io::Result<Zeroizing<Vec<u8>>> {
    let flags = flags.bits().cast_signed();
    let mut file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    // Allocated at once and filled in place, because a growing vector leaves copies in memory.
    let mut content = Zeroizing::new(vec![0; limit]);
    let mut length = 0;
    while length < limit {
        match file.read(&mut content[length..]) {
            Ok(0) => break,
            Ok(count) => length += count,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    content.truncate(length);
    Ok(content)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::error::Code;

    fn folder() -> (tempfile::TempDir, Utf8PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = Utf8PathBuf::try_from(dir.path().to_owned()).unwrap();
        (dir, path)
    }

    #[test]
    fn a_file_is_removed_unless_it_is_kept() {
        let (_dir, dir) = folder();
        let path = dir.join("f");
        drop(NewFile::create(path.clone(), 0o600, b"x").unwrap());
        assert!(!path.exists());
        NewFile::create(path.clone(), 0o666, b"x").unwrap().keep();
        assert_eq!(fs::read(&path).unwrap(), b"x");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o666);
    }

    #[test]
    fn existing_files_are_neither_overwritten_nor_removed() {
        let (_dir, dir) = folder();
        fs::write(dir.join("file"), "old").unwrap();
        fs::create_dir(dir.join("folder")).unwrap();
        symlink(dir.join("file"), dir.join("link")).unwrap();
        symlink(dir.join("nowhere"), dir.join("dangling")).unwrap();
        for name in ["file", "folder", "link", "dangling"] {
            let error = NewFile::create(dir.join(name), 0o600, b"new").err().unwrap();
            assert_eq!(error.code, Code::AlreadyExists, "{name}");
            assert!(dir.join(name).symlink_metadata().is_ok(), "{name}");
        }
        assert_eq!(fs::read(dir.join("file")).unwrap(), b"old");
        assert!(!dir.join("nowhere").exists());
    }

    #[test]
    fn own_files_must_not_be_links_and_have_a_size_limit() {
        let (_dir, dir) = folder();
        fs::write(dir.join("file"), "12345").unwrap();
        symlink(dir.join("file"), dir.join("link")).unwrap();
        assert_eq!(**read(&dir.join("link"), 5).unwrap(), *b"12345");
        assert!(read_own(&dir.join("link"), 5).is_err());
        assert_eq!(**read_own(&dir.join("file"), 5).unwrap(), *b"12345");
        assert_eq!(read_own(&dir.join("file"), 4).unwrap_err().code, Code::InvalidInput);
        assert_eq!(read_own(&dir.join("none"), 4).unwrap_err().code, Code::NotFound);
    }
}
