//! Whether a user may enter every folder on the path to a file.

use std::{fs, io, os::unix::fs::MetadataExt};

use camino::{Utf8Path, Utf8PathBuf};

use super::accounts::{Account, group_name, user_name};

/// The execute permission: the right to enter a folder.
const ENTER: u32 = 0o1;

/// A folder that a user may not enter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Barrier {
    /// The folder.
    pub folder: Utf8PathBuf,
    /// Its permissions.
    pub mode: u32,
    /// Its owner and its group, by name.
    pub owner: String,
}

/// Returns the first folder on the path that the user may not enter, or `None` if the path is accessible.
///
/// A path that is a folder counts itself. Components that do not exist yet are skipped. Fails if a component cannot be
/// checked.
pub fn barrier(path: &Utf8Path, account: &Account) -> io::Result<Option<Barrier>> {
    // Symbolic links are resolved, because the folders above their targets count as well.
    let existing = path.ancestors().find_map(|part| match part.canonicalize_utf8() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        result => Some(result),
    });
    let Some(real) = existing.transpose()? else { return Ok(None) };
    let mut folders: Vec<_> = real.ancestors().collect();
    folders.reverse();
    for folder in folders {
        let metadata = fs::metadata(folder)?;
        if metadata.is_dir() && !may_enter(folder, &metadata, account)? {
            let owner = format!("{}:{}", user_name(metadata.uid()), group_name(metadata.gid()));
            return Ok(Some(Barrier { folder: folder.to_owned(), mode: metadata.mode() & 0o7777, owner }));
        }
    }
    Ok(None)
}

fn may_enter(folder: &Utf8Path, metadata: &fs::Metadata, account: &Account) -> io::Result<bool> {
    let mode = metadata.mode();
    let list = acl(folder)?;
    if account.uid == 0 {
        return Ok(true);
    }
    if metadata.uid() == account.uid {
        return Ok(mode & (ENTER << 6) != 0);
    }
    let is_member = |gid: u32| account.gids.contains(&gid);
    let Some(list) = list else {
        let shift = if is_member(metadata.gid()) { 3 } else { 0 };
        return Ok(mode & (ENTER << shift) != 0);
    };
    // With a list, the group bits of the mode are its mask: the upper limit for all but owner and others.
    let masked = |entry: &Entry| entry.permissions & ENTER != 0 && mode & (ENTER << 3) != 0;
    if let Some(entry) = list.iter().find(|entry| entry.who == Who::User(account.uid)) {
        return Ok(masked(entry));
    }
    let group_entries = list.iter().filter(|entry| match entry.who {
        Who::OwningGroup => is_member(metadata.gid()),
        Who::Group(gid) => is_member(gid),
        Who::User(_) => false,
    });
    let group_entries: Vec<_> = group_entries.collect();
    Ok(if group_entries.is_empty() { mode & ENTER != 0 } else { group_entries.into_iter().any(masked) })
}

/// An entry of an access control list.
#[derive(Debug, PartialEq, Eq)]
struct Entry {
    who: Who,
    permissions: u32,
}

#[derive(Debug, PartialEq, Eq)]
enum Who {
    User(u32),
    OwningGroup,
    Group(u32),
}

