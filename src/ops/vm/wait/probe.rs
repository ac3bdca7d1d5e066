//! Probes a guest once: which stage it has reached, and what is missing.

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
        vm::access::{
            address::{best_first, ips},
            login::{Login, describe},
        },
    },
    tools::{
        ssh::{Attempt, Refusal, RefusalKind},
        virsh::{Domain, GuestStatus},
    },
};

/// The result of a probe.
pub(super) enum Probe {
    /// The guest has reached the requested state.
    Reached(Vec<IpAddr>),
    /// The VM does not run.
    Inactive(GuestStatus),
    /// The guest has not reached the requested state yet.
    NotReady(NotReady),
}

/// Why a guest is not ready.
#[derive(Debug, Clone)]
pub(super) struct NotReady {
    pub(super) stage: Stage,
    /// The stage as a clause, for messages.
    pub(super) saw: String,
    /// The evidence, in the words of its source.
    pub(super) why: String,
    /// Whether further waiting is useless.
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

/// Probes a guest.
pub(super) fn probe(host: &Host, domain: &Domain, watch: &Watch) -> Result<Probe> {
    let guest = host.virsh.guest_status(domain)?;
    let state = guest.state;
    let not_ready = match watch.goal {
        WaitFor::Stopped if !state.is_active() => return Ok(Probe::Reached(Vec::new())),
        WaitFor::Stopped => NotReady::new(Stage::Running, format!("it is {state}"), "it has not shut down"),
        _ if !state.is_active() => return Ok(Probe::Inactive(guest)),
        _ if matches!(state, State::Paused | State::Suspended) => paused(&guest),
        WaitFor::Running => return Ok(Probe::Reached(Vec::new())),
        WaitFor::Agent => match host.virsh.agent(domain.uuid, &json!({ "execute": "guest-ping" })) {
            Ok(_) => return Ok(Probe::Reached(ips(&best_first(domain, guest.addresses)))),
            Err(error) if error.code == Code::Conflict => {
                let why = error.cause.unwrap_or(error.message);
                NotReady::new(Stage::AgentSilent, "its guest agent does not answer", why)
            }
            Err(error) => return Err(error),
        },
        WaitFor::Ip | WaitFor::Ssh | WaitFor::CloudInit => return probe_network(host, domain, &guest, watch),
    };
    Ok(Probe::NotReady(not_ready))
}

fn probe_network(host: &Host, domain: &Domain, guest: &GuestStatus, watch: &Watch) -> Result<Probe> {
    let addresses = best_first(domain, guest.addresses.clone());
    if addresses.is_empty() {
        return Ok(Probe::NotReady(no_address(domain, guest)));
    }
    if watch.goal == WaitFor::Ip {
        return Ok(Probe::Reached(ips(&addresses)));
    }
    let login = match watch.key {
        Some((key, user)) => Login::of(host, domain, Some(user))?.with_only(key),
        None => Login::of(host, domain, None)?,
    };
    let mut first_refusal = None;
    for address in &addresses {
        match login.at(address).attempt(&host.runner, command(watch.goal))? {
            Attempt::Ran { status, stdout } => return Ok(judge(watch.goal, status, &stdout, &addresses)),
            Attempt::Failed(refusal) => {
                first_refusal = first_refusal.or(Some(refused(&refusal, address, &guest.addresses, &login)));
            }
        }
    }
    // The error is about the address that was tried first.
    Ok(Probe::NotReady(first_refusal.unwrap_or_else(|| no_address(domain, guest))))
}

fn no_address(domain: &Domain, guest: &GuestStatus) -> NotReady {
    let macs: Vec<_> = domain.interfaces.iter().map(|interface| interface.mac.as_str()).collect();
    let unknown = "no DHCP lease from libvirt, and no address from the guest agent or the neighbor table";
    match guest.sent {
        _ if macs.is_empty() => NotReady::new(Stage::NoLease, "it has no network", "it has no network interface"),
        Some(0) => NotReady::new(
            Stage::NoDhcpRequest,
            "it has sent no DHCP request",
            format!("its network interface {} has sent no packets", macs.join(", ")),
        ),
        Some(sent) => NotReady::new(
            Stage::NoLease,
            "it has no address",
            format!("{unknown}, although it has sent {sent} packets ({})", macs.join(", ")),
        ),
        None => NotReady::new(Stage::NoLease, "it has no address", format!("{unknown} ({})", macs.join(", "))),
    }
}

fn refused(refusal: &Refusal, at: &Address, said: &[Address], login: &Login) -> NotReady {
    let words = &refusal.words;
    let answers_arp = said.iter().any(|other| other.source == AddressSource::Arp && other.address == at.address);
    match refusal.kind {
        // The port forward accepts a connection even if nothing in the guest does.
        _ if at.port.is_some() && ["kex_exchange", "banner exchange"].iter().any(|sign| words.contains(sign)) => {
            NotReady::new(
                Stage::PortClosed,
                format!("port 22 of the guest, forwarded from {at}, does not respond"),
                words,
            )
        }
        // A guest that answers ARP but accepts no connection may have a firewall.
        RefusalKind::Silent if answers_arp && words.contains("timed out") => NotReady::new(
            Stage::PortClosed,
            format!("port 22 at {at} does not respond"),
            format!("{words} (the address is in the host's neighbor table)"),
        ),
        RefusalKind::Silent => NotReady::new(Stage::Silent, format!("no response from {at}"), words),
        RefusalKind::Closed => NotReady::new(Stage::PortClosed, format!("port 22 at {at} is closed"), words),
        RefusalKind::HostKey => NotReady::new(
            Stage::HostKeyChanged,
            format!("the SSH server at {at} does not have the VM's host key"),
            words,
        ),
        RefusalKind::Key => NotReady::new(
            Stage::KeyRefused,
            format!("SSH at {at} rejected {} for user `{}`", describe(&login.keys), login.user),
            words,
        ),
        RefusalKind::Other => NotReady::new(Stage::LoginFailed, format!("SSH login at {at} failed"), words),
    }
}

/// Returns the command that probes the guest. cloud-init writes the file when it finishes, with or without errors.
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
        let why = "/run/cloud-init/result.json does not exist";
        return Probe::NotReady(NotReady::new(Stage::CloudInitRunning, "cloud-init is still running", why));
    }
    let result: serde_json::Value = serde_json::from_str(stdout).unwrap_or_default();
    let errors = result["v1"]["errors"].as_array().cloned().unwrap_or_default();
    if errors.is_empty() {
        return Probe::Reached(ips(addresses));
    }
    let errors: Vec<_> = errors.iter().map(|error| error.as_str().unwrap_or_default().to_owned()).collect();
    let failed = NotReady::new(Stage::CloudInitError, "cloud-init finished with an error", errors.join("; "));
    Probe::NotReady(failed.fatal())
}

