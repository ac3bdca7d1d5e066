//! `start`, `stop`, `restart`: they return when it is so, and say what the state truly is.

use std::time::{Duration, Instant};

use clap::Args;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    error::{Code, Error, Result},
    model::{
        limit::Limit,
        record::{VmRecord, VolumeRole},
        vm::State,
    },
    ops::{
        Host,
        vm::{find, lock, require_whole, state_or_gone, wait_for_state},
    },
    tools::virsh::{Domain, DomainSummary},
};

/// How often a guest is asked again to shut down. One that is just booting does not listen yet, and some lose it.
const ASK_AGAIN: Duration = Duration::from_secs(5);

/// How long a guest may take to shut down when nobody says.
pub const STOP_LIMIT: Duration = Duration::from_mins(1);

/// How long a VM that is on its way down is waited for before it is started.
const GOING_DOWN: Duration = Duration::from_mins(2);

/// How a VM is stopped
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Args, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct StopOptions {
    /// Power off what has not shut down in time; at once where no --timeout is given
    #[arg(long)]
    pub force: bool,

    /// How long the guest may take to shut down [default: 60s]
    #[arg(long, value_name = "TIME")]
    pub timeout: Option<Limit>,
}

/// What came of starting or stopping a VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Changed {
    /// `started`, `stopped` or `restarted`.
    pub status: &'static str,
    /// The VM's name.
    pub vm: String,
    /// Its state now.
    pub state: State,
    /// Whether anything had to be done.
    pub changed: bool,
    /// Whether it was powered off instead of shutting down.
    pub forced: bool,
}

impl Changed {
    fn new(status: &'static str, listed: &DomainSummary, state: State, changed: bool) -> Self {
        Self { status, vm: listed.name.clone(), state, changed, forced: false }
    }
}

/// Starts a VM. One that is on its way down is waited for first; one that sleeps or is paused goes on.
pub fn start(host: &Host, reference: &str) -> Result<Changed> {
    start_listed(host, &find(host, reference)?)
}

fn start_listed(host: &Host, listed: &DomainSummary) -> Result<Changed> {
    let uuid = listed.uuid;
    let lease = lock(host, &listed.name)?;
    let host = &lease.host;
    let domain = host.virsh.domain(uuid)?;
    require_whole(&domain)?;
    let state = host.virsh.state(uuid)?;
    match state {
        State::Running | State::Blocked if !domain.stopping => {
            return Ok(Changed::new("started", listed, state, false));
        }
        State::Running | State::Blocked | State::ShuttingDown => {
            host.step(format!("waiting until {} is down", listed.name));
            if wait_for_state(host, uuid, GOING_DOWN, |state| !state.is_active())?.is_none() {
                let (name, seconds) = (&listed.name, GOING_DOWN.as_secs());
                host.progress.warn(&format!("`{name}` was asked to shut down and still runs after {seconds} s"));
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

/// Deletes the seeds that an inject has replaced while the VM ran with them.
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

/// Stops a VM: asks the guest, asks again, and waits until it is down. With `force`, it is powered off when it is not
/// down in time; without a limit, at once. It takes no lock: who waits for a guest must not keep another from
/// powering it off.
pub fn stop(host: &Host, reference: &str, options: StopOptions) -> Result<Changed> {
    stop_listed(host, &find(host, reference)?, options)
}

fn stop_listed(host: &Host, listed: &DomainSummary, options: StopOptions) -> Result<Changed> {
    let StopOptions { force, timeout } = options;
    let uuid = listed.uuid;
    if !listed.state.is_active() {
        return Ok(Changed::new("stopped", listed, listed.state, false));
    }
    let limit = timeout.map_or(if force { Duration::ZERO } else { STOP_LIMIT }, |limit| limit.0);
    let stopped = |forced| -> Result<Changed> {
        Ok(Changed { forced, ..Changed::new("stopped", listed, state_or_gone(host, uuid)?, true) })
    };
    if !limit.is_zero() && ask_to_shut_down(host, listed, limit)? {
        return stopped(false);
    }
    if !force {
        let state = state_or_gone(host, uuid)?;
        let name = &listed.name;
        let message = format!("the VM `{name}` did not shut down within {} s: it is {state}", limit.as_secs());
        let name = shell_words::quote(name);
        return Err(Error::new(Code::Timeout, message)
            .hint(format!("Give it longer (--timeout 5m), or power it off: vmprov vm stop {name} --force")));
    }
    host.step(format!("powering {} off", listed.name));
    unless_down(host.virsh.destroy(uuid))?;
    stopped(true)
}

/// Asks the guest to shut down until it is down or the time is up; true when it is down.
fn ask_to_shut_down(host: &Host, listed: &DomainSummary, limit: Duration) -> Result<bool> {
    let deadline = Instant::now() + limit;
    host.step(format!("waiting until {} has shut down", listed.name));
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

/// What was done to a running VM; false when it had gone down by itself just before.
fn unless_down(result: Result<()>) -> Result<bool> {
    match result {
        Ok(()) => Ok(true),
        Err(error) if matches!(error.code, Code::Conflict | Code::NotFound) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Stops a VM as [`stop`] does and starts it again, so that it comes up with its present configuration and seed, which
/// a reboot from inside does not do.
pub fn restart(host: &Host, reference: &str, options: StopOptions) -> Result<Changed> {
    restart_listed(host, &find(host, reference)?, options)
}

pub(in crate::ops) fn restart_listed(host: &Host, listed: &DomainSummary, options: StopOptions) -> Result<Changed> {
    let forced = stop_listed(host, listed, options)?.forced;
    Ok(Changed { status: "restarted", changed: true, forced, ..start_listed(host, listed)? })
}
