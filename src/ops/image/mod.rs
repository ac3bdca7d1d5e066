//! Base images: turning a name, a file or a URL into an immutable volume that all VMs of the image share.

mod base;
mod delete;
mod export;
mod fetch;
mod import;
mod inspect;
mod list;
pub(super) mod location;
mod login_user;
mod proof;
mod pull;
mod read;
mod search;
mod source;
mod usage;
mod visibility;

use std::time::Duration;

use camino::Utf8Path;

use super::{Host, missing};
use crate::{
    catalogue::Catalogue,
    error::{Code, Error, Hint, ResourceKind, Result},
    model::{
        image::{ImageName, Origin, Verification, Visibility},
        source_policy::SourcePolicy,
    },
    store::{disk_space, lock::Lock},
    tools::{
        qemu_img::{self, Format, ImageInfo},
        scratch::Scratch,
        virsh::Pool,
    },
};

use base::Content;
use fetch::Fetched;

pub(super) use base::{Base, require_space, space_in};
pub use delete::{DeletedImage, PruneOptions, Pruned, PrunedImage, delete, prune};
pub(super) use delete::{find_unfinished, remove_unfinished};
pub use export::{Exported, export};
pub(super) use fetch::{ImagePolicy, downloads};
pub(super) use import::{Made, keep_made, reserve};
pub use import::{NewImport, import};
pub use list::{Image, Images, info, list};
pub use pull::{NewPull, Pulled, pull};
pub use search::{Found as Offers, Offer, SearchOptions, search};
pub(super) use source::ImageSource;
pub use visibility::{ImageChange, set};

/// How long to wait for another vmprov that fetches and stores the same image.
const FETCH_WAIT: Duration = Duration::from_hours(2);

/// How long to wait for another vmprov that removes the image.
const REMOVAL_WAIT: Duration = Duration::from_mins(1);

/// Returns the built-in catalogue, extended by the operator's catalogue files.
fn catalogue(host: &Host) -> Result<Catalogue> {
    let mut catalogue = Catalogue::built_in()?;
    for file in &host.settings.catalogue_files {
        let text = std::fs::read_to_string(file);
        let text = text.map_err(|error| Error::io(format!("read the image catalogue `{file}`"), &error))?;
        catalogue.add(&text, file.as_str())?;
    }
    Ok(catalogue)
}

/// Returns every name and alias of the catalogue, for shell completion.
pub fn names(host: &Host) -> Result<Vec<String>> {
    Ok(catalogue(host)?.names().map(ToString::to_string).collect())
}

/// An image that is in the pool, or may become a base there.
pub(super) enum Found {
    /// The image is in the pool.
    Base(Box<Base>),
    /// The image has been fetched and inspected.
    Inspected(Box<Inspected>),
    /// The image would be fetched; this is a dry run.
    Planned(Box<Base>),
}

/// An image that has been fetched and inspected, and may become a base.
pub(super) struct Inspected {
    fetched: Fetched,
    info: ImageInfo,
    /// Keeps other processes from fetching the same image.
    _lock: Option<Lock>,
}

impl Found {
    /// Returns the virtual disk size in bytes, or zero for an image that a dry run has not fetched.
    pub(super) fn virtual_size(&self) -> u64 {
        match self {
            Self::Base(base) | Self::Planned(base) => base.virtual_size,
            Self::Inspected(inspected) => inspected.info.virtual_size,
        }
    }
}

/// Finds an image in the pool, or fetches it and checks whether it may become a base. Makes no lasting changes. `known`
/// is the base that the source led to when it was last used.
pub(super) fn find(
    host: &Host,
    source: &ImageSource,
    known: Option<&Base>,
    policy: ImagePolicy,
    pool: Option<&Pool>,
    warnings: &mut Vec<String>,
) -> Result<Found> {
    let is_accepted = |base: &Base| policy.accepts(base);
    if let Some(base) = known.filter(|base| is_accepted(base))
        && (!policy.pull || fetch::is_fresh(host, source, base)?)
    {
        return Ok(Found::Base(Box::new(base.clone())));
    }
    if let ImageSource::Stored(_) = source {
        return Err(match known {
            Some(base) => policy_violation(source, base, policy),
            None => unknown_image(host, source.given())?,
        });
    }
    if !matches!(source, ImageSource::File { .. })
        && host.runner.plan(|| format!("# fetch {} and inspect it", source.given()))
    {
        return Ok(Found::Planned(Box::new(Base::not_fetched(source))));
    }
    let (lock, waited) = lock_fetch(host, source)?;
    // The process that held the lock may have stored the image.
    let is_new = |base: &Base| is_accepted(base) && known != Some(base);
    if waited && let Some(base) = base::known_existing(host, source)?.filter(is_new) {
        return Ok(Found::Base(Box::new(base)));
    }
    let fetched = fetch::fetch(host, source, policy, pool, warnings)?;
    let info = inspect::inspect(host, &fetched.path(), source.given());
    // An invalid image is removed. After a signal or with a missing program, the download can be used again.
    let info = info.inspect_err(|error| {
        if error.code == Code::InvalidInput {
            fetched.discard();
        }
    })?;
    Ok(Found::Inspected(Box::new(Inspected { fetched, info, _lock: lock })))
}

