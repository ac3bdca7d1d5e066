//! Images: their names, and how their content is verified.

use std::{fmt, str::FromStr};

use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use serde_with::{DeserializeFromStr, SerializeDisplay};
use utoipa::ToSchema;

use super::name::Name;
use crate::error::Error;

/// How an image's content was verified; the strongest is the greatest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema, strum::Display)]
#[serde(rename_all = "lowercase")]
#[strum(serialize_all = "lowercase")]
pub enum Verification {
    /// Not verified.
    None,
    /// It was downloaded over TLS from the host in its URL.
    Tls,
    /// Its checksum matches the one from its publisher's checksum file or from the operator.
    Checksum,
    /// Its publisher signed it, or signed its checksum.
    Signature,
}

/// The name of an image: `ubuntu:24.04`, `arch`, `golden`.
///
/// It is a DNS label, optionally followed by a colon and a tag of lower-case letters, digits, `.`, `_` and `-`. No path
/// to a file with an extension is a valid name, so names and paths are distinguished without reading the file system.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, SerializeDisplay, DeserializeFromStr, ToSchema)]
#[schema(pattern = "^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(:[a-z0-9][a-z0-9._-]{0,62})?$", example = "debian:12")]
pub struct ImageName(String);

impl ImageName {
    /// The maximum length of a tag.
    const MAX_TAG: usize = 63;

    /// Returns the name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ImageName {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let (name, tag) = text.split_once(':').map_or((text, None), |(name, tag)| (name, Some(tag)));
        let is_tag = |tag: &str| {
            tag.len() <= Self::MAX_TAG
                && tag.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
                && tag.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "._-".contains(c))
        };
        if name.parse::<Name>().is_err() || !tag.is_none_or(is_tag) {
            return Err(Error::invalid(format!("invalid image name `{}`", text.escape_debug())).hint(
                "Use a name such as `golden` or `debian:12`: lower-case letters, digits and hyphens, and in the tag \
                 after the colon also dots and underscores",
            ));
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for ImageName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// How an image was added to the pool. The hardest to restore is the greatest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[derive(strum::Display)]
#[strum(serialize_all = "lowercase")]
pub enum Origin {
    /// Fetched from its publisher, or copied from a file to create a VM.
    #[default]
    Fetched,
    /// Added by `image import`.
    Imported,
    /// Added by `vm commit`.
    Committed,
}

/// The clients that may use an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize, ValueEnum, ToSchema)]
#[serde(rename_all = "lowercase")]
#[derive(strum::Display)]
#[strum(serialize_all = "lowercase")]
pub enum Visibility {
    /// Only its owner and the operator.
    Private,
    /// Every client.
    #[default]
    Shared,
}

/// A processor architecture, by the kernel's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ValueEnum, ToSchema)]
#[serde(rename_all = "snake_case")]
#[derive(strum::Display)]
#[strum(serialize_all = "snake_case")]
pub enum Arch {
    /// 64-bit x86.
    #[serde(rename = "x86_64")]
    #[value(name = "x86_64")]
    #[strum(serialize = "x86_64")]
    X86_64,
    /// 64-bit Arm.
    Aarch64,
}

impl FromStr for Arch {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        match text {
            "x86_64" => Ok(Self::X86_64),
            "aarch64" => Ok(Self::Aarch64),
            other => Err(Error::invalid(format!("the image catalogue has no images for the architecture `{other}`"))
                .hint("Give the image's path or URL instead of a name")),
        }
    }
}

/// A mirror that replaces a publisher's host or URL, written `FROM=TO`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mirror {
    /// The host, or the beginning of a URL up to a `/`, that is replaced.
    pub from: String,
    /// The replacement: the beginning of an `http`, `https` or `file` URL.
    pub to: String,
}

impl Mirror {
    /// Returns a mirror, or an error if either side is invalid.
    pub fn new(from: &str, to: &str) -> Result<Self, Error> {
        let refuse = |why: &str| {
            Err(Error::invalid(format!("invalid mirror `{}={}`: {why}", from.escape_debug(), to.escape_debug())).hint(
                "Use HOST=URL or URL=URL, such as cloud.debian.org=https://mirror.example/debian or URL=file:///srv/x",
            ))
        };
        let is_url = |text: &str, schemes: &[&str]| {
            schemes.iter().any(|scheme| text.strip_prefix(scheme).is_some_and(|rest| !rest.is_empty()))
        };
        if from.contains("://") && !is_url(from, &["http://", "https://"]) || from.is_empty() {
            return refuse("the left side must be a host, or an http:// or https:// URL");
        }
        if !from.contains("://") && from.contains('/') {
            return refuse("a host cannot contain `/`");
        }
        if !is_url(to, &["http://", "https://", "file:///"]) {
            return refuse("the right side must be an http://, https:// or file:/// URL");
        }
        let plain = |text: &str| text.trim_end_matches('/').replace(' ', "%20");
        Ok(Self { from: plain(from), to: plain(to) })
    }

