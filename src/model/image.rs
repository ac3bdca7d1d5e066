//! Images: how they are named, and what speaks for their content.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::error::Error;

/// What speaks for an image's content being what its publisher made; the strongest is the greatest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
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

/// How a checksum is computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
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
    fn a_signature_says_more_than_a_checksum() {
        assert!(Verification::Signature > Verification::Checksum && Verification::Tls > Verification::None);
    }
}
