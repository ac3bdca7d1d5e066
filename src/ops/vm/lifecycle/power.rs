//! `start`, `stop`, `restart`, `pause`, `resume` and `reset`. Each returns when it is done, and reports the VM's actual
//! state.

use std::time::{Duration, Instant};

use clap::Args;
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::ToSchema;

use crate::{
    error::{Code, Error, Hint, Result},
    model::{
        limit::Limit,
        record::{VmRecord, VolumeRole},
        vm::State,
    },
    ops::{
        Host,
        vm::{find, lock, lock_found, look_up, not_running, require_complete, state_or_gone, wait_for_state},
    },
    tools::virsh::{Domain, DomainSummary},
};

/// How often the shutdown request is repeated. A guest that is still booting may ignore the first one.
const ASK_AGAIN: Duration = Duration::from_secs(5);

/// The default time for a guest to shut down.
pub const STOP_LIMIT: Duration = Duration::from_mins(1);

/// How long `start` waits for a VM that is shutting down.
const SHUTDOWN_WAIT: Duration = Duration::from_mins(2);

/// How to stop a VM
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Args, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct StopOptions {
    /// Power off the VM if the guest does not shut down in time (at once without `timeout`)
    #[arg(long)]
    pub force: bool,

    /// Time for the guest to shut down [default: 60s]
    #[arg(long, value_name = "TIME")]
    pub timeout: Option<Limit>,
}

/// The result of changing whether a VM runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Changed {
    /// `started`, `stopped`, `restarted`, `paused`, `resumed` or `reset`.
    pub status: &'static str,
    /// The VM's name.
    pub vm: String,
    /// The VM's state.
    pub state: State,
    /// Whether anything was changed.
    pub changed: bool,
    /// Whether the VM was powered off instead of shut down by its guest.
    pub forced: bool,
}

impl Changed {
    fn new(status: &'static str, listed: &DomainSummary, state: State, changed: bool) -> Self {
        Self { status, vm: listed.name.clone(), state, changed, forced: false }
    }
}

/// Starts a VM. Waits first for a VM that is shutting down; resumes one that is paused or suspended.
pub fn start(host: &Host, reference: &str) -> Result<Changed> {
    start_listed(host, &find(host, reference)?)
}

fn start_listed(host: &Host, listed: &DomainSummary) -> Result<Changed> {
    let uuid = listed.uuid;
    let lease = lock(host, &listed.name)?;
    let host = &lease.host;
    let domain = host.virsh.domain(uuid)?;
    require_complete(&domain)?;
    let state = host.virsh.state(uuid)?;
    match state {
        State::Running | State::Blocked if !domain.stopping => {
            return Ok(Changed::new("started", listed, state, false));
        }
        State::Running | State::Blocked | State::ShuttingDown => {
            host.step(format!("waiting for {} to shut down", listed.name));
            if wait_for_state(host, uuid, SHUTDOWN_WAIT, |state| !state.is_active())?.is_none() {
                let (name, seconds) = (&listed.name, SHUTDOWN_WAIT.as_secs());
                host.progress.warn(&format!("`{name}` is still running {seconds} s after a shutdown request"));
                host.virsh.unmark_stopping(uuid)?;
                return Ok(Changed::new("started", listed, host.virsh.state(uuid)?, false));
            }
        }
        State::Paused | State::Suspended => {
            host.virsh.resume(uuid, state)?;
            return Ok(Changed::new("started", listed, host.virsh.state(uuid)?, true));
        }
        State::ShutOff | State::Crashed | State::NoState => {}
    }
    host.step(format!("starting {}", listed.name));
    host.virsh.start(uuid)?;
    remove_old_seeds(host, &domain)?;
    Ok(Changed::new("started", listed, host.virsh.state(uuid)?, true))
}

/// Deletes the seeds that an injection replaced while the VM was running with them.
fn remove_old_seeds(host: &Host, before: &Domain) -> Result<()> {
    let Some(metadata) = &before.metadata else { return Ok(()) };
    let is_seed = |volume: &&crate::model::record::OwnedVolume| volume.role == VolumeRole::Seed;
    if metadata.volumes.iter().filter(is_seed).count() < 2 {
        return Ok(());
    }
    let now = host.virsh.domain(before.uuid)?;
    let in_use =
        |name: &str| now.disks.iter().filter_map(|disk| disk.source.as_deref()).any(|source| source.ends_with(name));
    let (kept, old): (Vec<_>, Vec<_>) =
        metadata.volumes.iter().cloned().partition(|volume| volume.role != VolumeRole::Seed || in_use(&volume.name));
    for volume in &old {
        host.virsh.delete_volume(&volume.pool, &volume.name)?;
    }
    let metadata = VmRecord { volumes: kept, ..metadata.clone() };
    host.virsh.set_metadata(before.uuid, &metadata, true)
}

/// Stops a VM: requests a shutdown, repeats the request, and waits until the VM is down. With `force`, powers it off if
/// it is not down in time, or at once without a time limit. This takes no lease: waiting for a guest must not prevent
/// others from powering it off.
pub fn stop(host: &Host, reference: &str, options: StopOptions) -> Result<Changed> {
    stop_listed(host, &find(host, reference)?, options)
}

