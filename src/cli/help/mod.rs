//! The help of every command: commands in groups, examples, JSON members, and topics.
//!
//! The grammar is clap's; this adds what a list of options cannot say. `-h` fits one screen; `--help` has everything.

mod examples;
mod topics;

use std::fmt::Write;

use clap::{
    Arg, Command,
    builder::{StyledStr, styling::Style},
};
use serde_json::Value;

use crate::{
    api,
    error::{Error, Hint, Result},
};
pub(super) use examples::{Example, examples};
pub(super) use topics::environment_variables;
use topics::{TOPICS, topic};

/// Groups of the commands below a command: the title of each, and its first command. A group ends where the next one
/// begins, in the order of the grammar.
type Groups = &'static [(&'static str, &'static str)];

/// The groups of the commands that have many.
const GROUPS: &[(&str, Groups)] = &[
    (
        "vmprov",
        &[
            ("Virtual machines", "vm"),
            ("Images and keys", "image"),
            ("Programs and agents", "serve"),
            ("Maintenance and help", "doctor"),
        ],
    ),
    ("vmprov vm", &[("Lifecycle", "create"), ("Access", "ssh"), ("Change", "set")]),
];

/// The options that `-h` shows of the commands that have many; the others are in `--help`.
const MOST_USED: &[(&str, &[&str])] = &[
    ("vmprov", &["output", "quiet", "verbose", "connect"]),
    (
        "vmprov vm create",
        &["image", "memory", "vcpus", "disk_size", "network", "ssh_keys", "ttl", "if_exists", "wait", "dry_run"],
    ),
    ("vmprov serve", &["listen", "port", "tokens", "allow_unauthenticated", "allowed_host", "audit_log", "drain"]),
];

/// Returns the grammar with its help. It is built, so that options inherited from the program can be told from a
/// command's own.
pub(super) fn with_help(mut root: Command) -> Command {
    root.build();
    add_to(root, "vmprov")
}

/// Returns the help of a command, given by its words, or the text of a topic.
pub(super) fn page(root: Command, words: &[String]) -> Result<String> {
    if let [name] = words
        && let Some(text) = topic(name)
    {
        return Ok(text);
    }
    let mut command = with_help(root);
    for word in words {
        let below = command.find_subcommand(word).filter(|below| !below.is_hide_set()).cloned();
        command = below.ok_or_else(|| {
            let topics: Vec<_> = TOPICS.iter().map(|(name, _)| *name).collect();
            Error::invalid(format!("no help for `{}`", words.join(" ").escape_debug()))
                .hint(Hint::run("List the commands", "vmprov help"))
                .hint(format!("Or choose a topic: {}", topics.join(", ")))
        })?;
    }
    Ok(command.render_long_help().to_string())
}

fn add_to(command: Command, path: &str) -> Command {
    let is_root = path == "vmprov";
    let names: Vec<_> = command.get_subcommands().map(|below| below.get_name().to_owned()).collect();
    let command = names
        .iter()
        .fold(command, |command, name| command.mut_subcommand(name, |below| add_to(below, &format!("{path} {name}"))));
    let inherited = inherited(&command);
    let command = match MOST_USED.iter().find(|(known, _)| *known == path) {
        Some((_, shown)) => command.mut_args(|arg| {
            let is_rare = !arg.is_positional() && !shown.contains(&arg.get_id().as_str());
            arg.hide_short_help(is_rare)
        }),
        None => command,
    };
    let command =
        if is_root { command } else { command.mut_args(|arg| if arg.is_global_set() { arg.hide(true) } else { arg }) };
    let command = match GROUPS.iter().find(|(known, _)| *known == path) {
        Some((_, groups)) => {
            let template = grouped(&command, groups);
            command.help_template(template)
        }
        None => command,
    };
    let explained = command.get_after_help().map(ToString::to_string).unwrap_or_default();
    let global = if is_root { String::new() } else { inherited };
    // A list of commands leaves little room for examples.
    let most = match path {
        "vmprov" => 1,
        _ if command.has_subcommands() => 0,
        _ => 2,
    };
    let short = sections([examples_of(path, most), global.clone(), next_step(path)]);
    let long = sections([explained, examples_of(path, usize::MAX), json_members(&command, path), global, manual(path)]);
    command.after_help(short).after_long_help(long)
}

/// Puts sections behind each other, without the empty ones.
fn sections<const N: usize>(sections: [String; N]) -> String {
    sections.into_iter().filter(|section| !section.is_empty()).collect::<Vec<_>>().join("\n\n")
}

