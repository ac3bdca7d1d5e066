//! The error of a wait in vain: how far the guest has come, how that is known, and what to do next.

use serde_json::json;

use super::{Watch, boot_failure::Console, probe::NotReady};
use crate::{
    error::{Code, Error},
    model::stage::Stage,
    tools::virsh::Domain,
};

/// What is told of a guest that did not come so far.
pub(super) fn error(domain: &Domain, watch: &Watch, short: &NotReady, console: &Console) -> Error {
    let Watch { goal, limit, .. } = watch;
    let (name, saw) = (&domain.name, &short.saw);
    let (code, message) = if short.fatal {
        (Code::GuestFailed, format!("the VM `{name}` will not become ready (waiting for {goal}): {saw}"))
    } else {
        let seconds = limit.as_secs();
        (Code::Timeout, format!("the VM `{name}` was not ready within {seconds} s (waiting for {goal}): {saw}"))
    };
    let lines = console.last_lines();
    let shown = match (&lines[..], console.is_logged) {
        ([], false) => String::new(),
        ([], true) => "\nits console has said nothing since its start".to_owned(),
        (lines, _) => format!("\nthe last lines of its console:\n  {}", lines.join("\n  ")),
    };
    let details = json!({ "stage": short.stage, "console": lines });
    let error = Error::new(code, message).because(format!("{}{shown}", short.why)).details(details);
    error.hint(hint(short.stage, domain, watch))
}

/// What to do next.
fn hint(stage: Stage, domain: &Domain, watch: &Watch) -> String {
    let name = shell_words::quote(&domain.name);
    let agent = domain.agent_connected;
    let look =
        format!("The VM is kept. See what it says (vmprov vm logs {name}) and shows (vmprov vm screenshot {name})");
    let wait_on = format!("wait on: vmprov vm wait {name} --for {}", watch.goal);
    match stage {
        Stage::Stopped => format!(
            "The VM is kept. See what it said last: vmprov vm logs {name}; start it again: vmprov vm start {name}"
        ),
        Stage::Paused => format!("Let it go on: vmprov vm start {name}"),
        Stage::NoBootDevice => {
            format!("Is the image whole, and for this machine's firmware? See it: vmprov vm info {name}; {look}.")
        }
        Stage::KernelPanic | Stage::EmergencyShell => {
            format!("{look}; work in it on its console: vmprov vm console {name}")
        }
        Stage::NoLease => format!(
            "Does the network's DHCP server run, and does a firewall of this host stop it? {look}, or {wait_on}"
        ),
        Stage::Silent | Stage::PortClosed | Stage::LoginFailed if agent => {
            format!(
                "Its guest agent answers, so look from inside: vmprov vm exec {name} --via agent -- systemctl status ssh. Or {wait_on}"
            )
        }
        Stage::KeyRefused => format!("Give it a key that this user has: vmprov inject {name} KEY --restart"),
        Stage::HostKeyChanged => format!(
            "If the guest has made new ones by itself, the next inject hands the VM's own in again: vmprov inject {name} KEY --restart"
        ),
        Stage::CloudInitError if watch.key.is_some() => format!("{look}."),
        Stage::CloudInitError => format!(
            "See in the guest: vmprov vm ssh {name} -- sudo cloud-init status --long, and /var/log/cloud-init-output.log"
        ),
        _ => format!("{look}, or {wait_on}"),
    }
}