    /// Returns the rest of a URL after the part that is replaced. Returns `None` if this mirror does not apply to it.
    pub fn rest<'u>(&self, url: &'u str) -> Option<&'u str> {
        let rest = if self.from.contains("://") {
            url.strip_prefix(&self.from)?
        } else {
            let (_, without_scheme) = url.split_once("://")?;
            without_scheme.strip_prefix(&self.from)?
        };
        // The match must not end in the middle of a host name or a folder name.
        (rest.is_empty() || rest.starts_with(['/', '?'])).then_some(rest)
    }
}

impl FromStr for Mirror {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let (from, to) = text.split_once('=').unwrap_or((text, ""));
        Self::new(from.trim(), to.trim())
    }
}

impl fmt::Display for Mirror {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.from, self.to)
    }
}

/// A checksum algorithm.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema, strum::Display)]
#[serde(rename_all = "lowercase")]
#[strum(serialize_all = "lowercase")]
pub enum Algorithm {
    /// SHA-256.
    Sha256,
    /// SHA-512.
    Sha512,
}

impl Algorithm {
    /// Returns the number of hexadecimal digits of its checksums.
    pub const fn digits(self) -> usize {
        match self {
            Self::Sha256 => 64,
            Self::Sha512 => 128,
        }
    }
}

/// A file's checksum, written `sha256:HEX` or `sha512:HEX`.
#[derive(Debug, Clone, PartialEq, Eq, SerializeDisplay, DeserializeFromStr)]
pub struct Checksum {
    /// The algorithm.
    pub algorithm: Algorithm,
    /// The value in lower-case hexadecimal.
    pub hex: String,
}

impl Checksum {
    /// Returns the checksum with a hexadecimal value, in upper or lower case. Returns `None` if the value has the wrong
    /// length or is not hexadecimal.
    pub fn new(algorithm: Algorithm, hex: &str) -> Option<Self> {
        let fits = hex.len() == algorithm.digits() && hex.bytes().all(|byte| byte.is_ascii_hexdigit());
        fits.then(|| Self { algorithm, hex: hex.to_ascii_lowercase() })
    }
}

impl FromStr for Checksum {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let refuse = |why: String| {
            Error::invalid(format!("invalid checksum `{}`: {why}", text.escape_debug()))
                .hint("Use sha256: or sha512: followed by the checksum in hexadecimal, as sha256sum prints it")
        };
        let (algorithm, hex) = text.split_once(':').ok_or_else(|| refuse("the algorithm is missing".to_owned()))?;
        let algorithm = match algorithm.to_ascii_lowercase().as_str() {
            "sha256" => Algorithm::Sha256,
            "sha512" => Algorithm::Sha512,
            other => return Err(refuse(format!("unknown algorithm `{}`", other.escape_debug()))),
        };
        Self::new(algorithm, hex)
            .ok_or_else(|| refuse(format!("a {algorithm} checksum has {} hexadecimal digits", algorithm.digits())))
    }
}

impl fmt::Display for Checksum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.algorithm, self.hex)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checksum_is_read_and_written() {
        let sum = format!("SHA256:{}", "Ab".repeat(32)).parse::<Checksum>().unwrap();
        assert_eq!(sum.to_string(), format!("sha256:{}", "ab".repeat(32)));
        for (bad, word) in
            [("ab", "is missing"), ("md5:00", "unknown algorithm"), ("sha512:ab", "128"), ("sha256:zz", "64")]
        {
            let error = bad.parse::<Checksum>().unwrap_err();
            assert!(error.message.contains(word), "{error}");
        }
    }

    #[test]
    fn names_are_distinguished_from_paths() {
        for name in ["arch", "ubuntu:24.04", "centos-stream:9", "golden", "a:b_c-d.e"] {
            assert_eq!(name.parse::<ImageName>().unwrap().as_str(), name);
        }
        for path in ["x.qcow2", "./x", "a/b", "Debian:12", "debian:", ":12", "debian:12:13", "a:/b", "a:-x", "", "-a"] {
            assert!(path.parse::<ImageName>().is_err(), "{path}");
        }
    }

    #[test]
    fn a_signature_is_stronger_than_a_checksum() {
        assert!(Verification::Signature > Verification::Checksum && Verification::Tls > Verification::None);
    }
}
