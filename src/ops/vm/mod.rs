//! Operations on VMs: access to the guest, inspection, lifecycle, and waiting.

mod access;
mod inspect;
mod lifecycle;
pub(super) mod lock;
mod wait;

use std::time::Duration;

use uuid::Uuid;

use super::{Host, missing};
use crate::{
    error::{Code, Error, Hint, ResourceKind, Result},
    model::vm::State,
    tools::virsh::{Domain, DomainSummary},
};

pub use access::{
    copy::{Copied, NewCopy, copy},
    exec::{Executed, Live, NewExec, Streams, Via, exec},
    inject::{Injected, Method, NewInjection, inject},
    ip::{AddressOptions, Addresses, addresses},
    login::ssh,
    ssh_command::{SshCommand, ssh_command},
    ssh_config::{LeftOut, SshConfig, SshConfigOptions, SshHost, ssh_config},
};
pub use inspect::{
    console::{Log, LogOptions, console, follow, logs},
    event::{EVENT_KINDS, Event, EventFilter, events, listen},
    list::{ListOptions, info, list},
    screenshot::{Picture, Screenshot, picture, screenshot},
};
pub(super) use inspect::{
    console::{is_log, whole_log},
    list::known,
};
pub use lifecycle::{
    commit::{NewCommit, commit},
    create::{Created, Status, create},
    delete::{DeleteOptions, Deleted, delete},
    expiry::{Expiry, NewTtl, Protection, protect, set_ttl},
    power::{Changed, STOP_LIMIT, StopOptions, pause, reset, restart, resume, start, stop},
    rename::{NewVmName, Renamed, rename},
    set::{Edited, Effect, Item, set},
    usage_by_owner::{OwnedVm, SEED_AND_CONSOLE_BYTES, owned},
};
pub(super) use lifecycle::{
    commit::{copies, remove_copies},
    delete::remove,
    seed::is_seed,
};
use lock::{lock, lock_found};
pub use wait::{Reached, WaitOptions, wait};

/// Returns every VM that the caller can see.
fn visible(host: &Host) -> Result<Vec<DomainSummary>> {
    let mut domains = host.virsh.domains()?;
    domains.retain(|domain| host.caller.sees(&domain.name));
    Ok(domains)
}

/// Finds a VM by its name or, if no VM has that name, by its UUID.
fn find(host: &Host, reference: &str) -> Result<DomainSummary> {
    let domains = visible(host)?;
    let uuid = Uuid::parse_str(reference).ok();
    let position = domains
        .iter()
        .position(|domain| domain.name == reference)
        .or_else(|| domains.iter().position(|domain| Some(domain.uuid) == uuid));
    position.map(|position| domains[position].clone()).ok_or_else(|| {
        let known = domains.iter().map(|domain| domain.name.as_str());
        missing(ResourceKind::Vm, reference, known, Hint::call_any("List the VMs", "vm_list"))
    })
}

/// Finds a VM and reads its domain, including vmprov's record of it.
fn look_up(host: &Host, reference: &str) -> Result<(DomainSummary, Domain)> {
    let listed = find(host, reference)?;
    let domain = host.virsh.domain(listed.uuid)?;
    Ok((listed, domain))
}

/// Returns the error for a VM whose creation or deletion was interrupted.
fn incomplete(name: &str) -> Error {
    Error::conflict(format!("VM `{name}` is incomplete: its creation or deletion was interrupted"))
        .hint(Hint::call_on_vm("Remove its leftovers", "vm_delete", name))
}

/// Returns the error for a VM whose CPUs do not run; `consequence` says what is therefore not possible.
fn not_running(name: &str, state: State, consequence: &str) -> Error {
    let hint = match state {
        State::Paused | State::Suspended => Hint::call_on_vm("Resume it", "vm_resume", name),
        _ => Hint::call_on_vm("Start it", "vm_start", name),
    };
    Error::conflict(format!("VM `{name}` is {state}, {consequence}")).hint(hint)
}

/// Refuses a VM that is incomplete.
fn require_complete(domain: &Domain) -> Result<()> {
    match &domain.metadata {
        Some(metadata) if metadata.is_incomplete() => Err(incomplete(&domain.name)),
        _ => Ok(()),
    }
}

/// Returns a VM's state. A transient VM that has ended does not exist any more and counts as shut off.
fn state_or_gone(host: &Host, uuid: Uuid) -> Result<State> {
    match host.virsh.state(uuid) {
        Err(error) if error.code == Code::NotFound => Ok(State::ShutOff),
        result => result,
    }
}

/// Waits until a VM is in a state that is `wanted`. Returns `None` when the time limit is reached.
fn wait_for_state(host: &Host, uuid: Uuid, limit: Duration, wanted: impl Fn(State) -> bool) -> Result<Option<State>> {
    const POLL: Duration = Duration::from_millis(250);
    let deadline = std::time::Instant::now() + limit;
    loop {
        let state = state_or_gone(host, uuid)?;
        if wanted(state) {
            return Ok(Some(state));
        }
        if std::time::Instant::now() >= deadline {
            return Ok(None);
        }
        host.runner.cancel.check()?;
        std::thread::sleep(POLL);
    }
}
