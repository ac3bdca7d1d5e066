//! What an error says to do next, as calls of tools: operations name the command line, and a model has none.

use serde::Serialize;
use serde_json::{Map, Value};

use super::definitions;
use crate::api;

/// A call of a tool.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Next {
    /// The tool's name.
    pub(crate) tool: &'static str,
    /// Its arguments, as far as they are known.
    pub(crate) arguments: Map<String, Value>,
}

impl Next {
    pub(super) fn new(tool: &'static str, arguments: &[(&str, &str)]) -> Self {
        let arguments = arguments.iter().map(|(name, value)| ((*name).to_owned(), Value::from(*value))).collect();
        Self { tool, arguments }
    }

    /// Whether it costs nobody anything: a program may follow it without thinking.
    pub(super) fn is_harmless(&self) -> bool {
        let destroys = |tool: &super::Tool| tool.name == self.tool && tool.hints.destructive;
        !super::tools().iter().any(destroys) && self.arguments.get("force").is_none_or(|force| *force != true)
    }

    /// The call as it stands in a sentence.
    pub(super) fn text(&self) -> String {
        if self.arguments.is_empty() {
            return self.tool.to_owned();
        }
        format!("{} {}", self.tool, Value::Object(self.arguments.clone()))
    }
}

/// A text whose command lines are calls of tools, and whose options are arguments. What no tool does is for the operator.
pub fn in_calls(text: &str) -> String {
    read(text).0
}

/// The same, and the first call in it.
pub(super) fn read(text: &str) -> (String, Option<Next>) {
    let mut first = None;
    let text = api::in_words_of(text, &mut |operation, request, line| {
        let row = match definitions::tool_of(operation) {
            Some(row) if request.keys().all(|member| !row.lacks(member)) => row,
            _ => return format!("the operator's `{}`", line.command),
        };
        let (tool, names) = (row.name, row.names);
        let called = |name: &str| {
            let known = names.iter().find(|(_, of_operation)| *of_operation == name);
            known.map_or(name, |(of_tool, _)| of_tool).to_owned()
        };
        let arguments = request.iter().map(|(name, value)| (called(name), value.clone())).collect();
        let call = Next { tool, arguments };
        // Whoever is to delete a VM names it twice, and not because it was written down for them.
        let text = if row.confirms { tool.to_owned() } else { call.text() };
        first.get_or_insert_with(|| Next {
            arguments: call.arguments.into_iter().filter(|(_, value)| !is_placeholder(value)).collect(),
            ..call
        });
        line.marked(text)
    });
    // What no face but the command line has.
    (text.replace("`vmprov ", "the operator's `").replace(": vmprov ", ": the operator's vmprov "), first)
}

/// Whether a value stands for one that only the reader knows, as in `vmprov inject web KEY`.
fn is_placeholder(value: &Value) -> bool {
    value.as_str().is_some_and(|text| text.len() > 1 && text.bytes().all(|byte| byte.is_ascii_uppercase()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn command_lines_are_calls() {
        for (text, told) in [
            ("Start it: vmprov vm start web", "Start it: vm_start {\"name\":\"web\"}"),
            ("`vmprov vm list` shows the VMs there are.", "`vm_list` shows the VMs there are."),
            (
                "Inject it: vmprov inject web KEY",
                "Inject it: vm_inject_ssh_key {\"vmName\":\"web\",\"keyName\":\"KEY\"}",
            ),
            ("See why: vmprov vm wait web --timeout 10s", "See why: vm_wait {\"name\":\"web\",\"timeout\":\"10s\"}"),
            ("Give it longer (--timeout 5m).", "Give it longer (`timeout` 5m)."),
            ("Make room: vmprov image prune", "Make room: the operator's `image prune`"),
            ("`vmprov key delete dev` removes it.", "the operator's `key delete dev` removes it."),
            ("Remove it: vmprov vm delete web --unmanaged", "Remove it: the operator's `vm delete web --unmanaged`"),
            ("Leave out `--bits`, or ask for `--type rsa`.", "Leave out `bits`, or ask for `type rsa`."),
            ("`virsh net-list --all` shows them.", "`virsh net-list --all` shows them."),
            ("Look: vmprov vm console web.", "Look: the operator's vmprov vm console web."),
        ] {
            assert_eq!(in_calls(text), told, "{text}");
        }
    }

    #[test]
    fn the_first_call_is_what_comes_next() {
        let next = |text| read(text).1.map(|next| (next.tool, Value::Object(next.arguments)));
        assert_eq!(
            next("Start it: vmprov vm start web; or vmprov vm list"),
            Some(("vm_start", json!({"name": "web"})))
        );
        assert_eq!(next("Inject it: vmprov inject web KEY"), Some(("vm_inject_ssh_key", json!({"vmName": "web"}))));
        assert_eq!(next("Make room: vmprov image prune"), None);
    }
}
