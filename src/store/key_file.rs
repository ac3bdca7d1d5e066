//! What a key file holds: OpenSSH's private and public formats, and a plain word on every other. Touches no file.

use ssh_key::{Algorithm, EcdsaCurve, PrivateKey, PublicKey, public::KeyData};

use crate::{
    error::{Error, Result},
    model::key::{self, MIN_RSA_BITS},
};

/// The content of a file that somebody wants to use as a key.
pub(super) enum KeyFile {
    /// A private key, perhaps encrypted; its public half can be read in any case.
    Private(Box<PrivateKey>),
    /// A public key.
    Public(PublicKey),
}

/// How private keys in OpenSSH's own format begin.
const PRIVATE_HEADER: &str = "-----BEGIN OPENSSH PRIVATE KEY-----";

/// The largest modulus that OpenSSH takes.
const MAX_RSA_BITS: u32 = 16384;

/// Recognises the content of `file`; the path is only for the messages, which never quote the content.
pub(super) fn parse(file: &str, content: &[u8]) -> Result<KeyFile> {
    let Ok(text) = std::str::from_utf8(content) else {
        return Err(unusable(file, "it is not text"));
    };
    let text = text.trim();
    if let Some((what, hint)) = foreign(file, text) {
        return Err(unusable(file, what).hint(hint));
    }
    if text.starts_with("-----BEGIN ") {
        let private = private(file, text)?;
        refuse_weak(file, private.public_key())?;
        return Ok(KeyFile::Private(Box::new(private)));
    }
    let public = public(file, text)?;
    refuse_weak(file, &public)?;
    Ok(KeyFile::Public(public))
}

/// The formats of other programs, and the command that converts each.
fn foreign(file: &str, text: &str) -> Option<(&'static str, String)> {
    let quoted = shell_words::quote(file);
    if text.starts_with("PuTTY-User-Key-File-") {
        let hint = format!("Convert it with `puttygen {quoted} -O private-openssh-new -o NEW` and import NEW.");
        return Some(("it is a PuTTY key", hint));
    }
    if text.starts_with("---- BEGIN SSH2 PUBLIC KEY ----") {
        let hint = format!("Convert it with `ssh-keygen -i -f {quoted} > NEW.pub` and import NEW.pub.");
        return Some(("it is a public key in the format of RFC 4716", hint));
    }
    let first = text.lines().next().unwrap_or_default().trim_end();
    if first.starts_with("-----BEGIN ") && first.ends_with("PRIVATE KEY-----") && first != PRIVATE_HEADER {
        let hint = format!("Convert a copy with `cp {quoted} COPY; ssh-keygen -p -f COPY` and import COPY.");
        return Some(("it is a private key in PEM format, not in that of OpenSSH", hint));
    }
    None
}

fn private(file: &str, text: &str) -> Result<PrivateKey> {
    if !text.starts_with(PRIVATE_HEADER) {
        return Err(unusable(file, "it is PEM, but not a private key of OpenSSH"));
    }
    if text.matches("-----BEGIN ").count() > 1 {
        return Err(unusable(file, "it holds more than one key"));
    }
    let mut key = PrivateKey::from_openssh(text).map_err(|error| unusable(file, error))?;
    if !key.is_encrypted() {
        let comment = key::comment(key.comment())?.to_owned();
        key.set_comment(comment);
    }
    Ok(key)
}

fn public(file: &str, text: &str) -> Result<PublicKey> {
    let mut lines = text.lines().filter(|line| !line.trim_start().starts_with('#') && !line.trim().is_empty());
    let Some(line) = lines.next() else {
        return Err(unusable(file, "it is empty"));
    };
    if lines.next().is_some() {
        return Err(unusable(file, "it holds more than one line; a public key is one"));
    }
    let mut words = line.split_whitespace();
    let (Some(algorithm), Some(data)) = (words.next(), words.next()) else {
        return Err(unusable(file, "it is neither a public nor a private key of OpenSSH"));
    };
    match Algorithm::new(algorithm) {
        Ok(Algorithm::Other(name)) => {
            return Err(unusable(file, format!("`{}` is no type of key", name.as_str())));
        }
        Ok(_) => {}
        Err(_) => {
            return Err(unusable(file, "it does not begin with the type of a key")
                .hint("Options, as `authorized_keys` has them, are not taken: leave only `TYPE KEY COMMENT`."));
        }
    }
    let comment = key::comment(line.split_once(data).map_or("", |(_, rest)| rest))?;
    let mut key = PublicKey::from_openssh(&format!("{algorithm} {data}")).map_err(|error| unusable(file, error))?;
    key.set_comment(comment);
    Ok(key)
}

fn refuse_weak(file: &str, key: &PublicKey) -> Result<()> {
    let why = match (kind(key.key_data()), bits(key.key_data())) {
        (None, _) => format!("OpenSSH does not take {} keys any more", key.algorithm()),
        (Some("rsa"), bits) if !(MIN_RSA_BITS..=MAX_RSA_BITS).contains(&bits) => {
            format!("it is an RSA key of {bits} bits; {MIN_RSA_BITS} to {MAX_RSA_BITS} are allowed")
        }
        _ => return Ok(()),
    };
    Err(unusable(file, why).hint("Make a new key with `vmprov key generate`."))
}

/// The short name of a key's type, unless OpenSSH refuses the type.
pub(super) fn kind(key: &KeyData) -> Option<&'static str> {
    match key {
        KeyData::Rsa(_) => Some("rsa"),
        KeyData::Ed25519(_) => Some("ed25519"),
        KeyData::Ecdsa(_) => Some("ecdsa"),
        KeyData::SkEd25519(_) => Some("ed25519-sk"),
        KeyData::SkEcdsaSha2NistP256(_) => Some("ecdsa-sk"),
        _ => None,
    }
}

/// The size of a key as `ssh-keygen -l` counts it.
pub(super) fn bits(key: &KeyData) -> u32 {
    match key {
        KeyData::Rsa(rsa) => rsa.n.as_positive_bytes().map_or(0, bit_length),
        KeyData::Ecdsa(point) => match point.curve() {
            EcdsaCurve::NistP256 => 256,
            EcdsaCurve::NistP384 => 384,
            EcdsaCurve::NistP521 => 521,
        },
        _ => 256,
    }
}

fn bit_length(number: &[u8]) -> u32 {
    let bytes = u32::try_from(number.len()).unwrap_or(u32::MAX / 8);
    number.first().map_or(0, |first| bytes * 8 - first.leading_zeros())
}

fn unusable(file: &str, why: impl std::fmt::Display) -> Error {
    Error::invalid(format!("`{file}` cannot be used as a key")).because(why)
}
