//! Parses key files: OpenSSH's private and public formats, and a clear error for any other. Does no I/O.

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use ssh_key::{Algorithm, EcdsaCurve, PrivateKey, PublicKey, public::KeyData};
use zeroize::Zeroizing;

use crate::{
    error::{Error, Hint, Result},
    model::key::{self, MIN_RSA_BITS},
};

/// The content of a key file.
pub(super) enum KeyFile {
    /// A private key as text to be stored, and its public half. That can be read even if the key is encrypted.
    Private(Zeroizing<String>, PublicKey),
    /// A public key.
    Public(PublicKey),
}

/// The first line of a private key in OpenSSH's own format.
const PRIVATE_HEADER: &str = "-----BEGIN OPENSSH PRIVATE KEY-----";

/// The last line of a private key in OpenSSH's own format.
const PRIVATE_FOOTER: &str = "-----END OPENSSH PRIVATE KEY-----\n";

/// The largest RSA modulus that OpenSSH accepts, in bits.
const MAX_RSA_BITS: u32 = 16384;

/// Parses the content of `file`. The path is only for the messages, which never quote the content.
pub(super) fn parse(file: &str, content: &[u8]) -> Result<KeyFile> {
    let Ok(text) = std::str::from_utf8(content) else {
        return Err(unusable(file, "it is not text"));
    };
    let text = text.trim();
    if let Some((what, hint)) = foreign(file, text) {
        return Err(unusable(file, what).hint(hint));
    }
    let key = if text.starts_with("-----BEGIN ") {
        let text = with_unix_lines(text);
        let public = public_half(file, &text)?;
        KeyFile::Private(text, public)
    } else {
        KeyFile::Public(public_line(file, text)?)
    };
    let (KeyFile::Private(_, public) | KeyFile::Public(public)) = &key;
    refuse_weak(file, public)?;
    Ok(key)
}

/// Converts Windows line endings, with which OpenSSH does not accept a private key.
fn with_unix_lines(text: &str) -> Zeroizing<String> {
    // Allocated at once, because a growing string leaves copies in memory.
    let mut lines = Zeroizing::new(String::with_capacity(text.len() + 1));
    for line in text.lines() {
        lines.push_str(line);
        lines.push('\n');
    }
    lines
}

/// Returns what is wrong with a key in another program's format, and how to convert it.
fn foreign(file: &str, text: &str) -> Option<(&'static str, Hint)> {
    let quoted = shell_words::quote(file);
    if text.starts_with("PuTTY-User-Key-File-") {
        let command = format!("puttygen {quoted} -O private-openssh-new -o NEW");
        return Some(("it is a PuTTY key", Hint::run("Convert it, then import the file NEW", command)));
    }
    if text.starts_with("---- BEGIN SSH2 PUBLIC KEY ----") {
        let command = format!("ssh-keygen -i -f {quoted} > NEW.pub");
        let hint = Hint::run("Convert it, then import the file NEW.pub", command);
        return Some(("it is a public key in the format of RFC 4716", hint));
    }
    let first = text.lines().next().unwrap_or_default().trim_end();
    if first.starts_with("-----BEGIN ") && first.ends_with("PRIVATE KEY-----") && first != PRIVATE_HEADER {
        let command = format!("cp {quoted} COPY; ssh-keygen -p -f COPY");
        let hint = Hint::run("Convert a copy, then import the file COPY", command);
        return Some(("it is a private key in PEM format, not in OpenSSH format", hint));
    }
    None
}

fn public_half(file: &str, text: &str) -> Result<PublicKey> {
    if !text.starts_with(PRIVATE_HEADER) {
        return Err(unusable(file, "it is PEM, but not an OpenSSH private key"));
    }
    if text.matches("-----BEGIN ").count() > 1 {
        return Err(unusable(file, "it contains more than one key"));
    }
    let mut key = match PrivateKey::from_openssh(text) {
        Ok(key) => key.public_key().clone(),
        Err(error) => ecdsa_public_half(text).ok_or_else(|| unusable(file, error))?,
    };
    let comment = key::comment(key.comment())?.to_owned();
    key.set_comment(comment);
    Ok(key)
}

