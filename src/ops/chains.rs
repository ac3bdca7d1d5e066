//! The backing chain of each file, down to its end. It is read from the files themselves, never derived from names.

use std::{collections::HashMap, fmt};

use camino::Utf8Path;
use serde::Serialize;

use super::Host;
use crate::tools::{
    qemu_img,
    virsh::{NamedFile, Storage, StoredVolume},
};

/// What depends on a volume.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(in crate::ops) enum Dependent {
    /// A VM.
    Vm(String),
    /// A snapshot, as `vm/snapshot`.
    Snapshot(String),
    /// A volume that belongs to no VM, as `pool/volume`.
    Volume(String),
}

impl fmt::Display for Dependent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Vm(name) => write!(f, "VM {name}"),
            Self::Snapshot(name) => write!(f, "snapshot {name}"),
            Self::Volume(name) => write!(f, "volume {name}"),
        }
    }
}

/// The backing chains of files.
pub(in crate::ops) struct Chains<'a> {
    host: &'a Host,
    volumes: HashMap<String, &'a StoredVolume>,
    named: HashMap<String, &'a StoredVolume>,
    /// The folders of the active pools.
    folders: Vec<String>,
}

impl<'a> Chains<'a> {
    /// Returns the chains of all files that libvirt stores.
    pub(in crate::ops) fn new(host: &'a Host, storage: &'a Storage) -> Self {
        let mut chains = Self { host, volumes: HashMap::new(), named: HashMap::new(), folders: Vec::new() };
        chains.folders = storage.folders.iter().map(|folder| chains.real(folder.as_str())).collect();
        for volume in &storage.volumes {
            chains.volumes.insert(chains.real(&volume.path), volume);
            chains.named.insert(format!("{}/{}", volume.pool, volume.name), volume);
        }
        chains
    }

    /// Returns a path with its symbolic links resolved, if libvirt is on this machine.
    pub(in crate::ops) fn real(&self, path: &str) -> String {
        let local = self.host.virsh.is_local().then(|| Utf8Path::new(path).canonicalize_utf8().ok()).flatten();
        local.map_or_else(|| path.to_owned(), camino::Utf8PathBuf::into_string)
    }

    /// Returns a file and its whole backing chain, as real paths; or why the chain cannot be determined.
    pub(in crate::ops) fn of(&self, file: &NamedFile) -> Result<Vec<String>, String> {
        match self.walk(file) {
            (links, None) => Ok(links),
            (_, Some(why)) => Err(why),
        }
    }

    /// Returns a file and as much of its backing chain as can be determined.
    pub(in crate::ops) fn reach(&self, file: &NamedFile) -> Vec<String> {
        self.walk(file).0
    }

    /// Returns the file at which a chain ends because the file is missing, although its pool is active. Its data is
    /// lost, so nothing can open the chain, and the chain uses no other file.
    pub(in crate::ops) fn lost_file(&self, file: &NamedFile) -> Option<String> {
        let (mut links, why) = self.walk(file);
        let last = links.pop().filter(|_| why.is_some())?;
        let folder = Utf8Path::new(&last).parent()?;
        let is_in_a_pool = self.folders.iter().any(|pool| pool == folder);
        let is_found = self.host.virsh.is_local() && Utf8Path::new(&last).try_exists().unwrap_or(true);
        (is_in_a_pool && !is_found && !self.volumes.contains_key(&last)).then_some(last)
    }

    /// Returns a file and its backing chain, and why the chain cannot be followed further, if so.
    fn walk(&self, file: &NamedFile) -> (Vec<String>, Option<String>) {
        let mut links = Vec::new();
        let mut next = match self.named.get(&file.path) {
            Some(volume) => Some(volume.path.clone()),
            None => Some(file.path.clone()),
        };
        while let Some(path) = next.take() {
            let real = self.real(&path);
            if links.contains(&real) {
                break; // a cycle, which QEMU refuses to open
            }
            links.push(real.clone());
            match self.volumes.get(&real) {
                // libvirt does not read the headers of block devices.
                Some(volume) if !(volume.backing.is_none() && real.starts_with("/dev/")) => {
                    next = volume.backing.as_deref().map(|backing| resolve(&real, backing));
                }
                _ => match self.outside(&path, file.format.as_deref()) {
                    Ok(more) => links.extend(more),
                    Err(why) => return (links, Some(why)),
                },
            }
        }
        (links, None)
    }

    /// Returns whether a file is known to exist.
    pub(in crate::ops) fn is_there(&self, file: &NamedFile) -> bool {
        self.named.contains_key(&file.path)
            || self.volumes.contains_key(&self.real(&file.path))
            || Utf8Path::new(&file.path).exists()
    }

    /// Returns the chain of a file that is in no pool.
    fn outside(&self, path: &str, format: Option<&str>) -> Result<Vec<String>, String> {
        let path = Utf8Path::new(path);
        if format == Some("raw") || path.as_str().contains(':') {
            return Ok(Vec::new());
        }
        if !path.is_absolute() {
            return Err("its storage pool is not started".to_owned());
        }
        if !self.host.virsh.is_local() {
            return Err("it is on another machine and not in a storage pool".to_owned());
        }
        match path.try_exists() {
            Ok(true) => {}
            // It may be on a disk that is not mounted.
            Ok(false) => return Err("it does not exist".to_owned()),
            Err(error) => return Err(error.to_string()),
        }
        let chain = qemu_img::chain(&self.host.runner, format, path).map_err(|error| error.to_string())?;
        Ok(chain.iter().map(|link| self.real(&resolve(path.as_str(), link))).collect())
    }
}

/// Returns a volume as a file that XML could name.
pub(in crate::ops) fn file_of(volume: &StoredVolume) -> NamedFile {
    NamedFile { path: volume.path.clone(), format: None }
}

/// Returns the path of a backing file, which an overlay names relative to itself.
fn resolve(overlay: &str, backing: &str) -> String {
    let folder = Utf8Path::new(overlay).parent().unwrap_or(Utf8Path::new("/"));
    if backing.contains(':') { backing.to_owned() } else { folder.join(backing).into_string() }
}
