//! Finds the volumes that are deleted with a VM, and what depends on them.

use std::collections::{BTreeSet, HashMap, HashSet};

use uuid::Uuid;

use crate::{
    error::{Code, Error, Result},
    model::record::{OwnedVolume, VmRecord, VolumeRole},
    ops::{
        Host,
        chains::{Chains, Dependent, file_of},
    },
    tools::virsh::{NamedFile, Storage, StoredVolume},
};

/// Returns the volumes to delete with a VM, in an order that is safe: each overlay before its backing volume. These are
/// the volumes that it owns, the overlays that snapshots have put on top of them, and rotated logs of its console.
///
/// # Errors
/// [`Code::Conflict`] if the backing chain of another domain, snapshot or volume contains one of them. Deleting that
/// volume would destroy their data.
pub(in crate::ops) fn volumes_of(host: &Host, uuid: Uuid, metadata: &VmRecord) -> Result<Vec<OwnedVolume>> {
    let storage = read_storage(host)?;
    let chains = Chains::new(host, &storage);
    let found = Found::search(&storage, &chains, uuid, metadata);
    let dependents = found.dependents(&storage, &chains, uuid);
    if !dependents.is_empty() {
        let dependents: Vec<_> = dependents.iter().map(ToString::to_string).collect();
        return Err(Error::conflict("cannot delete the VM's volumes: other resources depend on them")
            .because(dependents.join("; "))
            .hint("Delete those resources first")
            .hint("Alternatively, make them independent with `virsh blockpull` or `qemu-img rebase`"));
    }
    // A volume that libvirt has not listed may still exist.
    let known: HashSet<_> = found.layers.iter().map(|(volume, _)| (&*volume.pool, &*volume.name)).collect();
    let unknown = metadata.volumes.iter().rev().filter(|volume| !known.contains(&(&*volume.pool, &*volume.name)));
    let unknown: Vec<_> = unknown.cloned().collect();
    let layers = found.layers.iter().map(|(volume, role)| OwnedVolume {
        pool: volume.pool.clone(),
        name: volume.name.clone(),
        role: *role,
    });
    Ok(layers.chain(unknown).collect())
}

/// Reads everything that can use a volume. A pool cannot be refreshed during an upload into it.
fn read_storage(host: &Host) -> Result<Storage> {
    match host.virsh.storage(true) {
        Err(error) if error.code == Code::Busy => host.virsh.storage(false),
        storage => storage,
    }
}

/// The volumes of a VM.
struct Found<'s> {
    /// The volumes with their roles; each overlay comes before its backing volume.
    layers: Vec<(&'s StoredVolume, VolumeRole)>,
    /// Their paths.
    paths: HashSet<String>,
}

impl<'s> Found<'s> {
    fn search(storage: &'s Storage, chains: &Chains, uuid: Uuid, metadata: &VmRecord) -> Self {
        let roles: HashMap<_, _> =
            metadata.volumes.iter().map(|volume| ((&*volume.pool, &*volume.name), volume.role)).collect();
        let pools: HashSet<_> = metadata.volumes.iter().map(|volume| volume.pool.as_str()).collect();
        let owned: HashSet<_> = (storage.volumes.iter())
            .filter(|volume| roles.contains_key(&(&*volume.pool, &*volume.name)))
            .map(|volume| chains.real(&volume.path))
            .collect();
        let domain = storage.domains.iter().find(|domain| domain.uuid == uuid);
        let made: HashSet<_> =
            domain.iter().flat_map(|domain| &domain.made_by_snapshots).map(|path| chains.real(path)).collect();
        let named: HashSet<_> = (domain.iter())
            .flat_map(|domain| domain.files.iter().chain(domain.snapshots.iter().flat_map(|(_, files)| files)))
            .flat_map(|file| chains.reach(file))
            .collect();
        let logs = metadata.volumes.iter().filter(|volume| volume.role == VolumeRole::Console);
        let logs: Vec<_> = logs.map(|log| (log.pool.as_str(), format!("{}.", log.name))).collect();

        let role_of = |volume: &StoredVolume| {
            let known = roles.get(&(&*volume.pool, &*volume.name)).copied();
            known.or_else(|| {
                let real = chains.real(&volume.path);
                // virtlogd renames a log that has grown too large.
                let is_log = |(pool, prefix): &(&str, String)| volume.pool == *pool && volume.name.starts_with(prefix);
                if logs.iter().any(is_log) {
                    return Some(VolumeRole::Console);
                }
                let is_ours = pools.contains(volume.pool.as_str()) && !volume.name.starts_with("base-");
                let on_top =
                    || named.contains(&real) && chains.reach(&file_of(volume)).iter().any(|link| owned.contains(link));
                (is_ours && (made.contains(&real) || on_top())).then_some(VolumeRole::Disk)
            })
        };
        let mut layers: Vec<_> = storage.volumes.iter().filter_map(|volume| Some((volume, role_of(volume)?))).collect();
        let paths: HashSet<_> = layers.iter().map(|(volume, _)| chains.real(&volume.path)).collect();
        // A volume with more of the others in its backing chain comes earlier. Otherwise, the newest comes first.
        let made_at: HashMap<_, _> =
            metadata.volumes.iter().zip(0..).map(|(volume, at)| ((&*volume.pool, &*volume.name), at)).collect();
        layers.sort_by_cached_key(|(volume, _)| {
            let links = chains.reach(&file_of(volume)).iter().filter(|link| paths.contains(*link)).count();
            let made = made_at.get(&(&*volume.pool, &*volume.name)).copied().unwrap_or(usize::MAX);
            std::cmp::Reverse((links, made))
        });
        Self { layers, paths }
    }

    /// Returns what else depends on them, each with the volume that it depends on. A backing chain that cannot be read
    /// completely counts as far as it can be read.
    fn dependents(&self, storage: &Storage, chains: &Chains, uuid: Uuid) -> BTreeSet<String> {
        let mut found = BTreeSet::new();
        let mut add = |file: &NamedFile, dependent: &dyn Fn() -> Dependent| {
            let links = chains.reach(file);
            if let Some(link) = links.iter().find(|link| self.paths.contains(*link)) {
                found.insert(format!("{} uses {link}", dependent()));
            }
        };
        for domain in storage.domains.iter().filter(|domain| domain.uuid != uuid) {
            for file in &domain.files {
                add(file, &|| Dependent::Vm(domain.name.clone()));
            }
            for (snapshot, files) in &domain.snapshots {
                for file in files {
                    add(file, &|| Dependent::Snapshot(format!("{}/{snapshot}", domain.name)));
                }
            }
        }
        for volume in storage.volumes.iter().filter(|volume| volume.backing.is_some()) {
            if !self.paths.contains(&chains.real(&volume.path)) {
                let dependent = || Dependent::Volume(format!("{}/{}", volume.pool, volume.name));
                add(&file_of(volume), &dependent);
            }
        }
        found
    }
}
