//! Base volumes and their companions: what is known of an image, and where it is.
//!
//! A base volume is named by its content, `base-<sha256, shortened>.qcow2`. Its companion `base-….json` is written
//! last and marks it as complete. A second small volume, `source-<hash of what was given>.json`, leads from a name, a
//! path or a URL to the base without reading the image again.

use std::{fs::Permissions, os::unix::fs::PermissionsExt, time::Duration};

use camino::Utf8Path;
use serde::{Deserialize, Serialize};

use super::source::{FileIdentity, ImageSource};
use crate::{
    catalogue::Firmware,
    error::{Code, Error, Result},
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

/// How long another vmprov's upload of the same image is waited for.
const UPLOAD_WAIT: Duration = Duration::from_mins(30);

/// What is known of a base image: the content of both kinds of companion. What an older vmprov did not write has a
/// default.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(in crate::ops) struct Base {
    /// The volume.
    pub(in crate::ops) volume: String,
    /// The name, path or URL that was given.
    pub(in crate::ops) source: String,
    /// How it came here.
    #[serde(default)]
    pub(in crate::ops) origin: Origin,
    /// The SHA-256 of the image as it was given, in hexadecimal.
    pub(in crate::ops) sha256: String,
    /// The size of the disk that a guest sees, in bytes.
    pub(in crate::ops) virtual_size: u64,
    /// What speaks for its content.
    pub(in crate::ops) verification: Verification,
    /// The checksums that its publisher and the operator gave.
    #[serde(default)]
    pub(in crate::ops) checksums: Vec<Checksum>,
    /// The fingerprint of the key that signed it.
    #[serde(default)]
    pub(in crate::ops) signed_by: Option<String>,
    /// The user that it is known to log in as.
    pub(in crate::ops) user: Option<String>,
    /// The file that it was, by which a later change of it is noticed.
    pub(in crate::ops) file: Option<FileIdentity>,
    /// Where it was fetched from.
    #[serde(default)]
    pub(in crate::ops) url: Option<String>,
    /// The server's entity tag for it.
    #[serde(default)]
    pub(in crate::ops) etag: Option<String>,
    /// When it was changed, in the server's words.
    #[serde(default)]
    pub(in crate::ops) last_modified: Option<String>,
    /// The architecture, where the catalogue says so.
    #[serde(default)]
    pub(in crate::ops) arch: Option<Arch>,
    /// What boots it, where the catalogue says so.
    #[serde(default)]
    pub(in crate::ops) firmware: Option<Firmware>,
    /// The least memory that it boots in, in MiB, where the catalogue says so.
    #[serde(default)]
    pub(in crate::ops) min_memory: Option<u64>,
    /// When it came here (RFC 3339, UTC).
    #[serde(default)]
    pub(in crate::ops) created: String,
    /// The client that it was made for; none where the operator made it.
    #[serde(default)]
    pub(in crate::ops) owner: Option<String>,
    /// Who may use it. What an older vmprov wrote is shared.
    #[serde(default)]
    pub(in crate::ops) visibility: Visibility,
}

impl Base {
    /// The companion of a base volume.
    pub(super) fn companion_of(volume: &str) -> String {
        volume.replace(".qcow2", ".json")
    }

    /// Whether it was made from a file of this checksum, as far as that is known.
    pub(super) fn has(&self, checksum: &Checksum) -> bool {
        self.checksums.contains(checksum) || checksum.to_string() == format!("sha256:{}", self.sha256)
    }

    /// The same as the caller's: private to a limited client, and shared where the operator makes it.
    pub(super) fn made_by(self, caller: &Caller) -> Self {
        let visibility = if caller.is_limited { Visibility::Private } else { Visibility::Shared };
        Self { owner: caller.owner.clone(), visibility, ..self }
    }

    /// Returns the owner in the name of what leads to it, where it is private.
    pub(super) fn private_owner(&self) -> Option<&str> {
        self.owner.as_deref().filter(|_| self.visibility == Visibility::Private)
    }

    /// Whether it exists for a caller.
    pub(super) fn is_seen_by(&self, caller: &Caller) -> bool {
        caller.sees_image(self.owner.as_deref(), self.visibility)
    }

    fn companion(&self) -> String {
        Self::companion_of(&self.volume)
    }

    /// Reads a companion of an earlier call; one that cannot be read is one that is not there, and so is one that names
    /// what is no base: volumes are deleted by it.
    pub(super) fn read(json: &[u8]) -> Option<Self> {
        let base: Self = serde_json::from_slice(json).ok()?;
        let is_sum = Checksum::new(Algorithm::Sha256, &base.sha256).is_some();
        (is_sum && base.volume == volume_name(&base.sha256)).then_some(base)
    }

