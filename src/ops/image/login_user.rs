//! The default login users of the distributions' cloud images.

/// Words in images' file names, with the default user that the distribution documents (`system_info: default_user` in
/// the image's `/etc/cloud/cloud.cfg`). Longer words come first.
const USERS: &[(&str, &str)] = &[
    ("almalinux", "almalinux"),
    ("amzn2", "ec2-user"),
    ("al2023", "ec2-user"),
    ("centos", "cloud-user"),
    ("opensuse", "opensuse"),
    ("fedora", "fedora"),
    ("freebsd", "freebsd"),
    ("gentoo", "gentoo"),
    ("alpine", "alpine"),
    ("debian", "debian"),
    ("ubuntu", "ubuntu"),
    ("rocky", "rocky"),
    ("rhel", "cloud-user"),
    ("kali", "kali"),
    ("arch", "arch"),
    // Ubuntu's images are named by the release alone: jammy-server-cloudimg-amd64.img.
    ("server-cloudimg", "ubuntu"),
    ("minimal-cloudimg", "ubuntu"),
];

/// Returns the default user of the distribution that a path or URL names.
pub(in crate::ops) fn default_user(source: &str) -> Option<&'static str> {
    let path = source.split(['?', '#']).next().unwrap_or_default();
    let of = |text: &str| {
        let text = text.to_ascii_lowercase();
        let is_word = |&&(word, _): &&(&str, &str)| contains_word(&text, word);
        USERS.iter().find(is_word).map(|&(_, user)| user)
    };
    // A distribution in the file's name takes precedence over one in a folder's name.
    path.rsplit('/').find_map(of)
}

/// Returns whether `text` contains `word` as a whole word, so that `search` or `archive` is not Arch Linux.
fn contains_word(text: &str, word: &str) -> bool {
    text.match_indices(word).any(|(at, _)| {
        let letter = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphabetic());
        !letter(text[..at].chars().next_back()) && !letter(text[at + word.len()..].chars().next())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_distribution_is_read_from_the_name() {
        for (source, user) in [
            ("https://cloud-images.ubuntu.com/jammy/current/jammy-server-cloudimg-amd64.img", Some("ubuntu")),
            (
                "https://cloud.debian.org/images/cloud/bookworm/latest/debian-12-genericcloud-amd64.qcow2",
                Some("debian"),
            ),
            ("/srv/Fedora-Cloud-Base-Generic-42-1.1.x86_64.qcow2", Some("fedora")),
            ("/srv/Rocky-9-GenericCloud.latest.x86_64.qcow2", Some("rocky")),
            ("/srv/AlmaLinux-9-GenericCloud-latest.x86_64.qcow2", Some("almalinux")),
            ("/srv/CentOS-Stream-GenericCloud-9-latest.x86_64.qcow2", Some("cloud-user")),
            ("/srv/Arch-Linux-x86_64-cloudimg.qcow2", Some("arch")),
            ("/srv/openSUSE-Leap-15.6.x86_64-NoCloud.qcow2", Some("opensuse")),
            ("/srv/debian/disk.qcow2", Some("debian")),
            ("/archive/search/disk.qcow2", None),
            ("/srv/disk.qcow2?debian", None),
        ] {
            assert_eq!(default_user(source), user, "{source}");
        }
    }
}
