//! `image delete`, `image prune`: deleting images that are proven to be unused.

use std::time::Duration;

use clap::Args;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    Base, base, fetch,
    list::{self, Image, Manifests, active_pool},
    unknown_image,
    usage::Usage,
};
use crate::{
    error::{Code, Error, Hint, Result},
    model::image::Origin,
    ops::Host,
    store::{lock::Lock, partial_file},
    tools::virsh::Pool,
};

/// How long to wait for a VM that is being created from the image.
const CREATE_WAIT: Duration = Duration::from_secs(30);

/// An image that was deleted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct DeletedImage {
    /// `deleted`.
    pub status: &'static str,
    /// The image's name.
    pub image: String,
    /// The image's short ID.
    pub id: String,
    /// The space that was freed, in bytes: zero if the image stays under other names.
    pub size: u64,
    /// The volumes that were deleted, as `pool/volume`.
    pub volumes: Vec<String>,
}

/// Deletes an unused image. If the image has several names, deletes only the given one.
pub fn delete(host: &Host, reference: &str) -> Result<DeletedImage> {
    let Some(pool) = active_pool(host)? else { return Err(unknown_image(host, reference)?) };
    let usage = Usage::read(host, &pool, false)?;
    let image = list::find(host, &list::read(host, &pool, &usage)?, reference)?;
    let _lock = lock(host, &pool, &image, CREATE_WAIT)?;
    // Under the lock no new VM can use it. This read also finds files that were put into the pools by hand.
    let usage = Usage::read(host, &pool, true)?;
    let users = usage.of(image.volume_name());
    if !users.is_empty() {
        let users: Vec<_> = users.iter().map(ToString::to_string).collect();
        return Err(Error::conflict(format!("image `{}` is in use by {}", image.name, users.join(", ")))
            .hint("Delete its users first")
            .hint(Hint::call_any("List the images with their VMs", "image_list")));
    }
    require_proof(&usage)?;
    host.step(format!("deleting {}", image.name));
    // The image itself is deleted with its last name.
    match image.names.iter().find(|name| list::means(host, reference, name)) {
        Some(name) if image.source_count > 1 => remove_name(host, &pool, &image, name),
        _ => remove(host, &pool, &image),
    }
}

/// Removes one of an image's names.
fn remove_name(host: &Host, pool: &Pool, image: &Image, name: &str) -> Result<DeletedImage> {
    let manifests = Manifests::read(host, pool)?;
    let mut named: Vec<_> = manifests.leading_to(image.volume_name()).filter(|(_, base)| base.source == name).collect();
    if named.iter().any(|(_, base)| base.private_owner().is_none()) {
        // Clients' private names stay, even if they are equal to the shared one.
        named.retain(|(_, base)| base.private_owner().is_none());
    }
    let volumes = delete_volumes(host, pool, named.into_iter().map(|(manifest, _)| manifest.as_str()))?;
    Ok(DeletedImage { status: "deleted", image: name.to_owned(), id: image.id.clone(), size: 0, volumes })
}

/// Deletes volumes in this order. Returns those that existed, as `pool/volume`.
fn delete_volumes<'n>(host: &Host, pool: &Pool, names: impl IntoIterator<Item = &'n str>) -> Result<Vec<String>> {
    let mut deleted = Vec::new();
    for name in names {
        if host.virsh.delete_volume(&pool.name, name)? {
            deleted.push(format!("{}/{name}", pool.name));
        }
    }
    Ok(deleted)
}

fn lock(host: &Host, pool: &Pool, image: &Image, wait: Duration) -> Result<Lock> {
    Lock::take(&base::lock_name(host, pool, image.volume_name())?, wait, &host.runner.cancel)
}

