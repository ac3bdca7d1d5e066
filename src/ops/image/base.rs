//! Base volumes and their manifests.
//!
//! A base volume is named by its content, `base-<sha256, shortened>.qcow2`. Its base manifest `base-….json` is written
//! last and marks the volume as complete. A source manifest, `source-<hash of the name, path or URL>.json`, leads from
//! a name, a path or a URL to the base without reading the image again.

use std::{fs::Permissions, os::unix::fs::PermissionsExt, time::Duration};

use camino::Utf8Path;
use serde::{Deserialize, Serialize};

use super::source::{FileIdentity, ImageSource};
use crate::{
    catalogue::Firmware,
    error::{Code, Error, Hint, Result},
    model::{
        image::{Algorithm, Arch, Checksum, Origin, Verification, Visibility},
        size::human,
    },
    ops::{
        Caller, Host,
        undo::{Undo, undoing},
    },
    store::{disk_space, lock::Lock},
    tools::{
        here_document,
        scratch::Scratch,
        virsh::{NewVolume, Pool, Volume},
    },
};

/// How long to wait for another vmprov that uploads the same image.
const UPLOAD_WAIT: Duration = Duration::from_mins(30);

/// The content of a manifest, of both kinds. Members that an older vmprov did not write have defaults.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(in crate::ops) struct Base {
    /// The base volume.
    pub(in crate::ops) volume: String,
    /// The image's name, path or URL.
    pub(in crate::ops) source: String,
    /// How the image was added.
    #[serde(default)]
    pub(in crate::ops) origin: Origin,
    /// The SHA-256 of the original image, in hexadecimal.
    pub(in crate::ops) sha256: String,
    /// The virtual disk size in bytes.
    pub(in crate::ops) virtual_size: u64,
    /// How the content was verified.
    pub(in crate::ops) verification: Verification,
    /// The checksums from the publisher and from the request.
    #[serde(default)]
    pub(in crate::ops) checksums: Vec<Checksum>,
    /// The fingerprint of the key that signed it.
    #[serde(default)]
    pub(in crate::ops) signed_by: Option<String>,
    /// The default login user, if it is known.
    pub(in crate::ops) user: Option<String>,
    /// The identity of the original file, by which a later change of the file is detected.
    pub(in crate::ops) file: Option<FileIdentity>,
    /// The URL that it was fetched from.
    #[serde(default)]
    pub(in crate::ops) url: Option<String>,
    /// The server's entity tag.
    #[serde(default)]
    pub(in crate::ops) etag: Option<String>,
    /// The server's `Last-Modified` header.
    #[serde(default)]
    pub(in crate::ops) last_modified: Option<String>,
    /// The architecture from the catalogue.
    #[serde(default)]
    pub(in crate::ops) arch: Option<Arch>,
    /// The firmware from the catalogue.
    #[serde(default)]
    pub(in crate::ops) firmware: Option<Firmware>,
    /// The minimum memory in MiB from the catalogue.
    #[serde(default)]
    pub(in crate::ops) min_memory: Option<u64>,
    /// When the image was added (RFC 3339, UTC).
    #[serde(default)]
    pub(in crate::ops) created: String,
    /// The client that owns the image; none for the operator.
    #[serde(default)]
    pub(in crate::ops) owner: Option<String>,
    /// Who may use the image. An image of an older vmprov is shared.
    #[serde(default)]
    pub(in crate::ops) visibility: Visibility,
}

impl Base {
    /// Returns the name of a base volume's manifest.
    pub(super) fn manifest_of(volume: &str) -> String {
        volume.replace(".qcow2", ".json")
    }

    /// Returns whether the original image is known to have this checksum.
    pub(super) fn has(&self, checksum: &Checksum) -> bool {
        self.checksums.contains(checksum) || checksum.to_string() == format!("sha256:{}", self.sha256)
    }

