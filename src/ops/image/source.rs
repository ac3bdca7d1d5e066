//! [`ImageSource`]: a requested image, resolved to a file, a URL or a name.

use std::os::unix::fs::MetadataExt;

use camino::Utf8Path;
use serde::{Deserialize, Serialize};
use url::Url;

use super::{catalogue, location::file_path, login_user::default_user};
use crate::{
    catalogue::Entry,
    error::{Error, Hint, Result},
    model::{
        digest,
        image::{Arch, ImageName},
    },
    ops::{Caller, Host, SourcePolicy, source_policy},
    store::local_file::LocalFile,
};

/// A requested image.
#[derive(Debug, Clone)]
pub(in crate::ops) enum ImageSource {
    /// A file of this machine.
    File {
        /// The file.
        file: LocalFile,
        /// Its identity when it was opened.
        identity: FileIdentity,
    },
    /// An `http` or `https` URL.
    Url(String),
    /// An image of the catalogue, for the architecture of libvirt's host.
    Published(Box<Entry>, Arch),
    /// The name of an image that was imported or made from a VM, and is not in the catalogue.
    Stored(ImageName),
}

/// The identity of a file's content. Any change of the content changes at least one of these members, because the
/// change time cannot be set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(in crate::ops) struct FileIdentity {
    device: u64,
    inode: u64,
    size: u64,
    modified_ns: i128,
    changed_ns: i128,
}

impl FileIdentity {
    /// Returns a file's current identity.
    pub(super) fn of(file: &LocalFile) -> std::io::Result<Self> {
        let metadata = file.metadata()?;
        let nanoseconds = |seconds: i64, rest: i64| i128::from(seconds) * 1_000_000_000 + i128::from(rest);
        Ok(Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.len(),
            modified_ns: nanoseconds(metadata.mtime(), metadata.mtime_nsec()),
            changed_ns: nanoseconds(metadata.ctime(), metadata.ctime_nsec()),
        })
    }
}

impl ImageSource {
    /// Resolves a name, a path, a `file://` URL or an `http(s)://` URL. A file must exist. `arch` is the architecture
    /// of an image of the catalogue, if it is not the host's. Refuses a forbidden source before accessing it.
    pub(in crate::ops) fn parse(host: &Host, given: &str, arch: Option<Arch>) -> Result<Self> {
        if given.contains("://") {
            return Self::url(host, given);
        }
        let Ok(name) = given.parse::<ImageName>() else {
            // A restricted client means an image unless it names a folder: `ubuntu-22.04` is a misspelled image.
            if host.settings.sources != SourcePolicy::Any && !given.contains('/') {
                return Err(super::unknown_image(host, given)?);
            }
            return Self::file(host, Utf8Path::new(given));
        };
        match catalogue(host)?.find(&name) {
            Some(entry) => {
                let arch = arch.map_or_else(|| host_arch(host), Ok)?;
                if entry.image(arch).is_none() {
                    let published: Vec<_> = entry.archs().map(|arch| arch.to_string()).collect();
                    return Err(Error::not_found(format!("image `{}` is not published for {arch}", entry.name))
                        .hint(format!("Choose an architecture that it is published for: {}", published.join(", "))));
                }
                Ok(Self::Published(Box::new(entry.clone()), arch))
            }
            None => Ok(Self::Stored(name)),
        }
    }

    fn url(host: &Host, given: &str) -> Result<Self> {
        let refuse = |why: String| {
            Error::invalid(format!("invalid image URL `{}`: {why}", given.escape_debug()))
                .hint("Use a path, or an http:// or https:// URL")
                .hint(Hint::call_any("Choose an image of the catalogue", "image_search"))
        };
        let url = Url::parse(given).map_err(|error| refuse(format!("it cannot be parsed ({error})")))?;
        match url.scheme() {
            "http" | "https" if !url.username().is_empty() || url.password().is_some() => {
                Err(refuse("a user name or password would be visible to every client that lists VMs".to_owned()))
            }
            "http" | "https" if url.host_str().is_none_or(str::is_empty) => Err(refuse("it has no host".to_owned())),
            "http" | "https" => source_policy::check_url(host, &url).map(|()| Self::Url(given.to_owned())),
            "file" => {
                let path = file_path(&url).ok_or_else(|| refuse("it is not a path on this machine".to_owned()))?;
                Self::file(host, &path)
            }
            other => Err(refuse(format!("the scheme `{}` is not supported", other.escape_debug()))),
        }
    }

    fn file(host: &Host, given: &Utf8Path) -> Result<Self> {
        let failed = |error: &std::io::Error| {
            let error = Error::io(format!("read the image `{}`", given.as_str().escape_debug()), error);
            if given.as_str().contains(['/', '.']) { error } else { error.hint("Use a name, a path or a URL") }
        };
        let file = source_policy::open(host, given, |error| failed(&error))?;
        if !file.metadata().map_err(|error| failed(&error))?.is_file() {
            return Err(Error::invalid(format!("image `{}` is not a regular file", file.path())));
        }
        let identity = FileIdentity::of(&file).map_err(|error| failed(&error))?;
        Ok(Self::File { file, identity })
    }

    /// Returns the name, the absolute path or the URL.
    pub(in crate::ops) fn given(&self) -> &str {
        match self {
            Self::File { file, .. } => file.path().as_str(),
            Self::Url(url) => url,
            Self::Published(entry, _) => entry.name.as_str(),
            Self::Stored(name) => name.as_str(),
        }
    }

    /// Returns the file's identity when it was opened, if the image is a file.
    pub(in crate::ops) const fn identity(&self) -> Option<&FileIdentity> {
        match self {
            Self::File { identity, .. } => Some(identity),
            _ => None,
        }
    }

    /// Returns the architecture, if it is known.
    pub(super) const fn arch(&self) -> Option<Arch> {
        match self {
            Self::Published(_, arch) => Some(*arch),
            _ => None,
        }
    }

    /// Returns the default login user, if it is known.
    pub(in crate::ops) fn user(&self) -> Option<&str> {
        match self {
            Self::Published(entry, _) => Some(&entry.user),
            Self::File { .. } | Self::Url(_) => default_user(self.given()),
            Self::Stored(_) => None,
        }
    }

    /// Returns the entry in the catalogue.
    pub(in crate::ops) fn entry(&self) -> Option<&Entry> {
        match self {
            Self::Published(entry, _) => Some(entry),
            _ => None,
        }
    }

    /// Returns the name of the source manifest. The name of a private image's manifest includes the owner, so that it
    /// does not take the image's name from others.
    pub(in crate::ops) fn manifest_of(&self, owner: Option<&str>) -> String {
        let mut key = match self.arch() {
            Some(arch) => format!("{}@{arch}", self.given()),
            None => self.given().to_owned(),
        };
        if let Some(owner) = owner {
            // No source contains a line feed.
            key = format!("{key}\n{owner}");
        }
        format!("source-{}.json", &digest::of(key.as_bytes())[..16])
    }

    /// Returns the names of the source manifests that a caller may use, in order of precedence.
    pub(in crate::ops) fn manifests(&self, caller: &Caller) -> Vec<String> {
        let own = caller.tenant().map(|tenant| self.manifest_of(Some(tenant)));
        own.into_iter().chain([self.manifest_of(None)]).collect()
    }
}

/// Returns the architecture of libvirt's host.
fn host_arch(host: &Host) -> Result<Arch> {
    if host.virsh.is_local() {
        return std::env::consts::ARCH.parse();
    }
    host.virsh.arch()?.parse()
}
