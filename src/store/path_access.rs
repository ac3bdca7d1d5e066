//! The way to a file: whether a user may enter each folder above it.

use std::{fs, io, os::unix::fs::MetadataExt};

use camino::{Utf8Path, Utf8PathBuf};

use super::accounts::{Account, group_name, user_name};

/// The right to enter a folder.
const ENTER: u32 = 0o1;

/// A folder that somebody may not enter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Barrier {
    /// The folder.
    pub folder: Utf8PathBuf,
    /// Its permissions.
    pub mode: u32,
    /// Its owner and its group, by name.
    pub owner: String,
}

/// The first folder on the way to a path that the user may not enter, the path itself being one of them where it is a
/// folder; none where the way is free. What is not there yet is not looked at; what cannot be looked at is an error.
pub fn barrier(path: &Utf8Path, account: &Account) -> io::Result<Option<Barrier>> {
    // Symbolic links lead over folders of their own.
    let there = path.ancestors().find_map(|part| match part.canonicalize_utf8() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        result => Some(result),
    });
    let Some(real) = there.transpose()? else { return Ok(None) };
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
    // With a list, the mode's bits of the group are the most that it gives anybody but owner and others.
    let masked = |entry: &Entry| entry.permissions & ENTER != 0 && mode & (ENTER << 3) != 0;
    if let Some(entry) = list.iter().find(|entry| entry.who == Who::User(account.uid)) {
        return Ok(masked(entry));
    }
    let of_groups = list.iter().filter(|entry| match entry.who {
        Who::OwningGroup => is_member(metadata.gid()),
        Who::Group(gid) => is_member(gid),
        Who::User(_) => false,
    });
    let of_groups: Vec<_> = of_groups.collect();
    Ok(if of_groups.is_empty() { mode & ENTER != 0 } else { of_groups.into_iter().any(masked) })
}

/// An entry of a folder's access control list.
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

/// The access control list of a folder that has one, as the kernel gives it.
fn acl(folder: &Utf8Path) -> io::Result<Option<Vec<Entry>>> {
    /// What an attribute may hold at most (`XATTR_SIZE_MAX`).
    const MOST: usize = 64 << 10;
    let mut bytes = vec![0; MOST];
    match rustix::fs::getxattr(folder.as_std_path(), "system.posix_acl_access", &mut bytes[..]) {
        Ok(length) => Ok(Some(entries(&bytes[..length]))),
        Err(rustix::io::Errno::NODATA | rustix::io::Errno::OPNOTSUPP) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Reads a list: a version of 4 bytes, then entries of 8: tag, permissions, id (`linux/posix_acl_xattr.h`).
fn entries(bytes: &[u8]) -> Vec<Entry> {
    let entry = |bytes: &[u8]| {
        let [tag, permissions] = [0, 2].map(|at| u16::from_le_bytes([bytes[at], bytes[at + 1]]));
        let id = u32::from_le_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]);
        let who = match tag {
            0x02 => Who::User(id),
            0x04 => Who::OwningGroup,
            0x08 => Who::Group(id),
            _ => return None, // owner, mask and others, which the mode tells as well
        };
        Some(Entry { who, permissions: permissions.into() })
    };
    bytes.get(4..).unwrap_or_default().chunks_exact(8).filter_map(entry).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn somebody(gids: &[u32]) -> Account {
        Account { name: "somebody".to_owned(), uid: 4_000_000, gids: gids.to_vec() }
    }

    /// A folder in a folder in a third, all of which everybody may enter.
    fn way() -> (tempfile::TempDir, Utf8PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let root = Utf8Path::from_path(folder.path()).unwrap().canonicalize_utf8().unwrap();
        fs::create_dir_all(root.join("a/b")).unwrap();
        for part in [root.clone(), root.join("a"), root.join("a/b")] {
            set(&part, 0o755);
        }
        (folder, root)
    }

    fn set(path: &Utf8Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn the_first_folder_that_cannot_be_entered_is_named() {
        let (_folder, root) = way();
        let find = |path: &str| barrier(&root.join(path), &somebody(&[])).unwrap().map(|barrier| barrier.folder);
        assert_eq!(find("a/b/disk.qcow2"), None, "what is not there is not looked at");
        set(&root.join("a/b"), 0o700);
        assert_eq!(find("a/b/c/disk.qcow2"), Some(root.join("a/b")));
        set(&root.join("a"), 0o750);
        assert_eq!(find("a/b"), Some(root.join("a")));
        std::os::unix::fs::symlink(root.join("a"), root.join("link")).unwrap();
        assert_eq!(find("link/x"), Some(root.join("a")));
        let found = barrier(&root.join("a"), &somebody(&[])).unwrap().unwrap();
        assert_eq!((found.mode, found.owner.contains(':')), (0o750, true));
    }

    #[test]
    fn owner_group_and_others_are_told_apart() {
        let (_folder, root) = way();
        let gid = fs::metadata(root.join("a")).unwrap().gid();
        let free = |mode: u32, account: &Account| {
            set(&root.join("a"), mode);
            barrier(&root.join("a"), account).unwrap().is_none()
        };
        assert!(free(0o710, &somebody(&[gid])));
        assert!(!free(0o701, &somebody(&[gid])), "others' right is not the group's");
        assert!(free(0o701, &somebody(&[])));
        let owner = Account { uid: fs::metadata(root.join("a")).unwrap().uid(), ..somebody(&[]) };
        assert!(owner.uid == 0 || !free(0o677, &owner));
    }

    #[test]
    fn an_access_control_list_is_read() {
        // What `setfacl -m u:64055:x,g:7:rx` wrote on a folder of mode 0700.
        let mut bytes = vec![2, 0, 0, 0];
        for (tag, permissions, id) in
            [(1_u16, 7_u16, u32::MAX), (2, 1, 64055), (4, 0, u32::MAX), (8, 5, 7), (16, 5, u32::MAX), (32, 0, u32::MAX)]
        {
            bytes.extend(tag.to_le_bytes());
            bytes.extend(permissions.to_le_bytes());
            bytes.extend(id.to_le_bytes());
        }
        let known = [(Who::User(64055), 1), (Who::OwningGroup, 0), (Who::Group(7), 5)];
        assert_eq!(entries(&bytes), known.map(|(who, permissions)| Entry { who, permissions }));
        assert_eq!(entries(&bytes[..3]), []);
    }
}