/// Refuses to remove anything if a file that a VM uses cannot be read.
fn require_proof(usage: &Usage) -> Result<()> {
    if usage.unreadable.is_empty() {
        return Ok(());
    }
    Err(Error::conflict("cannot determine which images are in use")
        .because(format!("cannot read {}", usage.unreadable.join("; ")))
        .hint("Mount missing file systems, and start inactive pools")
        .hint("Run vmprov as a user who can read the files, for example with sudo")
        .hint("Undefine VMs whose disks no longer exist"))
}

/// Removes an image: first its source manifests, then its base manifest, and last the base volume. `prune` or `gc`
/// finishes an interrupted removal.
fn remove(host: &Host, pool: &Pool, image: &Image) -> Result<DeletedImage> {
    let (manifests, volume) = (Manifests::read(host, pool)?, image.volume_name());
    let leading = manifests.leading_to(volume).map(|(name, _)| name.as_str());
    let volumes = delete_volumes(host, pool, leading.chain([Base::manifest_of(volume).as_str(), volume]))?;
    Ok(DeletedImage { status: "deleted", image: image.name.clone(), id: image.id.clone(), size: image.size, volumes })
}

/// Selects what `prune` removes
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Args, Serialize, Deserialize, ToSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct PruneOptions {
    /// Show what would be removed, without changing anything
    #[arg(long)]
    pub dry_run: bool,

    /// Also remove imported images and templates made from VMs, which cannot be fetched again
    #[arg(long)]
    pub all: bool,
}

/// What `prune` removed, or would remove.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Pruned {
    /// Whether this is a dry run, which changes nothing.
    pub dry_run: bool,
    /// The images that were removed.
    pub images: Vec<PrunedImage>,
    /// The space that was freed in the pool and in the cache, in bytes.
    pub freed: u64,
    /// The unused images that were kept, because they cannot be fetched again.
    pub kept: Vec<String>,
    /// Other volumes that were removed, as `pool/volume`: manifests without an image, and interrupted uploads.
    pub volumes: Vec<String>,
    /// Interrupted downloads that were removed.
    pub downloads: Vec<String>,
}

/// An image that `prune` removed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct PrunedImage {
    /// The image's name.
    pub image: String,
    /// The image's short ID.
    pub id: String,
    /// The space that it occupied, in bytes.
    pub size: u64,
}

/// Removes unused images, and interrupted downloads and uploads. Images that were imported or made from VMs cannot be
/// fetched again, so they are removed only with `all`.
pub fn prune(host: &Host, options: PruneOptions) -> Result<Pruned> {
    let PruneOptions { dry_run, all } = options;
    let mut pruned = Pruned { dry_run, ..Pruned::default() };
    if let Some(pool) = active_pool(host)? {
        let usage = Usage::read(host, &pool, true)?;
        require_proof(&usage)?;
        for image in list::read(host, &pool, &usage)? {
            if !usage.of(image.volume_name()).is_empty() {
                continue;
            }
            if image.origin != Origin::Fetched && !all {
                pruned.kept.push(image.name);
                continue;
            }
            if dry_run || remove_unused(host, &pool, &image)? {
                pruned.freed += image.size;
                pruned.images.push(PrunedImage { image: image.name, id: image.id, size: image.size });
            }
        }
        pruned.volumes = remove_dangling(host, &pool, dry_run)?;
        if !dry_run {
            pruned.volumes.extend(remove_unfinished(host)?);
        }
    }
    for (file, size) in partial_file::list(&fetch::downloads(host)) {
        if dry_run || partial_file::remove(&file) {
            pruned.freed += size;
            pruned.downloads.push(file.into_string());
        }
    }
    Ok(pruned)
}

/// Removes an image if it is still unused and no VM is being created from it.
fn remove_unused(host: &Host, pool: &Pool, image: &Image) -> Result<bool> {
    let _lock = match lock(host, pool, image, Duration::ZERO) {
        Err(error) if error.code == Code::Busy => return Ok(false),
        lock => lock?,
    };
    let usage = Usage::read(host, pool, false)?;
    require_proof(&usage)?;
    if !usage.of(image.volume_name()).is_empty() {
        return Ok(false);
    }
    host.step(format!("removing {}", image.name));
    remove(host, pool, image).map(|_| true)
}

