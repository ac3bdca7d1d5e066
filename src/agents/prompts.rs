//! Prompts for common tasks, which a person chooses and a model carries out.

use rmcp::{
    ErrorData,
    model::{GetPromptResult, JsonObject, Prompt, PromptArgument, PromptMessage, Role},
};
use serde_json::Value;

use crate::api::Scope;

/// A prompt for a task.
struct Task {
    name: &'static str,
    title: &'static str,
    about: &'static str,
    /// The name, description and default of each argument. An argument without a default is required.
    arguments: &'static [(&'static str, &'static str, Option<&'static str>)],
    /// The scope that it needs.
    scope: Scope,
    /// The instructions. `{name}` is replaced by an argument.
    text: &'static str,
}

const VM: (&str, &str, Option<&str>) = ("vm", "Name of the VM", None);

const TASKS: &[Task] = &[
    Task {
        name: "development-vm",
        title: "Create a development VM",
        scope: Scope::Operate,
        about: "Create a VM with SSH access and show how to log in",
        arguments: &[
            VM,
            ("image", "Name of an image from image_search", Some("debian:12")),
            ("ttl", "Lifetime of the VM", Some("8h")),
        ],
        text: "Create a virtual machine named {vm} for development. Generate an SSH key named {vm} with \
               ssh_key_generate, unless ssh_key_list shows that it exists. Call vm_create with name {vm}, image \
               {image}, sshKeys [\"{vm}\"], ttl {ttl} and wait \"ssh\". If the result is an operation, call \
               operation_get until it has ended. Check the VM with vm_exec and the command [\"uname\", \"-a\"]. Then \
               show me its address, the command from vm_ssh_command, and when it expires.",
    },
    Task {
        name: "run-in-vm",
        title: "Run a command in a new VM",
        scope: Scope::Operate,
        about: "Create a VM, run one command in it, show its output, and delete the VM",
        arguments: &[
            ("command", "Shell command to run", None),
            ("image", "Name of an image from image_search", Some("debian:12")),
        ],
        text: "Run this command in a new virtual machine: {command}\nGenerate a key with ssh_key_generate. Create a \
               VM with vm_create (image {image}, sshKeys with that key, ttl 2h, wait \"ssh\"). If the result is an \
               operation, call operation_get until it has ended. Run the command with vm_exec as [\"sh\", \"-c\", …]. \
               Show me its output and exit status. Finally delete the VM with vm_delete (repeat its name in confirm), \
               even if an earlier step failed.",
    },
    Task {
        name: "diagnose-vm",
        title: "Diagnose a VM",
        scope: Scope::Read,
        about: "Find out why a VM does not boot or does not accept logins",
        arguments: &[VM],
        text: "Find out what is wrong with the virtual machine {vm}. Call vm_info, then vm_wait with a timeout of \
               30s: its error contains a diagnosis. Then call vm_logs, and vm_screenshot if the log is empty. If \
               vm_exec works, check cloud-init with [\"cloud-init\", \"status\", \"--long\"]. If several VMs have \
               problems, call doctor. Change nothing. Tell me what is wrong, how you know, and how to fix it.",
    },
    Task {
        name: "clean-up",
        title: "Clean up unused VMs",
        scope: Scope::Operate,
        about: "Propose VMs to delete, and delete those that you confirm",
        arguments: &[],
        text: "Help me clean up. List the virtual machines with vm_list, and inspect those that are shut off or will \
               expire with vm_info. Propose which ones to delete, and why. Delete a VM only after I have confirmed it \
               by name.",
    },
];

/// Returns the prompts that a scope allows.
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

/// Returns a prompt with its arguments filled in.
pub(super) fn get(scope: Scope, name: &str, given: &JsonObject) -> Result<GetPromptResult, ErrorData> {
    let allowed = || TASKS.iter().filter(|task| scope >= task.scope);
    let names: Vec<_> = allowed().map(|task| task.name).collect();
    let task = allowed().find(|task| task.name == name).ok_or_else(|| {
        ErrorData::invalid_params(format!("unknown prompt `{name}`. Available prompts: {}", names.join(", ")), None)
    })?;
    // A value is never searched for placeholders: it may contain text that looks like one.
    let mut parts = vec![task.text.to_owned()];
    for (argument, about, default) in task.arguments {
        let value = given.get(*argument).and_then(Value::as_str).filter(|value| !value.is_empty()).or(*default);
        let value = value.ok_or_else(|| {
            ErrorData::invalid_params(format!("missing argument `{argument}` of prompt `{name}`: {about}"), None)
        })?;
        let placeholder = format!("{{{argument}}}");
        let fill = |(at, part): (usize, String)| {
            let is_text = at % 2 == 0;
            let pieces: Vec<_> =
                if is_text { part.split(&placeholder).map(str::to_owned).collect() } else { vec![part] };
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
    fn every_argument_has_a_placeholder_and_every_placeholder_an_argument() {
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
        assert!(text.contains("machine: echo {image} {command}\\nGenerate") && text.contains("(image a:1,"), "{text}");
        assert!(get(Scope::Read, "run-in-vm", &twice).unwrap_err().message.ends_with("prompts: diagnose-vm"));
        assert!(get(Scope::Admin, "development-vm", &JsonObject::new()).is_err());
        assert!(get(Scope::Admin, "none", &JsonObject::new()).unwrap_err().message.contains("development-vm"));
    }
}
