//! Reads a publisher's small files from their [`Location`].

use camino::Utf8Path;

use super::location::Location;
use crate::{
    error::{Error, Result},
    ops::{Host, source_policy},
    store::{
        http::{Listener, Text, UrlTrust},
        local_file::LocalFile,
    },
};

/// The maximum size of a text file in bytes.
const MAX_TEXT: u64 = 4 << 20;

impl Location {
    /// Opens a file of this machine. A path from a request must be allowed by the source policy.
    pub(super) fn open(host: &Host, path: &Utf8Path, trust: UrlTrust) -> Result<LocalFile> {
        let failed = |error: std::io::Error| Error::io(format!("read `{path}`"), &error);
        match trust {
            UrlTrust::Request => source_policy::open(host, path, failed),
            UrlTrust::Operator => LocalFile::open(path).map_err(failed),
        }
    }

    /// Reads a small file without retries. Returns none if the file does not exist.
    pub(super) fn text_once(&self, host: &Host) -> Result<Option<Text>> {
        match self {
            Self::Web(url, trust) => host.http.given_by(*trust).text_once(url).map_err(|failure| failure.error),
            Self::File(path, trust) => read(host, path, *trust),
        }
    }

    /// Reads a small file, with retries. Returns none if the file does not exist.
    pub(super) fn text(&self, host: &Host, listener: &dyn Listener) -> Result<Option<Text>> {
        match self {
            Self::Web(url, trust) => host.http.given_by(*trust).text(url, listener),
            Self::File(path, trust) => read(host, path, *trust),
        }
    }
}

/// Reads a small file of this machine. It counts as protected by TLS, because it did not cross a network.
fn read(host: &Host, path: &Utf8Path, trust: UrlTrust) -> Result<Option<Text>> {
    let Ok(file) = Location::open(host, path, trust) else { return Ok(None) };
    if !file.metadata().is_ok_and(|metadata| metadata.is_file() && metadata.len() <= MAX_TEXT) {
        return Ok(None);
    }
    let bytes = std::fs::read(file.access()).map_err(|error| Error::io(format!("read `{path}`"), &error))?;
    Ok(Some(Text { bytes, tls: true }))
}