/// Returns the access control list of a folder, or `None` if it has none.
fn acl(folder: &Utf8Path) -> io::Result<Option<Vec<Entry>>> {
    /// The largest size of an attribute (`XATTR_SIZE_MAX`).
    const MAX_SIZE: usize = 64 << 10;
    let mut bytes = vec![0; MAX_SIZE];
    match rustix::fs::getxattr(folder.as_std_path(), "system.posix_acl_access", &mut bytes[..]) {
        Ok(length) => Ok(Some(entries(&bytes[..length]))),
        Err(rustix::io::Errno::NODATA | rustix::io::Errno::OPNOTSUPP) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Parses a list: a version of 4 bytes, then entries of 8 bytes: tag, permissions, id (`linux/posix_acl_xattr.h`).
fn entries(bytes: &[u8]) -> Vec<Entry> {
    let entry = |bytes: &[u8]| {
        let [tag, permissions] = [0, 2].map(|at| u16::from_le_bytes([bytes[at], bytes[at + 1]]));
        let id = u32::from_le_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]);
        let who = match tag {
            0x02 => Who::User(id),
            0x04 => Who::OwningGroup,
            0x08 => Who::Group(id),
            _ => return None, // Owner, mask and others are also in the mode.
        };
        Some(Entry { who, permissions: permissions.into() })
    };
    bytes.get(4..).unwrap_or_default().chunks_exact(8).filter_map(entry).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn other_user(gids: &[u32]) -> Account {
        Account { name: "other".to_owned(), uid: 4_000_000, gids: gids.to_vec() }
    }

    /// Three nested folders that every user may enter.
    fn nested() -> (tempfile::TempDir, Utf8PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let root = Utf8Path::from_path(folder.path()).unwrap().canonicalize_utf8().unwrap();
        fs::create_dir_all(root.join("a/b")).unwrap();
        for folder in [root.clone(), root.join("a"), root.join("a/b")] {
            set_mode(&folder, 0o755);
        }
        (folder, root)
    }

    fn set_mode(path: &Utf8Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn the_first_inaccessible_folder_is_returned() {
        let (_folder, root) = nested();
        let find = |path: &str| barrier(&root.join(path), &other_user(&[])).unwrap().map(|barrier| barrier.folder);
        assert_eq!(find("a/b/disk.qcow2"), None, "a missing file is not checked");
        set_mode(&root.join("a/b"), 0o700);
        assert_eq!(find("a/b/c/disk.qcow2"), Some(root.join("a/b")));
        set_mode(&root.join("a"), 0o750);
        assert_eq!(find("a/b"), Some(root.join("a")));
        std::os::unix::fs::symlink(root.join("a"), root.join("link")).unwrap();
        assert_eq!(find("link/x"), Some(root.join("a")));
        let found = barrier(&root.join("a"), &other_user(&[])).unwrap().unwrap();
        assert_eq!((found.mode, found.owner.contains(':')), (0o750, true));
    }

    #[test]
    fn owner_group_and_others_are_distinguished() {
        let (_folder, root) = nested();
        let gid = fs::metadata(root.join("a")).unwrap().gid();
        let is_accessible = |mode: u32, account: &Account| {
            set_mode(&root.join("a"), mode);
            barrier(&root.join("a"), account).unwrap().is_none()
        };
        assert!(is_accessible(0o710, &other_user(&[gid])));
        assert!(!is_accessible(0o701, &other_user(&[gid])), "the permissions of others apply to a group member");
        assert!(is_accessible(0o701, &other_user(&[])));
        let owner = Account { uid: fs::metadata(root.join("a")).unwrap().uid(), ..other_user(&[]) };
        assert!(owner.uid == 0 || !is_accessible(0o677, &owner));
    }

    #[test]
    fn an_access_control_list_is_read() {
        // Written by `setfacl -m u:64055:x,g:7:rx` for a folder of mode 0700.
        let mut bytes = vec![2, 0, 0, 0];
        for (tag, permissions, id) in
            [(1_u16, 7_u16, u32::MAX), (2, 1, 64055), (4, 0, u32::MAX), (8, 5, 7), (16, 5, u32::MAX), (32, 0, u32::MAX)]
        {
            bytes.extend(tag.to_le_bytes());
            bytes.extend(permissions.to_le_bytes());
            bytes.extend(id.to_le_bytes());
        }
        let expected = [(Who::User(64055), 1), (Who::OwningGroup, 0), (Who::Group(7), 5)];
        assert_eq!(entries(&bytes), expected.map(|(who, permissions)| Entry { who, permissions }));
        assert_eq!(entries(&bytes[..3]), []);
    }
}
