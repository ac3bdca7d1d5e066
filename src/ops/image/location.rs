//! [`Location`]: where a publisher's file is had from, after the mirrors.

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

/// The most that a text may have.
const MOST_TEXT: u64 = 4 << 20;

/// Where a file is had from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Location {
    /// A file of this machine, and who gave it.
    File(Utf8PathBuf, UrlTrust),
    /// An `http` or `https` URL, and who gave it.
    Web(String, UrlTrust),
}

impl Location {
    /// Where `url`'s file is had from: the mirror of the longest prefix that matches, or its publisher. A mirror is the
    /// operator's, whoever gave the URL.
    pub(super) fn of(host: &Host, url: &str, giver: UrlTrust) -> Result<Self> {
        // As the library writes it: the host in small letters, no default port, no `..` that could lead out of a mirror.
        let plain = Url::parse(url).map_or_else(|_| url.to_owned(), String::from);
        let mapped = mapped(&host.settings.mirrors, &plain);
        let is_mirrored = mapped != plain;
        if is_mirrored {
            tracing::info!("# {url} is had from {mapped}");
        }
        let parsed = Url::parse(&mapped).map_err(|error| {
            Error::invalid(format!("`{mapped}` is no URL"))
                .because(error)
                .hint(format!("It is where the setting mirrors leads `{url}`."))
        })?;
        match parsed.scheme() {
            "file" => {
                let path = file_path(&parsed).ok_or_else(|| Error::invalid(format!("`{mapped}` names no file")))?;
                Ok(Self::File(path, UrlTrust::Operator))
            }
            _ => Ok(Self::Web(mapped, if is_mirrored { UrlTrust::Operator } else { giver })),
        }
    }

    /// Opens a file of this machine. Where a request gave it, it is held against what a request may name.
    pub(super) fn open(host: &Host, path: &Utf8Path, giver: UrlTrust) -> Result<LocalFile> {
        let failed = |error: std::io::Error| Error::io(format!("read `{path}`"), &error);
        match giver {
            UrlTrust::Request => source_policy::open(host, path, failed),
            UrlTrust::Operator => LocalFile::open(path).map_err(failed),
        }
    }

    /// A small file's content, in one try; none where there is no such file.
    pub(super) fn text_once(&self, host: &Host) -> Result<Option<Text>> {
        match self {
            Self::Web(url, giver) => host.http.given_by(*giver).text_once(url).map_err(|failure| failure.error),
            Self::File(path, giver) => read(host, path, *giver),
        }
    }

    /// The same with as many tries as are worth it.
    pub(super) fn text(&self, host: &Host, listener: &dyn Listener) -> Result<Option<Text>> {
        match self {
            Self::Web(url, giver) => host.http.given_by(*giver).text(url, listener),
            Self::File(path, giver) => read(host, path, *giver),
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

/// What lies on this machine's own disk did not come without TLS: nobody was on the way.
fn read(host: &Host, path: &Utf8Path, giver: UrlTrust) -> Result<Option<Text>> {
    let Ok(file) = Location::open(host, path, giver) else { return Ok(None) };
    if !file.metadata().is_ok_and(|metadata| metadata.is_file() && metadata.len() <= MOST_TEXT) {
        return Ok(None);
    }
    let bytes = std::fs::read(file.access()).map_err(|error| Error::io(format!("read `{path}`"), &error))?;
    Ok(Some(Text { bytes, tls: true }))
}

/// A URL after the mirrors: the longest prefix wins.
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
