//! `image import`: importing an image under a chosen name.

use std::time::Duration;

use camino::Utf8Path;
use clap::Args;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    Base, Found, ImagePolicy, ImageSource, base, catalogue, find,
    list::{self, Image, Manifests},
    usage::Usage,
};
use crate::{
    error::{Code, Error, Hint, Result},
    model::{
        image::{Checksum, ImageName, Origin},
        user::check_user,
    },
    ops::{Host, prepare},
    store::lock::Lock,
    tools::virsh::Pool,
};

/// Describes the image to import
#[derive(Debug, Clone, PartialEq, Eq, Args, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NewImport {
    /// File or http(s) URL in qcow2, raw, vmdk, vhdx or vdi format, or compressed
    #[schema(min_length = 1, pattern = r"^[^\x00-\x1f\x7f]*/[^\x00-\x1f\x7f]*$")]
    pub file: String,

    /// Name of the image, as in golden or golden:2
    pub name: ImageName,

    /// Required checksum of the image
    #[arg(long, value_name = "sha256:SUM")]
    #[serde(default)]
    pub checksum: Option<Checksum>,

    /// Default login user of the image [default: derived from the file name]
    #[arg(long, value_name = "NAME")]
    #[serde(default)]
    #[schema(pattern = "^[a-z_][a-z0-9_-]{0,31}$")]
    pub user: Option<String>,

    /// Require a checksum or signature
    #[arg(long)]
    #[serde(default)]
    pub require_verified: bool,
}

/// Imports an image.
pub fn import(host: &Host, new: &NewImport) -> Result<Image> {
    new.user.as_deref().map_or(Ok(()), check_user)?;
    let _reserved = reserve(host, &new.name)?;
    let source = ImageSource::parse(host, &new.file, None)?;
    if let ImageSource::Stored(name) = &source {
        return Err(Error::invalid(format!("invalid file `{name}`: it is neither a path nor a URL"))
            .hint(format!("Use `./{name}` for a file in the current folder")));
    }
    let verified = new.require_verified || host.settings.require_verified;
    let policy = ImagePolicy { checksum: new.checksum.as_ref(), verified, pull: false };
    let existing_pool = host.virsh.pool(&host.settings.pool)?;
    let known = base::known_existing(host, &source)?;
    let mut warnings = Vec::new();
    let found = find(host, &source, known.as_ref(), policy, existing_pool.as_ref(), &mut warnings)?;
    let pool = prepare::pool(host, existing_pool.as_ref())?;
    let named = ImageSource::Stored(new.name.clone());
    let of_name = |base: Base| Base {
        source: new.name.to_string(),
        origin: Origin::Imported,
        user: new.user.clone().or_else(|| base.user.clone()),
        file: None,
        ..base.made_by(&host.caller)
    };
    let manifest = named.manifest_of(host.caller.tenant());
    match found {
        Found::Base(known) => base::write_manifest(host, &pool, &manifest, &of_name(*known))?,
        Found::Inspected(inspected) => {
            let base = of_name(inspected.base(&source));
            inspected.keep(host, &pool, &base, &manifest)?;
        }
        Found::Planned(_) => return Err(Error::internal("an import is never a dry run")),
    }
    report(host, &pool, &new.name)
}

/// Reserves a name for a new image on this machine. Refuses the name of an existing image or of one in the catalogue.
pub(in crate::ops) fn reserve(host: &Host, name: &ImageName) -> Result<Lock> {
    let lock = lock_name(host, name.as_str(), host.caller.tenant())?;
    let taken = |message: String| Error::new(Code::AlreadyExists, message);
    if catalogue(host)?.find(name).is_some() {
        return Err(taken(format!("image `{name}` is in the catalogue"))
            .hint("Choose another name, to avoid confusing the images"));
    }
    let named = ImageSource::Stored(name.clone());
    host.allowance.take_image(&named.manifest_of(host.caller.tenant()), 0)?;
    if base::known(host, &named)?.is_some() {
        return Err(taken(format!("image `{name}` already exists")).hint("Choose another name").hint(Hint::call(
            "Delete the image",
            "image_delete",
            [("image", name.as_str())],
        )));
    }
    Ok(lock)
}

/// Takes the lock on an image's name. Private names of different owners have separate locks, so that a name does not
/// leak to other clients.
pub(super) fn lock_name(host: &Host, name: &str, owner: Option<&str>) -> Result<Lock> {
    let of = owner.map(|owner| format!(" of `{owner}`")).unwrap_or_default();
    let what = format!("the image name `{name}`{of} of pool `{}` at {}", host.settings.pool, host.hypervisor()?);
    Lock::take(&what, Duration::ZERO, &host.runner.cancel)
}

/// A qcow2 file that was made from a VM.
pub(in crate::ops) struct Made<'a> {
    /// The path.
    pub(in crate::ops) file: &'a Utf8Path,
    /// The SHA-256 in hexadecimal.
    pub(in crate::ops) sha256: String,
    /// The virtual disk size in bytes.
    pub(in crate::ops) virtual_size: u64,
    /// The default login user, if it is known.
    pub(in crate::ops) user: Option<String>,
    /// The base volume of the VM's disk, which needs the same firmware.
    pub(in crate::ops) base: Option<String>,
}

/// Adds an image that was made from a VM to the pool.
pub(in crate::ops) fn keep_made(host: &Host, pool: &Pool, name: &ImageName, made: Made) -> Result<Image> {
    let source = ImageSource::Stored(name.clone());
    let Made { file, sha256, virtual_size, user, base } = made;
    let bases = Manifests::read(host, pool)?.bases;
    let like = bases.into_iter().find(|known| Some(&known.volume) == base.as_ref());
    let (arch, firmware, min_memory) = like.map(|base| (base.arch, base.firmware, base.min_memory)).unwrap_or_default();
    let volume = base::volume_name(&sha256);
    let base = Base {
        volume,
        sha256,
        virtual_size,
        user,
        arch,
        firmware,
        min_memory,
        origin: Origin::Committed,
        ..Base::not_fetched(&source).made_by(&host.caller)
    };
    base::keep(host, pool, &base, &source.manifest_of(base.private_owner()), &|| Ok(()), || {
        Ok(base::Content::Named(file.to_owned()))
    })?;
    report(host, pool, name)
}

/// Returns the report of a new image.
fn report(host: &Host, pool: &Pool, name: &ImageName) -> Result<Image> {
    let find = || list::find(host, &list::read(host, pool, &Usage::read(host, pool, false)?)?, name.as_str());
    find().map_err(|error| {
        let image = [("image", name.as_str())];
        error.hint(Hint::call("Show the image, which was created; only its report failed", "image_info", image))
    })
}
