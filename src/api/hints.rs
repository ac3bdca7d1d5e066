//! Hints as front ends write them: as a command line, or as an HTTP request.

use serde_json::{Map, Value, json};

use super::{Operation, find, segment};
use crate::error::{Action, Call, Hint};

/// Options of the command line whose members have other names.
const OPTIONS: &[(&str, &str)] = &[("sshKeys", "ssh-key")];

/// Writes a hint for a user of the command line: an operation is a command line, a member an option.
pub fn as_command(hint: &Hint) -> String {
    let action = hint.action.as_ref().map(|action| match action {
        Action::Call(call) => command_line(call),
        Action::Set(members) => listed(members.iter().map(|(member, value)| match value {
            Some(Value::Bool(true)) | None => format!("--{}", option(member)),
            Some(value) => format!("--{} {}", option(member), word(value)),
        })),
        Action::Run(command) => command.clone(),
    });
    sentence(&hint.text, action)
}

/// Writes a hint for an HTTP client: an operation is a method, a path and a body.
pub fn as_request(hint: &Hint) -> String {
    match &hint.action {
        Some(Action::Call(call)) => sentence(&hint.text, Some(request(call))),
        _ => with_members(hint),
    }
}

/// Writes a hint for a client whose requests are JSON. An operation is a command line for the operator of the host.
pub fn with_members(hint: &Hint) -> String {
    match &hint.action {
        None => hint.text.clone(),
        Some(Action::Call(call)) => on_the_host(&hint.text, &command_line(call)),
        Some(Action::Run(command)) => on_the_host(&hint.text, command),
        Some(Action::Set(members)) => {
            let members = members.iter().map(|(member, value)| match value {
                Some(value) => format!("`{member}` {value}"),
                None => format!("`{member}`"),
            });
            sentence(&hint.text, Some(listed(members)))
        }
    }
}

/// Writes a command that only the operator of the host can run.
fn on_the_host(text: &str, command: &str) -> String {
    format!("{text} (on the host): {command}")
}

fn sentence(text: &str, action: Option<String>) -> String {
    match action {
        Some(action) => format!("{text}: {action}"),
        None => text.to_owned(),
    }
}

fn listed(items: impl Iterator<Item = String>) -> String {
    items.collect::<Vec<_>>().join(", ")
}

/// Returns the command line of a call. A positional argument that is not known is in capitals.
pub fn command_line(call: &Call) -> String {
    let Some(operation) = find(call.operation) else { return format!("vmprov {}", call.operation) };
    let mut rest = call.members.clone();
    let mut words = vec![format!("vmprov {}", operation.command)];
    let mut trailing = Vec::new();
    for name in required(operation) {
        match rest.shift_remove(name) {
            Some(Value::Array(items)) => {
                trailing.push("--".to_owned());
                trailing.extend(items.iter().map(word));
            }
            Some(value) => words.push(word(&value)),
            None => words.push(option(name).to_uppercase()),
        }
    }
    for (name, value) in rest {
        let option = format!("--{}", option(&name));
        match value {
            Value::Bool(true) => words.push(option),
            Value::Array(items) => words.extend(items.iter().map(|item| format!("{option} {}", word(item)))),
            value => words.push(format!("{option} {}", word(&value))),
        }
    }
    words.extend(trailing);
    words.join(" ")
}

/// Returns the required members of a request, which are the positional arguments of its command.
fn required(operation: &Operation) -> impl Iterator<Item = &str> {
    operation.request["required"].as_array().into_iter().flatten().filter_map(Value::as_str)
}

/// Returns the option of a member: `disk-size` for `diskSize`.
fn option(member: &str) -> String {
    if let Some((_, option)) = OPTIONS.iter().find(|(known, _)| *known == member) {
        return (*option).to_owned();
    }
    member.chars().fold(String::new(), |option, letter| match letter {
        'A'..='Z' => option + "-" + &letter.to_ascii_lowercase().to_string(),
        letter => option + &letter.to_string(),
    })
}

