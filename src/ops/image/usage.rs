//! Who stands on which base image: proven from the files, never from names.
//!
//! Followed are the disks of every domain, running or not, those of every snapshot, and every volume of every active
//! pool, each down to the end of its chain. A file that cannot be read proves nothing, so nothing may be removed then;
//! one that is gone from a pool which is there cannot use anything any more.

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

/// Who stands on each base image of a pool.
#[derive(Debug, Default)]
pub(super) struct Usage {
    users: BTreeMap<String, Vec<Dependent>>,
    /// Files that nobody can look into, each with its owner and the reason.
    pub(super) unreadable: Vec<String>,
    /// The volumes of the pool.
    pub(super) volumes: Vec<StoredVolume>,
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
            let whole = !domain.metadata.as_ref().is_some_and(VmRecord::is_incomplete);
            let there = |file: &&NamedFile| whole || chains.is_there(file);
            let files: Vec<_> = domain.files.iter().filter(there).cloned().collect();
            usage.follow(&chains, &bases, &files, &Dependent::Vm(domain.name.clone()), &mut reached);
            for (snapshot, files) in &domain.snapshots {
                let user = Dependent::Snapshot(format!("{}/{snapshot}", domain.name));
                usage.follow(&chains, &bases, files, &user, &mut reached);
            }
            // One that is being created may not have its disk yet, and one may have lost it; what it notes is all there is.
            let is_lost = || domain.files.iter().any(|file| chains.lost_file(file).is_some());
            let noted = |metadata: &&VmRecord| metadata.phase == Phase::Creating || is_lost();
            if let Some(image) = domain.metadata.as_ref().filter(noted).and_then(|metadata| metadata.image.as_ref()) {
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
                    // A name that cannot be resolved, `json:{…}`, is taken at its word.
                    None => bases.values().filter(|base| link.contains(**base)).for_each(|base| {
                        self.add(base, user.clone());
                    }),
                }
                reached.push(link);
            }
            // A chain whose end is gone for good could not be opened with any image; only one that may come back could.
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

    /// Who stands on a base.
    pub(super) fn of(&self, base: &str) -> &[Dependent] {
        self.users.get(base).map(Vec::as_slice).unwrap_or_default()
    }
}
