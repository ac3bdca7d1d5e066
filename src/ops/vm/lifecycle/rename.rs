//! `rename`: gives a VM another name.
//!
//! Only libvirt's name changes. The record names the VM's volumes one by one, so they keep their names and are still
//! deleted with the VM. `create` chooses other names for the volumes of a new VM that gets the old name.

use clap::Args;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    error::{Code, Error, Hint, Result},
    model::{name::Name, record::VmRecord},
    ops::{
        Host,
        vm::{find, incomplete, lock},
    },
};

/// Describes a VM's new name
#[derive(Debug, Clone, PartialEq, Eq, Args, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NewVmName {
    /// VM, by name or UUID
    // Without an index, the shell completions put this argument after the others.
    #[arg(index = 1)]
    #[schema(min_length = 1, max_length = 255)]
    pub vm: String,

    /// New name of the VM
    #[arg(index = 2)]
    pub new_name: Name,
}

/// The result of renaming a VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Renamed {
    /// `renamed`.
    pub status: &'static str,
    /// The VM's name now.
    pub vm: String,
    /// Its name before.
    pub old_name: String,
    /// Whether anything was changed.
    pub changed: bool,
}

/// Renames a VM that is shut off.
pub fn rename(host: &Host, request: &NewVmName) -> Result<Renamed> {
    let listed = find(host, &request.vm)?;
    let (old, new) = (listed.name.as_str(), request.new_name.as_str());
    let renamed = |changed| Renamed { status: "renamed", vm: new.to_owned(), old_name: old.to_owned(), changed };
    if old == new {
        return Ok(renamed(false));
    }
    // Every rename takes the leases in the same order, so that no two of them wait for each other.
    let first = lock(host, old.min(new))?;
    let second = lock(&first.host, old.max(new))?;
    let host = &second.host;
    let domains = host.virsh.domains()?;
    let Some(current) = domains.iter().find(|domain| domain.uuid == listed.uuid && domain.name == old) else {
        return Err(Error::new(Code::Busy, format!("VM `{old}` was renamed or deleted at the same time"))
            .hint(Hint::call_any("List the VMs", "vm_list")));
    };
    if domains.iter().any(|domain| domain.name == new) {
        return Err(Error::new(Code::AlreadyExists, format!("VM `{new}` already exists")).hint("Choose another name"));
    }
    let record = host.virsh.describe(&[(listed.uuid, false)])?.remove(&listed.uuid).and_then(|known| known.metadata);
    if record.as_ref().is_some_and(VmRecord::is_incomplete) {
        return Err(incomplete(old));
    }
    if current.state.is_active() {
        let message = format!("VM `{old}` is {}, and only a VM that is shut off can be renamed", current.state);
        return Err(Error::conflict(message).hint(Hint::call_on_vm("Shut it down first", "vm_stop", old)));
    }
    host.virsh.rename(listed.uuid, new)?;
    Ok(renamed(true))
}
