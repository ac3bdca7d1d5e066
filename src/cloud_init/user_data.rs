//! [`UserData`]: the operator's user data, checked.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::check;
use super::gzip;
use super::parts::{self, Part};
use crate::error::{Error, Result};
use crate::model::name::Name;

/// The size limit of user data as given. A larger file is probably the wrong one.
const MAX_RAW: usize = 1 << 20;

/// User data in any format that cloud-init handles. It is decompressed and otherwise as given.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct UserData {
    text: String,
    parts: Vec<Part>,
}

impl UserData {
    /// Parses the content of a file. Refuses what cloud-init would ignore or fail on.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        if bytes.len() > MAX_RAW {
            return Err(Error::invalid(format!("the user data has {} bytes, the limit is {MAX_RAW}", bytes.len()))
                .hint("Let the guest download the rest, with `#include` or a script"));
        }
        let bytes =
            if bytes.starts_with(gzip::MAGIC) { gzip::decompress(bytes, "the user data")? } else { bytes.to_vec() };
        Self::try_from(into_text(bytes)?)
    }

    /// Refuses user data that conflicts with what vmprov needs. Returns warnings.
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
    /// Omits the content, which may include passwords.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "UserData({} bytes, {} parts)", self.text.len(), self.parts.len())
    }
}

/// Converts to text, and removes a byte order mark. With one, cloud-init would not recognize the first line
/// (`type_from_starts_with` in `handlers/__init__.py`). It handles CRLF itself.
fn into_text(bytes: Vec<u8>) -> Result<String> {
    let refuse = |why: &str, hint: &str| Err(Error::invalid(format!("the user data {why}")).hint(hint));
    if bytes.starts_with(b"\xff\xfe") || bytes.starts_with(b"\xfe\xff") {
        return refuse("is UTF-16, which cloud-init does not support", "Save it as UTF-8");
    }
    if bytes.contains(&0) {
        return refuse(
            "is a binary file, perhaps a disk or ISO image",
            "Provide the user data itself; vmprov creates the seed image",
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
                "Save it as UTF-8, with binary content as base64 in a MIME part or a `write_files` entry",
            )
        }
    }
}
