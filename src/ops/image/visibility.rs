//! `image set`: changing who may use an image.

use clap::Args;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    Base, ImageSource, base, import,
    list::{self, Image, Manifests, active_pool},
    unknown_image,
    usage::Usage,
};
use crate::{
    error::{Code, Error, Hint, Result},
    model::image::Visibility,
    ops::Host,
    tools::virsh::Pool,
};

/// Describes a change to an image
#[derive(Debug, Clone, PartialEq, Eq, Args, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ImageChange {
    // Shell completion puts an argument behind the others unless it has an index.
    /// Image, by name, path, URL or ID
    #[arg(index = 1)]
    #[schema(min_length = 1)]
    pub image: String,

    /// Who may use it besides the operator: its owner, or every client
    #[arg(long, value_enum, value_name = "WHO")]
    pub visibility: Visibility,
}

/// Changes who may use an image. The owner and the operator may do that. Existing VMs keep the image.
pub fn set(host: &Host, change: &ImageChange) -> Result<Image> {
    let reference = &change.image;
    let Some(pool) = active_pool(host)? else { return Err(unknown_image(host, reference)?) };
    let usage = Usage::read(host, &pool, false)?;
    let image = list::find(host, &list::read(host, &pool, &usage)?, reference)?;
    let name = image.names.iter().find(|name| list::means(host, reference, name)).unwrap_or(&image.name);
    let manifests = Manifests::read(host, &pool)?;
    let is_theirs = |base: &Base| !host.caller.is_limited || base.owner.as_deref() == host.caller.tenant();
    let named = manifests.leading_to(image.volume_name()).filter(|(_, base)| base.source == *name);
    let named: Vec<_> = named.filter(|(_, base)| is_theirs(base)).collect();
    if named.is_empty() {
        let command = format!("vmprov image set {} --visibility {}", shell_words::quote(name), change.visibility);
        let message = format!("cannot change image `{name}`: only its owner and the operator can");
        return Err(Error::new(Code::Forbidden, message).hint(Hint::run("Ask the operator to change it", command)));
    }
    for (manifest, base) in named.into_iter().filter(|(_, base)| base.visibility != change.visibility) {
        write(host, &pool, &manifests, manifest, &Base { visibility: change.visibility, ..base.clone() })?;
    }
    let images = list::read(host, &pool, &usage)?;
    let changed = images.into_iter().find(|found| found.volume == image.volume);
    changed.ok_or_else(|| Error::internal(format!("the image `{name}` is gone after it was changed")))
}

/// Writes a source manifest with the new visibility, on which its name depends.
fn write(host: &Host, pool: &Pool, manifests: &Manifests, before: &str, base: &Base) -> Result<()> {
    let source = ImageSource::parse(host, &base.source, base.arch)?;
    let after = source.manifest_of(base.private_owner());
    if after == before {
        return base::write_manifest(host, pool, &after, base);
    }
    let _name = import::lock_name(host, source.given(), base.private_owner())?;
    let mut others = manifests.sources.iter().filter(|(name, _)| *name == after);
    if others.any(|(_, other)| other.as_ref().is_some_and(|other| other.volume != base.volume)) {
        let message = format!("cannot change image `{}`: another image has that name", base.source);
        return Err(Error::new(Code::AlreadyExists, message).hint("Export the image, and import it under another name"));
    }
    base::write_manifest(host, pool, &after, base)?;
    host.virsh.delete_volume(&pool.name, before).map(drop)
}