/// Returns a value as a word of a command line, quoted for the shell.
fn word(value: &Value) -> String {
    shell_words::quote(&plain(value)).into_owned()
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// Returns the request of a call: `POST /api/vms/web/stop {"force":true}`.
fn request(call: &Call) -> String {
    let Some(operation) = find(call.operation) else { return call.operation.to_owned() };
    let mut rest: Map<String, Value> = call.members.clone();
    let part = |part: &str| match part.strip_prefix('{').and_then(|part| part.strip_suffix('}')) {
        Some(member) => rest.shift_remove(member).map_or_else(|| part.to_owned(), |value| segment(&plain(&value))),
        None => part.to_owned(),
    };
    let path = operation.path.split('/').map(part).collect::<Vec<_>>().join("/");
    let line = format!("{} {path}", operation.method);
    match operation.method {
        _ if rest.is_empty() => line,
        "GET" | "DELETE" => {
            let query = rest.iter().map(|(name, value)| format!("{name}={}", segment(&plain(value))));
            format!("{line}?{}", query.collect::<Vec<_>>().join("&"))
        }
        _ => format!("{line} {}", json!(rest)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hint_is_a_command_line_or_a_request() {
        let timeout = |operation, vm: &str| Hint::call("See why", operation, [("vm", vm), ("timeout", "10s")]);
        for (hint, command, http) in [
            (
                Hint::call_on_vm("Start the VM", "vm_start", "web"),
                "Start the VM: vmprov vm start web",
                "Start the VM: POST /api/vms/web/start",
            ),
            (Hint::call_any("List the VMs", "vm_list"), "List the VMs: vmprov vm list", "List the VMs: GET /api/vms"),
            (
                Hint::call_on_vm("See its state", "vm_info", "a b/c"),
                "See its state: vmprov vm info 'a b/c'",
                "See its state: GET /api/vms/a%20b%2Fc",
            ),
            (
                Hint::call("Power it off", "vm_stop", [("vm", json!("web")), ("force", json!(true))]),
                "Power it off: vmprov vm stop web --force",
                "Power it off: POST /api/vms/web/stop {\"force\":true}",
            ),
            (
                Hint::call("Delete it", "vm_delete", [("vm", json!("web")), ("unmanaged", json!(true))]),
                "Delete it: vmprov vm delete web --unmanaged",
                "Delete it: DELETE /api/vms/web?unmanaged=true",
            ),
            (
                Hint::call_on_vm("Inject a key", "vm_inject_ssh_key", "web"),
                "Inject a key: vmprov inject web KEY",
                "Inject a key: POST /api/vms/web/ssh-keys/{key}",
            ),
            (
                timeout("vm_wait", "web"),
                "See why: vmprov vm wait web --timeout 10s",
                "See why: POST /api/vms/web/wait {\"timeout\":\"10s\"}",
            ),
            (
                Hint::call(
                    "See the service",
                    "vm_exec",
                    [("vm", json!("web")), ("via", json!("agent")), ("command", json!(["systemctl", "a b"]))],
                ),
                "See the service: vmprov vm exec web --via agent -- systemctl 'a b'",
                "See the service: POST /api/vms/web/exec {\"via\":\"agent\",\"command\":[\"systemctl\",\"a b\"]}",
            ),
            (
                Hint::set_any("Choose a size", &["sshKeys", "diskSize"]),
                "Choose a size: --ssh-key, --disk-size",
                "Choose a size: `sshKeys`, `diskSize`",
            ),
            (
                Hint::set_to("Raise the limit", "timeout", "5m"),
                "Raise the limit: --timeout 5m",
                "Raise the limit: `timeout` \"5m\"",
            ),
            (
                Hint::run("Install it", "apt-get install x"),
                "Install it: apt-get install x",
                "Install it (on the host): apt-get install x",
            ),
            (Hint::new("Try again later"), "Try again later", "Try again later"),
        ] {
            assert_eq!((as_command(&hint), as_request(&hint)), (command.to_owned(), http.to_owned()));
        }
    }
}
