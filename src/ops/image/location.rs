//! [`Location`]: where a publisher's file is fetched from, after applying the mirrors.

use camino::Utf8PathBuf;
use url::Url;

use crate::{
    error::{Error, Result},
    model::image::Mirror,
    ops::Host,
    store::http::UrlTrust,
};

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
}

impl std::fmt::Display for Location {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File(path, _) => f.write_str(path.as_str()),
            Self::Web(url, _) => f.write_str(url),
        }
    }
}

/// Returns whether a URL is fetched from a mirror.
pub(in crate::ops) fn is_mirrored(host: &Host, url: &Url) -> Result<bool> {
    Ok(!matches!(Location::of(host, url.as_str(), UrlTrust::Request)?, Location::Web(_, UrlTrust::Request)))
}

/// Returns the path of a `file` URL; none if it contains an encoded `/`, which could lead out of a mirror's folder.
pub(super) fn file_path(url: &Url) -> Option<Utf8PathBuf> {
    if url.path().to_ascii_lowercase().contains("%2f") {
        return None;
    }
    Utf8PathBuf::from_path_buf(url.to_file_path().ok()?).ok()
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
