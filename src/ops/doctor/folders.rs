//! vmprov's own folders on this machine.

use super::{
    context::Context,
    finding::Finding,
    pool::{existing, room_for},
};
use crate::{
    error::{Code, Result},
    store::disk_space,
};

pub(super) fn keys(look: &Context) -> Finding {
    let folder = &look.host.settings.key_dir;
    if matches!(folder.try_exists(), Ok(false)) {
        return Finding::ok(format!("{folder} is not there yet: the first key makes it"));
    }
    let listing = match look.host.keys.list() {
        Err(error) => return Finding::fail(error.code, error.to_string()),
        Ok(listing) => listing,
    };
    // Folders that containers are given are often open, which is their owner's to decide.
    if let Some((what, command)) = look.host.keys.exposure() {
        return Finding::warn(what).mend(command);
    }
    let open = listing.keys.iter().find_map(|key| look.host.keys.private_key_path(&key.name).err());
    let unusable = open.filter(|error| error.code == Code::Denied).or_else(|| listing.unusable.first().cloned());
    let Some(error) = unusable else {
        return Finding::ok(format!("keys in {folder}: {}", listing.keys.len()));
    };
    let finding = Finding::warn(error.to_string());
    match error.command() {
        Some(command) => finding.mend(command),
        None => finding,
    }
}

pub(super) fn cache(look: &Context) -> Result<Finding> {
    let folder = existing(&look.host.settings.cache_dir);
    Ok(room_for(disk_space::left(&folder)?, &format!("the disk of {folder}")))
}
