//! SSH keys as data: what is asked for ([`NewKey`]) and what is told ([`Key`]). Private material never comes here.

use camino::Utf8PathBuf;
use clap::{Args, ValueEnum};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    error::{Error, Result},
    model::name::Name,
};

/// The kinds of key that vmprov makes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum KeyKind {
    /// Taken by every guest there is
    #[default]
    Rsa,
    /// Smaller and made at once, but unknown to very old guests
    Ed25519,
}

/// Describes the key to generate
#[derive(Debug, Clone, PartialEq, Eq, Args, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct NewKey {
    /// Name of the key
    pub name: Name,
    /// Text at the end of the public key (default: the name)
    #[arg(long, value_name = "TEXT")]
    #[serde(default)]
    #[schema(max_length = 255, pattern = r"^[^\x00-\x1f\x7f-\x9f]*$")]
    pub comment: Option<String>,
    /// Type of the key
    #[arg(long = "type", value_name = "TYPE", value_enum, default_value_t)]
    #[serde(default, rename = "type")]
    pub kind: KeyKind,
    /// Size of an RSA key in bits, 2048 to 8192 (default: 4096)
    // Not a plain number with a default: `--bits` beside `--type ed25519` has to be noticed.
    #[arg(long)]
    #[serde(default)]
    #[schema(minimum = 2048, maximum = 8192, multiple_of = 128)]
    pub bits: Option<u32>,
}

/// What the specification asks for.
const DEFAULT_RSA_BITS: u32 = 4096;

/// Below this RSA is breakable, and OpenSSH is about to refuse it.
pub const MIN_RSA_BITS: u32 = 2048;

/// Twice the size takes sixteen times as long: at 16384 one request would keep every core busy for minutes, and who
/// wants more than 8192 wants Ed25519.
pub const MAX_RSA_BITS: u32 = 8192;

/// Each prime, half the modulus, fills whole 64-bit words.
const RSA_BITS_STEP: u32 = 128;

/// Enough for a sentence, and far from the length at which readers of `authorized_keys` give up.
const MAX_COMMENT_BYTES: usize = 255;

impl NewKey {
    /// Refuses what cannot be made, whichever way it came in.
    pub fn check(&self) -> Result<()> {
        self.check_bits()?;
        self.comment().map(drop)
    }

    /// The comment: as given, else the name.
    pub fn comment(&self) -> Result<&str> {
        comment(self.comment.as_deref().unwrap_or(self.name.as_str()))
    }

    /// The size of the modulus if this is to be an RSA key.
    pub fn rsa_bits(&self) -> u32 {
        self.bits.unwrap_or(DEFAULT_RSA_BITS)
    }

    fn check_bits(&self) -> Result<()> {
        match (self.kind, self.bits) {
            (KeyKind::Ed25519, Some(_)) => Err(Error::invalid("an ed25519 key has no choice of bits")
                .hint("Leave out `--bits`, or ask for `--type rsa`.")),
            (KeyKind::Rsa, Some(bits))
                if !(MIN_RSA_BITS..=MAX_RSA_BITS).contains(&bits) || bits % RSA_BITS_STEP != 0 =>
            {
                Err(Error::invalid(format!("an RSA key cannot have {bits} bits")).hint(format!(
                    "Take {MIN_RSA_BITS} to {MAX_RSA_BITS}, in steps of {RSA_BITS_STEP}; {DEFAULT_RSA_BITS} is the default."
                )))
            }
            _ => Ok(()),
        }
    }
}

/// Trims a comment and refuses one that would not stay within its line, on a terminal either.
pub fn comment(text: &str) -> Result<&str> {
    let text = text.trim();
    let refuse = |why: String| {
        Err(Error::invalid(format!("`{}` cannot be the comment of a key", text.escape_debug())).because(why))
    };
    if text.chars().any(char::is_control) {
        return refuse("it contains a line break or another control character".to_owned());
    }
    if text.len() > MAX_COMMENT_BYTES {
        return refuse(format!("it has {} bytes, {MAX_COMMENT_BYTES} are allowed", text.len()));
    }
    Ok(text)
}

/// A key that vmprov keeps, as it is reported.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Key {
    /// Name of the key
    pub name: Name,
    /// `rsa`, `ed25519`; imported ones also `ecdsa`, `ecdsa-sk`, `ed25519-sk`
    #[serde(rename = "type")]
    pub kind: String,
    /// Size in bits, as `ssh-keygen -l` counts them
    pub bits: u32,
    /// Fingerprint, as in `SHA256:…`
    pub fingerprint: String,
    /// Text at the end of the public key
    pub comment: String,
    /// Public key as one line of `authorized_keys`
    pub public_key: String,
    /// File of the public key; null if it is missing and the public key was read from the private one
    #[schema(value_type = Option<String>)]
    pub public_key_path: Option<Utf8PathBuf>,
    /// File of the private key; null if only the public one was imported
    #[schema(value_type = Option<String>)]
    pub private_key_path: Option<Utf8PathBuf>,
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::error::Code;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        new: NewKey,
    }

    fn typed(line: &str) -> NewKey {
        Line::parse_from(["x"].into_iter().chain(line.split(' '))).new
    }

    fn json(text: &str) -> NewKey {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn both_doors_give_the_same_key() {
        assert_eq!(typed("k"), json(r#"{"name":"k"}"#));
        assert_eq!(
            typed("k --comment c --type rsa --bits 2048"),
            json(r#"{"name":"k","comment":"c","type":"rsa","bits":2048}"#)
        );
        assert_eq!(typed("k --type ed25519").kind, KeyKind::Ed25519);
        assert_eq!((typed("k").kind, typed("k").rsa_bits()), (KeyKind::Rsa, 4096));
    }

    #[test]
    fn unknown_members_are_refused() {
        assert!(serde_json::from_str::<NewKey>(r#"{"name":"k","kind":"rsa"}"#).is_err());
    }

    #[test]
    fn the_comment_is_one_line_and_defaults_to_the_name() {
        assert_eq!(typed("k").comment().unwrap(), "k");
        let with = |comment: &str| NewKey { comment: Some(comment.to_owned()), ..typed("k") };
        assert_eq!(with(" Zoë at home ").comment().unwrap(), "Zoë at home");
        assert_eq!(with("").comment().unwrap(), "");
        for comment in ["a\nssh-rsa AAAA", "a\rb", "a\0b", "a\u{1b}[2J", "a\u{85}b", &"a".repeat(256)] {
            assert_eq!(with(comment).check().unwrap_err().code, Code::InvalidInput, "{comment:?}");
        }
    }

    #[test]
    fn bits_are_for_rsa_and_in_range() {
        for bits in [2048, 3072, 4096, 8192] {
            typed(&format!("k --bits {bits}")).check().unwrap();
        }
        for bits in [0, 1024, 2047, 2049, 4100, 8320, 16384, u32::MAX] {
            let error = typed(&format!("k --bits {bits}")).check().unwrap_err();
            assert_eq!(error.code, Code::InvalidInput, "{bits}");
        }
        assert!(typed("k --type ed25519").check().is_ok());
        assert!(typed("k --type ed25519 --bits 4096").check().is_err());
    }
}