    /// Returns the base with the caller as its owner: private to a limited client, shared if the operator made it.
    pub(super) fn made_by(self, caller: &Caller) -> Self {
        let visibility = if caller.is_limited { Visibility::Private } else { Visibility::Shared };
        Self { owner: caller.owner.clone(), visibility, ..self }
    }

    /// Returns the owner, who is part of the source manifest's name, if the image is private.
    pub(super) fn private_owner(&self) -> Option<&str> {
        self.owner.as_deref().filter(|_| self.visibility == Visibility::Private)
    }

    /// Returns whether a caller may see the image.
    pub(super) fn is_seen_by(&self, caller: &Caller) -> bool {
        caller.sees_image(self.owner.as_deref(), self.visibility)
    }

    fn manifest(&self) -> String {
        Self::manifest_of(&self.volume)
    }

    /// Parses a manifest. Returns none if it is invalid or does not name a base volume, because volumes are deleted
    /// according to manifests.
    pub(super) fn read(json: &[u8]) -> Option<Self> {
        let base: Self = serde_json::from_slice(json).ok()?;
        let is_sum = Checksum::new(Algorithm::Sha256, &base.sha256).is_some();
        (is_sum && base.volume == volume_name(&base.sha256)).then_some(base)
    }

    /// Returns the first of these manifests that matches the source as it is now and that the caller may see. They are
    /// the contents of [`ImageSource::companions`].
    pub(in crate::ops) fn first_of(
        caller: &Caller,
        source: &ImageSource,
        manifests: &mut [Scratch],
    ) -> Result<Option<Self>> {
        for manifest in manifests {
            let base = Self::of_source(source, &manifest.content()?);
            if let Some(base) = base.filter(|base| base.is_seen_by(caller)) {
                return Ok(Some(base));
            }
        }
        Ok(None)
    }

    /// Parses a manifest. Returns none if it does not match the source as it is now.
    fn of_source(source: &ImageSource, json: &[u8]) -> Option<Self> {
        let base = Self::read(json)?;
        let same_arch = source.arch().is_none_or(|arch| base.arch == Some(arch));
        (base.source == source.given() && base.file.as_ref() == source.identity() && same_arch).then_some(base)
    }
}

/// Returns the base that a source led to when it was last used, if the source has not changed.
pub(super) fn known(host: &Host, source: &ImageSource) -> Result<Option<Base>> {
    let names = source.manifests(&host.caller);
    let mut files = names.iter().map(|_| Scratch::memory(b"")).collect::<Result<Vec<_>>>()?;
    let wanted: Vec<_> = names.iter().zip(&files).map(|(name, file)| (name.as_str(), file.path().as_str())).collect();
    // Without the volume, the pool or an active pool, the files stay empty.
    host.virsh.download_all(&host.settings.pool, &wanted)?;
    Base::first_of(&host.caller, source, &mut files)
}

/// Like [`known`], if the base volume still exists: it may have been deleted by hand.
pub(super) fn known_existing(host: &Host, source: &ImageSource) -> Result<Option<Base>> {
    match known(host, source)? {
        Some(base) if host.virsh.volume(&host.settings.pool, &base.volume)?.is_some() => Ok(Some(base)),
        _ => Ok(None),
    }
}

/// Makes sure that the pool has the complete base volume, and writes the source manifest `manifest`. `make` returns the
/// content as qcow2 if an upload is needed. `unchanged` fails if the original image has changed meanwhile.
pub(super) fn keep(
    host: &Host,
    pool: &Pool,
    base: &Base,
    manifest: &str,
    unchanged: &dyn Fn() -> Result<()>,
    make: impl FnOnce() -> Result<Content>,
) -> Result<()> {
    let _one_upload = Lock::take(&lock_name(host, pool, &base.volume)?, UPLOAD_WAIT, &host.runner.cancel)?;
    match state(host, pool, base)? {
        // The image counts for each client that has a name for it, not only for the one that uploaded it.
        State::Complete(size) => host.allowance.take_image(manifest, size)?,
        State::Unmarked(size) => {
            host.allowance.take_image(manifest, size)?;
            write_manifest(host, pool, &base.manifest(), base)?;
        }
        State::Absent => upload(host, pool, base, manifest, make()?.path(), unchanged)?,
    }
    write_manifest(host, pool, manifest, base)
}

