//! Images: how they are named, and what speaks for their content.

use std::{fmt, str::FromStr};

use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::name::Name;
use crate::error::Error;

/// What speaks for an image's content being what its publisher made; the strongest is the greatest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Verification {
    /// Nothing.
    None,
    /// It came over TLS from the host that was named, unchanged on the way.
    Tls,
    /// It has the checksum that its publisher's file or the operator gave.
    Checksum,
    /// Its publisher's key has signed it, or the checksum that it has.
    Signature,
}

impl Verification {
    /// Its word, on every face.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Tls => "tls",
            Self::Checksum => "checksum",
            Self::Signature => "signature",
        }
    }
}

impl fmt::Display for Verification {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What an image is called: `ubuntu:24.04`, `arch`, `golden`.
///
/// A DNS label, and behind a colon, if there is one, a tag of lower-case letters, digits, `.`, `_` and `-`. No path to a
/// file with an extension is one, so what is meant can be told without looking.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(try_from = "String", into = "String")]
#[schema(pattern = "^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(:[a-z0-9][a-z0-9._-]{0,62})?$", example = "debian:12")]
pub struct ImageName(String);

impl ImageName {
    /// The most characters that a tag may have.
    const MOST_TAG: usize = 63;

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ImageName {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let (name, tag) = text.split_once(':').map_or((text, None), |(name, tag)| (name, Some(tag)));
        let is_tag = |tag: &str| {
            tag.len() <= Self::MOST_TAG
                && tag.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
                && tag.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "._-".contains(c))
        };
        if name.parse::<Name>().is_err() || !tag.is_none_or(is_tag) {
            return Err(Error::invalid(format!("`{}` cannot be an image's name", text.escape_debug())).hint(
                "Give a name as `golden` or `debian:12`: lower-case letters, digits and hyphens, and behind a colon \
                 also dots and underscores.",
            ));
        }
        Ok(Self(text.to_owned()))
    }
}

impl TryFrom<String> for ImageName {
    type Error = Error;

    fn try_from(text: String) -> Result<Self, Error> {
        text.parse()
    }
}

impl From<ImageName> for String {
    fn from(name: ImageName) -> Self {
        name.0
    }
}

impl fmt::Display for ImageName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// How an image came into the pool. What cannot be fetched again is the greatest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    /// From its publisher, or from a file that a VM was created from.
    #[default]
    Fetched,
    /// By `image import`.
    Imported,
    /// By `vm commit`.
    Committed,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Fetched => "fetched",
            Self::Imported => "imported",
            Self::Committed => "committed",
        })
    }
}

/// Who may use an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize, ValueEnum, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Visibility {
    /// Its owner and the operator.
    Private,
    /// Every client.
    #[default]
    Shared,
}

impl fmt::Display for Visibility {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Private => "private",
            Self::Shared => "shared",
        })
    }
}

/// A processor architecture, as the kernel calls it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ValueEnum, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Arch {
    /// 64-bit x86.
    #[serde(rename = "x86_64")]
    #[value(name = "x86_64")]
    X86_64,
    /// 64-bit Arm.
    Aarch64,
}

impl Arch {
    /// Its word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::X86_64 => "x86_64",
            Self::Aarch64 => "aarch64",
        }
    }
}

impl FromStr for Arch {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        match text {
            "x86_64" => Ok(Self::X86_64),
            "aarch64" => Ok(Self::Aarch64),
            other => Err(Error::invalid(format!("the image catalogue knows nothing for the architecture `{other}`"))
                .hint("Give the image's path or URL instead of a name.")),
        }
    }
}

impl fmt::Display for Arch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Where a publisher's files are had from instead, written `FROM=TO`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mirror {
    /// A host, or the beginning of a URL, up to a `/`.
    pub from: String,
    /// What stands in its place: the beginning of an `http`, `https` or `file` URL.
    pub to: String,
}

impl Mirror {
    /// Makes one, after a look at both ends.
    pub fn new(from: &str, to: &str) -> Result<Self, Error> {
        let refuse = |why: &str| {
            Err(Error::invalid(format!("`{}={}` is no mirror: {why}", from.escape_debug(), to.escape_debug())).hint(
                "Give HOST=URL or URL=URL, as cloud.debian.org=https://mirror.example/debian; file:///… is a folder.",
            ))
        };
        let is_url = |text: &str, schemes: &[&str]| {
            schemes.iter().any(|scheme| text.strip_prefix(scheme).is_some_and(|rest| !rest.is_empty()))
        };
        if from.contains("://") && !is_url(from, &["http://", "https://"]) || from.is_empty() {
            return refuse("what it maps is neither a host nor an http:// or https:// URL");
        }
        if !from.contains("://") && from.contains('/') {
            return refuse("a host has no `/`");
        }
        if !is_url(to, &["http://", "https://", "file:///"]) {
            return refuse("what it leads to is no http://, https:// or file:/// URL");
        }
        let plain = |text: &str| text.trim_end_matches('/').replace(' ', "%20");
        Ok(Self { from: plain(from), to: plain(to) })
    }

