//! Base images: from a file or URL to an immutable volume, once for all the VMs that stand on it.
//!
//! A base volume is named by its content, `base-<sha256, shortened>.qcow2`. Its companion `base-….json` is written
//! last and marks it as complete. A second small volume, `source-<hash of the path or URL>.json`, leads from what was
//! given to the base without reading the image again.

mod inspect;
mod source;
mod user;

use std::{io::Read, time::Duration};

use camino::Utf8Path;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{
    Host,
    undo::{Undo, undoing},
};
use crate::{
    error::{Code, Error, Result},
    model::{digest, size::human},
    store::{download::download, lock::Lock},
    tools::{
        here_document,
        qemu_img::{self, ImageInfo},
        scratch::Scratch,
        virsh::{NewVolume, Pool, Volume},
    },
};

pub(super) use source::ImageSource;
pub(super) use user::default_user;

/// How long another vmprov's upload of the same image is waited for.
const UPLOAD_WAIT: Duration = Duration::from_mins(30);

/// What is known of a base image: the content of both kinds of companion.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Base {
    /// The volume.
    pub(super) volume: String,
    /// The path or URL that was given.
    pub(super) source: String,
    /// The SHA-256 of the image as it was given, in hexadecimal.
    pub(super) sha256: String,
    /// The size of the disk that a guest sees, in bytes.
    pub(super) virtual_size: u64,
    /// How its content was verified: `tls`, or `none`.
    pub(super) verification: String,
    /// The user that it is known to log in as.
    pub(super) user: Option<String>,
    /// The file that it was, by which a later change of it is noticed.
    pub(super) file: Option<source::FileIdentity>,
}

impl Base {
    fn companion(&self) -> String {
        self.volume.replace(".qcow2", ".json")
    }

    /// Reads a companion of an earlier call; one that cannot be read is one that is not there.
    pub(super) fn from_companion(source: &ImageSource, json: &[u8]) -> Option<Self> {
        let base: Self = serde_json::from_slice(json).ok()?;
        (base.source == source.given() && base.file.as_ref() == source.identity()).then_some(base)
    }
}

/// An image that has been fetched and found fit to be a base.
pub(super) struct Examined<'s> {
    source: &'s ImageSource,
    fetched: Option<Scratch>,
    info: Option<ImageInfo>,
}

impl Examined<'_> {
    /// The size of the disk that a guest sees, in bytes; unknown in a dry run that has not fetched it.
    pub(super) fn virtual_size(&self) -> u64 {
        self.info.as_ref().map_or(0, |info| info.virtual_size)
    }

    fn path(&self) -> &Utf8Path {
        match (&self.fetched, self.source) {
            (Some(fetched), _) => fetched.path(),
            (None, ImageSource::File { path, .. }) => path,
            (None, ImageSource::Url(_)) => Utf8Path::new("IMAGE"),
        }
    }
}

/// Fetches an image and looks whether it may become a base. Nothing that lasts is changed.
pub(super) fn examine<'s>(host: &Host, source: &'s ImageSource, warnings: &mut Vec<String>) -> Result<Examined<'s>> {
    let mut examined = Examined { source, fetched: None, info: None };
    if let ImageSource::Url(url) = source {
        if host.runner.plan(|| format!("# fetch {url} and inspect it")) {
            return Ok(examined);
        }
        examined.fetched = Some(fetch(host, url, warnings)?);
    }
    examined.info = Some(inspect::inspect(host, examined.path(), source.given())?);
    Ok(examined)
}

/// Makes an examined image a complete base volume in the pool, unless it is one already. `user` is remembered as the
/// one that it logs in as, where its name does not tell.
pub(super) fn store(host: &Host, pool: &Pool, examined: &Examined, user: Option<&str>) -> Result<Base> {
    let source = examined.source;
    let Some(info) = &examined.info else {
        host.runner.plan(|| "# upload it as an immutable base volume".to_owned());
        return Ok(Base::unknown(source));
    };
    let file = examined.path();
    host.step("computing the image's checksum");
    let sha256 = checksum(host, file)?;
    let base = Base {
        volume: format!("base-{}.qcow2", &sha256[..16]),
        source: source.given().to_owned(),
        sha256,
        virtual_size: info.virtual_size,
        verification: source.verification().to_owned(),
        user: default_user(source.given()).or(user).map(str::to_owned),
        file: source.identity().cloned(),
    };
    let _one_upload = Lock::take(&lock_name(host, pool, &base.volume), UPLOAD_WAIT, &host.runner.cancel)?;
    if !is_complete(host, pool, &base)? {
        if info.format == "qcow2" {
            upload(host, pool, &base, file)?;
        } else if host.is_dry_run() {
            let words = ["qemu-img", "convert", "-f", &info.format, "-O", "qcow2", file.as_str(), &base.volume];
            host.runner.plan(|| shell_words::join(words));
            undoing(|undo| put(host, pool, &base.volume, info.virtual_size, Utf8Path::new(&base.volume), undo))?;
            write_companion(host, pool, &base.companion(), &base)?;
        } else {
            host.step("converting the image to qcow2");
            let converted = Scratch::on_disk(&host.settings.cache_dir)?;
            qemu_img::convert(&host.runner, &info.format, file, converted.path())?;
            upload(host, pool, &base, converted.path())?;
        }
    }
    write_companion(host, pool, &source.companion(), &base)?;
    Ok(base)
}

