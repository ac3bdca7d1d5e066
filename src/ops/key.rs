//! ssh keys: made, taken in, listed, deleted.

use camino::Utf8Path;
use serde::Serialize;
use utoipa::ToSchema;

use super::{Host, missing};
use crate::{
    error::{Code, Error, Hint, ResourceKind, Result},
    model::{
        key::{Key, NewKey},
        name::Name,
    },
    store::keys::Listing,
};

/// Makes a key pair.
pub fn generate(host: &Host, new: &NewKey) -> Result<Key> {
    host.step(format!("generating the key {}", new.name));
    host.keys.generate(new)
}

/// Takes in an existing key, public or private.
pub fn import(host: &Host, name: &Name, file: &Utf8Path) -> Result<Key> {
    host.keys.import(name, file)
}

/// Every key, and what is in the folder that cannot be used.
#[derive(Debug, Serialize, ToSchema)]
pub struct Keys {
    /// The keys, in the order of their names.
    pub keys: Vec<Key>,
    /// What is there and is no key: one broken file hides no other.
    pub unusable: Vec<Error>,
}

/// Lists every key.
pub fn list(host: &Host) -> Result<Keys> {
    let Listing { mut keys, mut unusable } = host.keys.list()?;
    keys.retain(|key| host.caller.sees(key.name.as_str()));
    if host.caller.prefix.is_some() {
        // They name files of others.
        unusable.clear();
    }
    for text in unusable.iter().map(ToString::to_string).chain(host.keys.warning()) {
        host.progress.warn(&text);
    }
    Ok(Keys { keys, unusable })
}

/// One key.
pub fn get(host: &Host, name: &Name) -> Result<Key> {
    host.keys.get(name).map_err(|error| near(host, name, error))
}

/// A key that was deleted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct DeletedKey {
    /// `deleted`.
    pub status: &'static str,
    /// Its name.
    pub key: Name,
}

/// Deletes a key; VMs that have it keep it.
pub fn delete(host: &Host, name: &Name) -> Result<DeletedKey> {
    host.keys.delete(name).map_err(|error| near(host, name, error))?;
    Ok(DeletedKey { status: "deleted", key: name.clone() })
}

/// Adds the names that are near to the error for one that is not there.
fn near(host: &Host, name: &Name, error: Error) -> Error {
    match (error.code, host.keys.list()) {
        (Code::NotFound, Ok(listing)) => {
            let known = listing.keys.iter().map(|key| key.name.as_str()).filter(|name| host.caller.sees(name));
            missing(
                ResourceKind::Key,
                name.as_str(),
                known,
                Hint::call("Generate it", "ssh_key_generate", [("name", name.as_str())]),
            )
        }
        _ => error,
    }
}
