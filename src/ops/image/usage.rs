//! Who stands on which base image: proven from the files, never from names.
//!
//! Followed are the disks of every domain, running or not, those of every snapshot, and every volume of every active
//! pool, each down to the end of its chain. A file that cannot be read proves nothing, so nothing may be removed then.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
};

use camino::Utf8Path;
use serde::Serialize;

use crate::{
    error::Result,
    ops::Host,
    tools::{
        qemu_img,
        virsh::{Metadata, NamedFile, Phase, Pool, Storage, StoredVolume},
    },
};

/// Who stands on each base image of a pool.
#[derive(Debug, Default)]
pub(super) struct Usage {
    users: BTreeMap<String, Vec<User>>,
    /// Files that nobody can look into, each with its owner and the reason.
    pub(super) unreadable: Vec<String>,
    /// The volumes of the pool.
    pub(super) volumes: Vec<StoredVolume>,
}

/// Somebody who stands on a base image.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum User {
    /// A VM.
    Vm(String),
    /// A snapshot, as `vm/snapshot`.
    Snapshot(String),
    /// A volume that no VM has, as `pool/volume`.
    Volume(String),
}

impl fmt::Display for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Vm(name) => write!(f, "VM {name}"),
            Self::Snapshot(name) => write!(f, "snapshot {name}"),
            Self::Volume(name) => write!(f, "volume {name}"),
        }
    }
}

impl Usage {
    /// Looks at everything; `refresh` also finds files that came into the pools without libvirt.
    pub(super) fn look(host: &Host, pool: &Pool, refresh: bool) -> Result<Self> {
        let storage = host.virsh.storage(refresh)?;
        let chains = Chains::new(host, &storage);
        let mut usage = Self::default();
        let bases: HashMap<String, &str> = (storage.volumes.iter())
            .filter(|volume| volume.pool == pool.name && volume.name.starts_with("base-"))
            .map(|volume| (chains.real(&volume.path), volume.name.as_str()))
            .collect();
        let mut reached = Vec::new();
        for domain in &storage.domains {
            // Of one that is being made or removed not every file is there.
            let whole = !domain.metadata.as_ref().is_some_and(Metadata::is_incomplete);
            let there = |file: &&NamedFile| whole || chains.is_there(file);
            let files: Vec<_> = domain.files.iter().filter(there).cloned().collect();
            usage.follow(&chains, &bases, &files, &User::Vm(domain.name.clone()), &mut reached);
            for (snapshot, files) in &domain.snapshots {
                let user = User::Snapshot(format!("{}/{snapshot}", domain.name));
                usage.follow(&chains, &bases, files, &user, &mut reached);
            }
            // One that is being created may not have its disk yet; what it notes is the only thing there is.
            let begun = domain.metadata.as_ref().filter(|metadata| metadata.phase == Phase::Creating);
            if let Some(image) = begun.and_then(|metadata| metadata.image.as_ref()) {
                usage.add(&image.base, User::Vm(domain.name.clone()));
            }
        }
        for volume in &storage.volumes {
            let file = NamedFile { path: volume.path.clone(), format: None };
            if volume.backing.is_some() && !reached.contains(&chains.real(&volume.path)) {
                let user = User::Volume(format!("{}/{}", volume.pool, volume.name));
                usage.follow(&chains, &bases, &[file], &user, &mut Vec::new());
            }
        }
        usage.volumes = storage.volumes.into_iter().filter(|volume| volume.pool == pool.name).collect();
        Ok(usage)
    }

    fn follow(
        &mut self,
        chains: &Chains,
        bases: &HashMap<String, &str>,
        files: &[NamedFile],
        user: &User,
        reached: &mut Vec<String>,
    ) {
        for file in files {
            match chains.of(file) {
                Ok(links) => {
                    for link in links {
                        match bases.get(&link) {
                            Some(base) => self.add(base, user.clone()),
                            // A name that cannot be resolved, `json:{…}`, is taken at its word.
                            None => bases.values().filter(|base| link.contains(**base)).for_each(|base| {
                                self.add(base, user.clone());
                            }),
                        }
                        reached.push(link);
                    }
                }
                Err(why) => self.unreadable.push(format!("`{}` of {user} ({why})", file.path)),
            }
        }
    }

