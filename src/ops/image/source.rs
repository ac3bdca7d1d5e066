//! [`ImageSource`]: where an image comes from.

use std::os::unix::fs::MetadataExt;

use camino::{Utf8Path, Utf8PathBuf};
use serde::{Deserialize, Serialize};

use crate::{
    error::{Error, Result},
    model::digest,
};

/// Where an image comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::ops) enum ImageSource {
    /// A file of this machine.
    File {
        /// Its absolute path, without symbolic links.
        path: Utf8PathBuf,
        /// What it is now.
        identity: FileIdentity,
    },
    /// An `http` or `https` URL.
    Url(String),
}

/// What distinguishes a file from what was or will be at its path: any change of its content changes one of these,
/// the change time at least, which cannot be set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(in crate::ops) struct FileIdentity {
    device: u64,
    inode: u64,
    size: u64,
    modified_ns: i128,
    changed_ns: i128,
}

impl ImageSource {
    /// Reads what was given: a path, a `file://` URL or an `http(s)://` URL. The file must be there.
    pub(in crate::ops) fn parse(given: &str) -> Result<Self> {
        let scheme = given.split_once("://").map(|(scheme, _)| scheme.to_ascii_lowercase());
        match scheme.as_deref() {
            Some("http" | "https") => Ok(Self::Url(given.to_owned())),
            Some("file") => Self::file(&given["file://".len()..]),
            Some(other) => Err(Error::invalid(format!("images cannot be fetched over `{}`", other.escape_debug()))
                .hint("Give a path, or an http:// or https:// URL.")),
            None => Self::file(given),
        }
    }

    fn file(given: &str) -> Result<Self> {
        let failed = |error: &std::io::Error| {
            let error = Error::io(format!("read the image `{}`", given.escape_debug()), error);
            if given.contains('/') || given.contains('.') { error } else { error.hint("Give a path or a URL.") }
        };
        let path = Utf8Path::new(given).canonicalize_utf8().map_err(|error| failed(&error))?;
        let metadata = std::fs::metadata(&path).map_err(|error| failed(&error))?;
        if !metadata.is_file() {
            return Err(Error::invalid(format!("the image `{path}` is no regular file")));
        }
        std::fs::File::open(&path).map_err(|error| failed(&error))?;
        let nanoseconds = |seconds: i64, rest: i64| i128::from(seconds) * 1_000_000_000 + i128::from(rest);
        let identity = FileIdentity {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.len(),
            modified_ns: nanoseconds(metadata.mtime(), metadata.mtime_nsec()),
            changed_ns: nanoseconds(metadata.ctime(), metadata.ctime_nsec()),
        };
        Ok(Self::File { path, identity })
    }

    /// The absolute path or the URL.
    pub(in crate::ops) fn given(&self) -> &str {
        match self {
            Self::File { path, .. } => path.as_str(),
            Self::Url(url) => url,
        }
    }

    /// What the file is now, if it is one.
    pub(in crate::ops) const fn identity(&self) -> Option<&FileIdentity> {
        match self {
            Self::File { identity, .. } => Some(identity),
            Self::Url(_) => None,
        }
    }

    /// The small volume that leads from this source to its base.
    pub(in crate::ops) fn companion(&self) -> String {
        format!("source-{}.json", &digest::of(self.given().as_bytes())[..16])
    }

    /// What speaks for the content being what its publisher made.
    pub(super) fn verification(&self) -> &'static str {
        match self {
            Self::Url(url) if url.get(..8).is_some_and(|scheme| scheme.eq_ignore_ascii_case("https://")) => "tls",
            _ => "none",
        }
    }
}