/// A qcow2 file to upload.
pub(super) enum Content {
    /// A file with a path.
    Named(camino::Utf8PathBuf),
    /// A temporary file.
    Scratch(Scratch),
}

impl Content {
    pub(super) fn path(&self) -> &Utf8Path {
        match self {
            Self::Named(path) => path,
            Self::Scratch(scratch) => scratch.path(),
        }
    }
}

/// Returns a volume of the pool. In a dry run the pool may be inactive, and then no volume is known.
fn volume(host: &Host, pool: &Pool, name: &str) -> Result<Option<Volume>> {
    match host.virsh.volume(&pool.name, name) {
        Err(error) if error.code == Code::Conflict && host.is_dry_run() => Ok(None),
        result => result,
    }
}

/// The state of a base volume.
enum State {
    /// It does not exist.
    Absent,
    /// It is complete and has this size in bytes, but writing its manifest was interrupted.
    Unmarked(u64),
    /// It is complete and has this size in bytes.
    Complete(u64),
}

/// Returns the state of the base volume. Removes a volume without a manifest, which an interrupted upload left. The
/// manifest is created once the volume is complete, so an invalid manifest also means that the volume is complete.
fn state(host: &Host, pool: &Pool, base: &Base) -> Result<State> {
    let Some(Volume { allocation, .. }) = volume(host, pool, &base.volume)? else { return Ok(State::Absent) };
    let mut manifest = Scratch::memory(b"")?;
    match host.virsh.download(&pool.name, &base.manifest(), manifest.path()) {
        Ok(()) => match Base::read(&manifest.content()?) {
            None => return Ok(State::Unmarked(allocation)),
            Some(existing) if existing.sha256 == base.sha256 => return Ok(State::Complete(allocation)),
            Some(existing) => {
                return Err(Error::conflict(format!("volume `{}` contains a different image", base.volume))
                    .because(format!("its SHA-256 is {}, not {}", existing.sha256, base.sha256)));
            }
        },
        Err(error) if error.code == Code::NotFound => {}
        Err(error) => return Err(error),
    }
    if is_growing(host, pool, &base.volume)? {
        return Err(Error::new(
            Code::Busy,
            format!("base image `{}` is being uploaded by another machine or container", base.volume),
        )
        .hint("Try again when the upload is complete"));
    }
    host.virsh.delete_volume(&pool.name, &base.volume)?;
    Ok(State::Absent)
}

/// How long to check whether a volume grows, because our locks do not reach other machines and containers.
pub(super) const GROWTH_CHECK: Duration = Duration::from_secs(2);

/// Returns the name of the base volume of an image with this SHA-256.
pub(super) fn volume_name(sha256: &str) -> String {
    format!("base-{}.qcow2", sha256.get(..16).unwrap_or(sha256))
}

/// Returns whether another machine or a container, which our locks do not reach, is writing the volume.
pub(super) fn is_growing(host: &Host, pool: &Pool, name: &str) -> Result<bool> {
    let size = || Ok::<_, Error>(host.virsh.volume(&pool.name, name)?.map(|volume| volume.allocation));
    let before = size()?;
    std::thread::sleep(GROWTH_CHECK);
    Ok(size()? != before)
}

/// Returns the free space of a pool in bytes. libvirt's figure dates from its last refresh, so a local pool's file
/// system is checked, too.
pub(in crate::ops) fn space_in(host: &Host, pool: &Pool) -> u64 {
    let local = host.virsh.is_local() && pool.holds_files();
    let free = local.then(|| disk_space::left(&pool.path).ok()).flatten().unwrap_or(u64::MAX);
    free.min(pool.available)
}

