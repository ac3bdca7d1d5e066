//! A VM's NoCloud seed: made, written into a volume, read back.

use camino::Utf8Path;
use uuid::Uuid;

use crate::{
    cloud_init::Seed,
    error::{Code, Result},
    model::record::{OwnedVolume, VolumeRole},
    ops::{
        Host,
        undo::{Claim, Undo},
    },
    tools::{genisoimage, here_document, scratch::Scratch, virsh::NewVolume},
};

/// The file in the seed that holds it whole, for making the next one from it.
const WHOLE: &str = "vmprov.json";

/// What a dry run calls the seed's ISO image.
const SHOWN: &str = "seed.iso";

/// A name for a new seed of a VM. Each has one of its own, so that a running VM keeps the one that it was started
/// with, and a write that is cut short spoils none.
pub(in crate::ops) fn volume(host: &Host, vm: &str) -> OwnedVolume {
    let unique = Uuid::new_v4().simple().to_string();
    OwnedVolume {
        pool: host.settings.pool.clone(),
        name: format!("{vm}-seed-{}.iso", &unique[..8]),
        role: VolumeRole::Seed,
    }
}

/// Whether a volume is called as a seed is.
pub(in crate::ops) fn is_seed(volume: &str) -> bool {
    let unique = volume.strip_suffix(".iso").and_then(|name| name.rsplit_once("-seed-"));
    unique.is_some_and(|(_, unique)| unique.len() == 8 && unique.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

/// An instance-id that no guest has had before: cloud-init does its work once for each.
pub(in crate::ops) fn instance_id(vm: &str) -> String {
    let unique = Uuid::new_v4().simple().to_string();
    format!("{vm}-{}", &unique[..12])
}

/// Makes the seed's ISO image. In a dry run its files are shown instead, without the private halves of host keys.
pub(in crate::ops) fn make(host: &Host, seed: &Seed) -> Result<Scratch> {
    if !host.is_dry_run() {
        return genisoimage::write_seed(&host.runner, &seed.files());
    }
    let files = without_secrets(seed).files();
    for (name, content) in &files {
        let text = String::from_utf8_lossy(content);
        host.runner.plan(|| here_document(&format!("cat > {name}"), &text));
    }
    let command = format!(
        "genisoimage -quiet -joliet -rational-rock -volid cidata -output {SHOWN} meta-data user-data network-config {WHOLE}"
    );
    host.runner.plan(|| command);
    // Made all the same, for its size.
    genisoimage::write_seed(&host.runner, &files)
}

/// Where the seed's ISO image is; in a dry run, where the commands shown put it.
pub(in crate::ops) fn file<'i>(host: &Host, iso: &'i Scratch) -> &'i Utf8Path {
    if host.is_dry_run() { Utf8Path::new(SHOWN) } else { iso.path() }
}

/// A seed that may be shown.
fn without_secrets(seed: &Seed) -> Seed {
    let mut seed = seed.clone();
    for key in &mut seed.host_keys {
        "(the private half of a host key)".clone_into(&mut key.private);
    }
    seed
}

/// What makes an owned volume and fills it with a seed, which a failure later on deletes again.
pub(in crate::ops) fn writer<'h>(
    host: &'h Host,
    volume: &'h OwnedVolume,
    iso: &'h Scratch,
    undo: &mut Undo,
) -> impl FnOnce() -> Result<()> + use<'h> {
    let claim = claim(host, volume, undo);
    move || {
        let (pool, name) = (&volume.pool, &volume.name);
        unless_foreign(&claim, host.virsh.create_filled_volume(pool, name, iso.size()?, file(host, iso)))
    }
}

/// What makes an owned volume, which a failure later on deletes again.
pub(in crate::ops) fn volume_maker<'h>(
    host: &'h Host,
    volume: &'h OwnedVolume,
    undo: &mut Undo,
) -> impl FnOnce(&NewVolume) -> Result<()> + Send + use<'h> {
    let claim = claim(host, volume, undo);
    move |new| unless_foreign(&claim, host.virsh.create_volume(&volume.pool, &volume.name, new))
}

fn claim(host: &Host, volume: &OwnedVolume, undo: &mut Undo) -> Claim {
    let undoer = host.uncancellable();
    let OwnedVolume { pool, name, .. } = volume.clone();
    undo.push(format!("volume `{pool}/{name}`"), move || undoer.virsh.delete_volume(&pool, &name).map(drop))
}

/// A volume that was there before us is not ours to delete.
fn unless_foreign(claim: &Claim, made: Result<()>) -> Result<()> {
    if made.as_ref().is_err_and(|error| error.code == Code::AlreadyExists) {
        claim.waive();
    }
    made
}

/// Reads a seed back.
pub(in crate::ops) fn read(host: &Host, volume: &OwnedVolume) -> Result<Seed> {
    let iso = Scratch::memory(b"")?;
    host.virsh.download(&volume.pool, &volume.name, iso.path())?;
    Seed::from_json(&genisoimage::read_file(&host.runner, iso.path(), WHOLE)?)
}
