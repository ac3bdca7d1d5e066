//! Finds a VM's own disk and plans its growth.

use super::{
    Before, Effect, Item,
    step::{Action, Step},
};
use crate::{
    error::{Error, Hint, Result},
    model::{
        record::{OwnedVolume, VolumeRole},
        size::DiskSize,
        specification::{Difference, exact},
    },
    ops::Host,
};

/// Returns the effect of growing the disk, and the step for it if one is needed.
pub(super) fn grow(host: &Host, before: &Before, to: DiskSize) -> Result<(Item, Option<Step>)> {
    let name = &before.listed.name;
    let (target, path) = own(before)?;
    let from = match &before.live {
        Some(_) => host.virsh.live_capacity(before.listed.uuid, target)?,
        None => host.virsh.capacity_at(path)?.ok_or_else(|| {
            Error::conflict(format!("the disk of VM `{name}` is not in an active storage pool: {path}"))
                .hint(Hint::call_on_vm("Start the VM, because such a disk grows only while it runs", "vm_start", name))
        })?,
    };
    let bytes = to.bytes();
    if bytes < from {
        let message = format!("cannot shrink the disk of VM `{name}` from {} to {}", exact(from), exact(bytes));
        return Err(Error::invalid(message)
            .because("shrinking would cut off the data at the end of the disk")
            .hint("Create another VM with a smaller disk and move the data to it"));
    }
    let difference = Difference { member: "diskSize", from: exact(from), to: exact(bytes) };
    if bytes == from {
        return Ok((Item { difference, effect: Effect::Unchanged }, None));
    }
    let (action, effect) = match &before.live {
        Some(_) => (Action::LiveDisk(target.to_owned(), bytes), Effect::Live),
        None => (Action::Volume(path.to_owned(), bytes), Effect::NextStart),
    };
    if before.live.is_none() && host.virsh.has_managed_save(before.listed.uuid)? {
        return Err(Error::conflict(format!("VM `{name}` has a saved state, which depends on the size of its disk"))
            .hint(Hint::call_on_vm("Start it first and grow the disk while it runs", "vm_start", name)));
    }
    Ok((Item { difference, effect }, Some(Step { what: "disk's size", action, undo: None })))
}

/// Returns the name in the guest and the file of the VM's own disk.
fn own(before: &Before) -> Result<(&str, &str)> {
    let of_files = before.disks().iter().filter(|disk| disk.device == "disk");
    let mut disks = of_files.filter_map(|disk| Some((disk.target.as_str(), disk.source.as_deref()?)));
    let mut volumes = before.config.metadata.iter().flat_map(|metadata| &metadata.volumes);
    if let Some(volume) = volumes.find(|volume| volume.role == VolumeRole::Disk) {
        let found = disks.find(|(_, source)| source.rsplit('/').next() == Some(&volume.name));
        return found.ok_or_else(|| not_attached(before, volume));
    }
    let name = &before.listed.name;
    match (disks.next(), disks.next()) {
        (Some(disk), None) => Ok(disk),
        (None, _) => Err(Error::conflict(format!("VM `{name}` has no disk"))),
        _ => Err(Error::conflict(format!("VM `{name}` is not managed by vmprov and has several disks"))
            .hint("Grow the right disk with `virsh blockresize`")),
    }
}

fn not_attached(before: &Before, volume: &OwnedVolume) -> Error {
    let name = &before.listed.name;
    Error::conflict(format!("VM `{name}` does not currently write to its own disk `{volume}`"))
        .because("it may write to the overlay of a snapshot")
        .hint(Hint::run("List the VM's snapshots", format!("virsh snapshot-list {}", shell_words::quote(name))))
        .hint("Merge the overlay into the disk with `virsh blockcommit`")
}
