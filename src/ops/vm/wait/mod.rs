//! `wait`: waits for a guest to reach a state, with a time limit and a diagnosis if it does not.

mod boot_failure;
mod diagnosis;
mod probe;

use std::{
    net::IpAddr,
    time::{Duration, Instant},
};

use clap::Args;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::{
    error::Result,
    model::{key::Key, limit::Limit, vm::WaitFor},
    ops::{
        Host,
        vm::{find, not_running},
    },
};
use boot_failure::Console;
use probe::Probe;

/// How often a guest is probed.
const POLL: Duration = Duration::from_secs(1);

/// A VM that has reached the requested state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Reached {
    /// The VM's name.
    pub vm: String,
    /// The state that was waited for.
    pub reached: WaitFor,
    /// The VM's known addresses.
    #[schema(value_type = Vec<String>)]
    pub addresses: Vec<IpAddr>,
    /// The duration of the wait in seconds.
    pub seconds: u64,
}

/// What to wait for, and how long
#[derive(Debug, Clone, Copy, PartialEq, Eq, Args, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct WaitOptions {
    /// State to wait for
    #[arg(long = "for", value_enum, value_name = "WHAT", default_value_t = WaitFor::Ssh)]
    #[serde(rename = "for")]
    pub goal: WaitFor,

    /// Time limit of the wait
    #[arg(long, value_name = "TIME", default_value_t = Limit::WAIT)]
    pub timeout: Limit,
}

impl Default for WaitOptions {
    fn default() -> Self {
        Self { goal: WaitFor::Ssh, timeout: Limit::WAIT }
    }
}

/// Waits for a VM to reach a state.
pub fn wait(host: &Host, reference: &str, options: WaitOptions) -> Result<Reached> {
    let WaitOptions { goal, timeout } = options;
    Watch::new(find(host, reference)?.uuid, goal, timeout.0, false).run(host)
}

/// A wait for a VM.
pub(super) struct Watch<'a> {
    uuid: Uuid,
    goal: WaitFor,
    limit: Duration,
    /// The only key to log in with, and the user, if the wait must verify them.
    key: Option<(&'a Key, &'a str)>,
    /// Whether the VM has been started. If not, waiting for it while it is shut off is a mistake of the caller.
    started: bool,
}

impl<'a> Watch<'a> {
    /// Returns a wait for a VM. `started` tells whether vmprov has started it.
    pub(super) const fn new(uuid: Uuid, goal: WaitFor, limit: Duration, started: bool) -> Self {
        Self { uuid, goal, limit, key: None, started }
    }

    /// Requires that this user can log in with this key alone.
    pub(super) const fn proving(self, key: &'a Key, user: &'a str) -> Self {
        Self { key: Some((key, user)), ..self }
    }

    pub(super) fn run(mut self, host: &Host) -> Result<Reached> {
        let began = Instant::now();
        let mut console = Console::default();
        loop {
            let domain = host.virsh.domain(self.uuid)?;
            let mut not_ready = match probe::probe(host, &domain, &self)? {
                Probe::Reached(addresses) => {
                    let seconds = began.elapsed().as_secs();
                    return Ok(Reached { vm: domain.name, reached: self.goal, addresses, seconds });
                }
                Probe::Inactive(guest) if !self.started => {
                    return Err(not_running(&domain.name, guest.state, "so it will not become ready"));
                }
                Probe::Inactive(guest) => probe::stopped(&guest),
                Probe::NotReady(not_ready) => not_ready,
            };
            self.started = true;
            let expired = began.elapsed() >= self.limit;
            if self.goal != WaitFor::Stopped && (expired || not_ready.fatal || console.is_due()) {
                console.read(host, &domain)?;
                not_ready = console.boot_failure().filter(|_| !not_ready.fatal).unwrap_or(not_ready);
            }
            if expired || not_ready.fatal {
                return Err(diagnosis::error(&domain, &self, &not_ready, &console));
            }
            host.step(format!("{}: {}", domain.name, not_ready.saw));
            host.runner.cancel.check()?;
            std::thread::sleep(POLL.min(self.limit.saturating_sub(began.elapsed())));
        }
    }
}
