//! A VM's NoCloud seed: creates it, writes it into a volume, and reads it back.

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

/// The file in the seed that contains all of its data, so that the next seed can be made from it.
const WHOLE: &str = "vmprov.json";

/// The name of the seed's ISO image in a dry run.
const SHOWN: &str = "seed.iso";

/// Returns the volume for a new seed of a VM. Each seed has a unique name. So a running VM keeps the seed that it was
/// started with, and an interrupted write damages no other seed.
pub(in crate::ops) fn volume(host: &Host, vm: &str) -> OwnedVolume {
    let unique = Uuid::new_v4().simple().to_string();
    OwnedVolume {
        pool: host.settings.pool.clone(),
        name: format!("{vm}-seed-{}.iso", &unique[..8]),
        role: VolumeRole::Seed,
    }
}

/// Returns whether a volume has the name of a seed.
pub(in crate::ops) fn is_seed(volume: &str) -> bool {
    let unique = volume.strip_suffix(".iso").and_then(|name| name.rsplit_once("-seed-"));
    unique.is_some_and(|(_, unique)| unique.len() == 8 && unique.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

/// Returns a new, unique instance-id, because cloud-init runs once for each instance-id.
pub(in crate::ops) fn instance_id(vm: &str) -> String {
    let unique = Uuid::new_v4().simple().to_string();
    format!("{vm}-{}", &unique[..12])
}

/// Creates the seed's ISO image. A dry run also records the commands for it, without the private host keys.
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
    // A dry run makes the image too, because its size is needed.
    genisoimage::write_seed(&host.runner, &files)
}

/// Returns the path of the seed's ISO image. In a dry run, this is the path in the recorded commands.
pub(in crate::ops) fn file<'i>(host: &Host, iso: &'i Scratch) -> &'i Utf8Path {
    if host.is_dry_run() { Utf8Path::new(SHOWN) } else { iso.path() }
}

/// Returns the seed without secrets, to be displayed.
fn without_secrets(seed: &Seed) -> Seed {
    let mut seed = seed.clone();
    for key in &mut seed.host_keys {
        "(private host key)".clone_into(&mut key.private);
    }
    seed
}

/// Returns a closure that creates an owned volume and fills it with a seed. A rollback deletes the volume.
pub(in crate::ops) fn writer<'h>(
    host: &'h Host,
    volume: &'h OwnedVolume,
    iso: &'h Scratch,
    undo: &mut Undo,
) -> impl FnOnce() -> Result<()> + use<'h> {
    let claim = claim(host, volume, undo);
    move || {
        let (pool, name) = (&volume.pool, &volume.name);
        waive_if_exists(&claim, host.virsh.create_filled_volume(pool, name, iso.size()?, file(host, iso)))
    }
}

/// Returns a closure that creates an owned volume. A rollback deletes the volume.
pub(in crate::ops) fn volume_maker<'h>(
    host: &'h Host,
    volume: &'h OwnedVolume,
    undo: &mut Undo,
) -> impl FnOnce(&NewVolume) -> Result<()> + Send + use<'h> {
    let claim = claim(host, volume, undo);
    move |new| waive_if_exists(&claim, host.virsh.create_volume(&volume.pool, &volume.name, new))
}

fn claim(host: &Host, volume: &OwnedVolume, undo: &mut Undo) -> Claim {
    let undoer = host.uncancellable();
    let OwnedVolume { pool, name, .. } = volume.clone();
    undo.push(format!("volume `{pool}/{name}`"), move || undoer.virsh.delete_volume(&pool, &name).map(drop))
}

/// Waives the claim if the volume existed before: a rollback must not delete it.
fn waive_if_exists(claim: &Claim, made: Result<()>) -> Result<()> {
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
