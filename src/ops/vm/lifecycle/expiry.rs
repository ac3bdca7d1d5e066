//! A VM's time to live and deletion protection, which are recorded in its metadata.

use clap::Args;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    error::{Error, Hint, Result},
    model::{
        record::VmRecord,
        ttl::{Lifetime, Ttl},
    },
    ops::{
        Host,
        vm::{lock_found, look_up, require_complete},
    },
};

/// Describes a VM's new time to live
#[derive(Debug, Clone, PartialEq, Eq, Args, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NewTtl {
    /// VM, by name or UUID
    // Without an index, the shell completions put this argument after the others.
    #[arg(index = 1)]
    #[schema(min_length = 1, max_length = 255)]
    pub vm: String,

    /// Lifetime from now (30m, 2h, 7d, 1h30m), or never
    #[arg(index = 2, value_name = "TIME")]
    pub ttl: Lifetime,
}

/// When a VM expires.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Expiry {
    /// The VM's name.
    pub vm: String,
    /// When `reap` may delete the VM (RFC 3339, UTC); null if it does not expire.
    pub expires: Option<Timestamp>,
    /// Whether anything was changed.
    pub changed: bool,
}

/// Whether a VM is protected from deletion.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Protection {
    /// `protected` or `unprotected`.
    pub status: &'static str,
    /// The VM's name.
    pub vm: String,
    /// Whether anything was changed.
    pub changed: bool,
}

/// Returns when a lifetime that begins now ends.
pub(in crate::ops) fn expiry(ttl: Ttl) -> Result<Timestamp> {
    let now = Timestamp::now().round(jiff::Unit::Second);
    now.and_then(|now| now.checked_add(ttl.duration()))
        .map_err(|error| Error::internal("cannot compute when the VM expires").because(error))
}

/// Sets a VM's time to live, counted from now.
pub fn set_ttl(host: &Host, request: &NewTtl) -> Result<Expiry> {
    let expires = match request.ttl {
        Lifetime::Limited(ttl) => Some(expiry(ttl)?),
        Lifetime::Unlimited => None,
    };
    let (vm, changed) = update_record(host, &request.vm, |metadata| metadata.expires = expires)?;
    Ok(Expiry { vm, expires, changed })
}

/// Protects a VM from deletion, or removes the protection.
pub fn protect(host: &Host, reference: &str, protected: bool) -> Result<Protection> {
    let (vm, changed) = update_record(host, reference, |metadata| metadata.protected = protected)?;
    Ok(Protection { status: if protected { "protected" } else { "unprotected" }, vm, changed })
}

/// Changes a VM's record. Returns the VM's name and whether the record changed.
fn update_record(host: &Host, reference: &str, change: impl FnOnce(&mut VmRecord)) -> Result<(String, bool)> {
    let lease = lock_found(host, reference)?;
    let host = &lease.host;
    // The VM is read under the lease, because another vmprov process may have changed it before.
    let (listed, domain) = look_up(host, reference)?;
    require_complete(&domain)?;
    let Some(before) = domain.metadata else {
        return Err(Error::conflict(format!("VM `{}` is not managed by vmprov", listed.name))
            .because("vmprov deletes such a VM only on request, so it needs no expiry or protection"));
    };
    let mut after = before.clone();
    change(&mut after);
    if after == before {
        return Ok((listed.name, false));
    }
    host.virsh.set_metadata(listed.uuid, &after, listed.state.is_active())?;
    Ok((listed.name, true))
}

/// Refuses to delete a protected VM.
pub(in crate::ops) fn require_unprotected(name: &str, metadata: Option<&VmRecord>) -> Result<()> {
    if metadata.is_some_and(|metadata| metadata.protected) {
        return Err(Error::conflict(format!("VM `{name}` is protected from deletion")).hint(Hint::call_on_vm(
            "Remove the protection first",
            "vm_unprotect",
            name,
        )));
    }
    Ok(())
}
