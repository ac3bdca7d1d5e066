//! The table of tools, with their titles and descriptions.

use serde_json::{Value, json};

use super::{
    call::CONFIRM,
    schema,
    tool::{self, Brief, Does, Hints, Tool},
};
use crate::api::{self, Effect, Scope};

/// A tool's row in the table.
pub(super) struct ToolDefinition {
    pub(super) name: &'static str,
    title: &'static str,
    description: &'static str,
    pub(super) names: &'static [(&'static str, &'static str)],
    does: Option<Does>,
    hints: Hints,
    pub(super) confirms: bool,
    defaults: &'static [(&'static str, u64)],
    without: &'static [&'static str],
    brief: Option<Brief>,
}

/// Most operations name their VM in `vm`; the tools have always named it `name`.
const ONE_VM: &[(&str, &str)] = &[("name", "vm")];

const fn row(name: &'static str, title: &'static str, description: &'static str) -> ToolDefinition {
    ToolDefinition {
        name,
        title,
        description,
        names: ONE_VM,
        does: None,
        hints: Hints { destructive: false, idempotent: false, open_world: false },
        confirms: false,
        defaults: &[],
        without: &[],
        brief: None,
    }
}

impl ToolDefinition {
    /// Returns whether the tool lacks a member of the operation.
    pub(super) fn lacks(&self, member: &str) -> bool {
        self.without.contains(&member)
    }

    /// Removes members of the operation that agents may not use.
    const fn without(mut self, members: &'static [&'static str]) -> Self {
        self.without = members;
        self
    }

    /// Leaves members of a list's items out of the result.
    const fn brief(mut self, brief: Brief) -> Self {
        self.brief = Some(brief);
        self
    }

    /// Declares the tool idempotent.
    const fn idempotent(mut self) -> Self {
        self.hints.idempotent = true;
        self
    }

    /// Declares that the tool interacts with more than this host.
    const fn open(mut self) -> Self {
        self.hints.open_world = true;
        self
    }

    /// Sets the arguments whose names differ from the operation's members: the argument, then the member.
    const fn names(mut self, names: &'static [(&'static str, &'static str)]) -> Self {
        self.names = names;
        self
    }

    /// Adds the argument `confirm`, which repeats the name of a VM to delete.
    const fn confirms(mut self) -> Self {
        self.confirms = true;
        self
    }

    /// Sets defaults that differ from the operation's.
    const fn defaults(mut self, defaults: &'static [(&'static str, u64)]) -> Self {
        self.defaults = defaults;
        self
    }

    const fn does(mut self, does: Does) -> Self {
        self.does = Some(does);
        self
    }
}

/// Added to the description of every tool that may take longer than a client waits.
const LONG: &str =
    "If it takes long, the result is an operation: call operation_get with its ID, and do not repeat this call.";