    /// Returns the first that is of this source as it is now and exists for the caller, out of what
    /// [`ImageSource::companions`] hold.
    pub(in crate::ops) fn first_of(
        caller: &Caller,
        source: &ImageSource,
        companions: &mut [Scratch],
    ) -> Result<Option<Self>> {
        for companion in companions {
            let base = Self::of_source(source, &companion.content()?);
            if let Some(base) = base.filter(|base| base.is_seen_by(caller)) {
                return Ok(Some(base));
            }
        }
        Ok(None)
    }

    /// The same, if it is of this source as it is now.
    fn of_source(source: &ImageSource, json: &[u8]) -> Option<Self> {
        let base = Self::read(json)?;
        let same_arch = source.arch().is_none_or(|arch| base.arch == Some(arch));
        (base.source == source.given() && base.file.as_ref() == source.identity() && same_arch).then_some(base)
    }
}

/// What a source led to when it was last used, if it still is the same.
pub(super) fn known(host: &Host, source: &ImageSource) -> Result<Option<Base>> {
    let names = source.companions(&host.caller);
    let mut files = names.iter().map(|_| Scratch::memory(b"")).collect::<Result<Vec<_>>>()?;
    let wanted: Vec<_> = names.iter().zip(&files).map(|(name, file)| (name.as_str(), file.path().as_str())).collect();
    // Where there is no such volume, no such pool, or it is not started, the files stay empty.
    host.virsh.download_all(&host.settings.pool, &wanted)?;
    Base::first_of(&host.caller, source, &mut files)
}

/// The same, if the base is still there: somebody may have deleted it by hand.
pub(super) fn known_whole(host: &Host, source: &ImageSource) -> Result<Option<Base>> {
    match known(host, source)? {
        Some(base) if host.virsh.volume(&host.settings.pool, &base.volume)?.is_some() => Ok(Some(base)),
        _ => Ok(None),
    }
}

/// Makes a complete base volume in the pool, unless it is one already, and notes in `companion` what leads to it. `make`
/// gives the content as qcow2, where it is needed; `unchanged` fails when what that was made of has become another
/// meanwhile.
pub(super) fn keep(
    host: &Host,
    pool: &Pool,
    base: &Base,
    companion: &str,
    unchanged: &dyn Fn() -> Result<()>,
    make: impl FnOnce() -> Result<Content>,
) -> Result<()> {
    let _one_upload = Lock::take(&lock_name(host, pool, &base.volume)?, UPLOAD_WAIT, &host.runner.cancel)?;
    match state(host, pool, base)? {
        // It counts for each client that has a name for it, whoever uploaded it.
        State::Whole(size) => host.allowance.take_image(companion, size)?,
        State::Unmarked(size) => {
            host.allowance.take_image(companion, size)?;
            write_companion(host, pool, &base.companion(), base)?;
        }
        State::Absent => upload(host, pool, base, companion, make()?.path(), unchanged)?,
    }
    write_companion(host, pool, companion, base)
}

