//! The examples of every command. A test parses each, and runs those that need no guest.

use std::{collections::HashSet, sync::LazyLock};

use crate::api;

/// A command, what an example of it does, and the line to type.
pub(in crate::cli) type Example = (String, &'static str, String);

/// Returns the examples of every command. Those of an operation are in its row.
pub(in crate::cli) fn examples() -> &'static [Example] {
    static ALL: LazyLock<Vec<Example>> = LazyLock::new(|| {
        let others = OTHERS.iter().map(|(command, about, line)| ((*command).to_owned(), *about, (*line).to_owned()));
        // HTTP divides some commands into several operations. The first has the examples.
        let mut seen = HashSet::new();
        let operations = api::operations().iter().filter(|operation| seen.insert(operation.command));
        let of_operations = operations.flat_map(|operation| {
            let command = format!("vmprov {}", operation.command);
            operation.shell_examples().into_iter().map(move |(about, line)| (command.clone(), about, line))
        });
        others.chain(of_operations).collect()
    });
    &ALL
}

/// The examples of commands that are not operations.
const OTHERS: &[(&str, &str, &str)] = &[
    (
        "vmprov",
        "Create a VM and wait until you can log in",
        "vmprov vm create web --image debian:12 --ssh-key dev --wait",
    ),
    ("vmprov", "Find out what is wrong with the host", "vmprov doctor"),
    ("vmprov vm", "Create a VM and log in to it", "vmprov vm create web --image debian:12 --ssh-key dev --wait"),
    ("vmprov vm ssh", "Log in", "vmprov vm ssh web"),
    ("vmprov vm ssh", "Run a command", "vmprov vm ssh web -- uname -a"),
    ("vmprov vm cp", "Copy a folder into a VM", "vmprov vm cp site web:/srv/"),
    ("vmprov vm cp", "Copy a file out of it", "vmprov vm cp web:/var/log/syslog ."),
    ("vmprov vm console", "Attach to the serial console", "vmprov vm console web"),
    ("vmprov vm events", "Print events as they happen", "vmprov vm events --follow"),
    ("vmprov image", "Find and download an image", "vmprov image search ubuntu"),
    ("vmprov image export", "Write an image to a file", "vmprov image export golden golden.qcow2"),
    ("vmprov key", "Generate a key pair", "vmprov key generate dev"),
    ("vmprov key import", "Import an existing public key", "vmprov key import laptop ~/.ssh/id_ed25519.pub"),
    ("vmprov serve", "Serve this machine", "vmprov serve"),
    (
        "vmprov serve",
        "Serve the network, with a token for each client",
        "vmprov serve --listen 0.0.0.0:8092 --tokens tokens.toml",
    ),
    ("vmprov mcp", "Serve an agent that sees only its own VMs", "vmprov mcp --prefix agent- --ttl-default 4h"),
    ("vmprov tools", "Print tool definitions for OpenAI-compatible APIs", "vmprov tools --format openai"),
    ("vmprov config", "Show every setting and its origin", "vmprov config"),
    ("vmprov help", "Read about exit codes", "vmprov help exit-codes"),
    ("vmprov help", "Show the help of a command", "vmprov help vm create"),
];
