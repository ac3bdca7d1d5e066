//! The usual tasks, as prompts that a person chooses and a model carries out.

use rmcp::{
    ErrorData,
    model::{GetPromptResult, JsonObject, Prompt, PromptArgument, PromptMessage, Role},
};
use serde_json::Value;

use crate::api::Scope;

/// A task.
struct Task {
    name: &'static str,
    title: &'static str,
    about: &'static str,
    /// Each argument, what it is, and what is taken where it is left out; none where it must be given.
    arguments: &'static [(&'static str, &'static str, Option<&'static str>)],
    /// What one must be allowed to do for it.
    scope: Scope,
    /// What is to be done. `{name}` stands for an argument.
    text: &'static str,
}

const VM: (&str, &str, Option<&str>) = ("vm", "Name of the VM", None);

const TASKS: &[Task] = &[
    Task {
        name: "development-vm",
        title: "Make a VM to work in",
        scope: Scope::Operate,
        about: "Make a VM that can be logged in to, and show how",
        arguments: &[
            VM,
            ("image", "Image, as image_search shows it", Some("debian:12")),
            ("ttl", "How long it is kept", Some("8h")),
        ],
        text: "Make a virtual machine called {vm} to work in. Make an ssh key called {vm} with ssh_key_generate, unless \
               ssh_key_list shows it. Call vm_create with name {vm}, image {image}, sshKeys [\"{vm}\"], ttl {ttl} and wait \"ssh\"; if that answers \
               with an operation, call operation_get until it has ended. Prove it with vm_exec, command [\"uname\", \"-a\"]. \
               Then show me its address, the command of vm_ssh_command, and when it expires.",
    },
    Task {
        name: "run-in-vm",
        title: "Run a command in a VM of its own",
        scope: Scope::Operate,
        about: "Make a VM for one command, run it, show its output, and delete the VM",
        arguments: &[
            ("command", "Command, as a shell takes it", None),
            ("image", "Image, as image_search shows it", Some("debian:12")),
        ],
        text: "Run this command in a virtual machine of its own: {command}\nMake a key with ssh_key_generate and a VM with vm_create (image \
               {image}, sshKeys with that key, ttl 2h, wait \"ssh\"; if it answers with an operation, call operation_get until it has \
               ended). Run the command with vm_exec as [\"sh\", \"-c\", …]. Show me its output and exit status. At the end \
               delete the VM with vm_delete (its name is also given as confirm), also if something fails.",
    },
    Task {
        name: "diagnose-vm",
        title: "Find out what is wrong with a VM",
        scope: Scope::Read,
        about: "Find out why a VM does not boot or cannot be logged in to",
        arguments: &[VM],
        text: "Find out what is wrong with the virtual machine {vm}. Look with vm_info, then vm_wait with a timeout of 30s, whose \
               error says what was found; then vm_logs, and vm_screenshot if the log says nothing. If vm_exec works, look at \
               cloud-init with [\"cloud-init\", \"status\", \"--long\"]. If several VMs have trouble, call doctor. Change nothing. \
               Tell me what is wrong, what shows that, and what would mend it.",
    },
    Task {
        name: "clean-up",
        title: "Find VMs that nobody needs",
        scope: Scope::Operate,
        about: "List the VMs that could be deleted, and delete those that are agreed on",
        arguments: &[],
        text: "Help me to clean up. List the virtual machines with vm_list, and look with vm_info at those that are shut off or \
               expire. Propose which to delete, and why. Delete none before I have agreed to it by name.",
    },
];

/// Every task.
pub(super) fn list(scope: Scope) -> Vec<Prompt> {
    let argument = |(name, about, default): &(&str, &str, Option<&str>)| {
        let about = default.map_or_else(|| (*about).to_owned(), |default| format!("{about} [default: {default}]"));
        PromptArgument::new(*name).with_description(about).with_required(default.is_none())
    };
    let prompt = |task: &Task| {
        let arguments = (!task.arguments.is_empty()).then(|| task.arguments.iter().map(argument).collect());
        Prompt::new(task.name, Some(task.about), arguments).with_title(task.title)
    };
    TASKS.iter().filter(|task| scope >= task.scope).map(prompt).collect()
}

/// One of them, with its arguments in their places.
pub(super) fn get(scope: Scope, name: &str, given: &JsonObject) -> Result<GetPromptResult, ErrorData> {
    let theirs = || TASKS.iter().filter(|task| scope >= task.scope);
    let names: Vec<_> = theirs().map(|task| task.name).collect();
    let task = theirs().find(|task| task.name == name).ok_or_else(|| {
        ErrorData::invalid_params(format!("there is no prompt `{name}`. Prompts are {}.", names.join(", ")), None)
    })?;
    // Each place is filled once: what is filled in may look like a place.
    let mut parts = vec![task.text.to_owned()];
    for (argument, about, default) in task.arguments {
        let value = given.get(*argument).and_then(Value::as_str).filter(|value| !value.is_empty()).or(*default);
        let value = value.ok_or_else(|| {
            ErrorData::invalid_params(format!("the argument `{argument}` of `{name}` is missing: {about}"), None)
        })?;
        let place = format!("{{{argument}}}");
        let fill = |(at, part): (usize, String)| {
            let is_text = at % 2 == 0;
            let pieces: Vec<_> = if is_text { part.split(&place).map(str::to_owned).collect() } else { vec![part] };
            pieces.into_iter().flat_map(|piece| [piece, value.to_owned()]).collect::<Vec<_>>()
        };
        parts = parts
            .into_iter()
            .enumerate()
            .flat_map(|part| {
                let mut filled = fill(part);
                filled.pop();
                filled
            })
            .collect();
    }
    let message = PromptMessage::new_text(Role::User, parts.concat());
    Ok(GetPromptResult::new(vec![message]).with_description(task.about))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_argument_has_its_place_and_every_place_its_argument() {
        for task in TASKS {
            let given = task.arguments.iter().map(|(name, _, _)| ((*name).to_owned(), Value::from("GIVEN"))).collect();
            let GetPromptResult { messages, .. } = get(Scope::Admin, task.name, &given).unwrap();
            let text = serde_json::to_string(&messages).unwrap();
            assert!(!text.contains('{') || !text.contains("{vm}"), "{text}");
            for (name, _, _) in task.arguments {
                assert!(task.text.contains(&format!("{{{name}}}")), "{}: {name}", task.name);
                assert!(!text.contains(&format!("{{{name}}}")), "{text}");
            }
        }
        let twice = JsonObject::from_iter([
            ("command".to_owned(), json!("echo {image} {command}")),
            ("image".to_owned(), json!("a:1")),
        ]);
        let text = serde_json::to_string(&get(Scope::Operate, "run-in-vm", &twice).unwrap().messages).unwrap();
        assert!(text.contains("of its own: echo {image} {command}\\nMake") && text.contains("(image a:1,"), "{text}");
        assert!(get(Scope::Read, "run-in-vm", &twice).unwrap_err().message.ends_with("Prompts are diagnose-vm."));
        assert!(get(Scope::Admin, "development-vm", &JsonObject::new()).is_err());
        assert!(get(Scope::Admin, "none", &JsonObject::new()).unwrap_err().message.contains("development-vm"));
    }
}