/// Takes the lock for fetching an image, and returns whether another process held it: one process fetches an image, the
/// others wait and use it. A dry run takes no lock.
fn lock_fetch(host: &Host, source: &ImageSource) -> Result<(Option<Lock>, bool)> {
    if host.is_dry_run() {
        return Ok((None, false));
    }
    let what = format!("the image {} for pool `{}` at {}", source.given(), host.settings.pool, host.hypervisor()?);
    match Lock::take(&what, Duration::ZERO, &host.runner.cancel) {
        Err(error) if error.code == Code::Busy => {
            host.step(format!("waiting for another vmprov that is fetching {}", source.given()));
            Ok((Some(Lock::take(&what, FETCH_WAIT, &host.runner.cancel)?), true))
        }
        lock => Ok((Some(lock?), false)),
    }
}

/// Refuses the name of an image that does not exist; `source` has no base in the pool.
pub(super) fn refuse_unknown(host: &Host, source: &ImageSource) -> Result<()> {
    match source {
        ImageSource::Stored(name) => Err(unknown_image(host, name.as_str())?),
        _ => Ok(()),
    }
}

/// Returns the error for an image of the pool that does not meet the policy and cannot be fetched again.
fn policy_violation(source: &ImageSource, base: &Base, policy: ImagePolicy) -> Error {
    let given = source.given();
    match policy.checksum {
        Some(checksum) => Error::invalid(format!("checksum mismatch for `{given}`"))
            .because(format!("expected {checksum} (requested), but the image was made from sha256:{}", base.sha256)),
        None => Error::invalid(format!("image `{given}` is not verified"))
            .because(format!("its verification is {}", base.verification))
            .hint(Hint::set("Provide its checksum", "checksum"))
            .hint(Hint::call("Show its details", "image_info", [("image", given)])),
    }
}

/// Returns the error for a name that is neither in the catalogue nor of an image in the pool.
fn unknown_image(host: &Host, name: &str) -> Result<Error> {
    let stored: Vec<_> = list::sources(host).unwrap_or_default();
    let catalogue = catalogue(host)?;
    if name.parse().is_ok_and(|name| catalogue.find(&name).is_some()) {
        return Ok(Error::not_found(format!("image `{name}` is not in storage pool `{}`", host.settings.pool))
            .hint(Hint::call("Fetch it", "image_pull", [("image", name)])));
    }
    let known = catalogue.names().map(ImageName::as_str).chain(stored.iter().map(String::as_str));
    let error = missing(ResourceKind::Image, name, known, Hint::call_any("List the known images", "image_search"));
    // A client that may not use every file must not learn which files exist.
    let is_file = host.settings.sources == SourcePolicy::Any && Utf8Path::new(name).is_file();
    Ok(if is_file { error.hint(format!("Use `./{name}` for the file of that name")) } else { error })
}

/// Stores an image as a base volume in the pool, unless it is there already. `user` becomes its default login user if
/// no other is known.
pub(super) fn store(host: &Host, pool: &Pool, source: &ImageSource, found: Found, user: Option<&str>) -> Result<Base> {
    match found {
        Found::Base(base) => Ok(*base),
        Found::Planned(base) => {
            host.runner.plan(|| "# upload it as an immutable base volume".to_owned());
            Ok(*base)
        }
        Found::Inspected(inspected) => {
            let base = Base { user: source.user().or(user).map(str::to_owned), ..inspected.base(source) };
            let base = base.made_by(&host.caller);
            inspected.keep(host, pool, &base, &source.manifest_of(base.private_owner()))?;
            Ok(base)
        }
    }
}

impl Inspected {
    /// Returns the content of its manifest.
    fn base(&self, source: &ImageSource) -> Base {
        let Fetched { sha256, proof, facts, .. } = &self.fetched;
        Base {
            volume: base::volume_name(sha256),
            sha256: sha256.clone(),
            virtual_size: self.info.virtual_size,
            verification: proof.verification,
            checksums: proof.checksums.clone(),
            signed_by: proof.signed_by.clone(),
            url: facts.as_ref().map(|facts| facts.url.clone()),
            etag: facts.as_ref().and_then(|facts| facts.etag.clone()),
            last_modified: facts.as_ref().and_then(|facts| facts.last_modified.clone()),
            ..Base::not_fetched(source)
        }
    }

