//! An image of the catalogue: the schema of its file, and what it comes to for one architecture.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use url::Url;
use utoipa::ToSchema;

use crate::model::{
    image::{Algorithm, Arch, ImageName, Verification},
    size::{DiskSize, Memory},
    user::check_user,
};

/// An image as a publisher offers it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Entry {
    /// What it is called.
    pub name: ImageName,
    /// What it is called, too.
    #[serde(default)]
    pub aliases: Vec<ImageName>,
    /// What it is.
    pub title: String,
    url: String,
    /// Where the publisher moves it at the end of its life.
    moved: Option<String>,
    arch: BTreeMap<Arch, String>,
    checksum: Option<ChecksumFile>,
    signature: Option<SignatureFile>,
    /// Whom its cloud-init makes by default.
    pub user: String,
    /// The least disk that it boots from.
    pub min_disk: Option<DiskSize>,
    /// The least memory that it boots in.
    pub min_memory: Option<Memory>,
    /// What boots it on x86_64.
    #[serde(default)]
    pub firmware: Firmware,
}

/// What boots an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Firmware {
    /// A BIOS alone.
    Bios,
    /// UEFI alone.
    Uefi,
    /// Either.
    #[default]
    Both,
}

/// A publisher's file of checksums.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChecksumFile {
    file: String,
    form: Form,
}

/// How a file of checksums is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Form {
    /// As sha256sum prints it.
    Sha256Sums,
    /// As sha512sum prints it.
    Sha512Sums,
    /// As BSD's sha256 and sha512 print it.
    Bsd,
}

impl Form {
    /// The one kind of checksum in it; none where each line says its own.
    pub const fn algorithm(self) -> Option<Algorithm> {
        match self {
            Self::Sha256Sums => Some(Algorithm::Sha256),
            Self::Sha512Sums => Some(Algorithm::Sha512),
            Self::Bsd => None,
        }
    }
}

/// A publisher's signature.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SignatureFile {
    file: String,
    /// What it signs.
    pub signs: Signs,
    /// The names of the keys of which one must have made it.
    pub keys: Vec<String>,
    /// Whether an image without it is taken nevertheless.
    #[serde(default)]
    pub optional: bool,
}

/// What a signature signs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Signs {
    /// The file of checksums, from a file beside it.
    Checksum,
    /// The file of checksums, which it stands in.
    Inline,
    /// The image itself.
    Image,
}

/// An image for one architecture, every address complete.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Published<'c> {
    /// Where the image is.
    pub url: String,
    /// Where its checksum is, and how it is written there.
    pub checksum: Option<(String, Form)>,
    /// Where its signature is, and what there is to say of it.
    pub signature: Option<(String, &'c SignatureFile)>,
}

impl Entry {
    /// Its name and its aliases.
    pub fn names(&self) -> impl Iterator<Item = &ImageName> {
        std::iter::once(&self.name).chain(&self.aliases)
    }

    /// The architectures that it is there for.
    pub fn archs(&self) -> impl Iterator<Item = Arch> {
        self.arch.keys().copied()
    }

    /// It for one architecture.
    pub fn image(&self, arch: Arch) -> Option<Published<'_>> {
        self.at(&self.url, arch)
    }

    /// It where its publisher moves it one day, for one architecture.
    pub fn moved_image(&self, arch: Arch) -> Option<Published<'_>> {
        self.at(self.moved.as_deref()?, arch)
    }

    fn at(&self, url: &str, arch: Arch) -> Option<Published<'_>> {
        let word = self.arch.get(&arch)?;
        let url = url.replace("{arch}", word);
        let (folder, file) = url.rsplit_once('/')?;
        let beside = |name: &str| format!("{folder}/{}", name.replace("{arch}", word).replace("{file}", file));
        Some(Published {
            checksum: self.checksum.as_ref().map(|sums| (beside(&sums.file), sums.form)),
            signature: self.signature.as_ref().map(|signature| (beside(&signature.file), signature)),
            url,
        })
    }

    /// What will speak for its content.
    pub fn verification(&self) -> Verification {
        match (&self.signature, &self.checksum) {
            (Some(signature), _) if !signature.optional => Verification::Signature,
            (_, Some(_)) => Verification::Checksum,
            _ if self.url.starts_with("https:") => Verification::Tls,
            _ => Verification::None,
        }
    }

    /// Says what is wrong with it, if anything is; `keys` are those that there are.
    pub(super) fn check(&self, keys: &BTreeMap<String, String>) -> Result<(), String> {
        for url in std::iter::once(&self.url).chain(&self.moved) {
            let scheme = Url::parse(&url.replace("{arch}", "x")).map_err(|error| format!("`{url}`: {error}"))?;
            if !matches!(scheme.scheme(), "http" | "https" | "file") {
                return Err(format!("`{url}` is none of http, https and file"));
            }
        }
        if self.arch.is_empty() {
            return Err("it is there for no architecture".to_owned());
        }
        check_user(&self.user).map_err(|error| format!("the user: {error}"))?;
        if let Some(signature) = &self.signature {
            if signature.signs != Signs::Image && self.checksum.is_none() {
                return Err("its signature signs a checksum file, and it names none".to_owned());
            }
            if let Some(unknown) = signature.keys.iter().find(|name| !keys.contains_key(*name)) {
                return Err(format!("there is no key `{unknown}`"));
            }
            if signature.keys.is_empty() {
                return Err("its signature names no key".to_owned());
            }
        }
        Ok(())
    }
}
