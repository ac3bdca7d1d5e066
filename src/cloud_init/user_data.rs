//! [`UserData`]: what the operator gave with `--user-data`, checked.

use std::fmt;
use std::io::Read;

use flate2::read::MultiGzDecoder;
use serde::{Deserialize, Serialize};

use super::check;
use super::parts::{self, Part};
use crate::error::{Error, Result};
use crate::model::name::Name;

/// More than anybody writes; a file beyond it is the wrong file.
const MAX_RAW: usize = 1 << 20;
/// What a compressed file may become, so that a small one cannot fill the memory.
const MAX_PLAIN: usize = 16 << 20;

/// User data that cloud-init would act on, in any of its forms, decompressed and otherwise as given.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct UserData {
    text: String,
    parts: Vec<Part>,
}

impl UserData {
    /// Reads a file's content, and refuses what cloud-init would ignore or stumble over.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        if bytes.len() > MAX_RAW {
            return Err(Error::invalid(format!("the user data has {} bytes, {MAX_RAW} are allowed", bytes.len()))
                .hint("Give the guest an address to fetch the rest from, in `#include` or in a script."));
        }
        let bytes = if bytes.starts_with(GZIP) { gunzip(bytes, "the user data")? } else { bytes.to_vec() };
        Self::try_from(into_text(bytes)?)
    }

    /// Refuses what contradicts what vmprov needs; what is returned are warnings.
    pub fn check(&self, hostname: &Name, user: &str) -> Result<Vec<String>> {
        check::check(&self.parts, hostname, user)
    }

    pub(super) fn text(&self) -> &str {
        &self.text
    }

    pub(super) fn parts(&self) -> &[Part] {
        &self.parts
    }
}

impl TryFrom<String> for UserData {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        let parts = parts::split(&text)?;
        Ok(Self { text, parts })
    }
}

impl From<UserData> for String {
    fn from(data: UserData) -> Self {
        data.text
    }
}

impl fmt::Debug for UserData {
    /// Without the content, in which there may be passwords.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "UserData({} bytes, {} parts)", self.text.len(), self.parts.len())
    }
}

/// How gzip begins (RFC 1952, section 2.3.1).
const GZIP: &[u8] = b"\x1f\x8b";

/// Decompresses within [`MAX_PLAIN`].
pub(super) fn gunzip(bytes: &[u8], what: &str) -> Result<Vec<u8>> {
    let mut plain = Vec::new();
    let limit = MAX_PLAIN as u64 + 1;
    MultiGzDecoder::new(bytes).take(limit).read_to_end(&mut plain).map_err(|error| {
        Error::invalid(format!("{what} cannot be decompressed as gzip"))
            .because(error)
            .hint("The file is damaged or incomplete; compress it again or give it uncompressed.")
    })?;
    if plain.len() > MAX_PLAIN {
        return Err(Error::invalid(format!("{what} becomes more than {MAX_PLAIN} bytes when decompressed"))
            .hint("Give the guest an address to fetch the rest from, in `#include` or in a script."));
    }
    Ok(plain)
}

/// cloud-init takes UTF-8 without a byte order mark: one in front keeps it from seeing the first line
/// (`type_from_starts_with` in `handlers/__init__.py`), so it is dropped. CRLF it handles by itself.
fn into_text(bytes: Vec<u8>) -> Result<String> {
    let refuse = |why: &str, hint: &str| Err(Error::invalid(format!("the user data {why}")).hint(hint));
    if bytes.starts_with(b"\xff\xfe") || bytes.starts_with(b"\xfe\xff") {
        return refuse("is UTF-16, which cloud-init does not read", "Save it as UTF-8.");
    }
    if bytes.contains(&0) {
        return refuse(
            "is a binary file, perhaps a disk or ISO image",
            "Give the user data itself; vmprov makes the seed's image.",
        );
    }
    match String::from_utf8(bytes) {
        Ok(mut text) => {
            if text.starts_with('\u{feff}') {
                text.remove(0);
            }
            Ok(text)
        }
        Err(error) => {
            let valid = &error.as_bytes()[..error.utf8_error().valid_up_to()];
            let line = valid.split(|&byte| byte == b'\n').count();
            refuse(
                &format!("is not UTF-8, in line {line}"),
                "Save it as UTF-8; binary content goes into a MIME part or a `write_files` entry, as base64.",
            )
        }
    }
}
