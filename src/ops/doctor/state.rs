//! What killed commands left, and volumes that nobody has any more.

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

/// What cleans up.
const GC: &str = "vmprov gc";

/// After how long nobody comes back to a download.
const OLD: Duration = Duration::from_hours(7 * 24);

pub(super) fn incomplete(look: &Context) -> Result<Finding> {
    let (mut left, mut busy) = (Vec::new(), Vec::new());
    for (listed, metadata) in gc::incomplete(&look.host)? {
        let what = match metadata.phase {
            Phase::Creating => "its create",
            Phase::Deleting => "its delete",
            Phase::Probe | Phase::Ready => "a test of KVM",
        };
        match gc::claim(&look.host, &listed)? {
            Claim::Theirs(reason) => busy.push(format!("`{}` ({reason})", listed.name)),
            Claim::Ours(..) => left.push(format!("`{}` ({what} was cut short)", listed.name)),
            Claim::Settled => {}
        }
    }
    Ok(match (&left[..], &busy[..]) {
        ([], []) => Finding::ok("every VM is whole"),
        ([], busy) => Finding::ok(format!("not whole, and not to be touched: {}", busy.join(", "))),
        (left, _) => Finding::warn(left.join(", ")).mend_by(GC, collect),
    })
}

pub(super) fn unfinished(look: &Context) -> Result<Finding> {
    let mut left = image::find_unfinished(&look.host)?;
    left.extend(vm::copies(&look.host)?.into_iter().map(|(pool, copy)| format!("{pool}/{copy}")));
    Ok(match &left[..] {
        [] => Finding::ok("every image is whole"),
        left => Finding::warn(format!("{}: the upload or copy was cut short", left.join(", "))).mend_by(GC, collect),
    })
}

/// Cleans up, and says what was removed.
fn collect(host: &Host) -> Result<String> {
    let collected = gc::collect(host, GcOptions::default())?;
    let removed: Vec<_> = collected.vms.into_iter().chain(collected.volumes).collect();
    removed_or_kept(&removed)
}

/// What cleaning up has done; where nothing went, somebody else has it.
fn removed_or_kept(removed: &[String]) -> Result<String> {
    match removed {
        [] => Err(Error::conflict("nothing could be removed: it is in use, or another user's")),
        removed => Ok(format!("removed {}", removed.join(", "))),
    }
}

pub(super) fn volumes(look: &Context) -> Result<Finding> {
    let storage = look.host.virsh.storage(false)?;
    let attached = storage.domains.iter().flat_map(|domain| {
        let snapshots = domain.snapshots.iter().flat_map(|(_, files)| files);
        domain.files.iter().chain(snapshots).map(|file| file.path.clone())
    });
    let owned = storage.domains.iter().filter_map(|domain| domain.metadata.as_ref());
    let owned = owned.flat_map(|metadata| &metadata.volumes).map(|volume| format!("{}/{}", volume.pool, volume.name));
    let used: BTreeSet<String> = attached.chain(owned).collect();
    let pool = &look.host.settings.pool;
    let backing: BTreeSet<_> = storage.volumes.iter().filter_map(|volume| volume.backing.as_deref()).collect();
    let is_orphan = |volume: &&StoredVolume| {
        let name = format!("{}/{}", volume.pool, vm::whole_log(&volume.name));
        volume.pool == *pool
            && is_of_a_vm(volume)
            && !used.contains(&volume.path)
            && !used.contains(&name)
            && !backing.contains(volume.path.as_str())
    };
    let lost = orphans::find(&look.host, &storage);
    if let [first, ..] = &lost[..] {
        let names: Vec<_> = lost.iter().map(|volume| volume.name.as_str()).collect();
        let backing = first.backing.as_deref().unwrap_or_default();
        let saw =
            format!("nothing uses {} of the pool `{pool}`, and the backing file is gone ({backing})", names.join(", "));
        return Ok(Finding::warn(saw).mend("vmprov gc --orphans"));
    }
    let orphans: Vec<_> = storage.volumes.iter().filter(is_orphan).collect();
    Ok(match &orphans[..] {
        [] => Finding::ok(format!("each disk, seed and log in the pool `{pool}` is a VM's")),
        [first, ..] => {
            let names: Vec<_> = orphans.iter().map(|volume| volume.name.as_str()).collect();
            // What a guest wrote is nobody else's to delete.
            let command = look.virsh(&["vol-delete", "--pool", pool, "--vol", &first.name]);
            Finding::warn(format!("no VM has {} of the pool `{pool}`", names.join(", "))).mend(command)
        }
    })
}

/// Whether a volume is what vmprov makes for one VM: an overlay on a base image, a seed, or a console's log.
fn is_of_a_vm(volume: &StoredVolume) -> bool {
    let base = volume.backing.as_deref().and_then(|path| path.rsplit('/').next());
    base.is_some_and(|name| name.starts_with("base-")) || vm::is_seed(&volume.name) || vm::is_log(&volume.name)
}

pub(super) fn locks() -> Finding {
    let stale = lock::stale();
    if stale.is_empty() {
        return Finding::ok("no lock is left");
    }
    let names: Vec<_> = stale.iter().map(|path| path.display().to_string()).collect();
    // Whoever comes next takes it over: it only lies about.
    Finding::warn(format!("killed commands left {}", names.join(", "))).mend_by(GC, move |_| {
        lock::remove_stale();
        let kept = lock::stale();
        let gone = stale.iter().filter(|path| !kept.contains(path)).map(|path| path.display().to_string());
        removed_or_kept(&gone.collect::<Vec<_>>())
    })
}

pub(super) fn downloads_left(look: &Context) -> Finding {
    let parts = partial_file::abandoned(&downloads(&look.host), OLD);
    if parts.is_empty() {
        return Finding::ok("no download was left alone");
    }
    let size = human(parts.iter().map(|(_, size)| size).sum());
    let files: Vec<Utf8PathBuf> = parts.into_iter().map(|(part, _)| part).collect();
    let names: Vec<_> = files.iter().map(|file| file.as_str()).collect();
    let command = format!("rm {}", shell_words::join(&names));
    let saw = format!("{size} of downloads that nobody went on with for a week: {}", names.join(", "));
    Finding::warn(saw).mend_by(command, move |_| {
        let gone = files.iter().filter(|file| partial_file::remove(file)).map(ToString::to_string);
        removed_or_kept(&gone.collect::<Vec<_>>())
    })
}
