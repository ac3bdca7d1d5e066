//! `commit`: makes a base image of a VM that is shut off, without the guest's identity.

use std::time::Duration;

use camino::Utf8PathBuf;
use clap::Args;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::{
    error::{Code, Error, Hint, Result},
    model::{image::ImageName, record::VolumeRole},
    ops::{
        Host, accelerator,
        image::{self, Image},
        lease::Lease,
        prepare,
        undo::undoing,
        vm::{look_up, require_complete},
    },
    store::{
        checksum_file::Sums,
        disk_space,
        kvm_verdict::Verdict,
        partial_file::{self, Temporary},
        system,
    },
    tools::{
        guestfs,
        qemu_img::{self, Format},
        virsh::Domain,
    },
};

/// The prefix of the names of temporary copies of disks, by which `gc` finds them.
const COPY: &str = "vmprov-commit-";

/// The prefix of the names of the files that copies are downloaded into.
const FILE: &str = "commit-";

/// The maximum number of layers to follow, which is more than any disk has.
const MAX_LAYERS: usize = 200;

/// Describes the image to make
#[derive(Debug, Clone, PartialEq, Eq, Args, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NewCommit {
    // Without an index, the shell completions put this argument after the others.
    /// VM, by name or UUID; it must be shut off
    #[arg(index = 1)]
    #[schema(min_length = 1, max_length = 255)]
    pub vm: String,

    /// Name for the image, as in golden or golden:2
    #[arg(index = 2)]
    pub image: ImageName,
}

/// Makes a base image of a VM's disk. This does not change the VM.
pub fn commit(host: &Host, new: &NewCommit) -> Result<Image> {
    let (listed, domain) = look_up(host, &new.vm)?;
    let lease = crate::ops::vm::lock(host, &listed.name)?;
    let host = &lease.host;
    require_complete(&domain)?;
    let name = &listed.name;
    if listed.state.is_active() {
        let message = format!("VM `{name}` is {}: its disk may change while it is copied", listed.state);
        return Err(Error::conflict(message).hint(Hint::call_on_vm("Shut it down first", "vm_stop", name)));
    }
    if host.virsh.has_managed_save(listed.uuid)? {
        return Err(Error::conflict(format!("VM `{name}` has a saved state: its disk is not consistent"))
            .hint(Hint::call_on_vm("Start it first", "vm_start", name))
            .hint(Hint::call_on_vm("Shut it down afterwards", "vm_stop", name)));
    }
    let _reserved = image::reserve(host, &new.image)?;
    guestfs::check(&host.runner)?;
    let (pool, volume) = disk(host, &domain)?;
    let file = copy(host, &new.image, &pool, &volume)?;
    host.step("removing the guest's identity");
    // libguestfs starts its appliance with KVM if the device opens.
    let emulate = matches!(accelerator::verdict(host), Some(Verdict::Fails(_))) || system::has_only_pvm();
    guestfs::remove_identity(&host.runner, &file.path, emulate)?;
    keep(host, new, &domain, &file)
}

/// Returns the pool and the name of the volume that the VM boots from.
fn disk(host: &Host, domain: &Domain) -> Result<(String, String)> {
    let owned = domain.metadata.iter().flat_map(|metadata| &metadata.volumes);
    let seeds: Vec<_> =
        owned.filter(|volume| volume.role != VolumeRole::Disk).map(|volume| volume.name.as_str()).collect();
    let file_name = |source: &str| source.rsplit('/').next().unwrap_or_default().to_owned();
    let mut disks = (domain.disks.iter())
        .filter(|disk| disk.device == "disk")
        .filter_map(|disk| disk.source.as_deref())
        .filter(|source| !seeds.contains(&file_name(source).as_str()));
    let Some(source) = disks.next() else {
        return Err(Error::conflict(format!("VM `{}` has no disk", domain.name)));
    };
    for other in disks {
        host.progress.warn(&format!("the image contains only `{source}`, not `{other}`"));
    }
    if let Some((pool, volume)) = source.split_once('/').filter(|(pool, _)| !pool.is_empty()) {
        return Ok((pool.to_owned(), volume.to_owned()));
    }
    let known = match host.virsh.volume_of(source)? {
        // libvirt does not know the overlay of an external snapshot before the pool is refreshed.
        None => {
            host.virsh.refresh_pools()?;
            host.virsh.volume_of(source)?
        }
        known => known,
    };
    known.ok_or_else(|| {
        let folder = Utf8PathBuf::from(source);
        let folder = folder.parent().map(ToString::to_string).unwrap_or_default();
        let create = format!("virsh pool-create-as vmprov-tmp dir --target {}", shell_words::quote(&folder));
        Error::conflict(format!("the disk `{source}` of VM `{}` is not in an active storage pool", domain.name))
            .hint(Hint::run("Create a pool for its directory", create))
    })
}

