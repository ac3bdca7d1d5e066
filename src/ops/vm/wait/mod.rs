//! `wait`: until a guest is so far, with a limit, and a diagnosis when it does not come so far.

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
    error::{Error, Result},
    model::{
        key::Key,
        limit::Limit,
        vm::{State, WaitFor},
    },
    ops::{Host, vm::find},
    tools::virsh::Domain,
};
use boot_failure::Console;
use probe::Probe;

/// How often a guest is looked at.
const POLL: Duration = Duration::from_secs(1);

/// A VM that is so far.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Reached {
    /// The VM's name.
    pub vm: String,
    /// What was waited for.
    pub reached: WaitFor,
    /// Its addresses, as far as they are known.
    #[schema(value_type = Vec<String>)]
    pub addresses: Vec<IpAddr>,
    /// The seconds that it took.
    pub seconds: u64,
}

/// What to wait for, and how long
#[derive(Debug, Clone, Copy, PartialEq, Eq, Args, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct WaitOptions {
    /// What to wait for
    #[arg(long = "for", value_enum, value_name = "WHAT", default_value_t = WaitFor::Ssh)]
    #[serde(rename = "for")]
    pub goal: WaitFor,

    /// How long at most
    #[arg(long, value_name = "TIME", default_value_t = Limit::WAIT)]
    pub timeout: Limit,
}

impl Default for WaitOptions {
    fn default() -> Self {
        Self { goal: WaitFor::Ssh, timeout: Limit::WAIT }
    }
}

/// Waits until a VM is so far.
pub fn wait(host: &Host, reference: &str, options: WaitOptions) -> Result<Reached> {
    let WaitOptions { goal, timeout } = options;
    Watch::new(find(host, reference)?.uuid, goal, timeout.0, false).run(host)
}

/// What is waited for.
pub(super) struct Watch<'a> {
    uuid: Uuid,
    goal: WaitFor,
    limit: Duration,
    /// The one key to log in with, and as whom, where that is to be proven.
    key: Option<(&'a Key, &'a str)>,
    /// Whether it has been started, so that it is no mistake of the caller's when it does not run.
    started: bool,
}

impl<'a> Watch<'a> {
    /// A wait for a VM, which has been `started` unless that is the caller's to see to.
    pub(super) const fn new(uuid: Uuid, goal: WaitFor, limit: Duration, started: bool) -> Self {
        Self { uuid, goal, limit, key: None, started }
    }

    /// Waits until this key alone lets this user in.
    pub(super) const fn proving(self, key: &'a Key, user: &'a str) -> Self {
        Self { key: Some((key, user)), ..self }
    }

    pub(super) fn run(mut self, host: &Host) -> Result<Reached> {
        let began = Instant::now();
        let mut console = Console::default();
        loop {
            let domain = host.virsh.domain(self.uuid)?;
            let mut short = match probe::look(host, &domain, &self)? {
                Probe::Reached(addresses) => {
                    let seconds = began.elapsed().as_secs();
                    return Ok(Reached { vm: domain.name, reached: self.goal, addresses, seconds });
                }
                Probe::Inactive(vitals) if !self.started => return Err(not_running(&domain, vitals.state)),
                Probe::Inactive(vitals) => probe::stopped(&vitals),
                Probe::Short(short) => short,
            };
            self.started = true;
            let expired = began.elapsed() >= self.limit;
            if self.goal != WaitFor::Stopped && (expired || short.fatal || console.is_due()) {
                console.read(host, &domain)?;
                short = console.explains().filter(|_| !short.fatal).unwrap_or(short);
            }
            if expired || short.fatal {
                return Err(diagnosis::error(&domain, &self, &short, &console));
            }
            host.step(format!("{}: {}", domain.name, short.saw));
            host.runner.cancel.check()?;
            std::thread::sleep(POLL.min(self.limit.saturating_sub(began.elapsed())));
        }
    }
}

/// It will not come up by itself.
fn not_running(domain: &Domain, state: State) -> Error {
    Error::conflict(format!("the VM `{}` is {state}, so it will not become ready", domain.name))
        .hint(format!("Start it: vmprov vm start {}", shell_words::quote(&domain.name)))
}
