//! Operations on SSH keys: generate, import, list, delete.

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

/// Generates a key pair.
pub fn generate(host: &Host, new: &NewKey) -> Result<Key> {
    host.step(format!("generating the key {}", new.name));
    host.keys.generate(new)
}

/// Imports an existing key, public or private.
pub fn import(host: &Host, name: &Name, file: &Utf8Path) -> Result<Key> {
    host.keys.import(name, file)
}

/// Every key, and the files of the key directory that cannot be used.
#[derive(Debug, Serialize, ToSchema)]
pub struct Keys {
    /// The keys, sorted by name.
    pub keys: Vec<Key>,
    /// The errors of files that are not usable keys; one broken file does not hide the keys.
    pub unusable: Vec<Error>,
}

/// Lists every key.
pub fn list(host: &Host) -> Result<Keys> {
    let Listing { mut keys, mut unusable } = host.keys.list()?;
    keys.retain(|key| host.caller.sees(key.name.as_str()));
    if host.caller.prefix.is_some() {
        // These errors name files of other clients.
        unusable.clear();
    }
    for text in unusable.iter().map(ToString::to_string).chain(host.keys.warning()) {
        host.progress.warn(&text);
    }
    Ok(Keys { keys, unusable })
}

/// Returns a key.
pub fn get(host: &Host, name: &Name) -> Result<Key> {
    host.keys.get(name).map_err(|error| with_similar(host, name, error))
}

/// A key that was deleted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct DeletedKey {
    /// Always `deleted`.
    pub status: &'static str,
    /// The key's name.
    pub key: Name,
}

/// Deletes a key. VMs that it was added to keep it.
pub fn delete(host: &Host, name: &Name) -> Result<DeletedKey> {
    host.keys.delete(name).map_err(|error| with_similar(host, name, error))?;
    Ok(DeletedKey { status: "deleted", key: name.clone() })
}

/// Returns the error with similar names added, if it is about a key that does not exist.
fn with_similar(host: &Host, name: &Name, error: Error) -> Error {
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
