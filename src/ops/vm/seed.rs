//! A VM's NoCloud seed: made, written into a volume, read back.

use uuid::Uuid;

use super::super::Host;
use crate::{
    cloud_init::Seed,
    error::{Code, Error, Result},
    ops::undo::Undo,
    tools::{
        genisoimage,
        scratch::Scratch,
        virsh::{Metadata, NewVolume, OwnedVolume, Role},
    },
};

/// The file in the seed that holds it whole, for making the next one from it.
const WHOLE: &str = "vmprov.json";

/// A name for a new seed of a VM. Each has one of its own, so that a running VM keeps the one that it was started
/// with, and a write that is cut short spoils none.
pub(super) fn volume(host: &Host, vm: &str) -> OwnedVolume {
    let unique = Uuid::new_v4().simple().to_string();
    OwnedVolume { pool: host.settings.pool.clone(), name: format!("{vm}-seed-{}.iso", &unique[..8]), role: Role::Seed }
}

/// An instance-id that no guest has had before: cloud-init does its work once for each.
pub(super) fn instance_id(vm: &str) -> String {
    let unique = Uuid::new_v4().simple().to_string();
    format!("{vm}-{}", &unique[..12])
}

/// Makes the volume and fills it. In a dry run the seed's files are shown, without the private halves of host keys.
pub(super) fn write<'u>(host: &Host, volume: &OwnedVolume, seed: &Seed, undo: &mut Undo<'u>) -> Result<()> {
    let iso = if host.is_dry_run() {
        for (name, content) in without_secrets(seed).files() {
            host.runner.plan(|| format!("cat > {name} <<'EOF'\n{}\nEOF", String::from_utf8_lossy(&content).trim_end()));
        }
        host.runner.plan(|| {
            "genisoimage -joliet -rational-rock -volid cidata -output seed.iso meta-data user-data network-config vmprov.json"
                .to_owned()
        });
        Scratch::memory(b"")?
    } else {
        genisoimage::write_seed(&host.runner, &seed.files())?
    };
    put(host, volume, &iso, undo)
}

/// A seed that may be shown.
fn without_secrets(seed: &Seed) -> Seed {
    let mut seed = seed.clone();
    for key in &mut seed.host_keys {
        "(the private half of a host key)".clone_into(&mut key.private);
    }
    seed
}

/// Makes an owned volume and fills it with a file's content.
pub(super) fn put<'u>(host: &Host, volume: &OwnedVolume, content: &Scratch, undo: &mut Undo<'u>) -> Result<()> {
    create_volume(host, volume, &NewVolume::Content(content.len()?), undo)?;
    host.virsh.upload(&volume.pool, &volume.name, content.path())
}

/// Makes an owned volume, which a failure later on deletes again.
pub(super) fn create_volume<'u>(host: &Host, volume: &OwnedVolume, new: &NewVolume, undo: &mut Undo<'u>) -> Result<()> {
    let undoer = host.uncancellable();
    let OwnedVolume { pool, name, .. } = volume.clone();
    undo.push(format!("volume `{pool}/{name}`"), move || undoer.virsh.delete_volume(&pool, &name).map(drop));
    let made = host.virsh.create_volume(&volume.pool, &volume.name, new);
    if made.as_ref().is_err_and(|error| error.code == Code::AlreadyExists) {
        // It was there before us and is not ours to delete.
        undo.forget_last();
    }
    made
}

/// Reads a VM's current seed back.
pub(super) fn read(host: &Host, metadata: &Metadata) -> Result<Seed> {
    let volume = metadata.seed().ok_or_else(|| Error::conflict("the VM has no cloud-init seed"))?;
    let iso = Scratch::memory(b"")?;
    host.virsh.download(&volume.pool, &volume.name, iso.path())?;
    Seed::from_json(&genisoimage::read_file(&host.runner, iso.path(), WHOLE)?)
}
