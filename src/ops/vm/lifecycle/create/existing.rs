//! Applies `ifExists` to an existing VM of the requested name.

use uuid::Uuid;

use super::{Created, Status};
use crate::{
    error::{Error, Hint, Result},
    model::{
        record::VmRecord,
        specification::{IfExists, Specification},
        vm::NewVm,
    },
    ops::{
        Host,
        vm::{inspect::list, lifecycle::expiry::require_unprotected, remove},
    },
    tools::virsh::DomainSummary,
};

/// What exists under the requested name.
pub(super) enum Existing {
    /// Nothing, or something that the plan checks.
    Nothing,
    /// A VM with the requested specification.
    Same(DomainSummary),
    /// A VM to replace.
    Old(Box<Old>),
}

/// A VM that a new one of the same name replaces.
#[derive(Debug)]
pub(super) struct Old {
    pub(super) uuid: Uuid,
    pub(super) metadata: VmRecord,
}

/// Finds a VM of the requested name, and refuses one that must not be replaced. The caller holds the lease.
pub(super) fn find(host: &Host, new: &NewVm, specification: &Specification) -> Result<Existing> {
    if new.if_exists == IfExists::Fail {
        return Ok(Existing::Nothing);
    }
    let name = new.name.as_str();
    let Some(listed) = host.virsh.domains()?.into_iter().find(|listed| listed.name == name) else {
        return Ok(Existing::Nothing);
    };
    let known = host.virsh.describe(&[(listed.uuid, false)])?.remove(&listed.uuid);
    let Some(metadata) = known.and_then(|known| known.metadata) else {
        return Err(Error::conflict(format!("VM `{name}` already exists and is not managed by vmprov"))
            .hint("Choose another name"));
    };
    if metadata.is_incomplete() {
        return Ok(Existing::Nothing);
    }
    if new.if_exists == IfExists::Ok {
        require_same(name, &metadata, specification)?;
        return Ok(Existing::Same(listed));
    }
    require_unprotected(name, Some(&metadata))?;
    Ok(Existing::Old(Box::new(Old { uuid: listed.uuid, metadata })))
}

/// Refuses a VM that was created with another specification, and lists the differences.
fn require_same(name: &str, metadata: &VmRecord, wanted: &Specification) -> Result<()> {
    let replace = Hint::set_to("Replace it, which deletes its data", "ifExists", "replace");
    let Some(recorded) = &metadata.specification else {
        let message = format!("VM `{name}` was created by a version of vmprov that did not record its specification");
        return Err(Error::conflict(message).hint(replace));
    };
    if recorded.sha256 == wanted.sha256() {
        return Ok(());
    }
    let recorded = Specification::from_json(&recorded.json);
    let differences = recorded.map(|recorded| recorded.differences(wanted)).unwrap_or_default();
    if differences.is_empty() {
        let message = format!("VM `{name}` was created by another version of vmprov, with another specification");
        return Err(Error::conflict(message).hint(replace));
    }
    let lines: Vec<_> = differences.iter().map(ToString::to_string).collect();
    Err(Error::conflict(format!("VM `{name}` already exists with another specification"))
        .because(lines.join("\n"))
        .hint(Hint::call_on_vm("Change its memory, virtual CPUs, disk size or autostart", "vm_set", name))
        .hint(replace))
}

/// Returns the report of a VM that already exists with the requested specification.
pub(super) fn kept(host: &Host, new: &NewVm, listed: &DomainSummary, mut warnings: Vec<String>) -> Result<Created> {
    if new.start && !listed.state.is_active() {
        let (name, state) = (&new.name, listed.state);
        host.warn(&mut warnings, format!("VM `{name}` already exists and is {state}; it was not started"));
    }
    let vm = list::one(host, listed)?;
    Ok(Created { vm, status: Status::Unchanged, changed: false, warnings })
}

impl Old {
    /// Deletes the old VM. Call this only after all checks have passed.
    pub(super) fn delete(&self, host: &Host, name: &str) -> Result<()> {
        host.step(format!("deleting the old {name}"));
        remove(host, self.uuid, Some(&self.metadata))
            .map(drop)
            .map_err(|error| error.hint("Repeat the request to remove the rest of the old VM, which may be incomplete"))
    }

    /// Adds to a later error that the old VM has already been deleted.
    pub(super) fn is_gone(name: &str, error: Error) -> Error {
        error.hint(format!("Repeat the request to create the new VM; the old VM `{name}` has already been deleted"))
    }
}
