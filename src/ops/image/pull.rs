//! `image pull`: fetching an image, or a newer version of it.

use clap::Args;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    Base, Found, ImagePolicy, ImageSource, base, find,
    list::{self, Image},
    store,
    usage::Usage,
};
use crate::{
    error::{Error, Result},
    model::image::{Arch, Checksum},
    ops::{Host, prepare},
};

/// Describes the image to pull
#[derive(Debug, Clone, PartialEq, Eq, Args, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NewPull {
    /// Image: a name from the catalogue, or an http(s) URL
    #[schema(min_length = 1, pattern = r"^[^\x00-\x1f\x7f]+$")]
    pub image: String,

    /// Required checksum of the image
    #[arg(long, value_name = "sha256:SUM")]
    #[serde(default)]
    pub checksum: Option<Checksum>,

    /// Require a checksum or signature
    #[arg(long)]
    #[serde(default)]
    pub require_verified: bool,

    /// Architecture [default: that of libvirt's host]
    #[arg(long, value_enum)]
    #[serde(default)]
    pub arch: Option<Arch>,
}

/// The result of a pull.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Pulled {
    /// `fetched` for a new image, `updated` for a newer version, or `unchanged`.
    pub status: &'static str,
    /// The image.
    pub image: Image,
    /// The ID of the version that was replaced. Its VMs keep using it.
    pub replaced: Option<String>,
    /// Warnings.
    pub warnings: Vec<String>,
}

/// Makes sure that the pool has the publisher's current version of an image. A newer version does not overwrite the
/// older one, which stays as long as it is in use.
pub fn pull(host: &Host, new: &NewPull) -> Result<Pulled> {
    let source = ImageSource::parse(host, &new.image, new.arch)?;
    let verified = new.require_verified || host.settings.require_verified;
    let policy = ImagePolicy { checksum: new.checksum.as_ref(), verified, pull: true };
    let existing_pool = host.virsh.pool(&host.settings.pool)?;
    let before = base::known_existing(host, &source)?;
    if let (ImageSource::Stored(name), Some(_)) = (&source, &before) {
        return Err(Error::invalid(format!(
            "cannot pull image `{name}`: it was imported or made from a VM, so it has no publisher"
        )));
    }
    let mut warnings = Vec::new();
    let found = find(host, &source, before.as_ref(), policy, existing_pool.as_ref(), &mut warnings)?;
    let pool = prepare::pool(host, existing_pool.as_ref())?;
    let known = matches!(&found, Found::Base(_));
    let base: Base = store(host, &pool, &source, found, None)?;
    let status = match &before {
        Some(before) if before.volume == base.volume => "unchanged",
        Some(_) => "updated",
        // Another vmprov fetched it while this one waited.
        None if known => "unchanged",
        None => "fetched",
    };
    let usage = Usage::read(host, &pool, false)?;
    let volume = format!("{}/{}", pool.name, base.volume);
    let image = list::read(host, &pool, &usage)?.into_iter().find(|image| image.volume == volume);
    let image = image.ok_or_else(|| Error::internal(format!("volume `{volume}` disappeared after it was created")))?;
    let replaced = before.filter(|before| before.volume != base.volume).map(|before| list::id(&before).to_owned());
    Ok(Pulled { status, image, replaced, warnings })
}
