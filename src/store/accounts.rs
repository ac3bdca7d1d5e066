//! The users and groups of this machine, from `/etc/passwd` and `/etc/group`.
//!
//! Users and groups of a directory service are not in these files, so their numbers stand for their names.

use std::fs;

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
        let mut gids = vec![gid];
        gids.extend(groups_of(&read("/etc/group"), &name));
        Self { name, uid, gids }
    }
}

/// Returns the name of a user, or the number if the name is unknown.
pub fn user_name(uid: u32) -> String {
    name_of(&read("/etc/passwd"), uid)
}

/// Returns the name of a group, or the number if the name is unknown.
pub fn group_name(gid: u32) -> String {
    name_of(&read("/etc/group"), gid)
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

/// Returns the name of a number. In both files, the first field is the name and the third is the number.
fn name_of(text: &str, number: u32) -> String {
    let name = |line: &str| {
        let fields: Vec<_> = line.split(':').collect();
        (fields.get(2)?.parse() == Ok(number)).then(|| fields[0].to_owned())
    };
    text.lines().find_map(name).unwrap_or_else(|| number.to_string())
}

fn groups_of(text: &str, user: &str) -> Vec<u32> {
    let group = |line: &str| {
        let fields: Vec<_> = line.split(':').collect();
        let is_member = fields.get(3)?.split(',').any(|member| member == user);
        is_member.then(|| fields[2].parse().ok())?
    };
    text.lines().filter_map(group).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_groups_are_found() {
        let passwd =
            "root:x:0:0:root:/root:/bin/bash\n\nbroken\nlibvirt-qemu:x:64055:993:Libvirt Qemu,,,:/var/lib:/x\n";
        assert_eq!(name_of(passwd, 64055), "libvirt-qemu");
        assert_eq!(name_of(passwd, 7), "7");
        let groups = "kvm:x:104:other,libvirt-qemu\nnobody:x:5:\nlibvirt-qemu:x:64055:libvirt-qemu2\n";
        assert_eq!(groups_of(groups, "libvirt-qemu"), [104]);
        assert_eq!((user_name(0), group_name(0)), ("root".to_owned(), "root".to_owned()));
    }
}