fn stop_listed(host: &Host, listed: &DomainSummary, options: StopOptions) -> Result<Changed> {
    let StopOptions { force, timeout } = options;
    let uuid = listed.uuid;
    if !listed.state.is_active() {
        return Ok(Changed::new("stopped", listed, listed.state, false));
    }
    if listed.state == State::Paused {
        return stop_paused(host, listed, force);
    }
    let limit = timeout.map_or(if force { Duration::ZERO } else { STOP_LIMIT }, |limit| limit.0);
    if !limit.is_zero() && ask_to_shut_down(host, listed, limit)? {
        return Ok(Changed::new("stopped", listed, state_or_gone(host, uuid)?, true));
    }
    if !force {
        let state = state_or_gone(host, uuid)?;
        let name = &listed.name;
        let message = format!("VM `{name}` did not shut down within {} s: it is {state}", limit.as_secs());
        return Err(Error::new(Code::Timeout, message)
            .hint(Hint::set_to("Raise the time limit", "timeout", "5m"))
            .hint(Hint::call("Power it off", "vm_stop", [("vm", json!(name)), ("force", json!(true))])));
    }
    power_off(host, listed)
}

fn power_off(host: &Host, listed: &DomainSummary) -> Result<Changed> {
    host.step(format!("powering off {}", listed.name));
    unless_down(host.virsh.destroy(listed.uuid))?;
    Ok(Changed { forced: true, ..Changed::new("stopped", listed, state_or_gone(host, listed.uuid)?, true) })
}

/// Powers off a paused VM, if `force`. Its guest cannot shut down, so nothing is waited for.
fn stop_paused(host: &Host, listed: &DomainSummary, force: bool) -> Result<Changed> {
    let name = &listed.name;
    if !force {
        return Err(Error::conflict(format!("VM `{name}` is paused, so its guest cannot shut down"))
            .hint(Hint::call_on_vm("Resume it first", "vm_resume", name))
            .hint(Hint::call("Power it off", "vm_stop", [("vm", json!(name)), ("force", json!(true))])));
    }
    power_off(host, listed)
}

/// Requests a shutdown repeatedly until the VM is down or the time limit is reached. Returns whether the VM is down.
fn ask_to_shut_down(host: &Host, listed: &DomainSummary, limit: Duration) -> Result<bool> {
    let deadline = Instant::now() + limit;
    host.step(format!("waiting for {} to shut down", listed.name));
    let mut up = unless_down(host.virsh.mark_stopping(listed.uuid))?;
    while up {
        up = unless_down(host.virsh.shutdown(listed.uuid))?;
        let left = deadline.saturating_duration_since(Instant::now());
        if wait_for_state(host, listed.uuid, left.min(ASK_AGAIN), |state| !state.is_active())?.is_some() {
            return Ok(true);
        }
        if Instant::now() >= deadline {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Returns true if a call on a running VM succeeded, and false if the VM had just stopped by itself.
fn unless_down(result: Result<()>) -> Result<bool> {
    match result {
        Ok(()) => Ok(true),
        Err(error) if matches!(error.code, Code::Conflict | Code::NotFound) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Stops a VM as [`stop`] does and starts it again. So it runs with its current configuration and seed, which a reboot
/// from inside the guest does not achieve.
pub fn restart(host: &Host, reference: &str, options: StopOptions) -> Result<Changed> {
    restart_listed(host, &find(host, reference)?, options)
}

pub(in crate::ops) fn restart_listed(host: &Host, listed: &DomainSummary, options: StopOptions) -> Result<Changed> {
    let forced = stop_listed(host, listed, options)?.forced;
    Ok(Changed { status: "restarted", changed: true, forced, ..start_listed(host, listed)? })
}

/// Pauses a VM: its CPUs stop, and its memory stays as it is.
pub fn pause(host: &Host, reference: &str) -> Result<Changed> {
    let lease = lock_found(host, reference)?;
    let host = &lease.host;
    let (listed, domain) = look_up(host, reference)?;
    require_complete(&domain)?;
    match listed.state {
        State::Paused => return Ok(Changed::new("paused", &listed, listed.state, false)),
        State::Running | State::Blocked => host.virsh.suspend(listed.uuid)?,
        _ => return Err(not_running(&listed.name, listed.state, "so it cannot be paused")),
    }
    Ok(Changed::new("paused", &listed, host.virsh.state(listed.uuid)?, true))
}

/// Resumes a VM that is paused or suspended.
pub fn resume(host: &Host, reference: &str) -> Result<Changed> {
    let lease = lock_found(host, reference)?;
    let host = &lease.host;
    let (listed, domain) = look_up(host, reference)?;
    require_complete(&domain)?;
    match listed.state {
        State::Running | State::Blocked => return Ok(Changed::new("resumed", &listed, listed.state, false)),
        State::Paused | State::Suspended => host.virsh.resume(listed.uuid, listed.state)?,
        _ => return Err(not_running(&listed.name, listed.state, "so it cannot be resumed")),
    }
    Ok(Changed::new("resumed", &listed, host.virsh.state(listed.uuid)?, true))
}

/// Resets a VM at once, like the reset button of a computer. Like [`stop`], this takes no lease: an operation that waits
/// for the guest must not prevent it.
pub fn reset(host: &Host, reference: &str) -> Result<Changed> {
    let (listed, domain) = look_up(host, reference)?;
    require_complete(&domain)?;
    if !listed.state.is_active() {
        return Err(not_running(&listed.name, listed.state, "so it cannot be reset"));
    }
    host.virsh.reset(listed.uuid)?;
    if domain.stopping {
        // The guest has forgotten that it was asked to shut down.
        unless_down(host.virsh.unmark_stopping(listed.uuid))?;
    }
    Ok(Changed::new("reset", &listed, state_or_gone(host, listed.uuid)?, true))
}