/// The table of tools.
const ROWS: &[ToolDefinition] = &[
    row("vm_list", "List VMs", "Lists the virtual machines with their state. Start here.").names(&[]),
    row(
        "vm_create",
        "Create a VM",
        "Creates a virtual machine and starts it. Give an image (such as debian:12; image_search lists published \
         images, image_list local ones) or an imageUrl; without either the disk is blank and nothing boots. Give \
         sshKeys (ssh_key_generate creates a key) to allow logins, and wait: \"ssh\" to return when a login works. \
         Give a ttl to a temporary VM. Next: vm_wait, then vm_exec or vm_ssh_command.",
    )
    .names(&[])
    .open()
    .confirms(),
    row("vm_info", "Show a VM", "Shows the details of a virtual machine: state, addresses, disks, keys, expiry."),
    row("vm_start", "Start a VM", "Starts a virtual machine that is shut off. Next: vm_wait.").idempotent(),
    row(
        "vm_stop",
        "Stop a VM",
        "Shuts a virtual machine down and waits until it is off. With force it is powered off, which may lose unsaved \
         data.",
    )
    .idempotent(),
    row(
        "vm_restart",
        "Restart a VM",
        "Shuts a virtual machine down and starts it with its current configuration. Next: vm_wait.",
    ),
    row(
        "vm_set",
        "Change a VM",
        "Changes a virtual machine's memory, virtual CPUs, disk size (can only grow), autostart or description. The \
         result says which changes are live and which ones need vm_restart.",
    )
    .idempotent(),
    row(
        "vm_ttl",
        "Change when a VM expires",
        "Sets the remaining lifetime of a virtual machine, counted from now: 30m, 2h, 7d, or never. Expired VMs are \
         deleted when the operator runs reap.",
    ),
    row(
        "vm_delete",
        "Delete a VM",
        "Deletes a virtual machine, running or not, and its disks. This cannot be undone. Repeat its name in confirm.",
    )
    .idempotent()
    .confirms()
    .without(&["unmanaged"]),
    row(
        "vm_inject_ssh_key",
        "Add an SSH key to a VM",
        "Adds a key from the key store to an existing virtual machine: immediately through the guest agent, or else \
         through cloud-init at the next start. The result says which, and whether a restart is needed. With restart \
         the VM is restarted if necessary and the login is tested.",
    )
    .names(&[("vmName", "vm"), ("keyName", "key")])
    .idempotent(),
    row(
        "vm_wait",
        "Wait for a VM",
        "Waits for a virtual machine to reach a state: running, ip, ssh (a login works), cloud-init (first boot has \
         finished), agent or stopped. If that fails, the error says what is wrong with the guest.",
    ),
    row(
        "vm_exec",
        "Run a command in a VM",
        "Runs a command in a virtual machine, over SSH or through its guest agent, and returns its exitStatus, stdout \
         and stderr. The command is a list: the program and its arguments. It is not run by a shell; for pipes or \
         variables use [\"sh\", \"-c\", \"…\"]. Very long output is shortened in the middle.",
    )
    .open(),
    row(
        "vm_ssh_command",
        "Show how to log in to a VM",
        "Shows the ssh command that logs in to a virtual machine from a shell of the host, with strict host key \
         checking. To run a command without a shell, use vm_exec.",
    ),
    row(
        "vm_logs",
        "Show a VM's console log",
        "Shows the last lines of a virtual machine's serial console since its last start. Use it if the VM does not \
         boot.",
    )
    .defaults(&[("lines", 100)]),
    row("vm_screenshot", "Take a screenshot of a VM", "Takes a screenshot of a virtual machine as a PNG image."),
    row(
        "image_search",
        "Search for images",
        "Searches the catalogue of published cloud images by name or title. vm_create accepts these names in image.",
    )
    .names(&[])
    .brief(Brief { list: "images", of: "Offer", members: &["images", "verification", "firmware"] }),
    row("image_list", "List images", "Lists the local images and the virtual machines that use them.").names(&[]),
    row(
        "image_pull",
        "Fetch an image",
        "Fetches an image, or a newer version if its publisher has one. vm_create fetches a missing image itself.",
    )
    .names(&[])
    .open()
    .idempotent(),
    row(
        "ssh_key_generate",
        "Generate an SSH key",
        "Generates an SSH key pair with a name. The private key stays on the host, where vm_exec and vm_wait use it; \
         the result contains the public key. Next: give its name to vm_create in sshKeys, or call vm_inject_ssh_key.",
    )
    .names(&[]),
    row("ssh_key_list", "List SSH keys", "Lists the SSH keys in the key store.").names(&[]),
    row(
        "operation_get",
        "Get an operation",
        "Returns the progress of an operation that another call returned, after waiting for its end for a while. Call \
         it again until its state is succeeded, failed or cancelled; then it has a result or an error.",
    )
    .does(Does::Get),
    row("operation_cancel", "Cancel an operation", "Cancels a running operation and rolls its changes back.")
        .does(Does::Cancel)
        .idempotent(),
    row(
        "doctor",
        "Check the host",
        "Checks the host: programs, libvirt, storage, networks, images. Call it if several other calls fail.",
    )
    .names(&[]),
];

