//! One look at a guest: how far it is, and what is missing.

use std::net::IpAddr;

use serde_json::json;

use super::Watch;
use crate::{
    error::{Code, Result},
    model::{
        stage::Stage,
        vm::{Address, AddressSource, State, WaitFor},
    },
    ops::{
        Host,
        vm::{
            access::{
                address::best_first,
                login::{Login, describe},
            },
            inspect::list::ips,
        },
    },
    tools::{
        ssh::{Attempt, Refusal, RefusalKind},
        virsh::{Domain, GuestStatus},
    },
};

/// What a look has shown.
pub(super) enum Probe {
    /// It is so far.
    Reached(Vec<IpAddr>),
    /// It does not run.
    Inactive(GuestStatus),
    /// It is not so far yet.
    Short(NotReady),
}

/// What keeps a guest from being so far.
#[derive(Debug, Clone)]
pub(super) struct NotReady {
    pub(super) stage: Stage,
    /// The same as half a sentence.
    pub(super) saw: String,
    /// How that is known, in the words of whoever says so.
    pub(super) why: String,
    /// Whether waiting does not help.
    pub(super) fatal: bool,
}

impl NotReady {
    pub(super) fn new(stage: Stage, saw: impl Into<String>, why: impl Into<String>) -> Self {
        Self { stage, saw: saw.into(), why: why.into(), fatal: false }
    }

    pub(super) fn fatal(self) -> Self {
        Self { fatal: true, ..self }
    }
}

/// Looks how far a guest is.
pub(super) fn look(host: &Host, domain: &Domain, watch: &Watch) -> Result<Probe> {
    let vitals = host.virsh.vitals(domain)?;
    let state = vitals.state;
    let short = match watch.goal {
        WaitFor::Stopped if !state.is_active() => return Ok(Probe::Reached(Vec::new())),
        WaitFor::Stopped => NotReady::new(Stage::Running, format!("it is {state}"), "it has not shut down"),
        _ if !state.is_active() => return Ok(Probe::Inactive(vitals)),
        _ if matches!(state, State::Paused | State::Suspended) => paused(&vitals),
        WaitFor::Running => return Ok(Probe::Reached(Vec::new())),
        WaitFor::Agent => match host.virsh.agent(domain.uuid, &json!({ "execute": "guest-ping" })) {
            Ok(_) => return Ok(Probe::Reached(ips(&best_first(domain, vitals.addresses)))),
            Err(error) if error.code == Code::Conflict => {
                let why = error.cause.unwrap_or(error.message);
                NotReady::new(Stage::AgentSilent, "its guest agent does not answer", why)
            }
            Err(error) => return Err(error),
        },
        WaitFor::Ip | WaitFor::Ssh | WaitFor::CloudInit => return from_the_network(host, domain, &vitals, watch),
    };
    Ok(Probe::Short(short))
}

fn from_the_network(host: &Host, domain: &Domain, vitals: &GuestStatus, watch: &Watch) -> Result<Probe> {
    let addresses = best_first(domain, vitals.addresses.clone());
    if addresses.is_empty() {
        return Ok(Probe::Short(no_address(domain, vitals)));
    }
    if watch.goal == WaitFor::Ip {
        return Ok(Probe::Reached(ips(&addresses)));
    }
    let login = match watch.key {
        Some((key, user)) => Login::of(host, domain, Some(user))?.with_only(key),
        None => Login::of(host, domain, None)?,
    };
    let mut worst = None;
    for address in &addresses {
        match login.at(address).attempt(&host.runner, command(watch.goal))? {
            Attempt::Ran { status, stdout } => return Ok(judge(watch.goal, status, &stdout, &addresses)),
            Attempt::Failed(refusal) => {
                worst = worst.or(Some(refused(&refusal, address, &vitals.addresses, &login)));
            }
        }
    }
    // The address that is tried first is the one that is told of.
    Ok(Probe::Short(worst.unwrap_or_else(|| no_address(domain, vitals))))
}

fn no_address(domain: &Domain, vitals: &GuestStatus) -> NotReady {
    let macs: Vec<_> = domain.interfaces.iter().map(|interface| interface.mac.as_str()).collect();
    let nobody = "no DHCP server of libvirt's has leased it an address, and no agent or neighbour table knows one";
    match vitals.sent {
        _ if macs.is_empty() => NotReady::new(Stage::NoLease, "it has no network", "it has no network interface"),
        Some(0) => NotReady::new(
            Stage::NoDhcpRequest,
            "it has sent no DHCP request",
            format!("nothing at all has come from its network interface {}", macs.join(", ")),
        ),
        Some(sent) => NotReady::new(
            Stage::NoLease,
            "it has no address",
            format!("{nobody}, although {sent} packets have come from it ({})", macs.join(", ")),
        ),
        None => NotReady::new(Stage::NoLease, "it has no address", format!("{nobody} ({})", macs.join(", "))),
    }
}