/// Refuses a pool with less free space than `size`, in bytes.
pub(in crate::ops) fn require_space(host: &Host, pool: &Pool, size: u64) -> Result<()> {
    let free = space_in(host, pool);
    if size > free {
        return Err(Error::conflict(format!(
            "not enough space in storage pool `{}`: {} free, {} needed",
            pool.name,
            human(free),
            human(size)
        ))
        .hint(Hint::call_any("Remove unused images", "image_prune"))
        .hint("Set `pool` in the settings to a pool with more space"));
    }
    Ok(())
}

fn upload(
    host: &Host,
    pool: &Pool,
    base: &Base,
    manifest: &str,
    file: &Utf8Path,
    unchanged: &dyn Fn() -> Result<()>,
) -> Result<()> {
    let size = if host.is_dry_run() && !file.exists() {
        base.virtual_size // the file does not exist in a dry run
    } else {
        std::fs::metadata(file).map_err(|error| Error::io("read the image", &error))?.len()
    };
    host.allowance.take_image(manifest, size)?;
    require_space(host, pool, size)?;
    host.step("uploading the image into the storage pool");
    undoing(|undo| {
        put(host, pool, &base.volume, size, file, undo)?;
        unchanged()?;
        write_manifest(host, pool, &base.manifest(), base)
    })
}

/// Creates an immutable volume with the content of a file. The rollback of a later failure deletes it, too.
fn put(host: &Host, pool: &Pool, name: &str, size: u64, file: &Utf8Path, undo: &mut Undo) -> Result<()> {
    let (undoer, pool_name, volume) = (host.uncancellable(), pool.name.clone(), name.to_owned());
    let claim =
        undo.push(format!("volume `{name}`"), move || undoer.virsh.delete_volume(&pool_name, &volume).map(drop));
    let made = host.virsh.create_volume(&pool.name, name, &NewVolume::Immutable(size));
    if made.as_ref().is_err_and(|error| error.code == Code::AlreadyExists) {
        claim.waive();
    }
    made?;
    host.virsh.upload(&pool.name, name, file)?;
    if host.virsh.is_session() { make_immutable(host, pool, name) } else { Ok(()) }
}

/// Makes a volume read-only. A libvirt without root privileges could not write to a volume that was created read-only.
/// Its files belong to its user, who is also vmprov's user.
fn make_immutable(host: &Host, pool: &Pool, name: &str) -> Result<()> {
    let path = pool.path_of(name);
    if !host.virsh.is_local() || host.runner.plan(|| shell_words::join(["chmod", "0444", &path])) {
        return Ok(());
    }
    std::fs::set_permissions(&path, Permissions::from_mode(0o444))
        .map_err(|error| Error::io(format!("make `{path}` read-only"), &error))
}

/// Writes a manifest, replacing an existing one.
pub(super) fn write_manifest(host: &Host, pool: &Pool, name: &str, base: &Base) -> Result<()> {
    let failed = |error| Error::internal("cannot write JSON").because(error);
    let json = serde_json::to_string_pretty(base).map_err(failed)? + "\n";
    if host.is_dry_run() {
        if volume(host, pool, name)?.is_some() {
            host.virsh.delete_volume(&pool.name, name)?;
        }
        host.runner.plan(|| here_document(&format!("cat > {name}"), &json));
        return undoing(|undo| put(host, pool, name, json.len() as u64, Utf8Path::new(name), undo));
    }
    host.virsh.delete_volume(&pool.name, name)?;
    let content = Scratch::memory(json.as_bytes())?;
    match undoing(|undo| put(host, pool, name, json.len() as u64, content.path(), undo)) {
        // Another process wrote the same manifest at the same time.
        Err(error) if error.code == Code::AlreadyExists => Ok(()),
        result => result,
    }
}

/// Returns the name of the lock on a base volume, which is shared while a VM is created from it, and exclusive while it
/// is uploaded or removed.
pub(super) fn lock_name(host: &Host, pool: &Pool, volume: &str) -> Result<String> {
    Ok(format!("the base image `{volume}` of pool `{}` at {}", pool.name, host.hypervisor()?))
}