    /// What of a URL stands behind the part that is replaced, if it is this mirror's.
    pub fn rest<'u>(&self, url: &'u str) -> Option<&'u str> {
        let rest = if self.from.contains("://") {
            url.strip_prefix(&self.from)?
        } else {
            let (_, behind) = url.split_once("://")?;
            behind.strip_prefix(&self.from)?
        };
        // Never in the middle of a host's or a folder's name.
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

/// How a checksum is computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Algorithm {
    /// SHA-256.
    Sha256,
    /// SHA-512.
    Sha512,
}

impl Algorithm {
    /// Its word, as in `sha256:…`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Sha512 => "sha512",
        }
    }

    /// The length of its checksum in hexadecimal.
    pub const fn digits(self) -> usize {
        match self {
            Self::Sha256 => 64,
            Self::Sha512 => 128,
        }
    }
}

/// A file's checksum, written `sha256:HEX` or `sha512:HEX`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Checksum {
    /// How it is computed.
    pub algorithm: Algorithm,
    /// Its value in hexadecimal, in lower case.
    pub hex: String,
}

impl Checksum {
    /// Makes one of a value in hexadecimal, in either case; none when it has another length or is no number.
    pub fn new(algorithm: Algorithm, hex: &str) -> Option<Self> {
        let fits = hex.len() == algorithm.digits() && hex.bytes().all(|byte| byte.is_ascii_hexdigit());
        fits.then(|| Self { algorithm, hex: hex.to_ascii_lowercase() })
    }
}

impl FromStr for Checksum {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let refuse = |why: String| {
            Error::invalid(format!("`{}` is no checksum: {why}", text.escape_debug()))
                .hint("Give sha256: or sha512: and the sum in hexadecimal, as sha256sum prints it.")
        };
        let (algorithm, hex) =
            text.split_once(':').ok_or_else(|| refuse("it does not say of which kind".to_owned()))?;
        let algorithm = match algorithm.to_ascii_lowercase().as_str() {
            "sha256" => Algorithm::Sha256,
            "sha512" => Algorithm::Sha512,
            other => return Err(refuse(format!("`{}` is none of sha256 and sha512", other.escape_debug()))),
        };
        Self::new(algorithm, hex).ok_or_else(|| {
            let (name, digits) = (algorithm.as_str(), algorithm.digits());
            refuse(format!("a {name} sum has {digits} hexadecimal digits"))
        })
    }
}

impl TryFrom<String> for Checksum {
    type Error = Error;

    fn try_from(text: String) -> Result<Self, Error> {
        text.parse()
    }
}

impl From<Checksum> for String {
    fn from(checksum: Checksum) -> Self {
        checksum.to_string()
    }
}

impl fmt::Display for Checksum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.algorithm.as_str(), self.hex)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checksum_is_read_and_written() {
        let sum = format!("SHA256:{}", "Ab".repeat(32)).parse::<Checksum>().unwrap();
        assert_eq!(sum.to_string(), format!("sha256:{}", "ab".repeat(32)));
        for (bad, word) in [("ab", "which kind"), ("md5:00", "none of"), ("sha512:ab", "128"), ("sha256:zz", "64")] {
            let error = bad.parse::<Checksum>().unwrap_err();
            assert!(error.message.contains(word), "{error}");
        }
    }

    #[test]
    fn a_name_is_told_from_a_path() {
        for name in ["arch", "ubuntu:24.04", "centos-stream:9", "golden", "a:b_c-d.e"] {
            assert_eq!(name.parse::<ImageName>().unwrap().as_str(), name);
        }
        for path in ["x.qcow2", "./x", "a/b", "Debian:12", "debian:", ":12", "debian:12:13", "a:/b", "a:-x", "", "-a"] {
            assert!(path.parse::<ImageName>().is_err(), "{path}");
        }
    }

    #[test]
    fn a_signature_says_more_than_a_checksum() {
        assert!(Verification::Signature > Verification::Checksum && Verification::Tls > Verification::None);
    }
}