    fn add(&mut self, base: &str, user: User) {
        let users = self.users.entry(base.to_owned()).or_default();
        if !users.contains(&user) {
            users.push(user);
            users.sort();
        }
    }

    /// Who stands on a base.
    pub(super) fn of(&self, base: &str) -> &[User] {
        self.users.get(base).map(Vec::as_slice).unwrap_or_default()
    }
}

/// What each file builds on.
struct Chains<'a> {
    host: &'a Host,
    volumes: HashMap<String, &'a StoredVolume>,
    named: HashMap<String, &'a StoredVolume>,
}

impl<'a> Chains<'a> {
    fn new(host: &'a Host, storage: &'a Storage) -> Self {
        let mut chains = Self { host, volumes: HashMap::new(), named: HashMap::new() };
        for volume in &storage.volumes {
            chains.volumes.insert(chains.real(&volume.path), volume);
            chains.named.insert(format!("{}/{}", volume.pool, volume.name), volume);
        }
        chains
    }

    /// A path without symbolic links, where it is this machine's.
    fn real(&self, path: &str) -> String {
        let local = self.host.virsh.is_local().then(|| Utf8Path::new(path).canonicalize_utf8().ok()).flatten();
        local.map_or_else(|| path.to_owned(), camino::Utf8PathBuf::into_string)
    }

    /// A file and everything that it builds on, by real paths; or why nobody can tell.
    fn of(&self, file: &NamedFile) -> Result<Vec<String>, String> {
        let mut links = Vec::new();
        let mut next = match self.named.get(&file.path) {
            Some(volume) => Some(volume.path.clone()),
            None => Some(file.path.clone()),
        };
        while let Some(path) = next.take() {
            let real = self.real(&path);
            if links.contains(&real) {
                break; // it builds on itself, which QEMU refuses to open
            }
            links.push(real.clone());
            match self.volumes.get(&real) {
                // libvirt does not look into block devices.
                Some(volume) if !(volume.backing.is_none() && real.starts_with("/dev/")) => {
                    next = volume.backing.as_deref().map(|backing| beside(&real, backing));
                }
                _ => {
                    links.extend(self.outside(&path, file.format.as_deref())?);
                }
            }
        }
        Ok(links)
    }

    /// Whether a file is there, as far as can be seen.
    fn is_there(&self, file: &NamedFile) -> bool {
        self.named.contains_key(&file.path)
            || self.volumes.contains_key(&self.real(&file.path))
            || Utf8Path::new(&file.path).exists()
    }

    /// The chain of a file that is in no pool.
    fn outside(&self, path: &str, format: Option<&str>) -> Result<Vec<String>, String> {
        let path = Utf8Path::new(path);
        if format == Some("raw") || path.as_str().contains(':') {
            return Ok(Vec::new());
        }
        if !path.is_absolute() {
            return Err("its storage pool is not started".to_owned());
        }
        if !self.host.virsh.is_local() {
            return Err("it is on another machine, in no storage pool".to_owned());
        }
        match path.try_exists() {
            Ok(true) => {}
            // It may be on a disk that is not mounted.
            Ok(false) => return Err("it is not there".to_owned()),
            Err(error) => return Err(error.to_string()),
        }
        let chain = qemu_img::chain(&self.host.runner, format, path).map_err(|error| error.to_string())?;
        Ok(chain.iter().map(|link| self.real(&beside(path.as_str(), link))).collect())
    }
}

/// A backing file as its overlay names it: relative to the overlay.
fn beside(overlay: &str, backing: &str) -> String {
    let folder = Utf8Path::new(overlay).parent().unwrap_or(Utf8Path::new("/"));
    if backing.contains(':') { backing.to_owned() } else { folder.join(backing).into_string() }
}
