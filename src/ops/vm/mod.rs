//! What can be done with VMs, one file a verb or a pair of them.

mod access;
mod inspect;
mod lifecycle;
mod wait;

use std::time::Duration;

use uuid::Uuid;

use super::{
    Host,
    lease::{Lease, Session},
    missing,
};
use crate::{
    error::{Code, Error, Hint, ResourceKind, Result},
    model::vm::State,
    tools::virsh::{Domain, DomainSummary},
};

pub use access::{
    address::{AddressOptions, Addresses, addresses},
    copy::{Copied, NewCopy, copy},
    exec::{Executed, Live, NewExec, Streams, Via, exec},
    inject::{Injected, Method, NewInjection, inject},
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
    power::{Changed, STOP_LIMIT, StopOptions, restart, start, stop},
    set::{Edited, Effect, Item, set},
    usage_by_owner::{BESIDE_DISK, OwnedVm, owned},
};
pub(super) use lifecycle::{
    commit::{copies, remove_copies},
    delete::remove,
    seed::is_seed,
};
pub use wait::{Reached, WaitOptions, wait};

/// How long a VM that another vmprov works on is waited for.
const LOCK_WAIT: Duration = Duration::from_secs(10);

/// Every VM that there is for the caller.
fn visible(host: &Host) -> Result<Vec<DomainSummary>> {
    let mut domains = host.virsh.domains()?;
    domains.retain(|domain| host.caller.sees(&domain.name));
    Ok(domains)
}

/// Finds a VM by its name or, where none is called so, its UUID.
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

/// Finds a VM and reads what libvirt and vmprov know of it.
fn look_up(host: &Host, reference: &str) -> Result<(DomainSummary, Domain)> {
    let listed = find(host, reference)?;
    let domain = host.virsh.domain(listed.uuid)?;
    Ok((listed, domain))
}

/// Keeps others from working on a VM; its `host` is the one to work on it with.
fn lock(host: &Host, name: &str) -> Result<Lease> {
    Lease::take(host, &lease_name(name), LOCK_WAIT)
}

/// Finds a VM and takes its lease. The lease's session connects to libvirt during the search.
fn lock_found(host: &Host, reference: &str) -> Result<Lease> {
    let session = Session::start(host)?;
    let listed = find(host, reference)?;
    Lease::take_in(session, host, &lease_name(&listed.name), LOCK_WAIT)
}

/// What the lease on a VM is called.
fn lease_name(name: &str) -> String {
    format!("the VM `{name}`")
}

/// The lease on a VM, where nobody has it; an error of [`Code::Busy`] says who has.
pub(super) fn lock_now(host: &Host, name: &str) -> Result<Lease> {
    Lease::take(host, &lease_name(name), Duration::ZERO)
}

/// The error for a VM whose create or delete was killed, where a whole one is needed.
fn incomplete(name: &str) -> Error {
    Error::conflict(format!("the VM `{name}` is incomplete: creating or deleting it was cut short"))
        .hint(format!("Remove what there is of it: vmprov vm delete {}", shell_words::quote(name)))
}

/// Refuses a VM that is not whole.
fn require_whole(domain: &Domain) -> Result<()> {
    match &domain.metadata {
        Some(metadata) if metadata.is_incomplete() => Err(incomplete(&domain.name)),
        _ => Ok(()),
    }
}

/// A VM's state; one that is gone when it ends (it was never defined) is shut off.
fn state_or_gone(host: &Host, uuid: Uuid) -> Result<State> {
    match host.virsh.state(uuid) {
        Err(error) if error.code == Code::NotFound => Ok(State::ShutOff),
        result => result,
    }
}

/// Waits until a VM is in a state that is `wanted`; none when the time is up.
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
