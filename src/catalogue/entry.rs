//! An entry of the catalogue: its format in the file, and its URLs for one architecture.

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
    /// The name.
    pub name: ImageName,
    /// Other names for the image.
    #[serde(default)]
    pub aliases: Vec<ImageName>,
    /// A short description.
    pub title: String,
    url: String,
    /// The URL to which the publisher moves the image at the end of its life.
    moved: Option<String>,
    arch: BTreeMap<Arch, String>,
    checksum: Option<ChecksumFile>,
    signature: Option<SignatureFile>,
    /// The default user that the image's cloud-init creates.
    pub user: String,
    /// The smallest disk that the image needs.
    pub min_disk: Option<DiskSize>,
    /// The least memory that the image needs.
    pub min_memory: Option<Memory>,
    /// The firmware that boots the image on x86_64.
    #[serde(default)]
    pub firmware: Firmware,
}

/// The firmware that boots an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Firmware {
    /// Only BIOS.
    Bios,
    /// Only UEFI.
    Uefi,
    /// Either BIOS or UEFI.
    #[default]
    Both,
}

/// A publisher's checksum file.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChecksumFile {
    file: String,
    form: Form,
}

/// The format of a checksum file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Form {
    /// The output of sha256sum.
    Sha256Sums,
    /// The output of sha512sum.
    Sha512Sums,
    /// The output of BSD's sha256 and sha512.
    Bsd,
}

impl Form {
    /// Returns the algorithm of all checksums in the file, or `None` if each line names its own.
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
    /// The names of the accepted keys.
    pub keys: Vec<String>,
    /// Whether an image without a signature is accepted.
    #[serde(default)]
    pub optional: bool,
}

/// What a signature signs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Signs {
    /// The checksum file. The signature is a separate file.
    Checksum,
    /// The checksum file, which contains the signature.
    Inline,
    /// The image itself.
    Image,
}

/// An image for one architecture, with complete URLs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Published<'c> {
    /// The URL of the image.
    pub url: String,
    /// The URL of its checksum file, and the format of that file.
    pub checksum: Option<(String, Form)>,
    /// The URL of its signature, and what the catalogue says about the signature.
    pub signature: Option<(String, &'c SignatureFile)>,
}

impl Entry {
    /// Returns the name and the aliases.
    pub fn names(&self) -> impl Iterator<Item = &ImageName> {
        std::iter::once(&self.name).chain(&self.aliases)
    }

    /// Returns the architectures that the image exists for.
    pub fn archs(&self) -> impl Iterator<Item = Arch> {
        self.arch.keys().copied()
    }

    /// Returns the image for one architecture.
    pub fn image(&self, arch: Arch) -> Option<Published<'_>> {
        self.at(&self.url, arch)
    }

    /// Returns the image for one architecture, at the URL to which its publisher moves it.
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

    /// Returns how the image will be verified.
    pub fn verification(&self) -> Verification {
        match (&self.signature, &self.checksum) {
            (Some(signature), _) if !signature.optional => Verification::Signature,
            (_, Some(_)) => Verification::Checksum,
            _ if self.url.starts_with("https:") => Verification::Tls,
            _ => Verification::None,
        }
    }

    /// Checks the entry. `keys` are the known keys. The error is the end of a sentence.
    pub(super) fn check(&self, keys: &BTreeMap<String, String>) -> Result<(), String> {
        for url in std::iter::once(&self.url).chain(&self.moved) {
            let parsed = Url::parse(&url.replace("{arch}", "x")).map_err(|error| format!("`{url}`: {error}"))?;
            if !matches!(parsed.scheme(), "http" | "https" | "file") {
                return Err(format!("invalid URL `{url}`: the scheme must be http, https or file"));
            }
        }
        if self.arch.is_empty() {
            return Err("it has no architecture".to_owned());
        }
        check_user(&self.user).map_err(|error| format!("the user: {error}"))?;
        if let Some(signature) = &self.signature {
            if signature.signs != Signs::Image && self.checksum.is_none() {
                return Err("its signature signs a checksum file, but it has none".to_owned());
            }
            if let Some(unknown) = signature.keys.iter().find(|name| !keys.contains_key(*name)) {
                return Err(format!("unknown key `{unknown}`"));
            }
            if signature.keys.is_empty() {
                return Err("its signature has no keys".to_owned());
            }
        }
        Ok(())
    }
}
