//! vmprov's own folders on this machine.

use super::{
    context::Context,
    finding::Finding,
    pool::{nearest_existing, space_finding},
};
use crate::{
    error::{Code, Result},
    store::disk_space,
};

pub(super) fn keys(context: &Context) -> Finding {
    let folder = &context.host.settings.key_dir;
    if matches!(folder.try_exists(), Ok(false)) {
        return Finding::ok(format!("{folder} does not exist yet; generating the first key creates it"));
    }
    let listing = match context.host.keys.list() {
        Err(error) => return Finding::fail(error.code, error.to_string()),
        Ok(listing) => listing,
    };
    // A folder that is mounted into a container is often open, and only its owner can decide whether it should be.
    if let Some((what, command)) = context.host.keys.exposure() {
        return Finding::warn(what).fix(command);
    }
    let open = listing.keys.iter().find_map(|key| context.host.keys.private_key_path(&key.name).err());
    let unusable = open.filter(|error| error.code == Code::Denied).or_else(|| listing.unusable.first().cloned());
    let Some(error) = unusable else {
        return Finding::ok(format!("keys in {folder}: {}", listing.keys.len()));
    };
    let finding = Finding::warn(error.to_string());
    match error.command() {
        Some(command) => finding.fix(command),
        None => finding,
    }
}

pub(super) fn cache(context: &Context) -> Result<Finding> {
    let folder = nearest_existing(&context.host.settings.cache_dir);
    Ok(space_finding(disk_space::left(&folder)?, &format!("the disk of {folder}")))
}
