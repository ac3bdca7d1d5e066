//! `image import`: an image under a name of one's own.

use std::time::Duration;

use camino::Utf8Path;
use clap::Args;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    Base, Examined, Found, ImagePolicy, ImageSource, base, catalogue, find,
    list::{self, Companions, Image},
    usage::Usage,
};
use crate::{
    error::{Code, Error, Result},
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
    /// Image: a file, or an http(s) URL; qcow2, raw, vmdk, vhdx or vdi, also compressed
    #[schema(min_length = 1, pattern = r"^[^\x00-\x1f\x7f]*/[^\x00-\x1f\x7f]*$")]
    pub file: String,

    /// Name to give it, as in golden or golden:2
    pub name: ImageName,

    /// Checksum that it must have
    #[arg(long, value_name = "sha256:SUM")]
    #[serde(default)]
    pub checksum: Option<Checksum>,

    /// User that it logs in as [default: what its file name tells]
    #[arg(long, value_name = "NAME")]
    #[serde(default)]
    #[schema(pattern = "^[a-z_][a-z0-9_-]{0,31}$")]
    pub user: Option<String>,

    /// Refuse an image that neither a checksum nor a signature speaks for
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
        return Err(Error::invalid(format!("`{name}` is neither a path nor a URL"))
            .hint(format!("`./{name}` is a file of this folder.")));
    }
    let verified = new.require_verified || host.settings.require_verified;
    let demands = ImagePolicy { checksum: new.checksum.as_ref(), verified, pull: false };
    let survey = host.virsh.pool(&host.settings.pool)?;
    let known = base::known_whole(host, &source)?;
    let mut warnings = Vec::new();
    let found = find(host, &source, known.as_ref(), demands, survey.as_ref(), &mut warnings)?;
    let pool = prepare::pool(host, survey.as_ref())?;
    let named = ImageSource::Stored(new.name.clone());
    let of_name = |base: Base| Base {
        source: new.name.to_string(),
        origin: Origin::Imported,
        user: new.user.clone().or_else(|| base.user.clone()),
        file: None,
        ..base.made_by(&host.caller)
    };
    let companion = named.companion_of(host.caller.tenant());
    match found {
        Found::Base(known) => base::write_companion(host, &pool, &companion, &of_name(*known))?,
        Found::Examined(examined) => {
            let base = of_name(examined.base(&source));
            Examined::keep(&examined, host, &pool, &base, &companion)?;
        }
        Found::Unseen(_) => return Err(Error::internal("an import is never a dry run")),
    }
    report(host, &pool, &new.name)
}

/// Refuses a name that is the catalogue's or an image's, and keeps others of this machine from taking it meanwhile.
pub(in crate::ops) fn reserve(host: &Host, name: &ImageName) -> Result<Lock> {
    let lock = lock_name(host, name.as_str(), host.caller.tenant())?;
    let taken = |what: &str, hint: &str| Error::new(Code::AlreadyExists, format!("{what} `{name}`")).hint(hint);
    if catalogue(host)?.find(name).is_some() {
        return Err(taken(
            "the catalogue has an image",
            "Choose another name, so that nobody takes the one for the other.",
        ));
    }
    let named = ImageSource::Stored(name.clone());
    host.allowance.take_image(&named.companion_of(host.caller.tenant()), 0)?;
    if base::known(host, &named)?.is_some() {
        return Err(taken("there is an image", "Choose another name, or remove it: vmprov image delete NAME"));
    }
    Ok(lock)
}

/// Takes the lock on an image's name. Private names of different owners do not exclude each other, so that none shows.
pub(super) fn lock_name(host: &Host, name: &str, owner: Option<&str>) -> Result<Lock> {
    let of = owner.map(|owner| format!(" of `{owner}`")).unwrap_or_default();
    let what = format!("the image name `{name}`{of} of pool `{}` at {}", host.settings.pool, host.hypervisor()?);
    Lock::take(&what, Duration::ZERO, &host.runner.cancel)
}

/// A qcow2 file that was made here, from a VM.
pub(in crate::ops) struct Made<'a> {
    /// Where it is.
    pub(in crate::ops) file: &'a Utf8Path,
    /// Its SHA-256 in hexadecimal.
    pub(in crate::ops) sha256: String,
    /// The size of the disk that a guest sees, in bytes.
    pub(in crate::ops) virtual_size: u64,
    /// The user that it is known to log in as.
    pub(in crate::ops) user: Option<String>,
    /// The base volume that it stood on: what boots that boots this.
    pub(in crate::ops) stood_on: Option<String>,
}

/// Keeps an image that was made here under a name.
pub(in crate::ops) fn keep_made(host: &Host, pool: &Pool, name: &ImageName, made: Made) -> Result<Image> {
    let source = ImageSource::Stored(name.clone());
    let Made { file, sha256, virtual_size, user, stood_on } = made;
    let bases = Companions::read(host, pool)?.bases;
    let like = bases.into_iter().find(|base| Some(&base.volume) == stood_on.as_ref());
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
        ..Base::unseen(&source).made_by(&host.caller)
    };
    base::keep(host, pool, &base, &source.companion_of(base.private_owner()), &|| Ok(()), || {
        Ok(base::Content::Named(file.to_owned()))
    })?;
    report(host, pool, name)
}

/// What is known of an image that was made just now.
fn report(host: &Host, pool: &Pool, name: &ImageName) -> Result<Image> {
    let look = || list::find(host, &list::read(host, pool, &Usage::look(host, pool, false)?)?, name.as_str());
    look().map_err(|error| error.hint(format!("The image `{name}` is there; only this report of it failed.")))
}
