//! `image delete`, `image prune`: only what is proven to be of no use to anybody.

use std::time::Duration;

use clap::Args;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    Base, base, fetch,
    list::{self, Companions, Image, active_pool},
    unknown_image,
    usage::Usage,
};
use crate::{
    error::{Code, Error, Result},
    model::image::Origin,
    ops::Host,
    store::{lock::Lock, partial_file},
    tools::virsh::Pool,
};

/// How long somebody who is building on an image is waited for.
const BUILD_WAIT: Duration = Duration::from_secs(30);

/// An image that was deleted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct DeletedImage {
    /// `deleted`.
    pub status: &'static str,
    /// The image's name.
    pub image: String,
    /// What distinguishes it from others of that name.
    pub id: String,
    /// The bytes that are free now: none where the image stays under other names.
    pub size: u64,
    /// The volumes that were deleted, as `pool/volume`.
    pub volumes: Vec<String>,
}

/// Deletes an image that nobody uses; of one that has several names only the name that is given.
pub fn delete(host: &Host, reference: &str) -> Result<DeletedImage> {
    let Some(pool) = active_pool(host)? else { return Err(unknown_image(host, reference)?) };
    let usage = Usage::look(host, &pool, false)?;
    let image = list::find(host, &list::read(host, &pool, &usage)?, reference)?;
    let _lock = lock(host, &pool, &image, BUILD_WAIT)?;
    // Again, now that nobody begins to build on it, and with what came into the pools by hand.
    let usage = Usage::look(host, &pool, true)?;
    let users = usage.of(image.volume_name());
    if !users.is_empty() {
        let users: Vec<_> = users.iter().map(ToString::to_string).collect();
        return Err(Error::conflict(format!("the image `{}` is in use by {}", image.name, users.join(", ")))
            .hint("Delete those first. `vmprov image list` shows which VMs use which images."));
    }
    require_proof(&usage)?;
    host.step(format!("deleting {}", image.name));
    // Of several names only the one that was given goes; the image goes with the last of them.
    match image.names.iter().find(|name| list::means(host, reference, name)) {
        Some(name) if image.leading > 1 => forget_name(host, &pool, &image, name),
        _ => remove(host, &pool, &image),
    }
}

/// Removes one of an image's names.
fn forget_name(host: &Host, pool: &Pool, image: &Image, name: &str) -> Result<DeletedImage> {
    let companions = Companions::read(host, pool)?;
    let mut named: Vec<_> =
        companions.leading_to(image.volume_name()).filter(|(_, base)| base.source == name).collect();
    if named.iter().any(|(_, base)| base.private_owner().is_none()) {
        // Clients' private names that are alike stay.
        named.retain(|(_, base)| base.private_owner().is_none());
    }
    let volumes = delete_volumes(host, pool, named.into_iter().map(|(companion, _)| companion.as_str()))?;
    Ok(DeletedImage { status: "deleted", image: name.to_owned(), id: image.id.clone(), size: 0, volumes })
}

/// Deletes volumes in this order; returns those that were there, as `pool/volume`.
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

/// Refuses to remove anything while a file that somebody uses cannot be looked into.
fn require_proof(usage: &Usage) -> Result<()> {
    if usage.unreadable.is_empty() {
        return Ok(());
    }
    Err(Error::conflict("nobody can tell which images are in use")
        .because(format!("this cannot be read: {}", usage.unreadable.join("; ")))
        .hint(
            "Mount what is not mounted, start the pools, run it as a user who can read the files (sudo); or undefine the VMs \
             whose disks are gone.",
        ))
}

/// Removes an image: first what leads to it, then what marks it as whole, last the image. One that is cut short is
/// finished by `prune` or `gc`.
fn remove(host: &Host, pool: &Pool, image: &Image) -> Result<DeletedImage> {
    let (companions, volume) = (Companions::read(host, pool)?, image.volume_name());
    let leading = companions.leading_to(volume).map(|(name, _)| name.as_str());
    let volumes = delete_volumes(host, pool, leading.chain([Base::companion_of(volume).as_str(), volume]))?;
    Ok(DeletedImage { status: "deleted", image: image.name.clone(), id: image.id.clone(), size: image.size, volumes })
}

/// What `prune` removes
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Args, Serialize, Deserialize, ToSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct PruneOptions {
    /// Change nothing; show what would be removed
    #[arg(long)]
    pub dry_run: bool,

    /// Also imported images and templates made of VMs, which cannot be fetched again
    #[arg(long)]
    pub all: bool,
}

/// What `prune` removed, or would.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Pruned {
    /// Whether nothing was changed.
    pub dry_run: bool,
    /// The images that were removed.
    pub images: Vec<PrunedImage>,
    /// The bytes that are free now, in the pool and in the cache.
    pub freed: u64,
    /// The images that nobody uses and that were kept, because they cannot be fetched again.
    pub kept: Vec<String>,
    /// Other volumes that were removed, as `pool/volume`: what led to images that are gone, uploads that were cut short.
    pub volumes: Vec<String>,
    /// Downloads that were cut short and removed.
    pub downloads: Vec<String>,
}

