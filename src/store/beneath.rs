//! Files below a folder: the way to them never leads out of it.

use std::{io, os::fd::AsRawFd};

use camino::{Utf8Path, Utf8PathBuf};
use rustix::{
    fs::{Mode, OFlags, ResolveFlags, open, openat2},
    io::Errno,
};

/// Where a path leads that begins at `folder`, without symbolic links; none where that is outside the folder. The kernel
/// goes the way (`openat2`, Linux 5.6) and turns back before it leaves, so that nothing outside is looked at: an absolute
/// link leads outside wherever it ends.
pub fn resolve(folder: &Utf8Path, path: &Utf8Path) -> io::Result<Option<Utf8PathBuf>> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let root = match open(folder.as_std_path(), flags | OFlags::DIRECTORY, Mode::empty()) {
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
        root => root?,
    };
    let path = if path.as_str().is_empty() { Utf8Path::new(".") } else { path };
    let way = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    let file = match openat2(&root, path.as_std_path(), flags, Mode::empty(), way) {
        Err(Errno::XDEV) => return Ok(None),
        file => file?,
    };
    let real = std::fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd()))?;
    Utf8PathBuf::from_path_buf(real).map(Some).map_err(|_| io::Error::from(io::ErrorKind::InvalidFilename))
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
        let resolve = |path: &str| resolve(&folder, Utf8Path::new(path));
        for path in ["sub/file", "link", "sub/../sub/./file"] {
            assert_eq!(resolve(path).unwrap(), Some(folder.join("sub/file")), "{path}");
        }
        assert_eq!(resolve("").unwrap(), Some(folder.clone()));
        for path in ["../secret", "../nothing", "out/secret", "out/nothing", "there", "dangling", "/etc/passwd"] {
            assert_eq!(resolve(path).unwrap(), None, "{path}");
        }
        assert_eq!(resolve("nothing").unwrap_err().kind(), io::ErrorKind::NotFound);
        assert_eq!(super::resolve(&root.join("no folder"), Utf8Path::new("x")).unwrap(), None);
    }
}