fn refused(refusal: &Refusal, at: &Address, said: &[Address], login: &Login) -> NotReady {
    let words = &refusal.words;
    let answers_arp = said.iter().any(|other| other.source == AddressSource::Arp && other.address == at.address);
    match refusal.kind {
        // What forwards a port takes a connection before anybody in the guest does.
        _ if at.port.is_some() && ["kex_exchange", "banner exchange"].iter().any(|sign| words.contains(sign)) => {
            NotReady::new(
                Stage::PortClosed,
                format!("port 22 of the guest, to which {at} leads, does not answer"),
                words,
            )
        }
        // Who has a neighbour table's entry but takes no connection may have a firewall.
        RefusalKind::Silent if answers_arp && words.contains("timed out") => NotReady::new(
            Stage::PortClosed,
            format!("port 22 of {at} does not answer"),
            format!("{words} (the address itself is in the host's neighbour table)"),
        ),
        RefusalKind::Silent => {
            NotReady::new(Stage::Silent, format!("nothing answers at {at}, which it was given"), words)
        }
        RefusalKind::Closed => NotReady::new(Stage::PortClosed, format!("port 22 of {at} is closed"), words),
        RefusalKind::HostKey => NotReady::new(
            Stage::HostKeyChanged,
            format!("the ssh server at {at} has another host key than the VM was given"),
            words,
        ),
        RefusalKind::Key => NotReady::new(
            Stage::KeyRefused,
            format!("at {at} the user `{}` is not let in with {}", login.user, describe(&login.keys)),
            words,
        ),
        RefusalKind::Other => NotReady::new(Stage::LoginFailed, format!("nobody can log in at {at}"), words),
    }
}

/// What is run in the guest to see how far it is. cloud-init writes the file when it has ended, well or not.
fn command(goal: WaitFor) -> &'static str {
    match goal {
        WaitFor::CloudInit => "cat /run/cloud-init/result.json",
        _ => "true",
    }
}

fn judge(goal: WaitFor, status: i32, stdout: &str, addresses: &[Address]) -> Probe {
    if goal != WaitFor::CloudInit {
        return Probe::Reached(ips(addresses));
    }
    if status != 0 {
        let why = "there is no /run/cloud-init/result.json";
        return Probe::Short(NotReady::new(Stage::CloudInitRunning, "cloud-init is still at work", why));
    }
    let result: serde_json::Value = serde_json::from_str(stdout).unwrap_or_default();
    let errors = result["v1"]["errors"].as_array().cloned().unwrap_or_default();
    if errors.is_empty() {
        return Probe::Reached(ips(addresses));
    }
    let errors: Vec<_> = errors.iter().map(|error| error.as_str().unwrap_or_default().to_owned()).collect();
    let short = NotReady::new(Stage::CloudInitError, "cloud-init has ended with an error", errors.join("; "));
    Probe::Short(short.fatal())
}

/// Why a domain is paused (`virDomainPausedReason`). What its user has done the user can undo; the rest stays so.
fn paused(vitals: &GuestStatus) -> NotReady {
    let (why, fatal) = match vitals.reason {
        5 => ("a write to its disk has failed: is the storage full?", true),
        6 => ("its watchdog has stopped it", true),
        10 => ("the guest has crashed", true),
        _ => ("somebody has paused it", false),
    };
    NotReady { fatal, ..NotReady::new(Stage::Paused, format!("it is {}", vitals.state), why) }
}

/// Why a domain that was started does not run (`virDomainShutoffReason`, `virDomainCrashedReason`).
pub(super) fn stopped(vitals: &GuestStatus) -> NotReady {
    let why = match (vitals.state, vitals.reason) {
        (State::Crashed, _) => "the guest has crashed",
        (_, 1) => "the guest has shut itself down",
        (_, 2) => "somebody has powered it off",
        (_, 3) => "QEMU has ended before its time; see its log in /var/log/libvirt/qemu",
        (_, 5) => "somebody has saved and stopped it",
        (_, 6) => "QEMU has failed to start",
        _ => "libvirt does not say why",
    };
    NotReady::new(Stage::Stopped, format!("it is {}", vitals.state), why).fatal()
}
