//! SSH keys as data: the request ([`NewKey`]) and the report ([`Key`]). Neither contains private material.

use camino::Utf8PathBuf;
use clap::{Args, ValueEnum};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    error::{Error, Hint, Result},
    model::name::Name,
};

/// A type of key to generate.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum KeyKind {
    /// Accepted by every guest
    #[default]
    Rsa,
    /// Smaller and faster to generate, but unknown to very old guests
    Ed25519,
}

/// The key to generate
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
    // Not a plain number with a default: `--bits` together with `--type ed25519` must be refused.
    #[arg(long)]
    #[serde(default)]
    #[schema(minimum = 2048, maximum = 8192, multiple_of = 128)]
    pub bits: Option<u32>,
}

/// The default size of an RSA key in bits.
const DEFAULT_RSA_BITS: u32 = 4096;

/// The minimum size in bits. Smaller RSA keys are breakable, and OpenSSH is about to refuse them.
pub const MIN_RSA_BITS: u32 = 2048;

/// The maximum size in bits. Twice the size takes sixteen times as long: at 16384 one request would keep every core
/// busy for minutes. Ed25519 is the better choice beyond 8192 bits.
pub const MAX_RSA_BITS: u32 = 8192;

/// Each prime, half the modulus, fills whole 64-bit words.
const RSA_BITS_STEP: u32 = 128;

/// The maximum length of a comment: enough for a sentence, and far below what programs that read `authorized_keys`
/// reject.
const MAX_COMMENT_BYTES: usize = 255;

impl NewKey {
    /// Refuses an invalid request, whichever front end it came from.
    pub fn check(&self) -> Result<()> {
        self.check_bits()?;
        self.comment().map(drop)
    }

    /// Returns the comment, or the name if none was given.
    pub fn comment(&self) -> Result<&str> {
        comment(self.comment.as_deref().unwrap_or(self.name.as_str()))
    }

    /// Returns the size of the modulus in bits, for an RSA key.
    pub fn rsa_bits(&self) -> u32 {
        self.bits.unwrap_or(DEFAULT_RSA_BITS)
    }

    fn check_bits(&self) -> Result<()> {
        match (self.kind, self.bits) {
            (KeyKind::Ed25519, Some(_)) => Err(Error::invalid("the size of an ed25519 key is fixed")
                .hint("Leave out `bits`")
                .hint(Hint::set_to("Request an RSA key", "type", "rsa"))),
            (KeyKind::Rsa, Some(bits))
                if !(MIN_RSA_BITS..=MAX_RSA_BITS).contains(&bits) || bits % RSA_BITS_STEP != 0 =>
            {
                Err(Error::invalid(format!("invalid size of an RSA key: {bits} bits")).hint(format!(
                    "Use {MIN_RSA_BITS} to {MAX_RSA_BITS} in steps of {RSA_BITS_STEP}; default {DEFAULT_RSA_BITS}"
                )))
            }
            _ => Ok(()),
        }
    }
}

/// Returns the comment without surrounding blanks. Refuses one with control characters: they could break its line in
/// `authorized_keys`, or on a terminal.
pub fn comment(text: &str) -> Result<&str> {
    let text = text.trim();
    let refuse =
        |why: String| Err(Error::invalid(format!("invalid key comment `{}`", text.escape_debug())).because(why));
    if text.chars().any(char::is_control) {
        return refuse("it contains a line break or another control character".to_owned());
    }
    if text.len() > MAX_COMMENT_BYTES {
        return refuse(format!("it has {} bytes; the maximum is {MAX_COMMENT_BYTES}", text.len()));
    }
    Ok(text)
}

/// A key in the key store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Key {
    /// Name of the key
    pub name: Name,
    /// `rsa` or `ed25519`; imported keys also `ecdsa`, `ecdsa-sk` or `ed25519-sk`
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
    fn the_command_line_and_json_give_the_same_key() {
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
