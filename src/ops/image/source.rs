//! [`ImageSource`]: what was given as an image, and where that is.

use std::os::unix::fs::MetadataExt;

use camino::{Utf8Path, Utf8PathBuf};
use serde::{Deserialize, Serialize};
use url::Url;

use super::{catalogue, login_user::default_user};
use crate::{
    catalogue::Entry,
    error::{Error, Result},
    model::{
        digest,
        image::{Arch, ImageName},
    },
    ops::{Caller, Host, SourcePolicy, source_policy},
    store::local_file::LocalFile,
};

/// What was given as an image.
#[derive(Debug, Clone)]
pub(in crate::ops) enum ImageSource {
    /// A file of this machine.
    File {
        /// The file itself.
        file: LocalFile,
        /// What it was when it was opened.
        identity: FileIdentity,
    },
    /// An `http` or `https` URL.
    Url(String),
    /// An image of the catalogue, for the architecture of libvirt's host.
    Published(Box<Entry>, Arch),
    /// A name that is none of the catalogue's: that of an image that was imported, or made of a VM.
    Stored(ImageName),
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

impl FileIdentity {
    /// What a file is now.
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
    /// Reads what was given: a name, a path, a `file://` URL or an `http(s)://` URL. A file must be there. `arch` is the
    /// architecture wanted of the catalogue, if not the host's. What may not be named is refused before it is looked at.
    pub(in crate::ops) fn parse(host: &Host, given: &str, arch: Option<Arch>) -> Result<Self> {
        if given.contains("://") {
            return Self::url(host, given);
        }
        let Ok(name) = given.parse::<ImageName>() else {
            // Whoever may not name every file means an image, as in ubuntu-22.04, where no folder is named.
            if host.settings.sources != SourcePolicy::Any && !given.contains('/') {
                return Err(super::unknown_image(host, given)?);
            }
            return Self::file(host, Utf8Path::new(given));
        };
        match catalogue(host)?.find(&name) {
            Some(entry) => {
                let arch = arch.map_or_else(|| host_arch(host), Ok)?;
                if entry.image(arch).is_none() {
                    let there: Vec<_> = entry.archs().map(Arch::as_str).collect();
                    return Err(Error::not_found(format!("`{}` is not published for {arch}", entry.name))
                        .hint(format!("It is there for {}.", there.join(" and "))));
                }
                Ok(Self::Published(Box::new(entry.clone()), arch))
            }
            None => Ok(Self::Stored(name)),
        }
    }

    fn url(host: &Host, given: &str) -> Result<Self> {
        let refuse = |why: String| {
            Error::invalid(format!("`{}` cannot be fetched: {why}", given.escape_debug()))
                .hint("Give a name of `vmprov image search`, a path, or an http:// or https:// URL.")
        };
        let url = Url::parse(given).map_err(|error| refuse(format!("it is no URL ({error})")))?;
        match url.scheme() {
            "http" | "https" if !url.username().is_empty() || url.password().is_some() => {
                Err(refuse("a login in it would be shown to everybody who may list VMs".to_owned()))
            }
            "http" | "https" if url.host_str().is_none_or(str::is_empty) => Err(refuse("it names no host".to_owned())),
            "http" | "https" => source_policy::check_url(host, &url).map(|()| Self::Url(given.to_owned())),
            "file" => {
                Self::file(host, &file_path(&url).ok_or_else(|| refuse("it names no file of this machine".to_owned()))?)
            }
            other => Err(refuse(format!("images are not fetched over `{}`", other.escape_debug()))),
        }
    }

    fn file(host: &Host, given: &Utf8Path) -> Result<Self> {
        let failed = |error: &std::io::Error| {
            let error = Error::io(format!("read the image `{}`", given.as_str().escape_debug()), error);
            if given.as_str().contains(['/', '.']) { error } else { error.hint("Give a name, a path or a URL.") }
        };
        let file = source_policy::open(host, given, |error| failed(&error))?;
        if !file.metadata().map_err(|error| failed(&error))?.is_file() {
            return Err(Error::invalid(format!("the image `{}` is no regular file", file.path())));
        }
        let identity = FileIdentity::of(&file).map_err(|error| failed(&error))?;
        Ok(Self::File { file, identity })
    }

    /// What it is called: the catalogue's name, the absolute path, or the URL.
    pub(in crate::ops) fn given(&self) -> &str {
        match self {
            Self::File { file, .. } => file.path().as_str(),
            Self::Url(url) => url,
            Self::Published(entry, _) => entry.name.as_str(),
            Self::Stored(name) => name.as_str(),
        }
    }

    /// What the file is now, if it is one.
    pub(in crate::ops) const fn identity(&self) -> Option<&FileIdentity> {
        match self {
            Self::File { identity, .. } => Some(identity),
            _ => None,
        }
    }

    /// The architecture, where it is known.
    pub(super) const fn arch(&self) -> Option<Arch> {
        match self {
            Self::Published(_, arch) => Some(*arch),
            _ => None,
        }
    }

    /// The user that it is known to log in as.
    pub(in crate::ops) fn user(&self) -> Option<&str> {
        match self {
            Self::Published(entry, _) => Some(&entry.user),
            Self::File { .. } | Self::Url(_) => default_user(self.given()),
            Self::Stored(_) => None,
        }
    }

    /// What the catalogue says of it.
    pub(in crate::ops) fn entry(&self) -> Option<&Entry> {
        match self {
            Self::Published(entry, _) => Some(entry),
            _ => None,
        }
    }

    /// Returns the name of the small volume that leads from this source to its base. A private one has a name of its
    /// owner's, so that nobody's private image takes a name from others.
    pub(in crate::ops) fn companion_of(&self, owner: Option<&str>) -> String {
        let mut key = match self.arch() {
            Some(arch) => format!("{}@{arch}", self.given()),
            None => self.given().to_owned(),
        };
        if let Some(owner) = owner {
            // No source holds a line feed.
            key = format!("{key}\n{owner}");
        }
        format!("source-{}.json", &digest::of(key.as_bytes())[..16])
    }

    /// Returns the names of the volumes that may lead a caller from this source to its base, the first one first.
    pub(in crate::ops) fn companions(&self, caller: &Caller) -> Vec<String> {
        let own = caller.tenant().map(|tenant| self.companion_of(Some(tenant)));
        own.into_iter().chain([self.companion_of(None)]).collect()
    }
}

/// The path that a `file` URL names; none where a `/` is hidden in it, which could lead out of a mirror's folder.
pub(super) fn file_path(url: &Url) -> Option<Utf8PathBuf> {
    if url.path().to_ascii_lowercase().contains("%2f") {
        return None;
    }
    Utf8PathBuf::from_path_buf(url.to_file_path().ok()?).ok()
}

/// The architecture of libvirt's host: its images are the ones that run there.
fn host_arch(host: &Host) -> Result<Arch> {
    if host.virsh.is_local() {
        return std::env::consts::ARCH.parse();
    }
    host.virsh.arch()?.parse()
}