/// A qcow2 file to be uploaded.
pub(super) enum Content {
    /// One that has a name.
    Named(camino::Utf8PathBuf),
    /// One that has none.
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

/// A volume of the pool. In a dry run the pool may not be started; then nobody knows of any.
fn volume(host: &Host, pool: &Pool, name: &str) -> Result<Option<Volume>> {
    match host.virsh.volume(&pool.name, name) {
        Err(error) if error.code == Code::Conflict && host.is_dry_run() => Ok(None),
        result => result,
    }
}

/// How far a base volume has come.
enum State {
    /// It is not there.
    Absent,
    /// It is whole and has so many bytes; what marks it as such was cut short.
    Unmarked(u64),
    /// It is whole and has so many bytes.
    Whole(u64),
}

/// Looks how far the base volume has come. One without its companion is what an upload left that was killed; it is
/// removed. The companion is begun when the volume is whole, so one that cannot be read marks it as well.
fn state(host: &Host, pool: &Pool, base: &Base) -> Result<State> {
    let Some(Volume { allocation, .. }) = volume(host, pool, &base.volume)? else { return Ok(State::Absent) };
    let mut companion = Scratch::memory(b"")?;
    match host.virsh.download(&pool.name, &base.companion(), companion.path()) {
        Ok(()) => match Base::read(&companion.content()?) {
            None => return Ok(State::Unmarked(allocation)),
            Some(there) if there.sha256 == base.sha256 => return Ok(State::Whole(allocation)),
            Some(there) => {
                return Err(Error::conflict(format!("the pool has another image under the name `{}`", base.volume))
                    .because(format!("its SHA-256 is {}, this one's is {}", there.sha256, base.sha256)));
            }
        },
        Err(error) if error.code == Code::NotFound => {}
        Err(error) => return Err(error),
    }
    if is_growing(host, pool, &base.volume)? {
        return Err(Error::new(
            Code::Busy,
            format!("the base image `{}` is being uploaded from elsewhere", base.volume),
        )
        .hint("Try again when it is there."));
    }
    host.virsh.delete_volume(&pool.name, &base.volume)?;
    Ok(State::Absent)
}

/// How long is looked whether somebody whom our locks do not reach is writing.
pub(super) const LOOK: Duration = Duration::from_secs(2);

/// What the base volume of an image with this SHA-256 is called.
pub(super) fn volume_name(sha256: &str) -> String {
    format!("base-{}.qcow2", sha256.get(..16).unwrap_or(sha256))
}

/// Whether somebody whom our locks do not reach, on another machine or in a container, is writing the volume.
pub(super) fn is_growing(host: &Host, pool: &Pool, name: &str) -> Result<bool> {
    let size = || Ok::<_, Error>(host.virsh.volume(&pool.name, name)?.map(|volume| volume.allocation));
    let before = size()?;
    std::thread::sleep(LOOK);
    Ok(size()? != before)
}

/// The bytes that are left in a pool. libvirt's own figure is of when it last looked, so the disk is asked where it is
/// this machine's.
pub(in crate::ops) fn room_in(host: &Host, pool: &Pool) -> u64 {
    let local = host.virsh.is_local() && pool.holds_files();
    let left = local.then(|| disk_space::left(&pool.path).ok()).flatten().unwrap_or(u64::MAX);
    left.min(pool.available)
}

/// Refuses a pool that has no room for so many bytes.
pub(in crate::ops) fn require_room(host: &Host, pool: &Pool, size: u64) -> Result<()> {
    let left = room_in(host, pool);
    if size > left {
        let room = human(left);
        return Err(Error::conflict(format!(
            "the storage pool `{}` has {room} left, the image needs {}",
            pool.name,
            human(size)
        ))
        .hint("Free some space (`vmprov image prune` removes what no VM uses), or choose another pool with --pool."));
    }
    Ok(())
}

fn upload(
    host: &Host,
    pool: &Pool,
    base: &Base,
    companion: &str,
    file: &Utf8Path,
    unchanged: &dyn Fn() -> Result<()>,
) -> Result<()> {
    let size = if host.is_dry_run() && !file.exists() {
        base.virtual_size // what is not there yet, in the plan
    } else {
        std::fs::metadata(file).map_err(|error| Error::io("look at the image", &error))?.len()
    };
    host.allowance.take_image(companion, size)?;
    require_room(host, pool, size)?;
    host.step("uploading the image into the storage pool");
    undoing(|undo| {
        put(host, pool, &base.volume, size, file, undo)?;
        unchanged()?;
        write_companion(host, pool, &base.companion(), base)
    })
}

/// Makes a volume that nobody will change and fills it; a failure, here or later on, leaves none.
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

/// Takes the right to write a volume away. A libvirt that is not root could not have filled one that never had it, but
/// its files are its user's, and so ours.
fn make_immutable(host: &Host, pool: &Pool, name: &str) -> Result<()> {
    let path = pool.path_of(name);
    if !host.virsh.is_local() || host.runner.plan(|| shell_words::join(["chmod", "0444", &path])) {
        return Ok(());
    }
    std::fs::set_permissions(&path, Permissions::from_mode(0o444))
        .map_err(|error| Error::io(format!("make `{path}` read-only"), &error))
}

/// Notes what is known of a base, in the place of what was known before.
pub(super) fn write_companion(host: &Host, pool: &Pool, name: &str, base: &Base) -> Result<()> {
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
        // Another process wrote the same just now.
        Err(error) if error.code == Code::AlreadyExists => Ok(()),
        result => result,
    }
}

/// What the lock on a base volume is called: shared while somebody builds on it, exclusive while it is made or removed.
pub(super) fn lock_name(host: &Host, pool: &Pool, volume: &str) -> Result<String> {
    Ok(format!("the base image `{volume}` of pool `{}` at {}", pool.name, host.hypervisor()?))
}
