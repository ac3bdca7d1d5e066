//! What `ifExists` makes of a VM of the name that is there already.

use uuid::Uuid;

use super::{Created, Status};
use crate::{
    error::{Error, Result},
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

/// What there is of the name.
pub(super) enum Existing {
    /// Nothing, or what the plan has to judge.
    Nothing,
    /// The VM that is asked for.
    Same(DomainSummary),
    /// A VM to be replaced.
    Old(Box<Old>),
}

/// A VM that is to make room for a new one of its name.
#[derive(Debug)]
pub(super) struct Old {
    pub(super) uuid: Uuid,
    pub(super) metadata: VmRecord,
}

/// Looks for a VM of the name, and refuses one that must stay. The lock is held.
pub(super) fn look(host: &Host, new: &NewVm, specification: &Specification) -> Result<Existing> {
    if new.if_exists == IfExists::Fail {
        return Ok(Existing::Nothing);
    }
    let name = new.name.as_str();
    let Some(listed) = host.virsh.domains()?.into_iter().find(|listed| listed.name == name) else {
        return Ok(Existing::Nothing);
    };
    let known = host.virsh.describe(&[(listed.uuid, false)])?.remove(&listed.uuid);
    let Some(metadata) = known.and_then(|known| known.metadata) else {
        return Err(Error::conflict(format!("there is a VM `{name}` already, which vmprov did not make"))
            .hint("Choose another name."));
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

/// Refuses a VM that was made with another specification, and says in what that differs.
fn require_same(name: &str, metadata: &VmRecord, wanted: &Specification) -> Result<()> {
    let replace = "To have it made anew, losing what is in it: --if-exists replace";
    let Some(noted) = &metadata.specification else {
        let message = format!("the VM `{name}` was made by a vmprov that did not note with what specification");
        return Err(Error::conflict(message).hint(replace));
    };
    if noted.sha256 == wanted.sha256() {
        return Ok(());
    }
    let differences = Specification::from_json(&noted.json).map(|noted| noted.differences(wanted)).unwrap_or_default();
    if differences.is_empty() {
        let message = format!("the VM `{name}` was made by another version of vmprov, with another specification");
        return Err(Error::conflict(message).hint(replace));
    }
    let lines: Vec<_> = differences.iter().map(ToString::to_string).collect();
    Err(Error::conflict(format!("there is a VM `{name}` already, made with another specification"))
        .because(lines.join("\n"))
        .hint("Memory, virtual CPUs, disk size and autostart can be changed: vmprov vm set.")
        .hint(replace))
}

/// The report on a VM that is there as it was asked for.
pub(super) fn kept(host: &Host, new: &NewVm, listed: &DomainSummary, mut warnings: Vec<String>) -> Result<Created> {
    if new.start && !listed.state.is_active() {
        let (name, state) = (&new.name, listed.state);
        host.warn(
            &mut warnings,
            format!("the VM `{name}` is {state} and was left so; to start it: vmprov vm start {name}"),
        );
    }
    let vm = list::one(host, listed)?;
    Ok(Created { vm, status: Status::Unchanged, changed: false, warnings })
}

impl Old {
    /// Deletes it, when nothing is left that could be refused.
    pub(super) fn delete(&self, host: &Host, name: &str) -> Result<()> {
        host.step(format!("deleting the old {name}"));
        remove(host, self.uuid, Some(&self.metadata)).map(drop).map_err(|error| {
            error.hint("The old VM may be incomplete now; the same command, given again, removes what is left of it.")
        })
    }

    /// Says that it is gone, in the error of what should have come after it.
    pub(super) fn is_gone(name: &str, error: Error) -> Error {
        let hint =
            format!("The old VM `{name}` had been deleted by then; the same command, given again, makes the new one.");
        error.hint(hint)
    }

    /// Whether a volume is one of its own, so that it goes with it.
    pub(super) fn owns(&self, pool: &str, volume: &str) -> bool {
        self.metadata.volumes.iter().any(|owned| owned.pool == pool && owned.name == volume)
    }
}
