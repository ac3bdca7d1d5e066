//! Every tool, and what a model is told of it.

use serde_json::{Value, json};

use super::{
    call::CONFIRM,
    schema,
    tool::{self, Brief, Does, Hints, Tool},
};
use crate::api::{self, Effect, Scope};

/// What stands in the table of a tool.
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

/// Most operations call the VM that they are about `vm`; the tools have called it `name` from the first on.
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
    /// Whether the tool does not have a member of the operation.
    pub(super) fn lacks(&self, member: &str) -> bool {
        self.without.contains(&member)
    }

    /// What the operation has and no agent may ask for.
    const fn without(mut self, members: &'static [&'static str]) -> Self {
        self.without = members;
        self
    }

    /// What of the items of a list is left out of the answer.
    const fn brief(mut self, brief: Brief) -> Self {
        self.brief = Some(brief);
        self
    }

    /// Doing it twice does no more than doing it once.
    const fn idempotent(mut self) -> Self {
        self.hints.idempotent = true;
        self
    }

    /// It deals with more than this host.
    const fn open(mut self) -> Self {
        self.hints.open_world = true;
        self
    }

    /// Its arguments are called as the operation calls them, or otherwise.
    const fn names(mut self, names: &'static [(&'static str, &'static str)]) -> Self {
        self.names = names;
        self
    }

    /// A VM may be deleted by it: its name is taken again as a confirmation.
    const fn confirms(mut self) -> Self {
        self.confirms = true;
        self
    }

    /// What is taken where an argument is left out, other than by the operation.
    const fn defaults(mut self, defaults: &'static [(&'static str, u64)]) -> Self {
        self.defaults = defaults;
        self
    }

    const fn does(mut self, does: Does) -> Self {
        self.does = Some(does);
        self
    }
}

/// What is said of every tool that may take longer than a client waits.
const LONG: &str =
    "If it is not done in time the answer is an operation: call operation_get with its id, and do not call this again.";

/// The table.
const ROWS: &[ToolDefinition] = &[
    row("vm_list", "List VMs", "Lists the virtual machines with their state. Start here to see what there is.").names(&[]),
    row(
        "vm_create",
        "Create a VM",
        "Creates a virtual machine and starts it. Name an image (such as debian:12; image_search lists those known, image_list \
         those at hand) or give an imageUrl; without either the disk is blank and nothing boots. Give sshKeys (ssh_key_generate makes \
         one) so that the VM can be logged in to, and wait: \"ssh\" to have the answer when that works. Give a ttl to a VM that is \
         needed for a while only. Next: vm_wait, then vm_exec or vm_ssh_command.",
    )
    .names(&[])
    .open()
    .confirms(),
    row(
        "vm_info",
        "Show a VM",
        "Shows everything there is to know of one virtual machine: state, addresses, disks, keys, expiry.",
    ),
    row("vm_start", "Start a VM", "Starts a virtual machine that is shut off. Next: vm_wait.").idempotent(),
    row(
        "vm_stop",
        "Stop a VM",
        "Shuts a virtual machine down and waits until it is off. With force it is powered off, which may lose what was not saved.",
    )
    .idempotent(),
    row(
        "vm_restart",
        "Restart a VM",
        "Shuts a virtual machine down and starts it again with its present configuration. Next: vm_wait.",
    ),
    row(
        "vm_set",
        "Change a VM",
        "Changes a virtual machine's memory, virtual CPUs, disk size (it only grows), autostart or description. The answer says \
         what holds at once and what needs vm_restart.",
    )
    .idempotent(),
    row(
        "vm_ttl",
        "Change when a VM expires",
        "Changes how long a virtual machine is kept, from now on: 30m, 2h, 7d; or never. What has expired is deleted by the operator's reaper.",
    ),
    row(
        "vm_delete",
        "Delete a VM",
        "Deletes a virtual machine, running or not, with its disks. That cannot be undone. Repeat its name as confirm.",
    )
    .idempotent()
    .confirms()
    .without(&["unmanaged"]),
    row(
        "vm_inject_ssh_key",
        "Get an ssh key into a VM",
        "Gets a key of the key store into a virtual machine that exists already: through the guest agent at once, else by \
         cloud-init at the next start; the answer says which, and whether a restart is needed (give restart to have it done, and \
         the login proven).",
    )
    .names(&[("vmName", "vm"), ("keyName", "key")])
    .idempotent(),
    row(
        "vm_wait",
        "Wait for a VM",
        "Waits until a virtual machine is so far: running, ip, ssh (it can be logged in to), cloud-init (first boot is finished), \
         agent or stopped. Where that fails, the error says what is wrong with the guest.",
    ),
    row(
        "vm_exec",
        "Run a command in a VM",
        "Runs one command in a virtual machine, by ssh or through its guest agent, and answers with its exitStatus, stdout and \
         stderr. The command is a list: the program and its arguments. No shell reads it: for pipes or variables, \
         [\"sh\", \"-c\", \"…\"]. Very long output is shortened in its middle.",
    )
    .open(),
    row(
        "vm_ssh_command",
        "Show how to log in to a VM",
        "Shows the ssh command that logs in to a virtual machine from the host's own shell, with strict host keys. vm_exec needs no \
         shell.",
    ),
    row(
        "vm_logs",
        "Show a VM's console",
        "Shows the last lines that a virtual machine has said on its serial console since its last start. Look here when it does \
         not boot.",
    )
    .defaults(&[("lines", 100)]),
    row("vm_screenshot", "Look at a VM's screen", "Takes a picture of a virtual machine's screen, as a PNG image."),
    row(
        "image_search",
        "Search for images",
        "Searches the catalogue of published cloud images by name or title. Any name it shows can be given to vm_create as image.",
    )
    .names(&[])
    .brief(Brief { list: "images", of: "Offer", members: &["images", "verification", "firmware"] }),
    row("image_list", "List images", "Lists the images that are at hand, and the virtual machines that use them.").names(&[]),
    row(
        "image_pull",
        "Fetch an image",
        "Fetches an image, or a newer one where its publisher has one. vm_create does that by itself where an image is missing.",
    )
    .names(&[])
    .open()
    .idempotent(),
    row(
        "ssh_key_generate",
        "Make an ssh key",
        "Makes a key pair under a name. The private half stays on the host and is used by vm_exec and vm_wait; the answer has the \
         public half. Next: name it in vm_create's sshKeys, or vm_inject_ssh_key.",
    )
    .names(&[]),
    row("ssh_key_list", "List ssh keys", "Lists the keys of the key store.").names(&[]),
    row(
        "operation_get",
        "Ask how far an operation is",
        "Tells how far an operation is that was not done in time, and waits for its end for a while. Call it again until its state is \
         succeeded, failed or cancelled; then result or error says what came of it.",
    )
    .does(Does::Get),
    row(
        "operation_cancel",
        "Cancel an operation",
        "Cancels an operation that is under way, and undoes what it has done.",
    )
    .does(Does::Cancel)
    .idempotent(),
    row(
        "doctor",
        "Look for what is wrong with the host",
        "Looks at the host: programs, libvirt, storage, networks, images. Call it when several other calls fail.",
    )
    .names(&[]),
];

