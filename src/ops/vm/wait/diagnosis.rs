//! The error of a failed wait: the guest's stage, the evidence for it, and what to do next.

use serde_json::json;

use super::{Watch, boot_failure::Console, probe::NotReady};
use crate::{
    error::{Code, Error, Hint},
    model::stage::Stage,
    tools::virsh::Domain,
};

/// Returns the error for a guest that did not become ready.
pub(super) fn error(domain: &Domain, watch: &Watch, not_ready: &NotReady, console: &Console) -> Error {
    let Watch { goal, limit, .. } = watch;
    let (name, saw) = (&domain.name, &not_ready.saw);
    let (code, message) = if not_ready.fatal {
        (Code::GuestFailed, format!("VM `{name}` will not become ready (waiting for {goal}): {saw}"))
    } else {
        let seconds = limit.as_secs();
        (Code::Timeout, format!("VM `{name}` was not ready within {seconds} s (waiting for {goal}): {saw}"))
    };
    let lines = console.last_lines();
    let shown = match (&lines[..], console.is_logged) {
        ([], false) => String::new(),
        ([], true) => "\nits console has printed nothing since the VM started".to_owned(),
        (lines, _) => format!("\nthe last lines of its console:\n  {}", lines.join("\n  ")),
    };
    let details = json!({ "stage": not_ready.stage, "console": lines });
    let error = Error::new(code, message).because(format!("{}{shown}", not_ready.why)).details(details);
    hints(not_ready.stage, domain, watch).into_iter().fold(error, Error::hint)
}

/// Returns what to do next.
fn hints(stage: Stage, domain: &Domain, watch: &Watch) -> Vec<Hint> {
    let vm = &domain.name;
    let logs = Hint::call_on_vm("Read the console log of the VM, which is kept", "vm_logs", vm);
    let screenshot = Hint::call_on_vm("Take a screenshot", "vm_screenshot", vm);
    let wait = Hint::call("Wait longer", "vm_wait", [("vm", vm.clone()), ("for", watch.goal.to_string())]);
    let start = |text: &str| Hint::call_on_vm(text, "vm_start", vm);
    let inject = |text: &str| Hint::call(text, "vm_inject_ssh_key", [("vm", json!(vm)), ("restart", json!(true))]);
    match stage {
        Stage::Stopped => vec![logs, start("Start it again")],
        Stage::Paused => vec![Hint::call_on_vm("Resume it", "vm_resume", vm)],
        Stage::NoBootDevice => vec![
            logs,
            screenshot,
            Hint::call_on_vm("Check that the image is complete and matches the VM's firmware", "vm_info", vm),
        ],
        Stage::KernelPanic | Stage::EmergencyShell => {
            let console = format!("vmprov vm console {}", shell_words::quote(vm));
            vec![logs, screenshot, Hint::run("Open its console", console)]
        }
        Stage::NoLease => vec![
            Hint::new("Check that the network's DHCP server is running, and that no firewall on the host blocks it"),
            logs,
            screenshot,
            wait,
        ],
        Stage::Silent | Stage::PortClosed | Stage::LoginFailed if domain.agent_connected => {
            let command = json!(["systemctl", "status", "ssh"]);
            let members = [("vm", json!(vm)), ("via", json!("agent")), ("command", command)];
            vec![Hint::call("Check SSH through the guest agent, which is connected", "vm_exec", members), wait]
        }
        Stage::KeyRefused => vec![inject("Inject a key that this user has")],
        Stage::HostKeyChanged => {
            vec![inject("Inject a key to restore the VM's host keys, if the guest has created new ones")]
        }
        Stage::CloudInitError if watch.key.is_some() => vec![logs, screenshot],
        Stage::CloudInitError => {
            let command = json!(["sudo", "cloud-init", "status", "--long"]);
            vec![
                Hint::call("Check cloud-init's status", "vm_exec", [("vm", json!(vm)), ("command", command)]),
                Hint::new("Read /var/log/cloud-init-output.log in the guest"),
            ]
        }
        _ => vec![logs, screenshot, wait],
    }
}
