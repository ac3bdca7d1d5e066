//! Base images: from a name, a file or a URL to an immutable volume, once for all the VMs that stand on it.

mod base;
mod delete;
mod export;
mod fetch;
mod import;
mod inspect;
mod list;
mod location;
mod login_user;
mod proof;
mod pull;
mod search;
mod source;
mod usage;
mod visibility;

use std::time::Duration;

use camino::Utf8Path;
use url::Url;

use super::{Host, missing};
use crate::{
    catalogue::Catalogue,
    error::{Code, Error, Hint, ResourceKind, Result},
    model::{
        image::{ImageName, Origin, Verification, Visibility},
        source_policy::SourcePolicy,
    },
    store::{disk_space, http::UrlTrust, lock::Lock},
    tools::{
        qemu_img::{self, Format, ImageInfo},
        scratch::Scratch,
        virsh::Pool,
    },
};

use base::Content;
use fetch::Fetched;
use location::Location;

pub(super) use base::{Base, require_room, room_in};
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

/// How long another vmprov may take to fetch and store the same image.
const TURN: Duration = Duration::from_hours(2);

/// How long somebody may remove an image that a VM is to be built on.
const REMOVAL: Duration = Duration::from_mins(1);

/// The built-in catalogue, and the site's on top of it.
fn catalogue(host: &Host) -> Result<Catalogue> {
    let mut catalogue = Catalogue::built_in()?;
    for file in &host.settings.catalogue_files {
        let text = std::fs::read_to_string(file);
        let text = text.map_err(|error| Error::io(format!("read the image catalogue `{file}`"), &error))?;
        catalogue.add(&text, file.as_str())?;
    }
    Ok(catalogue)
}

/// Whether what stands at a URL is had from a mirror.
pub(super) fn is_mirrored(host: &Host, url: &Url) -> Result<bool> {
    Ok(!matches!(Location::of(host, url.as_str(), UrlTrust::Request)?, Location::Web(_, UrlTrust::Request)))
}

/// Every name and alias of the catalogue: for completing words.
pub fn names(host: &Host) -> Result<Vec<String>> {
    Ok(catalogue(host)?.names().map(ToString::to_string).collect())
}

/// An image that is in the pool, or may become a base there.
pub(super) enum Found {
    /// It is there.
    Base(Box<Base>),
    /// It has been fetched, and found fit.
    Examined(Box<Examined>),
    /// It would be fetched, in a dry run.
    Unseen(Box<Base>),
}

/// An image that has been fetched and found fit to be a base.
pub(super) struct Examined {
    fetched: Fetched,
    info: ImageInfo,
    /// Nobody else is at it.
    _turn: Option<Lock>,
}

impl Found {
    /// The size of the disk that a guest sees, in bytes; unknown in a dry run that has not fetched it.
    pub(super) fn virtual_size(&self) -> u64 {
        match self {
            Self::Base(base) | Self::Unseen(base) => base.virtual_size,
            Self::Examined(examined) => examined.info.virtual_size,
        }
    }
}

/// Finds an image in the pool, or else fetches it and looks whether it may become a base. Nothing that lasts is
/// changed. `known` is what the source led to when it was last used.
pub(super) fn find(
    host: &Host,
    source: &ImageSource,
    known: Option<&Base>,
    demands: ImagePolicy,
    pool: Option<&Pool>,
    warnings: &mut Vec<String>,
) -> Result<Found> {
    let good = |base: &Base| demands.are_met_by(base);
    if let Some(base) = known.filter(|base| good(base))
        && (!demands.pull || fetch::is_fresh(host, source, base)?)
    {
        return Ok(Found::Base(Box::new(base.clone())));
    }
    if let ImageSource::Stored(_) = source {
        return Err(match known {
            Some(base) => unmet(source, base, demands),
            None => unknown_image(host, source.given())?,
        });
    }
    if !matches!(source, ImageSource::File { .. })
        && host.runner.plan(|| format!("# fetch {} and inspect it", source.given()))
    {
        return Ok(Found::Unseen(Box::new(Base::unseen(source))));
    }
    let (turn, waited) = take_turn(host, source)?;
    // Whoever was at it has put it there, or has failed and left what there was.
    let is_new = |base: &Base| good(base) && known != Some(base);
    if waited && let Some(base) = base::known_whole(host, source)?.filter(is_new) {
        return Ok(Found::Base(Box::new(base)));
    }
    let fetched = fetch::fetch(host, source, demands, pool, warnings)?;
    let info = inspect::inspect(host, &fetched.path(), source.given());
    // What is no image for good is removed; a signal or a program that is missing is not its fault.
    let info = info.inspect_err(|error| {
        if error.code == Code::InvalidInput {
            fetched.discard();
        }
    })?;
    Ok(Found::Examined(Box::new(Examined { fetched, info, _turn: turn })))
}

/// One process fetches an image, the others wait and use it; true for one that has waited. A dry run changes nothing
/// and waits for nobody.
fn take_turn(host: &Host, source: &ImageSource) -> Result<(Option<Lock>, bool)> {
    if host.is_dry_run() {
        return Ok((None, false));
    }
    let what = format!("the image {} for pool `{}` at {}", source.given(), host.settings.pool, host.hypervisor()?);
    match Lock::take(&what, Duration::ZERO, &host.runner.cancel) {
        Err(error) if error.code == Code::Busy => {
            host.step(format!("waiting for another vmprov that fetches {}", source.given()));
            Ok((Some(Lock::take(&what, TURN, &host.runner.cancel)?), true))
        }
        lock => Ok((Some(lock?), false)),
    }
}