/// Returns the public half of an ECDSA key that ssh-key cannot parse.
///
/// ssh-key 0.6.7 requires the secret number in full length. OpenSSH omits leading zeros, as in every second P-521 key.
fn ecdsa_public_half(text: &str) -> Option<PublicKey> {
    let body = text.strip_prefix(PRIVATE_HEADER)?.strip_suffix(PRIVATE_FOOTER)?;
    let mut base64 = Zeroizing::new(String::with_capacity(body.len()));
    body.lines().for_each(|line| base64.push_str(line));
    let data = Zeroizing::new(BASE64.decode(&*base64).ok()?);
    let mut outer = data.strip_prefix(b"openssh-key-v1\0")?;
    for _cipher_kdf_options in 0..3 {
        field(&mut outer)?;
    }
    outer = outer.strip_prefix(&1_u32.to_be_bytes())?;
    let mut key = PublicKey::from_bytes(field(&mut outer)?).ok()?;
    // Skip the two check numbers.
    let mut inner = field(&mut outer)?.get(8..)?;
    for _type_curve_point_secret in 0..4 {
        field(&mut inner)?;
    }
    key.set_comment(std::str::from_utf8(field(&mut inner)?).ok()?);
    key.algorithm().is_ecdsa().then_some(key)
}

/// Removes and returns the next field: four bytes of length, then the content.
fn field<'a>(data: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (length, rest) = data.split_first_chunk()?;
    let (content, rest) = rest.split_at_checked(u32::from_be_bytes(*length).try_into().ok()?)?;
    *data = rest;
    Some(content)
}

fn public_line(file: &str, text: &str) -> Result<PublicKey> {
    let mut lines = text.lines().filter(|line| !line.trim_start().starts_with('#') && !line.trim().is_empty());
    let Some(line) = lines.next() else {
        return Err(unusable(file, "it is empty"));
    };
    if lines.next().is_some() {
        return Err(unusable(file, "it has more than one line, but a public key is a single line"));
    }
    let mut words = line.split_whitespace();
    let (Some(algorithm), Some(data)) = (words.next(), words.next()) else {
        return Err(unusable(file, "it is neither a public nor a private OpenSSH key"));
    };
    match Algorithm::new(algorithm) {
        Ok(Algorithm::Other(name)) => {
            return Err(unusable(file, format!("unknown key type `{}`", name.as_str())));
        }
        Ok(_) => {}
        Err(_) => {
            return Err(unusable(file, "it does not begin with a key type")
                .hint("Remove options in the style of `authorized_keys`, so that only `TYPE KEY COMMENT` remains"));
        }
    }
    let comment = key::comment(line.split_once(data).map_or("", |(_, rest)| rest))?;
    let mut key = PublicKey::from_openssh(&format!("{algorithm} {data}")).map_err(|error| unusable(file, error))?;
    key.set_comment(comment);
    Ok(key)
}

fn refuse_weak(file: &str, key: &PublicKey) -> Result<()> {
    let why = match (kind(key.key_data()), bits(key.key_data())) {
        (None, _) => format!("OpenSSH no longer accepts {} keys", key.algorithm()),
        (Some("rsa"), bits) if !(MIN_RSA_BITS..=MAX_RSA_BITS).contains(&bits) => {
            format!("it is an RSA key of {bits} bits; {MIN_RSA_BITS} to {MAX_RSA_BITS} bits are allowed")
        }
        _ => return Ok(()),
    };
    Err(unusable(file, why).hint(Hint::call_any("Generate a new key", "ssh_key_generate")))
}

/// Returns the short name of a key's type, or `None` if OpenSSH does not accept the type.
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

/// Returns the size of a key, as `ssh-keygen -l` shows it.
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
    Error::invalid(format!("cannot use `{file}` as a key")).because(why)
}
