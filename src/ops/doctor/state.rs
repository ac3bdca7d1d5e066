//! Leftovers of interrupted commands, and volumes that belong to no VM.

use std::{collections::BTreeSet, time::Duration};

use camino::Utf8PathBuf;

use super::{context::Context, finding::Finding};
use crate::{
    error::{Error, Result},
    model::{record::Phase, size::human},
    ops::{
        Host,
        gc::{self, Claim, GcOptions},
        image::{self, downloads},
        orphans, vm,
    },
    store::{lock, partial_file},
    tools::virsh::StoredVolume,
};

/// The command that removes leftovers.
const GC: &str = "vmprov gc";

/// The age from which a partial download counts as abandoned.
const OLD: Duration = Duration::from_hours(7 * 24);

pub(super) fn incomplete(context: &Context) -> Result<Finding> {
    let (mut left, mut busy) = (Vec::new(), Vec::new());
    for (listed, metadata) in gc::incomplete(&context.host)? {
        let operation = match metadata.phase {
            Phase::Creating => "create",
            Phase::Deleting => "delete",
            Phase::Probe | Phase::Ready => "KVM probe",
        };
        match gc::claim(&context.host, &listed)? {
            Claim::Theirs(reason) => busy.push(format!("`{}` ({reason})", listed.name)),
            Claim::Ours(..) => left.push(format!("`{}` ({operation} interrupted)", listed.name)),
            Claim::Settled => {}
        }
    }
    Ok(match (&left[..], &busy[..]) {
        ([], []) => Finding::ok("no VM is incomplete"),
        ([], busy) => Finding::ok(format!("incomplete, but in use: {}", busy.join(", "))),
        (left, _) => Finding::warn(format!("incomplete: {}", left.join(", "))).fix_by(GC, collect),
    })
}

pub(super) fn unfinished(context: &Context) -> Result<Finding> {
    let mut left = image::find_unfinished(&context.host)?;
    left.extend(vm::copies(&context.host)?.into_iter().map(|(pool, copy)| format!("{pool}/{copy}")));
    Ok(match &left[..] {
        [] => Finding::ok("no image is incomplete"),
        left => Finding::warn(format!("upload or copy interrupted: {}", left.join(", "))).fix_by(GC, collect),
    })
}

/// Removes leftovers, and returns what was removed.
fn collect(host: &Host) -> Result<String> {
    let collected = gc::collect(host, GcOptions::default())?;
    let removed: Vec<_> = collected.vms.into_iter().chain(collected.volumes).collect();
    removed_or_error(&removed)
}

/// Returns what was removed; an error if nothing was, because it is in use or belongs to another user.
fn removed_or_error(removed: &[String]) -> Result<String> {
    match removed {
        [] => Err(Error::conflict("cannot remove the leftovers: they are in use or belong to another user")),
        removed => Ok(format!("removed {}", removed.join(", "))),
    }
}

pub(super) fn volumes(context: &Context) -> Result<Finding> {
    let storage = context.host.virsh.storage(false)?;
    let attached = storage.domains.iter().flat_map(|domain| {
        let snapshots = domain.snapshots.iter().flat_map(|(_, files)| files);
        domain.files.iter().chain(snapshots).map(|file| file.path.clone())
    });
    let owned = storage.domains.iter().filter_map(|domain| domain.metadata.as_ref());
    let owned = owned.flat_map(|metadata| &metadata.volumes).map(|volume| format!("{}/{}", volume.pool, volume.name));
    let used: BTreeSet<String> = attached.chain(owned).collect();
    let pool = &context.host.settings.pool;
    let backing: BTreeSet<_> = storage.volumes.iter().filter_map(|volume| volume.backing.as_deref()).collect();
    let is_orphan = |volume: &&StoredVolume| {
        let name = format!("{}/{}", volume.pool, vm::whole_log(&volume.name));
        volume.pool == *pool
            && is_of_a_vm(volume)
            && !used.contains(&volume.path)
            && !used.contains(&name)
            && !backing.contains(volume.path.as_str())
    };
    let lost = orphans::find(&context.host, &storage);
    if let [first, ..] = &lost[..] {
        let names: Vec<_> = lost.iter().map(|volume| volume.name.as_str()).collect();
        let backing = first.backing.as_deref().unwrap_or_default();
        let names = names.join(", ");
        let observed = format!("nothing uses {names} of the pool `{pool}`, and the backing file {backing} is missing");
        return Ok(Finding::warn(observed).fix("vmprov gc --orphans"));
    }
    let orphans: Vec<_> = storage.volumes.iter().filter(is_orphan).collect();
    Ok(match &orphans[..] {
        [] => Finding::ok(format!("every disk, seed and log in the pool `{pool}` belongs to a VM")),
        [first, ..] => {
            let names: Vec<_> = orphans.iter().map(|volume| volume.name.as_str()).collect();
            // Data of a guest must not be deleted without a person's decision.
            let command = context.virsh(&["vol-delete", "--pool", pool, "--vol", &first.name]);
            Finding::warn(format!("no VM owns {} of the pool `{pool}`", names.join(", "))).fix(command)
        }
    })
}

/// Returns whether a volume is of a kind that vmprov creates for a single VM: an overlay on a base image, a seed, or
/// the log of a console.
fn is_of_a_vm(volume: &StoredVolume) -> bool {
    let base = volume.backing.as_deref().and_then(|path| path.rsplit('/').next());
    base.is_some_and(|name| name.starts_with("base-")) || vm::is_seed(&volume.name) || vm::is_log(&volume.name)
}

pub(super) fn locks() -> Finding {
    let stale = lock::stale();
    if stale.is_empty() {
        return Finding::ok("no stale lock exists");
    }
    let names: Vec<_> = stale.iter().map(|path| path.display().to_string()).collect();
    // A stale lock does no harm: the next command that needs it takes it over.
    Finding::warn(format!("interrupted commands left {}", names.join(", "))).fix_by(GC, move |_| {
        lock::remove_stale();
        let kept = lock::stale();
        let removed = stale.iter().filter(|path| !kept.contains(path)).map(|path| path.display().to_string());
        removed_or_error(&removed.collect::<Vec<_>>())
    })
}

pub(super) fn old_downloads(context: &Context) -> Finding {
    let parts = partial_file::abandoned(&downloads(&context.host), OLD);
    if parts.is_empty() {
        return Finding::ok("no abandoned downloads");
    }
    let size = human(parts.iter().map(|(_, size)| size).sum());
    let files: Vec<Utf8PathBuf> = parts.into_iter().map(|(part, _)| part).collect();
    let names: Vec<_> = files.iter().map(|file| file.as_str()).collect();
    let command = format!("rm {}", shell_words::join(&names));
    let observed = format!("{size} of partial downloads older than a week: {}", names.join(", "));
    Finding::warn(observed).fix_by(command, move |_| {
        let removed = files.iter().filter(|file| partial_file::remove(file)).map(ToString::to_string);
        removed_or_error(&removed.collect::<Vec<_>>())
    })
}