/// The template of a command whose subcommands are in groups.
fn grouped(command: &Command, groups: Groups) -> StyledStr {
    let heading = Style::new().bold().underline();
    let visible = || command.get_subcommands().filter(|below| !below.is_hide_set());
    let width = visible().map(|below| below.get_name().len()).max().unwrap_or_default();
    let mut text = String::from("{about-with-newline}\n{usage-heading} {usage}\n");
    for below in visible() {
        let name = below.get_name();
        // Writing to a string does not fail.
        if let Some((title, _)) = groups.iter().find(|(_, first)| *first == name) {
            let _ = write!(text, "\n{heading}{title}:{heading:#}\n");
        }
        let about = below.get_about().map(ToString::to_string).unwrap_or_default();
        let _ = writeln!(text, "  {name:width$}  {about}");
    }
    // `--help` alone is not worth a section.
    if command.get_arguments().any(|arg| arg.get_id() != "help" && !arg.is_hide_set()) {
        let _ = write!(text, "\n{heading}Options:{heading:#}\n{{options}}");
    }
    StyledStr::from(text.trim_end().to_owned() + "{after-help}")
}

/// The inherited options, in one line.
fn inherited(command: &Command) -> String {
    let name = |arg: &Arg| match (arg.get_short(), arg.get_long()) {
        (Some(short), _) => Some(format!("-{short}")),
        (None, long) => long.map(|long| format!("--{long}")),
    };
    let global = command.get_arguments().filter(|arg| arg.is_global_set() && !arg.is_hide_set());
    let names: Vec<_> = global.filter_map(name).collect();
    if names.is_empty() { String::new() } else { format!("Global options: {}", names.join(" ")) }
}

/// At most `most` examples of a command.
fn examples_of(path: &str, most: usize) -> String {
    let mut text = String::new();
    for (_, about, line) in examples().iter().filter(|(command, ..)| *command == path).take(most) {
        let _ = write!(text, "\n  # {about}\n  {line}");
    }
    if text.is_empty() { text } else { format!("Examples:{text}") }
}

/// Where the short help leads.
fn next_step(path: &str) -> String {
    if path == "vmprov" {
        return "Run `vmprov COMMAND --help` for a command, `vmprov help TOPIC` for a topic.".to_owned();
    }
    format!("Run `{path} --help` for details.")
}

fn manual(path: &str) -> String {
    let topics: Vec<_> = TOPICS.iter().map(|(name, _)| *name).collect();
    if path == "vmprov" {
        return format!("Topics (`vmprov help TOPIC`): {}\nManual: man vmprov", topics.join(", "));
    }
    format!("Manual: man {}", path.replace(' ', "-"))
}

/// The members of a command's JSON output.
fn json_members(command: &Command, path: &str) -> String {
    let Some(name) = path.strip_prefix("vmprov ") else { return String::new() };
    let report = api::operations()
        .iter()
        .find(|operation| operation.command == name && operation.report.is_some())
        .and_then(|operation| Some((operation.report.as_ref()?, &operation.schemas)));
    let Some((report, schemas)) = report else { return String::new() };
    let members = shape(report, schemas, 2);
    // A command that takes several names reports a list.
    let takes_several = command.get_positionals().any(|arg| {
        arg.get_num_args().is_some_and(|count| count.max_values() > 1) && arg.get_id().as_str() != "command"
    });
    if takes_several && !members.starts_with("checks") {
        return format!("JSON members: results: [{members}]");
    }
    format!("JSON members: {members}")
}

/// The names of a schema's members, with those of what they hold down to a depth.
fn shape(schema: &Value, schemas: &api::Schemas, depth: usize) -> String {
    let schema = resolved(schema, schemas);
    let Some(members) = schema["properties"].as_object() else { return String::new() };
    let member = |(name, value): (&String, &Value)| {
        if depth == 1 {
            return name.clone();
        }
        let value = resolved(value, schemas);
        let (inner, brackets) = match value.get("items") {
            Some(items) => (shape(items, schemas, depth - 1), ["[", "]"]),
            None => (shape(value, schemas, depth - 1), ["{", "}"]),
        };
        if inner.is_empty() { name.clone() } else { format!("{name}: {}{inner}{}", brackets[0], brackets[1]) }
    };
    members.iter().map(member).collect::<Vec<_>>().join(", ")
}

/// A schema, or what it refers to; of a choice, the one that is not null.
fn resolved<'s>(schema: &'s Value, schemas: &'s api::Schemas) -> &'s Value {
    let choices = ["oneOf", "anyOf"].into_iter().find_map(|choices| schema[choices].as_array());
    if let Some(choice) = choices.and_then(|choices| choices.iter().find(|choice| choice["type"] != "null")) {
        return resolved(choice, schemas);
    }
    let target = schema["$ref"].as_str().and_then(|target| target.strip_prefix(api::COMPONENTS));
    target.and_then(|name| schemas.0.get(name)).unwrap_or(schema)
}