impl Base {
    /// What a dry run can say of an image that it has not fetched.
    fn unknown(source: &ImageSource) -> Self {
        Self {
            volume: "base-SHA256.qcow2".to_owned(),
            source: source.given().to_owned(),
            sha256: String::new(),
            virtual_size: 0,
            verification: source.verification().to_owned(),
            user: default_user(source.given()).map(str::to_owned),
            file: None,
        }
    }
}

/// Forgets what a source led to; the next use looks at it anew.
pub(super) fn forget(host: &Host, source: &ImageSource) -> Result<()> {
    host.virsh.delete_volume(&host.settings.pool, &source.companion()).map(drop)
}

fn fetch(host: &Host, url: &str, warnings: &mut Vec<String>) -> Result<Scratch> {
    if !url.to_ascii_lowercase().starts_with("https://") {
        host.warn(warnings, format!("`{url}` comes without TLS: nothing proves that it is what its publisher made"));
    }
    host.step(format!("fetching {url}"));
    let mut file = Scratch::on_disk(&host.settings.cache_dir)?;
    download(url, file.file(), &host.runner.cancel, |done, total| host.progress.bytes(done, total))?;
    Ok(file)
}

fn checksum(host: &Host, path: &Utf8Path) -> Result<String> {
    let failed = |error: std::io::Error| Error::io(format!("read the image `{path}`"), &error);
    let mut file = std::fs::File::open(path).map_err(failed)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        host.runner.cancel.check()?;
        match file.read(&mut buffer).map_err(failed)? {
            0 => break,
            read => hash.update(&buffer[..read]),
        }
    }
    Ok(digest::hex(&hash.finalize()))
}

/// A volume of the pool. In a dry run the pool may not be started; then nobody knows of any.
fn volume(host: &Host, pool: &Pool, name: &str) -> Result<Option<Volume>> {
    match host.virsh.volume(&pool.name, name) {
        Err(error) if error.code == Code::Conflict && host.is_dry_run() => Ok(None),
        result => result,
    }
}

/// Whether the base volume is there and whole. One without its companion is what an upload left that was killed; it
/// is removed.
fn is_complete(host: &Host, pool: &Pool, base: &Base) -> Result<bool> {
    if volume(host, pool, &base.volume)?.is_none() {
        return Ok(false);
    }
    if volume(host, pool, &base.companion())?.is_some() {
        return Ok(true);
    }
    if is_growing(host, pool, &base.volume)? {
        return Err(Error::new(
            Code::Busy,
            format!("the base image `{}` is being uploaded from elsewhere", base.volume),
        )
        .hint("Try again when it is there."));
    }
    host.virsh.delete_volume(&pool.name, &base.volume)?;
    Ok(false)
}

/// Whether somebody whom our locks do not reach, on another machine or in a container, is writing the volume.
fn is_growing(host: &Host, pool: &Pool, name: &str) -> Result<bool> {
    const LOOK: Duration = Duration::from_secs(2);
    let size = || Ok::<_, Error>(host.virsh.volume(&pool.name, name)?.map(|volume| volume.allocation));
    let before = size()?;
    std::thread::sleep(LOOK);
    Ok(size()? != before)
}

fn upload(host: &Host, pool: &Pool, base: &Base, file: &Utf8Path) -> Result<()> {
    let size = std::fs::metadata(file).map_err(|error| Error::io("look at the image", &error))?.len();
    if size > pool.available {
        let room = human(pool.available);
        return Err(Error::conflict(format!(
            "the storage pool `{}` has {room} left, the image needs {}",
            pool.name,
            human(size)
        ))
        .hint("Free some space, or choose another pool with --pool."));
    }
    host.step("uploading the image into the storage pool");
    undoing(|undo| {
        put(host, pool, &base.volume, size, file, undo)?;
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
    host.virsh.upload(&pool.name, name, file)
}

fn write_companion(host: &Host, pool: &Pool, name: &str, base: &Base) -> Result<()> {
    let failed = |error| Error::internal("cannot write JSON").because(error);
    let json = serde_json::to_string_pretty(base).map_err(failed)? + "\n";
    if host.is_dry_run() {
        if volume(host, pool, name)?.is_some() {
            host.virsh.delete_volume(&pool.name, name)?;
        }
        host.runner.plan(|| here_document(&format!("cat > {name}"), "", &json));
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

/// Removes the base volumes whose upload was cut short: those without a companion that nobody is writing. Returns
/// them as `pool/volume`.
pub(super) fn remove_unfinished(host: &Host) -> Result<Vec<String>> {
    let Some(pool) = host.virsh.pool(&host.settings.pool)?.filter(|pool| pool.active) else { return Ok(Vec::new()) };
    let volumes = host.virsh.volumes_like(&pool.name, "base-")?;
    let mut removed = Vec::new();
    for name in volumes.iter().filter(|name| name.ends_with(".qcow2")) {
        if volumes.contains(&name.replace(".qcow2", ".json")) {
            continue;
        }
        let what = lock_name(host, &pool, name);
        match Lock::take(&what, Duration::ZERO, &host.runner.cancel) {
            Err(error) if error.code == Code::Busy => continue,
            result => drop(result?),
        }
        if !is_growing(host, &pool, name)? && host.virsh.delete_volume(&pool.name, name)? {
            removed.push(format!("{}/{name}", pool.name));
        }
    }
    Ok(removed)
}

fn lock_name(host: &Host, pool: &Pool, volume: &str) -> String {
    format!("the base image `{volume}` of pool `{}` at {}", pool.name, host.settings.uri)
}
