//! The catalogue: names of cloud images, their publishers' URLs, and how each image is verified.
//!
//! Nothing here does I/O: the files are fetched elsewhere.

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

/// The built-in images.
const BUILT_IN: &str = include_str!("images.toml");

/// All images that have a name.
#[derive(Debug, Clone)]
pub struct Catalogue {
    /// In the order of reading. A later entry has replaced an earlier one of the same name.
    entries: Vec<Entry>,
    keys: BTreeMap<String, String>,
}

/// A file of the catalogue.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    image: Vec<Entry>,
    /// Armored OpenPGP public keys, by the names that signatures refer to.
    #[serde(default)]
    keys: BTreeMap<String, String>,
}

impl Catalogue {
    /// Returns the built-in catalogue.
    pub fn built_in() -> Result<Self> {
        let mut catalogue = Self { entries: Vec::new(), keys: keys::built_in() };
        catalogue.add(BUILT_IN, "built-in")?;
        Ok(catalogue)
    }

    /// Adds the images and keys of a file. They replace those of the same name. `name` is the file's name in errors.
    pub fn add(&mut self, text: &str, name: &str) -> Result<()> {
        let refuse = |why: String| {
            Error::invalid(format!("invalid image catalogue `{name}`"))
                .because(why)
                .hint("See the README for the format of an entry")
        };
        let file: File = toml::from_str(text).map_err(|error| refuse(error.to_string().trim_end().to_owned()))?;
        for (key, armored) in file.keys {
            signature::check_key(&armored).map_err(|error| refuse(format!("key `{key}`: {error}")))?;
            self.keys.insert(key, armored);
        }
        for entry in file.image {
            entry.check(&self.keys).map_err(|why| refuse(format!("image `{}`: {why}", entry.name)))?;
            self.entries.retain(|known| known.name != entry.name);
            self.entries.push(entry);
        }
        Ok(())
    }

    /// Returns all images, in the order of reading.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Returns the image of a name or alias. A later entry wins.
    pub fn find(&self, name: &ImageName) -> Option<&Entry> {
        self.entries.iter().rev().find(|entry| entry.names().any(|known| known == name))
    }

    /// Returns the images whose name, alias or title contains `term`, ignoring case. All images contain an empty term.
    pub fn search<'c>(&'c self, term: &str) -> impl Iterator<Item = &'c Entry> {
        let term = term.to_lowercase();
        self.entries.iter().filter(move |entry| {
            let title = entry.title.to_lowercase();
            title.contains(&term) || entry.names().any(|name| name.as_str().contains(&term))
        })
    }

    /// Returns all names and aliases.
    pub fn names(&self) -> impl Iterator<Item = &ImageName> {
        self.entries.iter().flat_map(Entry::names)
    }

    /// Returns the armored keys of these names.
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
    fn the_usual_names_exist() {
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
    fn every_name_is_unique() {
        let catalogue = Catalogue::built_in().unwrap();
        let mut names: Vec<_> = catalogue.names().collect();
        let all = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), all);
    }

    #[test]
    fn a_sites_image_replaces_a_built_in_one_and_errors_name_the_file() {
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
            ("'debian:12'", "'Debian'", "invalid image name"),
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
    fn a_search_considers_name_alias_and_title() {
        let catalogue = Catalogue::built_in().unwrap();
        let found = |term: &str| catalogue.search(term).map(|entry| entry.name.to_string()).collect::<Vec<_>>();
        assert_eq!(found("noble"), ["ubuntu:24.04"]);
        assert_eq!(found("Debian 12"), ["debian:12"]);
        assert_eq!(found("").len(), catalogue.entries().len());
        assert!(found("plan9").is_empty());
    }
}
