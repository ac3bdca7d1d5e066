//! Hints as a model reads them: an operation is a call of its tool.

use serde::Serialize;
use serde_json::{Map, Value};

use super::{Tool, tools};
use crate::{
    api,
    error::{Action, Call, Error, Hint},
};

/// A call of a tool.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Next {
    /// The tool's name.
    pub(crate) tool: &'static str,
    /// The arguments that are known.
    pub(crate) arguments: Map<String, Value>,
}

impl Next {
    pub(super) fn new(tool: &'static str, arguments: &[(&str, &str)]) -> Self {
        let arguments = arguments.iter().map(|(name, value)| ((*name).to_owned(), Value::from(*value))).collect();
        Self { tool, arguments }
    }

    /// Returns the tool call for a call of an operation, or `None` if no tool accepts it.
    pub(super) fn of(call: &Call) -> Option<Self> {
        let tool = tools().iter().find(|tool| tool.name == call.operation)?;
        let argument = |(member, value): (&String, &Value)| (tool.names.argument(member).to_owned(), value.clone());
        let arguments: Map<_, _> = call.members.iter().map(argument).collect();
        let accepts = |name: &String| tool.arguments().any(|(known, _)| known == name);
        arguments.keys().all(accepts).then_some(Self { tool: tool.name, arguments })
    }

    /// Returns whether a program may follow it without a confirmation, because it deletes nothing.
    pub(super) fn is_harmless(&self) -> bool {
        let destroys = |tool: &Tool| tool.name == self.tool && tool.hints.destructive;
        !tools().iter().any(destroys) && self.arguments.get("force").is_none_or(|force| *force != true)
    }

    /// Returns the call as text.
    pub(super) fn text(&self) -> String {
        if self.arguments.is_empty() {
            return self.tool.to_owned();
        }
        format!("{} {}", self.tool, Value::Object(self.arguments.clone()))
    }
}

/// Writes a hint for a model. An operation without a tool is a command for the operator of the host. The arguments of a
/// call that needs a confirmation are left out: the model must choose them itself.
pub fn as_tool_call(hint: &Hint) -> String {
    let confirms = |next: &Next| tools().iter().any(|tool| tool.name == next.tool && tool.confirms);
    match &hint.action {
        Some(Action::Call(call)) => match Next::of(call) {
            Some(next) if confirms(&next) => format!("{}: {}", hint.text, next.tool),
            Some(next) => format!("{}: {}", hint.text, next.text()),
            None => api::with_members(hint),
        },
        _ => api::with_members(hint),
    }
}

/// Returns the first call of an error's hints.
pub(super) fn first_call(error: &Error) -> Option<Next> {
    error.hints.iter().find_map(|hint| match &hint.action {
        Some(Action::Call(call)) => Next::of(call),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_hint_is_a_call_of_a_tool() {
        for (hint, text) in [
            (Hint::call_on_vm("Start it", "vm_start", "web"), "Start it: vm_start {\"name\":\"web\"}"),
            (Hint::call_any("List the VMs", "vm_list"), "List the VMs: vm_list"),
            (
                Hint::call("Inject it", "vm_inject_ssh_key", [("vm", "web"), ("key", "dev")]),
                "Inject it: vm_inject_ssh_key {\"vmName\":\"web\",\"keyName\":\"dev\"}",
            ),
            (Hint::set_to("Raise the limit", "timeout", "5m"), "Raise the limit: `timeout` \"5m\""),
            (Hint::call_any("Free some space", "image_prune"), "Free some space (on the host): vmprov image prune"),
            (
                Hint::call("Delete it", "vm_delete", [("vm", json!("web")), ("unmanaged", json!(true))]),
                "Delete it (on the host): vmprov vm delete web --unmanaged",
            ),
            (Hint::call_on_vm("Delete it", "vm_delete", "web"), "Delete it: vm_delete"),
            (
                Hint::run("List the networks", "virsh net-list --all"),
                "List the networks (on the host): virsh net-list --all",
            ),
        ] {
            assert_eq!(as_tool_call(&hint), text);
        }
    }

    #[test]
    fn the_first_call_of_the_hints_comes_next() {
        let error = Error::conflict("x")
            .hint("Wait")
            .hint(Hint::call_any("Free some space", "image_prune"))
            .hint(Hint::call_on_vm("Start it", "vm_start", "web"));
        let next = first_call(&error).unwrap();
        assert_eq!((next.tool, Value::Object(next.arguments)), ("vm_start", json!({"name": "web"})));
    }
}
