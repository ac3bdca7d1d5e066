//! The users of each base image, determined from the files and never from names.
//!
//! The backing chains are followed to their ends from the disks of every domain, running or not, from those of every
//! snapshot, and from every volume of every active pool. If a file cannot be read, nothing may be removed. A file that
//! is missing from an active pool uses nothing.

use std::collections::{BTreeMap, HashMap};

use crate::{
    error::Result,
    model::record::{Phase, VmRecord},
    ops::{
        Host,
        chains::{Chains, Dependent},
    },
    tools::virsh::{NamedFile, Pool, StoredVolume},
};

/// The users of each base image of a pool.
#[derive(Debug, Default)]
pub(super) struct Usage {
    users: BTreeMap<String, Vec<Dependent>>,
    /// Files that cannot be read, each with its owner and the reason.
    pub(super) unreadable: Vec<String>,
    /// The volumes of the pool.
    pub(super) volumes: Vec<StoredVolume>,
}

impl Usage {
    /// Reads the usage. `refresh` also finds files that were put into the pools without libvirt.
    pub(super) fn read(host: &Host, pool: &Pool, refresh: bool) -> Result<Self> {
        let storage = host.virsh.storage(refresh)?;
        let chains = Chains::new(host, &storage);
        let mut usage = Self::default();
        let bases: HashMap<String, &str> = (storage.volumes.iter())
            .filter(|volume| volume.pool == pool.name && volume.name.starts_with("base-"))
            .map(|volume| (chains.real(&volume.path), volume.name.as_str()))
            .collect();
        let mut reached = Vec::new();
        for domain in &storage.domains {
            // A domain that is being created or deleted may lack some files.
            let is_complete = !domain.metadata.as_ref().is_some_and(VmRecord::is_incomplete);
            let is_expected = |file: &&NamedFile| is_complete || chains.is_there(file);
            let files: Vec<_> = domain.files.iter().filter(is_expected).cloned().collect();
            usage.follow(&chains, &bases, &files, &Dependent::Vm(domain.name.clone()), &mut reached);
            for (snapshot, files) in &domain.snapshots {
                let user = Dependent::Snapshot(format!("{}/{snapshot}", domain.name));
                usage.follow(&chains, &bases, files, &user, &mut reached);
            }
            // Without its disk, because it is being created or has lost the disk, a VM's record is the only evidence.
            let is_lost = || domain.files.iter().any(|file| chains.lost_file(file).is_some());
            let lacks_disk = |record: &&VmRecord| record.phase == Phase::Creating || is_lost();
            if let Some(image) = domain.metadata.as_ref().filter(lacks_disk).and_then(|record| record.image.as_ref()) {
                usage.add(&image.base, Dependent::Vm(domain.name.clone()));
            }
        }
        for volume in &storage.volumes {
            let file = NamedFile { path: volume.path.clone(), format: None };
            if volume.backing.is_some() && !reached.contains(&chains.real(&volume.path)) {
                let user = Dependent::Volume(format!("{}/{}", volume.pool, volume.name));
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
        user: &Dependent,
        reached: &mut Vec<String>,
    ) {
        for file in files {
            for link in chains.reach(file) {
                match bases.get(&link) {
                    Some(base) => self.add(base, user.clone()),
                    // A name that cannot be resolved, like `json:{…}`, is searched for the names of bases.
                    None => bases.values().filter(|base| link.contains(**base)).for_each(|base| {
                        self.add(base, user.clone());
                    }),
                }
                reached.push(link);
            }
            // A chain with a lost file cannot be opened any more. Another unreadable chain may become readable again.
            if let Err(why) = chains.of(file)
                && chains.lost_file(file).is_none()
            {
                self.unreadable.push(format!("`{}` of {user} ({why})", file.path));
            }
        }
    }

    fn add(&mut self, base: &str, user: Dependent) {
        let users = self.users.entry(base.to_owned()).or_default();
        if !users.contains(&user) {
            users.push(user);
            users.sort();
        }
    }

    /// Returns the users of a base.
    pub(super) fn of(&self, base: &str) -> &[Dependent] {
        self.users.get(base).map(Vec::as_slice).unwrap_or_default()
    }
}