/// Returns why a domain is paused (`virDomainPausedReason`). A pause by a user is not fatal, because the user can
/// resume the domain.
fn paused(guest: &GuestStatus) -> NotReady {
    let (why, fatal) = match guest.reason {
        // libvirt knows no reason for QEMU's `internal-error`, with which KVM gives up.
        0 => ("QEMU stopped it for a reason that libvirt does not know; KVM may have failed", true),
        5 => ("a write to its disk failed; the storage may be full", true),
        6 => ("its watchdog stopped it", true),
        10 => ("the guest crashed", true),
        _ => ("paused by an administrator", false),
    };
    NotReady { fatal, ..NotReady::new(Stage::Paused, format!("it is {}", guest.state), why) }
}

/// Returns why a domain that was started does not run (`virDomainShutoffReason`, `virDomainCrashedReason`).
pub(super) fn stopped(guest: &GuestStatus) -> NotReady {
    let why = match (guest.state, guest.reason) {
        (State::Crashed, _) => "the guest crashed",
        (_, 1) => "the guest shut itself down",
        (_, 2) => "powered off by an administrator",
        (_, 3) => "QEMU exited unexpectedly; its log is in /var/log/libvirt/qemu",
        (_, 5) => "saved and stopped by an administrator",
        (_, 6) => "QEMU failed to start",
        _ => "libvirt reports no reason",
    };
    NotReady::new(Stage::Stopped, format!("it is {}", guest.state), why).fatal()
}
