//! `wait`: until a guest is so far, with a limit, and a diagnosis when it is not.

use std::{
    net::IpAddr,
    time::{Duration, Instant},
};

use serde::Serialize;
use serde_json::json;
use uuid::Uuid;

use super::{super::Host, find, list::known_addresses, login::Login};
use crate::{
    error::{Code, Error, Result},
    model::vm::{State, WaitFor},
    tools::{ssh::Attempt, virsh::Domain},
};

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
    wait_for(host, find(host, reference)?.uuid, goal, limit)
}

pub(super) fn wait_for(host: &Host, uuid: Uuid, goal: WaitFor, limit: Duration) -> Result<Reached> {
    wait_with(host, uuid, goal, limit, None)
}

/// How far a guest has come, and what stands in the way of more.
enum Progress {
    Reached(Vec<IpAddr>),
    Not { stage: String, why: String },
}

/// Waits as [`wait_for`] does; `key` is the one key to log in with, and as whom, where that is to
/// be proven.
pub(super) fn wait_with(
    host: &Host,
    uuid: Uuid,
    goal: WaitFor,
    limit: Duration,
    key: Option<(&camino::Utf8PathBuf, &str)>,
) -> Result<Reached> {
    let started = Instant::now();
    loop {
        let domain = host.virsh.domain(uuid)?;
        let progress = look(host, &domain, goal, key)?;
        match progress {
            Progress::Reached(addresses) => {
                return Ok(Reached { vm: domain.name, reached: goal, addresses, seconds: started.elapsed().as_secs() });
            }
            Progress::Not { stage, why } if started.elapsed() >= limit => {
                let name = shell_words::quote(&domain.name);
                let message = format!(
                    "the VM `{}` was not ready within {} s (waiting for {goal}): {stage}",
                    domain.name,
                    limit.as_secs()
                );
                return Err(Error::new(Code::Timeout, message)
                    .because(why)
                    .hint(format!("The VM is kept. Look at its console (vmprov vm console {name}), or wait on: vmprov vm wait {name} --for {goal}")));
            }
            Progress::Not { stage, .. } => host.step(format!("{}: {stage}", domain.name)),
        }
        host.runner.cancel.check()?;
        std::thread::sleep(POLL.min(limit.saturating_sub(started.elapsed())));
    }
}

#[expect(clippy::unnecessary_wraps, reason = "it ends a function that can fail")]
fn not(stage: impl Into<String>, why: impl Into<String>) -> Result<Progress> {
    Ok(Progress::Not { stage: stage.into(), why: why.into() })
}

fn look(host: &Host, domain: &Domain, goal: WaitFor, key: Option<(&camino::Utf8PathBuf, &str)>) -> Result<Progress> {
    let state = host.virsh.state(domain.uuid)?;
    if goal == WaitFor::Stopped {
        let stopped = !state.is_active();
        return if stopped {
            Ok(Progress::Reached(Vec::new()))
        } else {
            not(format!("it is {state}"), "it has not shut down")
        };
    }
    if !state.is_active() {
        // It will not come up by itself.
        return Err(Error::conflict(format!("the VM `{}` is {state}, so it will not become ready", domain.name))
            .hint(format!("Start it: vmprov vm start {}", shell_words::quote(&domain.name))));
    }
    match goal {
        WaitFor::Running if state == State::Running => Ok(Progress::Reached(Vec::new())),
        WaitFor::Running => not(format!("it is {state}"), "it does not run"),
        WaitFor::Agent => match host.virsh.agent(domain.uuid, &json!({ "execute": "guest-ping" })) {
            Ok(_) => Ok(Progress::Reached(Vec::new())),
            Err(error) if error.code == Code::Conflict => {
                not("its guest agent does not answer", error.cause.unwrap_or(error.message))
            }
            Err(error) => Err(error),
        },
        _ => {
            let addresses = known_addresses(host, domain)?;
            if addresses.is_empty() {
                return not(
                    "it has no address",
                    "no DHCP server of libvirt's has leased it one, and no agent or neighbour table knows one",
                );
            }
            let ips = addresses.iter().map(|address| address.address).collect();
            if goal == WaitFor::Ip {
                return Ok(Progress::Reached(ips));
            }
            let login = match key {
                Some((identity, user)) => Login::of(host, domain, Some(user))?.with_only(identity.clone()),
                None => Login::of(host, domain, None)?,
            };
            let mut refusal = String::new();
            for address in &addresses {
                match login.at(address).attempt(&host.runner, command(goal))? {
                    Attempt::Ran { status, stdout } => return judge(goal, status, &stdout, ips),
                    Attempt::Failed(why) => refusal = why,
                }
            }
            not(format!("it has the address {}, but nobody can log in", addresses[0].address), refusal)
        }
    }
}

/// What is run in the guest to see how far it is. cloud-init writes the file when it has ended, well or not.
fn command(goal: WaitFor) -> &'static str {
    match goal {
        WaitFor::CloudInit => "cat /run/cloud-init/result.json",
        _ => "true",
    }
}

fn judge(goal: WaitFor, status: i32, stdout: &str, ips: Vec<IpAddr>) -> Result<Progress> {
    if goal != WaitFor::CloudInit {
        return Ok(Progress::Reached(ips));
    }
    if status != 0 {
        return not("one can log in, but cloud-init is still at work", "there is no /run/cloud-init/result.json");
    }
    let result: serde_json::Value = serde_json::from_str(stdout).unwrap_or_default();
    let errors = result["v1"]["errors"].as_array().cloned().unwrap_or_default();
    if errors.is_empty() {
        return Ok(Progress::Reached(ips));
    }
    let errors: Vec<_> = errors.iter().map(|error| error.as_str().unwrap_or_default().to_owned()).collect();
    Err(Error::new(Code::ToolFailed, "cloud-init ended with an error in the guest")
        .because(errors.join("; "))
        .hint("See in the guest: cloud-init status --long, and /var/log/cloud-init-output.log"))
}
