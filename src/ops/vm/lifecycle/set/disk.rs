//! Which disk is a VM's own, and how it grows.

use super::{
    Before, Effect, Item,
    step::{Action, Step},
};
use crate::{
    error::{Error, Result},
    model::{
        record::{OwnedVolume, VolumeRole},
        size::DiskSize,
        specification::{Difference, exact},
    },
    ops::Host,
};

/// What growing the disk comes to, and the step that it takes.
pub(super) fn grow(host: &Host, before: &Before, to: DiskSize) -> Result<(Item, Option<Step>)> {
    let name = &before.listed.name;
    let (target, path) = own(before)?;
    let from = match &before.live {
        Some(_) => host.virsh.live_capacity(before.listed.uuid, target)?,
        None => host.virsh.capacity_at(path)?.ok_or_else(|| {
            Error::conflict(format!("the disk of the VM `{name}` is in no storage pool that is active: {path}"))
                .hint("Such a disk grows only while the VM runs.")
        })?,
    };
    let bytes = to.bytes();
    if bytes < from {
        let message = format!("a disk of {} is smaller than the {} of the VM `{name}`", exact(bytes), exact(from));
        return Err(Error::invalid(message)
            .because("a disk is never made smaller: what the guest has written at its end would be cut off")
            .hint("Make another VM with a smaller disk, and move what is in this one."));
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
        let name = shell_words::quote(name);
        return Err(Error::conflict(format!("the VM `{name}` has a saved state, which knows its disk as it is"))
            .hint(format!("Start it first, and grow the disk while it runs: vmprov vm start {name}")));
    }
    Ok((Item { difference, effect }, Some(Step { what: "disk's size", action, undo: None })))
}

/// The VM's own disk: its name in the guest, and its file.
fn own(before: &Before) -> Result<(&str, &str)> {
    let of_files = before.disks().iter().filter(|disk| disk.device == "disk");
    let mut disks = of_files.filter_map(|disk| Some((disk.target.as_str(), disk.source.as_deref()?)));
    let mut volumes = before.config.metadata.iter().flat_map(|metadata| &metadata.volumes);
    if let Some(volume) = volumes.find(|volume| volume.role == VolumeRole::Disk) {
        let found = disks.find(|(_, source)| source.rsplit('/').next() == Some(&volume.name));
        return found.ok_or_else(|| not_its_own(before, volume));
    }
    let name = &before.listed.name;
    match (disks.next(), disks.next()) {
        (Some(disk), None) => Ok(disk),
        (None, _) => Err(Error::conflict(format!("the VM `{name}` has no disk"))),
        _ => Err(Error::conflict(format!("the VM `{name}`, which vmprov did not make, has several disks"))
            .hint("Grow the one that is meant with `virsh blockresize`.")),
    }
}

fn not_its_own(before: &Before, volume: &OwnedVolume) -> Error {
    let name = &before.listed.name;
    Error::conflict(format!("the VM `{name}` does not write to its own disk `{volume}` now"))
        .because("it may write to a snapshot's overlay on that")
        .hint("`virsh snapshot-list` shows a VM's snapshots; `virsh blockcommit` makes an overlay part of the disk.")
}