/// An image that `prune` removed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct PrunedImage {
    /// Its name.
    pub image: String,
    /// What distinguishes it from others of that name.
    pub id: String,
    /// The bytes that it occupied.
    pub size: u64,
}

/// Removes the images that nobody uses, and what was cut short. Those that were imported or made of VMs cannot be
/// fetched again: they go only with `all`.
pub fn prune(host: &Host, options: PruneOptions) -> Result<Pruned> {
    let PruneOptions { dry_run, all } = options;
    let mut pruned = Pruned { dry_run, ..Pruned::default() };
    if let Some(pool) = active_pool(host)? {
        let usage = Usage::look(host, &pool, true)?;
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

/// Removes an image if still nobody uses it; one that somebody is building on stays.
fn remove_unused(host: &Host, pool: &Pool, image: &Image) -> Result<bool> {
    let _lock = match lock(host, pool, image, Duration::ZERO) {
        Err(error) if error.code == Code::Busy => return Ok(false),
        lock => lock?,
    };
    let usage = Usage::look(host, pool, false)?;
    require_proof(&usage)?;
    if !usage.of(image.volume_name()).is_empty() {
        return Ok(false);
    }
    host.step(format!("removing {}", image.name));
    remove(host, pool, image).map(|_| true)
}

/// Removes what leads to images that are not there any more, or cannot be read.
fn remove_dangling(host: &Host, pool: &Pool, dry_run: bool) -> Result<Vec<String>> {
    let dangling = || {
        let Companions { bases, sources } = Companions::read(host, pool)?;
        let is_there = |base: &Base| bases.iter().any(|known| known.volume == base.volume);
        let dangling = sources.into_iter().filter(|(_, base)| !base.as_ref().is_some_and(is_there));
        Ok::<_, Error>(dangling.map(|(name, _)| name).collect::<Vec<_>>())
    };
    let mut names = dangling()?;
    if !names.is_empty() {
        // One that is being written just now cannot be read either, for a moment.
        std::thread::sleep(base::LOOK);
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

/// Removes the base volumes whose upload was cut short: those without a companion that can be read, that nobody is writing
/// and nobody uses. Returns them, and what there is of their companions, as `pool/volume`.
pub(in crate::ops) fn remove_unfinished(host: &Host) -> Result<Vec<String>> {
    let Some(pool) = active_pool(host)? else { return Ok(Vec::new()) };
    let mut removed = Vec::new();
    for name in &unfinished(host, &pool)? {
        let Some(_lock) = idle(host, &pool, name)? else { continue };
        if base::is_growing(host, &pool, name)? {
            continue;
        }
        // Again, now that nobody of this machine is at it: it may have been finished, and built on, meanwhile.
        let usage = Usage::look(host, &pool, true)?;
        require_proof(&usage)?;
        if !usage.of(name).is_empty() || Companions::read(host, &pool)?.bases.iter().any(|base| base.volume == *name) {
            continue;
        }
        removed.extend(delete_volumes(host, &pool, [Base::companion_of(name).as_str(), name])?);
    }
    Ok(removed)
}

/// The base volumes without a companion that can be read. One that is being uploaded just now is one of them.
fn unfinished(host: &Host, pool: &Pool) -> Result<Vec<String>> {
    let (whole, mut volumes) = (Companions::read(host, pool)?.bases, host.virsh.volumes_like(&pool.name, "base-")?);
    let is_whole = |name: &str| whole.iter().any(|base| base.volume == name);
    volumes.retain(|name| name.ends_with(".qcow2") && !is_whole(name));
    Ok(volumes)
}

/// The lock on a base volume, unless somebody of this machine is at it.
fn idle(host: &Host, pool: &Pool, name: &str) -> Result<Option<Lock>> {
    match Lock::take(&base::lock_name(host, pool, name)?, Duration::ZERO, &host.runner.cancel) {
        Err(error) if error.code == Code::Busy => Ok(None),
        lock => lock.map(Some),
    }
}

/// The base volumes whose upload was cut short, as far as this machine can tell.
pub(in crate::ops) fn find_unfinished(host: &Host) -> Result<Vec<String>> {
    let Some(pool) = active_pool(host)? else { return Ok(Vec::new()) };
    let names = unfinished(host, &pool)?;
    if names.is_empty() {
        return Ok(names);
    }
    let usage = Usage::look(host, &pool, false)?;
    let mut found = Vec::new();
    for name in names.iter().filter(|name| usage.of(name).is_empty()) {
        if idle(host, &pool, name)?.is_some() {
            found.push(format!("{}/{name}", pool.name));
        }
    }
    Ok(found)
}