/// The tool that does what an operation does.
pub(super) fn tool_of(operation: &api::Operation) -> Option<&'static ToolDefinition> {
    ROWS.iter().find(|row| row.name == operation.name)
}

/// Every tool.
pub(super) fn tools() -> Vec<Tool> {
    ROWS.iter().filter_map(build).collect()
}

/// None where there is no such operation, which `every_row_is_an_operation` finds.
fn build(row: &ToolDefinition) -> Option<Tool> {
    let does = row.does.or_else(|| api::find(row.name).map(Does::Operation))?;
    let (effect, scope, summary) = match does {
        Does::Operation(operation) => (operation.effect, operation.scope, operation.summary),
        Does::Get => (Effect::Read, Scope::Read, "Tell how far an operation is, and what came of it"),
        Does::Cancel => (Effect::Change, Scope::Operate, "Cancel an operation, and undo what it has done"),
    };
    let is_long = matches!(does, Does::Operation(operation) if operation.pace != api::ExecutionMode::Quick);
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

/// The answer of an operation: its report, how far it is, or what went wrong. None where the report is no JSON.
fn output(operation: &api::Operation, is_long: bool, brief: Option<Brief>) -> Value {
    let Some(report) = operation.report.clone() else { return Value::Null };
    let mut answers = vec![(report, &operation.schemas)];
    if is_long {
        answers.push((pending(), &operation.schemas));
    }
    answers.push((failure(), &operation.schemas));
    let mut output = schema::output(&answers);
    if let Some(brief) = brief {
        brief.describe(&mut output["$defs"]);
    }
    output
}

/// What went wrong, in short: clients hold failures against the schema, too.
fn failure() -> Value {
    let (text, maybe) = (json!({"type": "string"}), json!({"type": ["string", "null"]}));
    let members = json!({"error": text, "code": text, "cause": maybe, "hint": maybe, "retryable": {"type": "boolean"}});
    json!({"type": "object", "required": ["error", "code", "hint", "next"], "properties": members})
}

/// What is said of an operation that is under way. What the operation is like, `operation_get` says.
fn pending() -> Value {
    let object = json!({"type": "object"});
    let members = json!({
        "status": {"const": "accepted"}, "message": {"type": "string"}, "next": object, "operation": object,
    });
    json!({"type": "object", "required": ["status", "message", "next", "operation"], "properties": members})
}

/// The arguments with what only the tool has.
fn completed(mut input: Value, row: &ToolDefinition) -> Value {
    let properties = input["properties"].as_object_mut();
    if let Some(properties) = properties {
        properties.retain(|name, _| !row.lacks(name));
    }
    for (name, default) in row.defaults {
        input["properties"][name]["default"] = json!(default);
    }
    if row.confirms {
        let about = "The same as `name`, where that VM is to be deleted (or replaced), so that none is by mistake";
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