/// Removes source manifests that are invalid or whose image no longer exists.
fn remove_dangling(host: &Host, pool: &Pool, dry_run: bool) -> Result<Vec<String>> {
    let dangling = || {
        let Manifests { bases, sources } = Manifests::read(host, pool)?;
        let is_there = |base: &Base| bases.iter().any(|known| known.volume == base.volume);
        let dangling = sources.into_iter().filter(|(_, base)| !base.as_ref().is_some_and(is_there));
        Ok::<_, Error>(dangling.map(|(name, _)| name).collect::<Vec<_>>())
    };
    let mut names = dangling()?;
    if !names.is_empty() {
        // A manifest that is being written is also invalid for a moment.
        std::thread::sleep(base::GROWTH_CHECK);
        let still = dangling()?;
        names.retain(|name| still.contains(name));
    }
    let mut removed = Vec::new();
    for name in names {
        if dry_run || host.virsh.delete_volume(&pool.name, &name)? {
            removed.push(format!("{}/{name}", pool.name));
        }
    }
    Ok(removed)
}

/// Removes the base volumes of interrupted uploads: those without a valid manifest that are unused and not being
/// written. Returns them and their invalid manifests, as `pool/volume`.
pub(in crate::ops) fn remove_unfinished(host: &Host) -> Result<Vec<String>> {
    let Some(pool) = active_pool(host)? else { return Ok(Vec::new()) };
    let mut removed = Vec::new();
    for name in &unfinished(host, &pool)? {
        let Some(_lock) = try_lock(host, &pool, name)? else { continue };
        if base::is_growing(host, &pool, name)? {
            continue;
        }
        // Checked again under the lock: the upload may have been completed meanwhile, and the image may be in use.
        let usage = Usage::read(host, &pool, true)?;
        require_proof(&usage)?;
        if !usage.of(name).is_empty() || Manifests::read(host, &pool)?.bases.iter().any(|base| base.volume == *name) {
            continue;
        }
        removed.extend(delete_volumes(host, &pool, [Base::manifest_of(name).as_str(), name])?);
    }
    Ok(removed)
}

/// Returns the base volumes without a valid manifest, including those that are being uploaded.
fn unfinished(host: &Host, pool: &Pool) -> Result<Vec<String>> {
    let (whole, mut volumes) = (Manifests::read(host, pool)?.bases, host.virsh.volumes_like(&pool.name, "base-")?);
    let is_whole = |name: &str| whole.iter().any(|base| base.volume == name);
    volumes.retain(|name| name.ends_with(".qcow2") && !is_whole(name));
    Ok(volumes)
}

/// Takes the lock on a base volume; none if a process of this machine holds it.
fn try_lock(host: &Host, pool: &Pool, name: &str) -> Result<Option<Lock>> {
    match Lock::take(&base::lock_name(host, pool, name)?, Duration::ZERO, &host.runner.cancel) {
        Err(error) if error.code == Code::Busy => Ok(None),
        lock => lock.map(Some),
    }
}

/// Returns the base volumes of interrupted uploads, as far as this machine can tell.
pub(in crate::ops) fn find_unfinished(host: &Host) -> Result<Vec<String>> {
    let Some(pool) = active_pool(host)? else { return Ok(Vec::new()) };
    let names = unfinished(host, &pool)?;
    if names.is_empty() {
        return Ok(names);
    }
    let usage = Usage::read(host, &pool, false)?;
    let mut found = Vec::new();
    for name in names.iter().filter(|name| usage.of(name).is_empty()) {
        if try_lock(host, &pool, name)?.is_some() {
            found.push(format!("{}/{name}", pool.name));
        }
    }
    Ok(found)
}
