//! The users and groups of this machine, from `/etc/passwd` and `/etc/group`. Those of a directory service are not
//! there; they are then known by their numbers.

use std::fs;

/// A user, and the groups that a process of theirs is in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// Their name, or their number where the machine has no name for it.
    pub name: String,
    /// Their number.
    pub uid: u32,
    /// Their groups, the primary one first.
    pub gids: Vec<u32>,
}

impl Account {
    /// Whose process this is.
    pub fn own() -> Self {
        let uid = rustix::process::geteuid().as_raw();
        let mut gids = vec![rustix::process::getegid().as_raw()];
        gids.extend(rustix::process::getgroups().unwrap_or_default().iter().map(|gid| gid.as_raw()));
        Self { name: user_name(uid), uid, gids }
    }

    /// A user as a program has them that takes on their numbers and their groups.
    pub fn of(uid: u32, gid: u32) -> Self {
        let name = user_name(uid);
        let mut gids = vec![gid];
        gids.extend(groups_of(&read("/etc/group"), &name));
        Self { name, uid, gids }
    }
}

/// The name of a user, or the number.
pub fn user_name(uid: u32) -> String {
    name_of(&read("/etc/passwd"), uid)
}

/// The name of a group, or the number.
pub fn group_name(gid: u32) -> String {
    name_of(&read("/etc/group"), gid)
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

/// Both files have the name first and the number third.
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
    fn names_and_groups_are_found_by_number() {
        let passwd =
            "root:x:0:0:root:/root:/bin/bash\n\nbroken\nlibvirt-qemu:x:64055:993:Libvirt Qemu,,,:/var/lib:/x\n";
        assert_eq!(name_of(passwd, 64055), "libvirt-qemu");
        assert_eq!(name_of(passwd, 7), "7");
        let groups = "kvm:x:104:other,libvirt-qemu\nnobody:x:5:\nlibvirt-qemu:x:64055:libvirt-qemu2\n";
        assert_eq!(groups_of(groups, "libvirt-qemu"), [104]);
        assert_eq!((user_name(0), group_name(0)), ("root".to_owned(), "root".to_owned()));
    }
}
