//! Unused volumes that cannot be opened: overlays whose backing file is missing.

use std::collections::HashSet;

use super::{
    Host,
    chains::{Chains, file_of},
};
use crate::{
    error::Result,
    tools::virsh::{Storage, StoredVolume},
};

/// Returns the orphaned overlays of the configured pool, each before the files of its backing chain. No domain or
/// snapshot names such an overlay, no VM owns it, and its backing file is missing from an active pool.
pub(super) fn find<'s>(host: &Host, storage: &'s Storage) -> Vec<&'s StoredVolume> {
    let chains = Chains::new(host, storage);
    let named: HashSet<_> = (storage.domains.iter())
        .flat_map(|domain| domain.files.iter().chain(domain.snapshots.iter().flat_map(|(_, files)| files)))
        .flat_map(|file| chains.reach(file))
        .collect();
    let owned: HashSet<_> = (storage.domains.iter())
        .filter_map(|domain| domain.metadata.as_ref())
        .flat_map(|metadata| &metadata.volumes)
        .map(|volume| (volume.pool.as_str(), volume.name.as_str()))
        .collect();
    let is_orphan = |volume: &&StoredVolume| {
        volume.pool == host.settings.pool
            && !named.contains(&chains.real(&volume.path))
            && !owned.contains(&(volume.pool.as_str(), volume.name.as_str()))
            && chains.lost_file(&file_of(volume)).is_some_and(|lost| lost != chains.real(&volume.path))
    };
    let mut orphans: Vec<_> = storage.volumes.iter().filter(is_orphan).collect();
    orphans.sort_by_key(|volume| std::cmp::Reverse(chains.reach(&file_of(volume)).len()));
    orphans
}

/// Returns the orphaned overlays as `pool/volume`, and deletes them if requested.
pub(super) fn collect(host: &Host, delete: bool) -> Result<Vec<String>> {
    let storage = host.virsh.storage(true)?;
    let mut names = Vec::new();
    for volume in find(host, &storage) {
        if !delete || host.virsh.delete_volume(&volume.pool, &volume.name)? {
            names.push(format!("{}/{}", volume.pool, volume.name));
        }
    }
    Ok(names)
}
