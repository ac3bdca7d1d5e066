//! [`Failure`]: an error as a model reads it. It always says what to call next.

use serde::Serialize;
use serde_json::Value;

use super::{
    Tool, as_tool_call,
    hints::{Next, first_call},
    tools,
};
use crate::{
    api::Effect,
    error::{Code, Error, Fault, ResourceKind},
    service::client::Client,
};

/// What went wrong, and what to do about it.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Failure {
    /// The error, with its hint in calls of tools.
    #[serde(flatten)]
    pub(crate) error: Error,
    /// What to call next.
    pub(crate) next: Option<Next>,
}

impl Failure {
    /// Says of an error of a tool's call what to call next, out of the tools that the client has.
    pub(crate) fn new(error: Error, tool: &Tool, arguments: &Value, client: &Client) -> Self {
        let named = first_call(&error);
        // Nothing is proposed to a program that may cost somebody a VM.
        if let Some(next) = named.filter(|next| has(client, next.tool) && next.is_harmless()) {
            return Self { error: error.written(as_tool_call), next: Some(next) };
        }
        let (what, next) = follow_up(&error, tool, arguments);
        if !has(client, next.tool) {
            return Self { error: error.hint("Tell the operator of the host").written(as_tool_call), next: None };
        }
        let error = error.hint(format!("{what}: {}", next.text())).written(as_tool_call);
        Self { error, next: Some(next) }
    }

    /// All of it, in the order in which it is best read.
    pub(crate) fn text(&self) -> String {
        in_one_text(&self.error)
    }
}

/// An error as one text: what failed and why, then what to do.
pub(super) fn in_one_text(error: &Error) -> String {
    match error.hint_text(as_tool_call) {
        Some(hint) => format!("{error}. {hint}"),
        None => error.to_string(),
    }
}

/// Whether a client has a tool. The host as a whole is not shown to those who have names of their own.
pub(super) fn has(client: &Client, name: &str) -> bool {
    let is_theirs = |tool: &Tool| tool.name == name && client.scope >= tool.scope;
    tools().iter().any(is_theirs) && (name != "doctor" || client.prefix.is_none())
}

/// What helps against a kind of error that does not say so itself.
fn follow_up(error: &Error, tool: &Tool, arguments: &Value) -> (&'static str, Next) {
    let vm = ["name", "vmName"].into_iter().find_map(|name| arguments[name].as_str()).unwrap_or_default();
    let of_vm = |tool| Next::new(tool, &[("name", vm)]);
    let is_about_keys = tool.name.starts_with("ssh_key");
    let may_repeat = tool.effect == Effect::Read || tool.hints.idempotent && !tool.hints.destructive;
    match error.code {
        Code::InvalidInput => {
            let mut next = again(tool, arguments);
            if let Some(Fault::Member(member)) = error.fault.as_deref() {
                next.arguments.shift_remove(member);
            }
            ("Correct it, and call again", next)
        }
        Code::NotFound if tool.name == "doctor" => ("Leave them out to run all", Next::new("doctor", &[])),
        Code::NotFound | Code::Forbidden | Code::QuotaExceeded => ("See what there is", listing(error)),
        Code::AlreadyExists | Code::Conflict | Code::KeyReused if is_about_keys => {
            ("See what there is", Next::new("ssh_key_list", &[]))
        }
        Code::Busy | Code::Interrupted | Code::Timeout if may_repeat => {
            ("Try again in a moment", again(tool, arguments))
        }
        Code::GuestFailed if !vm.is_empty() => ("See what the guest says", of_vm("vm_logs")),
        Code::AlreadyExists
        | Code::Conflict
        | Code::KeyReused
        | Code::Busy
        | Code::Interrupted
        | Code::Timeout
        | Code::GuestFailed => {
            if vm.is_empty() {
                ("See what there is", listing(error))
            } else {
                ("See how it is", of_vm("vm_info"))
            }
        }
        Code::Internal | Code::Denied | Code::ToolMissing | Code::ToolFailed | Code::Unreachable => {
            ("See what is wrong with the host", Next::new("doctor", &[]))
        }
    }
}

/// The same call, with those of its arguments that say what it is about.
fn again(tool: &Tool, arguments: &Value) -> Next {
    const LONGEST: usize = 64;
    let is_name =
        |name: &str, value: &Value| tool.requires(name) && value.as_str().is_some_and(|text| text.len() <= LONGEST);
    let members = arguments.as_object().into_iter().flatten().filter(|(name, value)| is_name(name, value));
    Next { tool: tool.name, arguments: members.map(|(name, value)| (name.clone(), value.clone())).collect() }
}

/// The tool that lists what was not found.
fn listing(error: &Error) -> Next {
    let tool = match error.fault.as_deref() {
        Some(Fault::Missing(ResourceKind::Key)) => "ssh_key_list",
        Some(Fault::Missing(ResourceKind::Image)) => "image_search",
        _ => "vm_list",
    };
    Next::new(tool, &[])
}
