//! [`Failure`]: an error for a model. It says which tool to call next.

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

/// An error, and the next tool to call.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Failure {
    /// The error. Its hints name tools.
    #[serde(flatten)]
    pub(crate) error: Error,
    /// The call to make next, if the client has a tool that helps.
    pub(crate) next: Option<Next>,
}

impl Failure {
    /// Returns the failure for the error of a tool call. It proposes only tools that the client has.
    pub(crate) fn new(error: Error, tool: &Tool, arguments: &Value, client: &Client) -> Self {
        // A call that may delete a VM is never proposed: a program could follow it without a confirmation.
        if let Some(next) = first_call(&error).filter(|next| has(client, next.tool) && next.is_harmless()) {
            return Self { error: error.written(as_tool_call), next: Some(next) };
        }
        let (hint, next) = follow_up(&error, tool, arguments);
        if !has(client, next.tool) {
            return Self { error: error.hint("Tell the operator of the host").written(as_tool_call), next: None };
        }
        let error = error.hint(format!("{hint}: {}", next.text())).written(as_tool_call);
        Self { error, next: Some(next) }
    }

    /// Returns the error as one text.
    pub(crate) fn text(&self) -> String {
        in_one_text(&self.error)
    }
}

/// Returns an error as one text: what failed and why, then what to do.
pub(super) fn in_one_text(error: &Error) -> String {
    match error.hint_text(as_tool_call) {
        Some(hint) => format!("{error}. {hint}"),
        None => error.to_string(),
    }
}

/// Returns whether a client has a tool. A client that is limited to a name prefix must not see the whole host.
pub(super) fn has(client: &Client, name: &str) -> bool {
    let is_for_client = |tool: &Tool| client.prefix.is_none() || !tool.is_on_whole_host();
    tools().iter().any(|tool| tool.name == name && client.scope >= tool.scope && is_for_client(tool))
}

/// Returns a hint and a call that help with an error whose own hints name no call.
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
            ("Correct the arguments and call again", next)
        }
        Code::NotFound if tool.name == "doctor" => ("Run all checks", Next::new("doctor", &[])),
        Code::NotFound | Code::Forbidden | Code::QuotaExceeded => listing(error),
        Code::AlreadyExists | Code::Conflict | Code::KeyReused if is_about_keys => {
            ("List the existing keys", Next::new("ssh_key_list", &[]))
        }
        Code::Busy | Code::Interrupted | Code::Timeout if may_repeat => {
            ("Try again in a moment", again(tool, arguments))
        }
        Code::GuestFailed if !vm.is_empty() => ("Read the guest's console log", of_vm("vm_logs")),
        Code::AlreadyExists
        | Code::Conflict
        | Code::KeyReused
        | Code::Busy
        | Code::Interrupted
        | Code::Timeout
        | Code::GuestFailed => {
            if vm.is_empty() {
                listing(error)
            } else {
                ("Check its state", of_vm("vm_info"))
            }
        }
        Code::Internal | Code::Denied | Code::ToolMissing | Code::ToolFailed | Code::Unreachable => {
            ("Check the host for problems", Next::new("doctor", &[]))
        }
    }
}

/// Returns the same call, with its short required arguments.
fn again(tool: &Tool, arguments: &Value) -> Next {
    const MAX_BYTES: usize = 64;
    let is_name =
        |name: &str, value: &Value| tool.requires(name) && value.as_str().is_some_and(|text| text.len() <= MAX_BYTES);
    let members = arguments.as_object().into_iter().flatten().filter(|(name, value)| is_name(name, value));
    Next { tool: tool.name, arguments: members.map(|(name, value)| (name.clone(), value.clone())).collect() }
}

/// Returns a hint and a call that lists the resources of the kind that was not found.
fn listing(error: &Error) -> (&'static str, Next) {
    let (hint, tool) = match error.fault.as_deref() {
        Some(Fault::Missing(ResourceKind::Key)) => ("List the existing keys", "ssh_key_list"),
        Some(Fault::Missing(ResourceKind::Image)) => ("Search for an image", "image_search"),
        _ => ("List the existing VMs", "vm_list"),
    };
    (hint, Next::new(tool, &[]))
}
