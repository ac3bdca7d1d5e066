//! Every interface (command line, HTTP, agent tools) offers the same operations with the same members and defaults.
#![expect(clippy::unwrap_used, reason = "an error fails the test")]

use std::collections::{BTreeMap, BTreeSet};

use clap::{Arg, Command};
use serde_json::{Value, json};
use vmprov::{
    api::{self, Operation},
    cli, http,
};

/// Commands that only the command line offers, and why.
const CLI_ONLY: &[(&str, &str)] = &[
    ("vm ssh", "it needs a terminal; vm exec runs a command"),
    ("vm console", "it needs a terminal; vm logs reads the console"),
    ("vm cp", "it reads and writes local files of the user"),
    ("vm events", "it is a stream: GET /api/events"),
    ("image export", "it writes a local file of the user"),
    ("key import", "it reads a local file of the user, and a private key must not be sent over a network"),
    ("serve", "it serves the other interfaces"),
    ("mcp", "it serves the other interfaces"),
    ("tools", "it prints the definitions of the agent tools: GET /api/tools"),
    ("config", "it shows the settings of the command line"),
    ("help", "it shows the help of the command line"),
    ("man", "it writes the manual"),
];

/// Options that only the command line has, and why.
const CLI_ONLY_OPTIONS: &[(&str, &[&str], &str)] = &[
    ("vm create", &["dryRun"], "it prints commands for a shell"),
    ("vm delete", &["yes"], "it skips the confirmation on the terminal"),
    ("vm ip", &["all"], "it prints more addresses; the JSON report has all of them"),
    ("vm ip", &["wait", "timeout"], "POST /api/vms/{vm}/wait with for=ip waits and reports progress"),
    ("vm exec", &["noStdin"], "standard input is what the request contains"),
    ("vm logs", &["follow"], "it is a stream"),
    ("vm screenshot", &["file"], "the response is the picture"),
    ("doctor", &["list"], "it prints the manual's table"),
];

/// Options whose members have another name: command, option, member.
const RENAMED_OPTIONS: &[(&str, &str, &str)] =
    &[("vm create", "sshKey", "sshKeys"), ("vm create", "noStart", "start"), ("doctor", "checks", "checks")];

fn leaves(command: &Command, words: &str, found: &mut BTreeMap<String, Command>) {
    for command in command.get_subcommands() {
        let words = format!("{words} {}", command.get_name()).trim().to_owned();
        if command.has_subcommands() {
            leaves(command, &words, found);
        } else {
            found.insert(words, command.clone());
        }
    }
}

fn commands() -> BTreeMap<String, Command> {
    let mut found = BTreeMap::new();
    leaves(&cli::grammar(), "", &mut found);
    found
}

/// The operations of a command: one, or several if HTTP divides it.
fn operations_of(command: &str) -> Vec<&'static Operation> {
    api::operations().iter().filter(|operation| operation.command == command).collect()
}

fn camel(kebab: &str) -> String {
    let mut words = kebab.split(['-', '_']);
    let first = words.next().unwrap().to_owned();
    words.fold(first, |name, word| name + &word[..1].to_uppercase() + &word[1..])
}

/// The member that corresponds to an argument, or `None` if only the command line has it.
fn member(command: &str, arg: &Arg) -> Option<String> {
    let name = camel(arg.get_long().unwrap_or(arg.get_id().as_str()));
    let is_cli_only = |(of, options, _): &&(&str, &[&str], &str)| *of == command && options.contains(&name.as_str());
    if CLI_ONLY_OPTIONS.iter().any(|entry| is_cli_only(&entry)) {
        return None;
    }
    let renamed = RENAMED_OPTIONS.iter().find(|(of, option, _)| *of == command && *option == name);
    Some(renamed.map_or(name, |(_, _, member)| (*member).to_owned()))
}

fn args(command: &Command) -> impl Iterator<Item = &Arg> {
    command.get_arguments().filter(|arg| !arg.is_global_set() && !arg.is_hide_set() && arg.get_id() != "help")
}

