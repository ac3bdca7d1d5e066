//! How long a VM is kept: its time to live, and its protection from being deleted. Both stand in its metadata.

use clap::Args;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    error::{Error, Result},
    model::{
        record::VmRecord,
        ttl::{Lifetime, Ttl},
    },
    ops::{
        Host,
        vm::{lock_found, look_up, require_whole},
    },
};

/// Describes a VM's new time to live
#[derive(Debug, Clone, PartialEq, Eq, Args, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NewTtl {
    /// VM, by name or UUID
    // The completers put an argument behind the others unless it has its place.
    #[arg(index = 1)]
    #[schema(min_length = 1, max_length = 255)]
    pub vm: String,

    /// How long it is kept, from now on: 30m, 2h, 7d, 1h30m, or never for one that does not expire
    #[arg(index = 2, value_name = "TIME")]
    pub ttl: Lifetime,
}

/// When a VM expires.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Expiry {
    /// The VM's name.
    pub vm: String,
    /// When `reap` may delete it (RFC 3339, UTC); none for a VM that does not expire.
    pub expires: Option<Timestamp>,
    /// Whether anything had to be done.
    pub changed: bool,
}

/// Whether a VM is protected.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Protection {
    /// `protected` or `unprotected`.
    pub status: &'static str,
    /// The VM's name.
    pub vm: String,
    /// Whether anything had to be done.
    pub changed: bool,
}

/// The moment at which what begins to live now expires.
pub(in crate::ops) fn expiry(ttl: Ttl) -> Result<Timestamp> {
    let now = Timestamp::now().round(jiff::Unit::Second);
    now.and_then(|now| now.checked_add(ttl.duration()))
        .map_err(|error| Error::internal("cannot tell when the VM expires").because(error))
}

/// Gives a VM another time to live, which counts from now.
pub fn set_ttl(host: &Host, request: &NewTtl) -> Result<Expiry> {
    let expires = match request.ttl {
        Lifetime::Limited(ttl) => Some(expiry(ttl)?),
        Lifetime::Unlimited => None,
    };
    let (vm, changed) = note(host, &request.vm, |metadata| metadata.expires = expires)?;
    Ok(Expiry { vm, expires, changed })
}

/// Protects a VM from being deleted, or takes that back.
pub fn protect(host: &Host, reference: &str, protected: bool) -> Result<Protection> {
    let (vm, changed) = note(host, reference, |metadata| metadata.protected = protected)?;
    Ok(Protection { status: if protected { "protected" } else { "unprotected" }, vm, changed })
}

/// Changes what is noted of a VM; returns its name, and false when that was noted already.
fn note(host: &Host, reference: &str, change: impl FnOnce(&mut VmRecord)) -> Result<(String, bool)> {
    let lease = lock_found(host, reference)?;
    let host = &lease.host;
    // What another vmprov did to it before we had the lock counts.
    let (listed, domain) = look_up(host, reference)?;
    require_whole(&domain)?;
    let Some(before) = domain.metadata else {
        return Err(Error::conflict(format!(
            "vmprov did not make the VM `{}`, so it notes nothing of it",
            listed.name
        ))
        .hint("It deletes such a VM only when --unmanaged says so."));
    };
    let mut after = before.clone();
    change(&mut after);
    if after == before {
        return Ok((listed.name, false));
    }
    host.virsh.set_metadata(listed.uuid, &after, listed.state.is_active())?;
    Ok((listed.name, true))
}

/// Refuses to delete a VM that is protected.
pub(in crate::ops) fn require_unprotected(name: &str, metadata: Option<&VmRecord>) -> Result<()> {
    if metadata.is_some_and(|metadata| metadata.protected) {
        return Err(Error::conflict(format!("the VM `{name}` is protected from being deleted"))
            .hint(format!("If it is to go all the same: vmprov vm unprotect {}", shell_words::quote(name))));
    }
    Ok(())
}
