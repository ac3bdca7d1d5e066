//! The built-in public keys of publishers.
//!
//! The keys are pinned: their names and self-signatures are ignored, and only their signatures of fetched data count.
//!
//! They come from the Debian packages ubuntu-keyring 2023.11.28.1 and distribution-gpg-keys 1.119. openSUSE's key (of
//! 2022, extended) is from the repository of distribution-gpg-keys, Arch Linux' from the README of arch-boxes.

use std::collections::BTreeMap;

/// The names of the keys, and the keys with OpenPGP armor.
const KEYS: &[(&str, &str)] = &[
    ("almalinux-8", include_str!("almalinux-8.asc")),
    ("almalinux-9", include_str!("almalinux-9.asc")),
    ("almalinux-10", include_str!("almalinux-10.asc")),
    ("arch", include_str!("arch.asc")),
    ("fedora-41", include_str!("fedora-41.asc")),
    ("fedora-42", include_str!("fedora-42.asc")),
    ("fedora-43", include_str!("fedora-43.asc")),
    ("fedora-44", include_str!("fedora-44.asc")),
    ("opensuse", include_str!("opensuse.asc")),
    ("rocky-8", include_str!("rocky-8.asc")),
    ("rocky-9", include_str!("rocky-9.asc")),
    ("rocky-10", include_str!("rocky-10.asc")),
    ("ubuntu-cloudimage", include_str!("ubuntu-cloudimage.asc")),
];

/// Returns the keys by name.
pub(super) fn built_in() -> BTreeMap<String, String> {
    KEYS.iter().map(|&(name, armored)| (name.to_owned(), armored.to_owned())).collect()
}

#[cfg(test)]
mod tests {
    use super::super::signature::fingerprints;

    /// The fingerprints are those that the publishers state, so that no file can be swapped unnoticed.
    #[test]
    fn each_key_has_the_publishers_fingerprint() {
        for (name, fingerprint) in [
            ("almalinux-8", "bc5eddcadf502c077f1582882ae81e8aced7258b"),
            ("almalinux-9", "bf18ac2876178908d6e71267d36cb86cb86b3716"),
            ("almalinux-10", "ee6db7b98f5bf5edd9da0de5dee5c11cc2a1e572"),
            ("arch", "1b9a16984a4e8cb448712d2ae0b78bf4326c6f8f"),
            ("fedora-41", "466cf2d8b60bc3057aa9453ed0622462e99d6ad1"),
            ("fedora-42", "b0f4950458f69e1150c6c5edc8ac4916105ef944"),
            ("fedora-43", "c6e7f081cf80e13146676e88829b606631645531"),
            ("fedora-44", "36f612dcf27f7d1a48a835e4dbfcf71c6d9f90a6"),
            ("opensuse", "ad485664e901b867051ab15f35a2f86e29b700a4"),
            ("rocky-8", "7051c470a929f454cebe37b715af5dac6d745a60"),
            ("rocky-9", "21cb256ae16fc54c6e652949702d426d350d275d"),
            ("rocky-10", "fc226859c0860bf0ddb95b085b106c736fedfc85"),
            ("ubuntu-cloudimage", "d2eb44626fddc30b513d5bb71a5d6c4c7db87c81"),
        ] {
            let keys = super::built_in();
            assert_eq!(fingerprints(&keys[name]).unwrap()[0], fingerprint, "{name}");
        }
        assert_eq!(super::KEYS.len(), 13);
    }
}