/// Copies the disk and its backing chain into one local file. libvirt reads them, so this process needs no access to
/// the files.
fn copy(host: &Host, image: &ImageName, pool: &str, volume: &str) -> Result<Temporary> {
    let unique = Uuid::new_v4().simple().to_string();
    let clone = format!("{COPY}{unique}.qcow2");
    let _lease = Lease::take(host, &lease_name(pool, &clone), Duration::ZERO)?;
    let file = Temporary::new(&image::downloads(host), &format!("{FILE}{unique}"))?;
    let delete = {
        let (host, pool, clone) = (host.uncancellable(), pool.to_owned(), clone.clone());
        move || host.virsh.delete_volume(&pool, &clone).map(drop)
    };
    undoing(|undo| {
        host.step("copying the VM's disk");
        require_space_for_copy(host, image, pool, volume)?;
        undo.push(format!("volume `{clone}`"), delete.clone());
        host.virsh.clone_volume(pool, volume, &clone)?;
        let size = host.virsh.volume(pool, &clone)?.map(|volume| volume.allocation).unwrap_or_default();
        disk_space::require(&host.settings.cache_dir, size)?;
        host.virsh.download(pool, &clone, &file.path)?;
        delete()
    })?;
    Ok(file)
}

/// Refuses a copy that does not fit into the pool or the quota. Its size is at most that of all layers together.
fn require_space_for_copy(host: &Host, image: &ImageName, pool: &str, volume: &str) -> Result<()> {
    let storage = host.virsh.storage(false)?;
    let mut next = storage.volumes.iter().find(|known| known.pool == pool && known.name == volume);
    let (mut size, mut layers) = (0, 0);
    while let Some(layer) = next.filter(|_| layers < MAX_LAYERS) {
        size += layer.allocation;
        layers += 1;
        next = storage.volumes.iter().find(|known| Some(&known.path) == layer.backing.as_ref());
    }
    host.allowance.take_image(&image::manifest(host, image), size)?;
    host.virsh.pool(pool)?.map_or(Ok(()), |pool| image::require_space(host, &pool, size))
}

fn keep(host: &Host, new: &NewCommit, domain: &Domain, file: &Temporary) -> Result<Image> {
    let info = qemu_img::info(&host.runner, Format::Qcow2, &file.path)?;
    qemu_img::check(&host.runner, &file.path)?;
    host.step("computing the image's checksum");
    let sha256 = Sums::of(&file.path, &[], &host.runner.cancel)?.sha256();
    let pool = prepare::pool(host, host.virsh.pool(&host.settings.pool)?.as_ref())?;
    let user = domain.metadata.as_ref().and_then(|metadata| metadata.user.clone());
    let base = domain.metadata.as_ref().and_then(|metadata| metadata.image.as_ref()).map(|image| image.base.clone());
    let made = image::Made { file: &file.path, sha256, virtual_size: info.virtual_size, user, base };
    image::keep_made(host, &pool, &new.image, made)
}

fn lease_name(pool: &str, clone: &str) -> String {
    format!("the volume `{clone}` of pool `{pool}`")
}

/// Removes the leftovers of interrupted commits: copies in the pools, as `pool/volume`, and local files.
pub(in crate::ops) fn remove_copies(host: &Host) -> Result<Vec<String>> {
    let mut removed = Vec::new();
    for (pool, copy) in copies(host)? {
        if host.virsh.delete_volume(&pool, &copy)? {
            removed.push(format!("{pool}/{copy}"));
        }
    }
    let files = partial_file::list(&image::downloads(host)).into_iter().map(|(file, _)| file);
    let files = files.filter(|file| file.file_name().is_some_and(|name| name.starts_with(FILE)));
    removed.extend(files.filter(|file| partial_file::remove(file)).map(Utf8PathBuf::into_string));
    Ok(removed)
}

/// Returns the copies in the pools that no running commit uses, each with its pool.
pub(in crate::ops) fn copies(host: &Host) -> Result<Vec<(String, String)>> {
    let mut found = Vec::new();
    for pool in host.virsh.active_pools()? {
        for copy in host.virsh.volumes_like(&pool, COPY)? {
            match Lease::take(host, &lease_name(&pool, &copy), Duration::ZERO) {
                Err(error) if error.code == Code::Busy => {}
                lease => {
                    drop(lease?);
                    found.push((pool.clone(), copy));
                }
            }
        }
    }
    Ok(found)
}
