//! [`Location`]: where a publisher's file is fetched from, after applying the mirrors.

use camino::{Utf8Path, Utf8PathBuf};
use url::Url;

use super::source::file_path;
use crate::{
    error::{Error, Result},
    model::image::Mirror,
    ops::{Host, source_policy},
    store::{
        http::{Listener, Text, UrlTrust},
        local_file::LocalFile,
    },
};

/// The maximum size of a text file in bytes.
const MAX_TEXT: u64 = 4 << 20;

/// The location of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Location {
    /// A file of this machine, and where its path comes from.
    File(Utf8PathBuf, UrlTrust),
    /// An `http` or `https` URL, and where it comes from.
    Web(String, UrlTrust),
}

impl Location {
    /// Returns the location of a URL's file: the mirror with the longest matching prefix, or the publisher. A mirror is
    /// trusted as the operator's, even if the URL comes from a request.
    pub(super) fn of(host: &Host, url: &str, trust: UrlTrust) -> Result<Self> {
        // The normal form: the host in lower case, no default port, and no `..` that could lead out of a mirror.
        let normalized = Url::parse(url).map_or_else(|_| url.to_owned(), String::from);
        let mapped = mapped(&host.settings.mirrors, &normalized);
        let is_mirrored = mapped != normalized;
        if is_mirrored {
            tracing::info!("# using mirror {mapped} for {url}");
        }
        let parsed = Url::parse(&mapped).map_err(|error| {
            Error::invalid(format!("invalid URL `{mapped}`"))
                .because(error)
                .hint(format!("Check the setting `mirrors`, which maps `{url}` to this URL"))
        })?;
        match parsed.scheme() {
            "file" => {
                let path = file_path(&parsed)
                    .ok_or_else(|| Error::invalid(format!("invalid URL `{mapped}`: it is not a path")))?;
                Ok(Self::File(path, UrlTrust::Operator))
            }
            _ => Ok(Self::Web(mapped, if is_mirrored { UrlTrust::Operator } else { trust })),
        }
    }

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

impl std::fmt::Display for Location {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File(path, _) => f.write_str(path.as_str()),
            Self::Web(url, _) => f.write_str(url),
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

/// Applies the mirrors to a URL. The longest matching prefix wins.
fn mapped(mirrors: &[Mirror], url: &str) -> String {
    let rest = |mirror: &Mirror| mirror.rest(url).map(|rest| (mirror.from.len(), format!("{}{rest}", mirror.to)));
    let best = mirrors.iter().filter_map(rest).max_by_key(|(length, _)| *length);
    best.map_or_else(|| url.to_owned(), |(_, mapped)| mapped)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_prefix_wins_and_ends_at_a_boundary() {
        let mirrors: Vec<Mirror> = [
            "cloud.debian.org=http://m:8080/debian",
            "https://cloud.debian.org/images/cloud/trixie/=file:///srv/trixie/",
            "https://dl.example/pub=https://m/pub",
        ]
        .iter()
        .map(|text| text.parse().unwrap())
        .collect();
        for (url, to) in [
            ("https://cloud.debian.org/images/x", "http://m:8080/debian/images/x"),
            ("http://cloud.debian.org/x", "http://m:8080/debian/x"),
            ("https://cloud.debian.org/images/cloud/trixie/x", "file:///srv/trixie/x"),
            ("https://dl.example/pub/x", "https://m/pub/x"),
            ("https://dl.example/public/x", "https://dl.example/public/x"),
            ("https://cloud.debian.org.evil/x", "https://cloud.debian.org.evil/x"),
            ("https://other/x", "https://other/x"),
        ] {
            assert_eq!(mapped(&mirrors, url), to, "{url}");
        }
    }
}
