//! `wait`: until a guest is so far, with a limit, and a diagnosis when it does not come so far.

mod console;
mod diagnosis;
mod look;

use std::{
    net::IpAddr,
    time::{Duration, Instant},
};

use serde::Serialize;
use uuid::Uuid;

use super::{super::Host, find};
use crate::{
    error::{Error, Result},
    model::{
        key::Key,
        vm::{State, WaitFor},
    },
    tools::virsh::Domain,
};
use console::Console;
use look::Look;

/// How long a guest may take when nobody says.
pub const WAIT_LIMIT: Duration = Duration::from_mins(5);

/// How often a guest is looked at.
const POLL: Duration = Duration::from_secs(1);

/// A VM that is so far.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Reached {
    /// The VM's name.
    pub vm: String,
    /// What was waited for.
    pub reached: WaitFor,
    /// Its addresses, as far as they are known.
    pub addresses: Vec<IpAddr>,
    /// The seconds that it took.
    pub seconds: u64,
}

/// Waits until a VM is so far, at most `limit`.
pub fn wait(host: &Host, reference: &str, goal: WaitFor, limit: Duration) -> Result<Reached> {
    Watch::new(find(host, reference)?.uuid, goal, limit, false).run(host)
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
            let mut short = match look::look(host, &domain, &self)? {
                Look::Reached(addresses) => {
                    let seconds = began.elapsed().as_secs();
                    return Ok(Reached { vm: domain.name, reached: self.goal, addresses, seconds });
                }
                Look::Inactive(vitals) if !self.started => return Err(not_running(&domain, vitals.state)),
                Look::Inactive(vitals) => look::stopped(&vitals),
                Look::Short(short) => short,
            };
            self.started = true;
            let expired = began.elapsed() >= self.limit;
            if self.goal != WaitFor::Stopped && (expired || short.hopeless || console.is_due()) {
                console.read(host, &domain)?;
                short = console.explains().filter(|_| !short.hopeless).unwrap_or(short);
            }
            if expired || short.hopeless {
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
