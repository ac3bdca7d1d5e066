//! `image pull`: what the publisher has now.

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
    /// Image: a name of the catalogue, or an http(s) URL
    #[schema(min_length = 1, pattern = r"^[^\x00-\x1f\x7f]+$")]
    pub image: String,

    /// Checksum that it must have
    #[arg(long, value_name = "sha256:SUM")]
    #[serde(default)]
    pub checksum: Option<Checksum>,

    /// Refuse an image that neither a checksum nor a signature speaks for
    #[arg(long)]
    #[serde(default)]
    pub require_verified: bool,

    /// Architecture, if not that of libvirt's host
    #[arg(long, value_enum)]
    #[serde(default)]
    pub arch: Option<Arch>,
}

/// What came of a pull.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Pulled {
    /// `fetched` where there was none, `updated` where there is a newer one, `unchanged`.
    pub status: &'static str,
    /// The image.
    pub image: Image,
    /// The id of the one that its name led to before; VMs that stand on it stay there.
    pub replaced: Option<String>,
    /// What the operator should know although nothing failed.
    pub warnings: Vec<String>,
}

/// Sees to it that an image is in the pool as its publisher has it now. One that has changed is fetched beside the
/// older one, which stays as long as somebody uses it.
pub fn pull(host: &Host, new: &NewPull) -> Result<Pulled> {
    let source = ImageSource::parse(host, &new.image, new.arch)?;
    let verified = new.require_verified || host.settings.require_verified;
    let demands = ImagePolicy { checksum: new.checksum.as_ref(), verified, pull: true };
    let survey = host.virsh.pool(&host.settings.pool)?;
    let before = base::known_whole(host, &source)?;
    if let (ImageSource::Stored(name), Some(_)) = (&source, &before) {
        return Err(Error::invalid(format!(
            "the image `{name}` was imported or made of a VM: there is nobody to pull it from"
        )));
    }
    let mut warnings = Vec::new();
    let found = find(host, &source, before.as_ref(), demands, survey.as_ref(), &mut warnings)?;
    let pool = prepare::pool(host, survey.as_ref())?;
    let known = matches!(&found, Found::Base(_));
    let base: Base = store(host, &pool, &source, found, None)?;
    let status = match &before {
        Some(before) if before.volume == base.volume => "unchanged",
        Some(_) => "updated",
        // Another vmprov fetched it while this one waited.
        None if known => "unchanged",
        None => "fetched",
    };
    let usage = Usage::look(host, &pool, false)?;
    let volume = format!("{}/{}", pool.name, base.volume);
    let image = list::read(host, &pool, &usage)?.into_iter().find(|image| image.volume == volume);
    let image = image.ok_or_else(|| Error::internal(format!("the volume `{volume}` is gone after it was made")))?;
    let replaced = before.filter(|before| before.volume != base.volume).map(|before| list::id(&before).to_owned());
    Ok(Pulled { status, image, replaced, warnings })
}
