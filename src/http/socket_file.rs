//! [`SocketFile`]: a socket of the file system, from when it is made until it is removed.

use std::{
    fs, io,
    os::unix::{
        fs::{FileTypeExt, MetadataExt},
        net::UnixStream,
    },
};

use camino::{Utf8Path, Utf8PathBuf};
use rustix::{fs::Mode, process::umask};
use tokio::net::UnixListener;

/// What is taken of the rights on it, so that they are 0660: for its owner and group.
const MASK: Mode = Mode::from_raw_mode(0o117);

/// The file of a socket that the service has made.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: Utf8PathBuf,
    /// Its device and inode: another file of its name is somebody else's.
    id: (u64, u64),
}

/// Binds a socket of the file system. One that a killed service left is replaced; one that somebody listens at, and any other
/// file, is not.
pub(super) fn bind(path: &Utf8Path) -> io::Result<(UnixListener, SocketFile)> {
    if is_stale(path)? {
        fs::remove_file(path)?;
    }
    // A mode that is given later would leave a moment in which everybody may connect.
    let before = umask(MASK);
    let bound = UnixListener::bind(path);
    umask(before);
    let listener = bound?;
    let id = id(path)?;
    Ok((listener, SocketFile { path: path.to_owned(), id }))
}

/// Whether it is a socket at which nobody listens.
fn is_stale(path: &Utf8Path) -> io::Result<bool> {
    match fs::symlink_metadata(path) {
        Ok(file) if file.file_type().is_socket() => {
            Ok(UnixStream::connect(path).is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused))
        }
        Ok(_) => Err(io::Error::new(io::ErrorKind::AlreadyExists, "there is a file of that name that is no socket")),
        Err(_) => Ok(false),
    }
}

fn id(path: &Utf8Path) -> io::Result<(u64, u64)> {
    fs::symlink_metadata(path).map(|file| (file.dev(), file.ino()))
}

impl SocketFile {
    /// Removes it, unless it is another's by now.
    pub(super) fn remove(&self) {
        let Self { path, id: own } = self;
        if id(path).is_ok_and(|id| id == *own)
            && let Err(error) = fs::remove_file(path)
        {
            tracing::warn!("cannot remove `{path}`: {error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn folder() -> (tempfile::TempDir, Utf8PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = Utf8PathBuf::from_path_buf(folder.path().join("api.sock")).unwrap();
        (folder, path)
    }

    #[tokio::test]
    async fn a_socket_is_for_its_owner_and_group_and_goes_with_the_service() {
        let (_folder, path) = folder();
        let (_listener, file) = bind(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);
        // Somebody listens.
        assert_eq!(bind(&path).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        file.remove();
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn a_stale_socket_is_replaced_and_that_of_a_successor_stays() {
        let (_folder, path) = folder();
        let (listener, old) = bind(&path).unwrap();
        drop(listener);
        let (_listener, new) = bind(&path).unwrap();
        // Where the inode was given again, there is nothing that tells them apart.
        if old.id != new.id {
            old.remove();
            assert!(path.exists());
        }
        new.remove();
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn another_file_is_never_removed() {
        let (_folder, path) = folder();
        fs::write(&path, "mine").unwrap();
        assert_eq!(bind(&path).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read_to_string(&path).unwrap(), "mine");
        let link = path.with_file_name("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert!(bind(&link).is_err() && link.exists());
    }
}
