//! [`SocketFile`]: the file of a Unix socket, from its creation to its removal.

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

/// The umask with which the socket is created, so that its mode is 0660: for its owner and group.
const MASK: Mode = Mode::from_raw_mode(0o117);

/// The file of a Unix socket that the service created.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: Utf8PathBuf,
    /// The device and inode, because another file may have the same path later.
    id: (u64, u64),
}

/// Binds a Unix socket. The socket of a killed service is replaced; a socket in use or another file is not.
pub(super) fn bind(path: &Utf8Path) -> io::Result<(UnixListener, SocketFile)> {
    if is_stale(path)? {
        fs::remove_file(path)?;
    }
    // If the mode were set later, every user could connect for a moment.
    let before = umask(MASK);
    let listener = UnixListener::bind(path);
    umask(before);
    let listener = listener?;
    let id = id(path)?;
    Ok((listener, SocketFile { path: path.to_owned(), id }))
}

/// Returns whether the file is a socket on which no process listens.
fn is_stale(path: &Utf8Path) -> io::Result<bool> {
    match fs::symlink_metadata(path) {
        Ok(file) if file.file_type().is_socket() => {
            Ok(UnixStream::connect(path).is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused))
        }
        Ok(_) => Err(io::Error::new(io::ErrorKind::AlreadyExists, "a file that is not a socket exists there")),
        Err(_) => Ok(false),
    }
}

fn id(path: &Utf8Path) -> io::Result<(u64, u64)> {
    fs::symlink_metadata(path).map(|file| (file.dev(), file.ino()))
}

impl SocketFile {
    /// Removes the file, unless it was replaced by another one.
    pub(super) fn remove(&self) {
        let Self { path, id: own_id } = self;
        if id(path).is_ok_and(|id| id == *own_id)
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
    async fn the_socket_is_for_its_owner_and_group_and_is_removed() {
        let (_folder, path) = folder();
        let (_listener, file) = bind(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);
        // The socket is in use.
        assert_eq!(bind(&path).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        file.remove();
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn a_stale_socket_is_replaced_and_the_new_one_is_not_removed_by_the_old_owner() {
        let (_folder, path) = folder();
        let (listener, old) = bind(&path).unwrap();
        drop(listener);
        let (_listener, new) = bind(&path).unwrap();
        // If the inode was reused, the two files cannot be distinguished.
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