/// Refuses a name that leads nowhere; `source` is not known to the pool.
pub(super) fn refuse_unknown(host: &Host, source: &ImageSource) -> Result<()> {
    match source {
        ImageSource::Stored(name) => Err(unknown_image(host, name.as_str())?),
        _ => Ok(()),
    }
}

/// The error for an image of the pool that does not meet what is demanded of it, and cannot be fetched anew.
fn unmet(source: &ImageSource, base: &Base, demands: ImagePolicy) -> Error {
    let given = source.given();
    match demands.checksum {
        Some(checksum) => Error::invalid(format!("`{given}` is not what it should be: its checksum is another one"))
            .because(format!("expected {checksum} (--checksum), it was made from sha256:{}", base.sha256)),
        None => Error::invalid(format!("the image `{given}` is not verified, and must be"))
            .because(format!("its verification is {}", base.verification))
            .hint("Give its checksum: --checksum sha256:SUM; `vmprov image info` shows what is known of it."),
    }
}

/// The error for a name that is neither the catalogue's nor an image's of the pool.
fn unknown_image(host: &Host, name: &str) -> Result<Error> {
    let stored: Vec<_> = list::sources(host).unwrap_or_default();
    let catalogue = catalogue(host)?;
    if name.parse().is_ok_and(|name| catalogue.find(&name).is_some()) {
        return Ok(Error::not_found(format!("the image `{name}` is not in the pool `{}`", host.settings.pool))
            .hint(format!("Fetch it: vmprov image pull {name}")));
    }
    let known = catalogue.names().map(ImageName::as_str).chain(stored.iter().map(String::as_str));
    let error = missing(ResourceKind::Image, name, known, Hint::call_any("List the known images", "image_search"));
    // Whoever may not name every file is not told of any.
    let is_file = host.settings.sources == SourcePolicy::Any && Utf8Path::new(name).is_file();
    Ok(if is_file { error.hint(format!("There is a file of that name: `./{name}` means it.")) } else { error })
}

/// Makes what was found a complete base volume in the pool, unless it is one already. `user` is remembered as the one
/// that it logs in as, where nothing else tells.
pub(super) fn store(host: &Host, pool: &Pool, source: &ImageSource, found: Found, user: Option<&str>) -> Result<Base> {
    match found {
        Found::Base(base) => Ok(*base),
        Found::Unseen(base) => {
            host.runner.plan(|| "# upload it as an immutable base volume".to_owned());
            Ok(*base)
        }
        Found::Examined(examined) => {
            let base = Base { user: source.user().or(user).map(str::to_owned), ..examined.base(source) };
            let base = base.made_by(&host.caller);
            examined.keep(host, pool, &base, &source.companion_of(base.private_owner()))?;
            Ok(base)
        }
    }
}

impl Examined {
    /// What is known of it.
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
            ..Base::unseen(source)
        }
    }

    /// Puts it into the pool; what was downloaded is removed then.
    fn keep(&self, host: &Host, pool: &Pool, base: &Base, companion: &str) -> Result<()> {
        let file = if host.is_dry_run() { self.fetched.shown_path() } else { self.fetched.path() };
        let unchanged = || self.fetched.check_unchanged();
        base::keep(host, pool, base, companion, &unchanged, || {
            if self.info.format == Format::Qcow2 {
                return Ok(Content::Named(file.clone()));
            }
            let format = self.info.format.as_str();
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
            // What exceeds a quota is not kept for another try.
            if error.code == Code::QuotaExceeded {
                self.fetched.discard();
            }
        })?;
        self.fetched.discard();
        Ok(())
    }
}

impl Base {
    /// What can be said of an image that has not been looked at.
    fn unseen(source: &ImageSource) -> Self {
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

/// Keeps a base from being removed while a VM is built on it.
pub(super) fn hold(host: &Host, pool: &Pool, base: &Base) -> Result<Lock> {
    Lock::share(&base::lock_name(host, pool, &base.volume)?, REMOVAL, &host.runner.cancel)
}

/// Returns the name of what leads to an image of this name that the caller makes.
pub(super) fn companion(host: &Host, name: &ImageName) -> String {
    ImageSource::Stored(name.clone()).companion_of(host.caller.tenant())
}

/// An image that counts for somebody's quota.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnedImage {
    /// The volume that leads to it.
    pub companion: String,
    /// Its bytes in the pool.
    pub bytes: u64,
}

/// Returns the images that were made on somebody's behalf, each name for itself.
pub fn owned(host: &Host, owner: &str) -> Result<Vec<OwnedImage>> {
    let Some(pool) = list::active_pool(host)? else { return Ok(Vec::new()) };
    let sources = list::Companions::read(host, &pool)?.sources.into_iter();
    let known = sources.filter_map(|(companion, base)| Some((companion, base?)));
    let theirs: Vec<_> = known.filter(|(_, base)| base.owner.as_deref() == Some(owner)).collect();
    if theirs.is_empty() {
        return Ok(Vec::new());
    }
    let volumes = host.virsh.storage(false)?.volumes;
    let bytes = |base: &Base| {
        let found = volumes.iter().find(|volume| volume.pool == pool.name && volume.name == base.volume);
        found.map(|volume| volume.allocation).unwrap_or_default()
    };
    Ok(theirs.into_iter().map(|(companion, base)| OwnedImage { companion, bytes: bytes(&base) }).collect())
}

/// Forgets that a source led to a base; the next use looks at it anew.
pub(super) fn forget(host: &Host, source: &ImageSource, base: &Base) -> Result<()> {
    let companion = source.companion_of(base.private_owner());
    host.virsh.delete_volume(&host.settings.pool, &companion).map(drop)
}
