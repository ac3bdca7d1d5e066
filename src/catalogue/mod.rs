//! The catalogue: which cloud images there are, where their publishers have them, and what proves them.
//!
//! Pure: text in, facts out. What is fetched is fetched elsewhere.

pub mod checksum_list;
mod entry;
mod keys;
pub mod signature;

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::{
    error::{Error, Result},
    model::image::ImageName,
};

pub use entry::{ChecksumFile, Entry, Firmware, Form, Published, SignatureFile, Signs};

/// The images that are built in.
const BUILT_IN: &str = include_str!("images.toml");

/// Every image that has a name.
#[derive(Debug, Clone)]
pub struct Catalogue {
    /// In the order in which they are read: a later one of the same name has replaced the earlier one.
    entries: Vec<Entry>,
    keys: BTreeMap<String, String>,
}

/// One file of the catalogue.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    image: Vec<Entry>,
    /// Armoured OpenPGP public keys, by the names that signatures refer to.
    #[serde(default)]
    keys: BTreeMap<String, String>,
}

impl Catalogue {
    /// The catalogue that is built in.
    pub fn built_in() -> Result<Self> {
        let mut catalogue = Self { entries: Vec::new(), keys: keys::built_in() };
        catalogue.add(BUILT_IN, "the built-in catalogue")?;
        Ok(catalogue)
    }

    /// Adds a file's images and keys; `name` is what errors call it. What has a name that is known already replaces it.
    pub fn add(&mut self, text: &str, name: &str) -> Result<()> {
        let refuse = |why: String| {
            Error::invalid(format!("the image catalogue {name} cannot be used"))
                .because(why)
                .hint("`vmprov image search` and the README show the form of an entry.")
        };
        let file: File = toml::from_str(text).map_err(|error| refuse(error.to_string().trim_end().to_owned()))?;
        for (key, armoured) in file.keys {
            signature::check_key(&armoured).map_err(|error| refuse(format!("the key `{key}`: {error}")))?;
            self.keys.insert(key, armoured);
        }
        for entry in file.image {
            entry.check(&self.keys).map_err(|why| refuse(format!("the image `{}`: {why}", entry.name)))?;
            self.entries.retain(|known| known.name != entry.name);
            self.entries.push(entry);
        }
        Ok(())
    }

    /// Every image, in the order in which they are read.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The image of a name or alias; a later one wins.
    pub fn find(&self, name: &ImageName) -> Option<&Entry> {
        self.entries.iter().rev().find(|entry| entry.names().any(|known| known == name))
    }

    /// The images whose name, alias or title contains `term`, in any case; all of them where it is empty.
    pub fn search<'c>(&'c self, term: &str) -> impl Iterator<Item = &'c Entry> {
        let term = term.to_lowercase();
        self.entries.iter().filter(move |entry| {
            let title = entry.title.to_lowercase();
            title.contains(&term) || entry.names().any(|name| name.as_str().contains(&term))
        })
    }

    /// Every name and alias.
    pub fn names(&self) -> impl Iterator<Item = &ImageName> {
        self.entries.iter().flat_map(Entry::names)
    }

    /// The armoured keys of these names.
    pub fn keys(&self, names: &[String]) -> Vec<&str> {
        names.iter().filter_map(|name| self.keys.get(name)).map(String::as_str).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::image::Arch;

    fn name(text: &str) -> ImageName {
        text.parse().unwrap()
    }

    #[test]
    fn the_names_that_people_expect_are_there() {
        let catalogue = Catalogue::built_in().unwrap();
        for expected in [
            "ubuntu:24.04",
            "ubuntu:jammy",
            "debian:12",
            "debian:trixie",
            "fedora:42",
            "rocky:9",
            "alma:9",
            "centos-stream:9",
            "opensuse:15.6",
            "arch",
            "alpine:3.20",
        ] {
            let entry = catalogue.find(&name(expected)).unwrap_or_else(|| panic!("{expected} is missing"));
            let image = entry.image(Arch::X86_64).unwrap();
            assert!(image.url.starts_with("https://") && !image.url.contains(['{', '}']), "{}", image.url);
            assert!(!image.checksum.unwrap().0.contains(['{', '}']));
            if expected != "arch" {
                assert_ne!(entry.image(Arch::Aarch64).unwrap().url, image.url, "{expected}");
            }
        }
    }

    #[test]
    fn every_name_leads_to_one_image() {
        let catalogue = Catalogue::built_in().unwrap();
        let mut names: Vec<_> = catalogue.names().collect();
        let all = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), all);
    }

    #[test]
    fn a_sites_image_replaces_ours_and_a_bad_one_is_refused_with_its_name() {
        let mut catalogue = Catalogue::built_in().unwrap();
        let before = catalogue.entries().len();
        let site = "[[image]]\nname = 'debian:12'\ntitle = 'ours'\nurl = 'http://m/{arch}.qcow2'\n\
                    arch = { x86_64 = 'a' }\nuser = 'admin'\n";
        catalogue.add(site, "site.toml").unwrap();
        assert_eq!(catalogue.entries().len(), before);
        let entry = catalogue.find(&name("debian:12")).unwrap();
        assert_eq!((entry.title.as_str(), entry.user.as_str()), ("ours", "admin"));
        assert_eq!(entry.image(Arch::X86_64).unwrap().url, "http://m/a.qcow2");
        assert!(entry.image(Arch::Aarch64).is_none());
        for (from, to, why) in [
            ("'debian:12'", "'Debian'", "cannot be an image's name"),
            ("http://m/", "ftp://m/", "http"),
            ("user =", "usr =", "usr"),
            ("user = 'admin'", "user = 'a b'", "user"),
            ("'a' }", "'a' }\nsignature = { file = 's', signs = 'image', keys = ['nobody'] }", "nobody"),
            ("'a' }", "'a' }\nsignature = { file = 's', signs = 'checksum', keys = ['arch'] }", "checksum"),
        ] {
            let error = catalogue.add(&site.replace(from, to), "site.toml").unwrap_err();
            assert!(error.message.contains("site.toml"), "{error}");
            assert!(error.cause.as_ref().unwrap().contains(why), "{error}");
        }
        assert!(catalogue.add("[keys]\nmine = 'no key'", "site.toml").unwrap_err().to_string().contains("`mine`"));
    }

    #[test]
    fn a_search_finds_by_name_alias_and_title() {
        let catalogue = Catalogue::built_in().unwrap();
        let found = |term: &str| catalogue.search(term).map(|entry| entry.name.to_string()).collect::<Vec<_>>();
        assert_eq!(found("noble"), ["ubuntu:24.04"]);
        assert_eq!(found("Debian 12"), ["debian:12"]);
        assert_eq!(found("").len(), catalogue.entries().len());
        assert!(found("plan9").is_empty());
    }
}
