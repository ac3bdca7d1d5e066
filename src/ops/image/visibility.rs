//! `image set`: who may use an image.

use clap::Args;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    Base, ImageSource, base, import,
    list::{self, Companions, Image, active_pool},
    unknown_image,
    usage::Usage,
};
use crate::{
    error::{Code, Error, Result},
    model::image::Visibility,
    ops::Host,
    tools::virsh::Pool,
};

/// Describes what to change of an image
#[derive(Debug, Clone, PartialEq, Eq, Args, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ImageChange {
    // The completers put an argument behind the others unless it has its place.
    /// Image, by name, path, URL or id
    #[arg(index = 1)]
    #[schema(min_length = 1)]
    pub image: String,

    /// Who may use it beside the operator: its owner, or every client
    #[arg(long, value_enum, value_name = "WHO")]
    pub visibility: Visibility,
}

/// Changes who may use an image: its owner may, and the operator. VMs that stand on it stay as they are.
pub fn set(host: &Host, change: &ImageChange) -> Result<Image> {
    let reference = &change.image;
    let Some(pool) = active_pool(host)? else { return Err(unknown_image(host, reference)?) };
    let usage = Usage::look(host, &pool, false)?;
    let image = list::find(host, &list::read(host, &pool, &usage)?, reference)?;
    let name = image.names.iter().find(|name| list::means(host, reference, name)).unwrap_or(&image.name);
    let companions = Companions::read(host, &pool)?;
    let is_theirs = |base: &Base| !host.caller.is_limited || base.owner.as_deref() == host.caller.tenant();
    let named = companions.leading_to(image.volume_name()).filter(|(_, base)| base.source == *name);
    let named: Vec<_> = named.filter(|(_, base)| is_theirs(base)).collect();
    if named.is_empty() {
        return Err(Error::new(Code::Forbidden, format!("cannot change the image `{name}`: it is not your own"))
            .hint("Ask the operator: vmprov image set NAME --visibility private|shared"));
    }
    for (companion, base) in named.into_iter().filter(|(_, base)| base.visibility != change.visibility) {
        write(host, &pool, &companions, companion, &Base { visibility: change.visibility, ..base.clone() })?;
    }
    let images = list::read(host, &pool, &usage)?;
    let changed = images.into_iter().find(|found| found.volume == image.volume);
    changed.ok_or_else(|| Error::internal(format!("the image `{name}` is gone after it was changed")))
}

/// Writes what leads to an image under the name that it has with its new visibility.
fn write(host: &Host, pool: &Pool, companions: &Companions, before: &str, base: &Base) -> Result<()> {
    let source = ImageSource::parse(host, &base.source, base.arch)?;
    let after = source.companion_of(base.private_owner());
    if after == before {
        return base::write_companion(host, pool, &after, base);
    }
    let _name = import::lock_name(host, source.given(), base.private_owner())?;
    let mut others = companions.sources.iter().filter(|(name, _)| *name == after);
    if others.any(|(_, other)| other.as_ref().is_some_and(|other| other.volume != base.volume)) {
        let message = format!("cannot change the image `{}`: there is another one of that name", base.source);
        return Err(Error::new(Code::AlreadyExists, message)
            .hint("Give this one another name: vmprov image export, then vmprov image import."));
    }
    base::write_companion(host, pool, &after, base)?;
    host.virsh.delete_volume(&pool.name, before).map(drop)
}