    /// Stores it in the pool, and removes the download.
    fn keep(&self, host: &Host, pool: &Pool, base: &Base, manifest: &str) -> Result<()> {
        let file = if host.is_dry_run() { self.fetched.shown_path() } else { self.fetched.path() };
        let unchanged = || self.fetched.check_unchanged();
        base::keep(host, pool, base, manifest, &unchanged, || {
            if self.info.format == Format::Qcow2 {
                return Ok(Content::Named(file.clone()));
            }
            let format = self.info.format.as_ref();
            let words = ["qemu-img", "convert", "-f", format, "-O", "qcow2", file.as_str(), &base.volume];
            if host.runner.plan(|| shell_words::join(words)) {
                return Ok(Content::Named(base.volume.clone().into()));
            }
            host.step("converting the image to qcow2");
            disk_space::require(&host.settings.cache_dir, self.fetched.allocated()?)?;
            let converted = Scratch::on_disk(&host.settings.cache_dir)?;
            qemu_img::convert(&host.runner, self.info.format, &file, converted.path())?;
            Ok(Content::Scratch(converted))
        })
        .inspect_err(|error| {
            // A download that exceeds a quota is not kept for a retry.
            if error.code == Code::QuotaExceeded {
                self.fetched.discard();
            }
        })?;
        self.fetched.discard();
        Ok(())
    }
}

impl Base {
    /// Returns what is known of an image before it is fetched.
    fn not_fetched(source: &ImageSource) -> Self {
        let entry = source.entry();
        Self {
            volume: "base-SHA256.qcow2".to_owned(),
            source: source.given().to_owned(),
            origin: Origin::Fetched,
            sha256: String::new(),
            virtual_size: 0,
            verification: Verification::None,
            checksums: Vec::new(),
            signed_by: None,
            user: source.user().map(str::to_owned),
            file: source.identity().cloned(),
            url: None,
            etag: None,
            last_modified: None,
            arch: source.arch(),
            firmware: entry.map(|entry| entry.firmware),
            min_memory: entry.and_then(|entry| entry.min_memory).map(crate::model::size::Memory::mib),
            owner: None,
            visibility: Visibility::Shared,
            created: jiff::Timestamp::now().round(jiff::Unit::Second).unwrap_or_default().to_string(),
        }
    }
}

/// Locks a base against removal while a VM is created from it.
pub(super) fn hold(host: &Host, pool: &Pool, base: &Base) -> Result<Lock> {
    Lock::share(&base::lock_name(host, pool, &base.volume)?, REMOVAL_WAIT, &host.runner.cancel)
}

/// Returns the name of the source manifest of an image of this name that the caller makes.
pub(super) fn manifest(host: &Host, name: &ImageName) -> String {
    ImageSource::Stored(name.clone()).manifest_of(host.caller.tenant())
}

/// An image that counts toward a client's quota.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnedImage {
    /// The name of its source manifest.
    pub manifest: String,
    /// The space that it occupies in the pool, in bytes.
    pub bytes: u64,
}

/// Returns the images of a client, one entry for each name.
pub fn owned(host: &Host, owner: &str) -> Result<Vec<OwnedImage>> {
    let Some(pool) = list::active_pool(host)? else { return Ok(Vec::new()) };
    let sources = list::Manifests::read(host, &pool)?.sources.into_iter();
    let known = sources.filter_map(|(manifest, base)| Some((manifest, base?)));
    let found: Vec<_> = known.filter(|(_, base)| base.owner.as_deref() == Some(owner)).collect();
    if found.is_empty() {
        return Ok(Vec::new());
    }
    let volumes = host.virsh.storage(false)?.volumes;
    let bytes = |base: &Base| {
        let found = volumes.iter().find(|volume| volume.pool == pool.name && volume.name == base.volume);
        found.map(|volume| volume.allocation).unwrap_or_default()
    };
    Ok(found.into_iter().map(|(manifest, base)| OwnedImage { manifest, bytes: bytes(&base) }).collect())
}

/// Deletes the source manifest of a base, so that the next use reads the source again.
pub(super) fn forget(host: &Host, source: &ImageSource, base: &Base) -> Result<()> {
    let manifest = source.manifest_of(base.private_owner());
    host.virsh.delete_volume(&host.settings.pool, &manifest).map(drop)
}