#[test]
fn every_command_is_an_operation_or_cli_only() {
    for words in commands().keys() {
        let is_cli_only = CLI_ONLY.iter().any(|(command, _)| command == words);
        assert_ne!(
            is_cli_only,
            !operations_of(words).is_empty(),
            "`vmprov {words}` must be either an operation or in CLI_ONLY"
        );
    }
    for operation in api::operations() {
        assert!(commands().contains_key(operation.command), "the command `{}` does not exist", operation.command);
    }
}

#[test]
fn every_option_is_a_member_and_every_member_an_option() {
    for (words, command) in commands() {
        let operations = operations_of(&words);
        if operations.is_empty() {
            continue;
        }
        let options: BTreeSet<_> = args(&command).filter_map(|arg| member(&words, arg)).collect();
        let members = operations.iter().flat_map(|operation| operation.members()).map(|(name, _)| name.clone());
        let members: BTreeSet<_> = members.collect();
        // `stdin` is a member only: the command line reads its standard input.
        let members: BTreeSet<_> = members.into_iter().filter(|name| name != "stdin").collect();
        assert_eq!(options, members, "`vmprov {words}`");
    }
}

#[test]
fn a_default_is_the_same_everywhere() {
    for (words, command) in commands() {
        for operation in operations_of(&words) {
            let minimal = operation.read(operation.example.clone()).unwrap();
            for arg in args(&command) {
                let Some(name) = member(&words, arg) else { continue };
                let [default] = arg.get_default_values() else { continue };
                let default = default.to_str().unwrap();
                if matches!(default, "true" | "false") {
                    assert_eq!(minimal[&name], json!(default == "true"), "{words} {name}");
                    continue;
                }
                let mut explicit = operation.example.clone();
                explicit[&name] = default.parse::<u64>().map_or_else(|_| json!(default), |number| json!(number));
                assert_eq!(operation.read(explicit).unwrap()[&name], minimal[&name], "{words} {name}");
            }
        }
    }
}

#[test]
fn a_null_member_is_the_same_as_an_omitted_one() {
    for operation in api::operations() {
        let minimal = operation.read(operation.example.clone()).unwrap();
        let mut nulls = operation.example.clone();
        for (name, schema) in operation.members() {
            if nulls.get(name).is_none() {
                nulls[name] = Value::Null;
                let schema = schema.to_string();
                assert!(
                    schema.contains("\"null\""),
                    "{}: the schema of `{name}` does not allow null: {schema}",
                    operation.name
                );
            }
        }
        assert_eq!(operation.read(nulls).unwrap(), minimal, "{}", operation.name);
    }
}

#[test]
fn the_openapi_document_has_every_operation_and_member() {
    let document = http::document();
    for operation in api::operations() {
        let described = &document["paths"][operation.path][operation.method.to_lowercase()];
        assert_eq!(described["operationId"], operation.name);
        let parameters = described["parameters"].as_array().unwrap().iter();
        let is_not_header = |parameter: &&Value| parameter["in"] != "header";
        let mut members: BTreeSet<_> = parameters.filter(is_not_header).map(|p| p["name"].as_str().unwrap()).collect();
        let body = &described["requestBody"]["content"]["application/json"]["schema"]["properties"];
        members.extend(body.as_object().into_iter().flatten().map(|(name, _)| name.as_str()));
        assert_eq!(members, operation.members().map(|(name, _)| name.as_str()).collect(), "{}", operation.name);
        for member in operation.path_members() {
            assert!(members.contains(member), "{}: {{{member}}} is not a member", operation.name);
        }
    }
}

#[test]
fn every_reference_in_the_openapi_document_resolves() {
    fn references(value: &Value, found: &mut BTreeSet<String>) {
        match value {
            Value::Object(members) => {
                found.extend(members.get("$ref").and_then(Value::as_str).map(str::to_owned));
                members.values().for_each(|value| references(value, found));
            }
            Value::Array(items) => items.iter().for_each(|value| references(value, found)),
            _ => {}
        }
    }
    let mut found = BTreeSet::new();
    references(http::document(), &mut found);
    assert!(found.len() > 40);
    for reference in found {
        let pointer = reference.strip_prefix('#').unwrap();
        assert!(http::document().pointer(pointer).is_some(), "{reference} does not resolve");
    }
}