/// Returns the row of the tool that runs an operation.
pub(super) fn tool_of(operation: &api::Operation) -> Option<&'static ToolDefinition> {
    ROWS.iter().find(|row| row.name == operation.name)
}

/// Returns every tool.
pub(super) fn tools() -> Vec<Tool> {
    ROWS.iter().filter_map(build).collect()
}

/// Returns the tool of a row, or `None` if its operation does not exist, which `every_row_is_an_operation` would find.
fn build(row: &ToolDefinition) -> Option<Tool> {
    let does = row.does.or_else(|| api::find(row.name).map(Does::Operation))?;
    let (effect, scope, summary) = match does {
        Does::Operation(operation) => (operation.effect, operation.scope, operation.summary),
        Does::Get => (Effect::Read, Scope::Read, "Get the progress and result of an operation"),
        Does::Cancel => (Effect::Change, Scope::Operate, "Cancel an operation and roll its changes back"),
    };
    let is_long = matches!(does, Does::Operation(operation) if operation.mode != api::ExecutionMode::Quick);
    let mut tool = Tool {
        name: row.name,
        title: row.title,
        summary,
        description: if is_long { format!("{} {LONG}", row.description) } else { row.description.to_owned() },
        effect,
        hints: Hints { destructive: effect == Effect::Destroy || row.confirms, ..row.hints },
        scope,
        input: Value::Null,
        output: Value::Null,
        does,
        names: row.names,
        confirms: row.confirms,
        defaults: row.defaults,
        brief: row.brief,
    };
    let input = match does {
        Does::Operation(operation) => schema::input(&operation.complete),
        Does::Get | Does::Cancel => tool::of_operation(does),
    };
    tool.input = completed(schema::renamed(input, &tool), row);

    tool.output = match does {
        Does::Operation(operation) => output(operation, is_long, row.brief),
        Does::Get | Does::Cancel => tool::view(failure()),
    };
    Some(tool)
}

/// Returns the schema of a tool's result: the report, a running operation, or a failure. Returns null if the report is
/// not JSON.
fn output(operation: &api::Operation, is_long: bool, brief: Option<Brief>) -> Value {
    let Some(report) = operation.report.clone() else { return Value::Null };
    let mut results = vec![(report, &operation.schemas)];
    if is_long {
        results.push((pending(), &operation.schemas));
    }
    results.push((failure(), &operation.schemas));
    let mut output = schema::output(&results);
    if let Some(brief) = brief {
        brief.describe(&mut output["$defs"]);
    }
    output
}

/// Returns a short schema of a failure, because clients validate failures, too.
fn failure() -> Value {
    let (text, maybe) = (json!({"type": "string"}), json!({"type": ["string", "null"]}));
    let members = json!({"error": text, "code": text, "cause": maybe, "hint": maybe, "retryable": {"type": "boolean"}});
    json!({"type": "object", "required": ["error", "code", "hint", "next"], "properties": members})
}

/// Returns the schema of a running operation. The schema of `operation_get` describes the operation itself.
fn pending() -> Value {
    let object = json!({"type": "object"});
    let members = json!({
        "status": {"const": "accepted"}, "message": {"type": "string"}, "next": object, "operation": object,
    });
    json!({"type": "object", "required": ["status", "message", "next", "operation"], "properties": members})
}

/// Returns the schema of the arguments with the additions and removals of the tool.
fn completed(mut input: Value, row: &ToolDefinition) -> Value {
    let properties = input["properties"].as_object_mut();
    if let Some(properties) = properties {
        properties.retain(|name, _| !row.lacks(name));
    }
    for (name, default) in row.defaults {
        input["properties"][name]["default"] = json!(default);
    }
    if row.confirms {
        let about = "Repeat `name` here to confirm that this VM is deleted or replaced";
        input["properties"][CONFIRM] = json!({"description": about, "anyOf": [{"type": "string"}, {"type": "null"}]});
    }
    input
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_is_an_operation() {
        let built: Vec<_> = tools().iter().map(|tool| tool.name).collect();
        assert_eq!(built, ROWS.iter().map(|row| row.name).collect::<Vec<_>>());
    }
}
