//! The users and groups of this machine, from the system's user database.

use std::ffi::CString;

use nix::unistd::{Gid, Group, Uid, User, getgrouplist};

/// A user, and the groups of a process that runs as this user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// The name, or the number if the name is unknown.
    pub name: String,
    /// The user id.
    pub uid: u32,
    /// The group ids, the primary one first.
    pub gids: Vec<u32>,
}

impl Account {
    /// Returns the account of this process.
    pub fn own() -> Self {
        let uid = rustix::process::geteuid().as_raw();
        let mut gids = vec![rustix::process::getegid().as_raw()];
        gids.extend(rustix::process::getgroups().unwrap_or_default().iter().map(|gid| gid.as_raw()));
        Self { name: user_name(uid), uid, gids }
    }

    /// Returns the account of a process that switches to this user, this primary group and the user's other groups.
    pub fn of(uid: u32, gid: u32) -> Self {
        let name = user_name(uid);
        let groups = CString::new(name.as_str()).ok().and_then(|name| getgrouplist(&name, gid.into()).ok());
        let others = groups.unwrap_or_default().into_iter().map(Gid::as_raw).filter(|other| *other != gid);
        Self { gids: [gid].into_iter().chain(others).collect(), name, uid }
    }
}

/// Returns the name of a user, or the number if the name is unknown.
pub fn user_name(uid: u32) -> String {
    let user = User::from_uid(Uid::from_raw(uid)).ok().flatten();
    user.map_or_else(|| uid.to_string(), |user| user.name)
}

/// Returns the name of a group, or the number if the name is unknown.
pub fn group_name(gid: u32) -> String {
    let group = Group::from_gid(Gid::from_raw(gid)).ok().flatten();
    group.map_or_else(|| gid.to_string(), |group| group.name)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// No user or group has this number: it is reserved for "unchanged" minus one.
    const UNKNOWN: u32 = u32::MAX - 1;

    #[test]
    fn names_and_groups_are_found() {
        assert_eq!((user_name(0), group_name(0)), ("root".to_owned(), "root".to_owned()));
        assert_eq!((user_name(UNKNOWN), group_name(UNKNOWN)), (UNKNOWN.to_string(), UNKNOWN.to_string()));
        let Account { name, uid, gids } = Account::of(0, 7);
        assert_eq!((name.as_str(), uid, gids[0]), ("root", 0, 7));
        assert_eq!(Account::of(UNKNOWN, 7).gids, [7]);
    }
}
