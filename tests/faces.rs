//! Every face offers the same operations, with the same members and the same defaults.
#![expect(clippy::unwrap_used, reason = "a test ends where something goes wrong")]

use std::collections::{BTreeMap, BTreeSet};

use clap::{Arg, Command};
use serde_json::{Value, json};
use vmprov::{
    api::{self, Operation},
    cli, http,
};

/// Commands that only a command line can offer, and why.
const TYPED_ONLY: &[(&str, &str)] = &[
    ("vm ssh", "it hands over a terminal; vm exec runs a command"),
    ("vm console", "it hands over a terminal; vm logs reads it"),
    ("vm cp", "it names files of whoever types it"),
    ("vm events", "it is a stream: GET /api/events"),
    ("image export", "it writes a file of whoever types it"),
    ("key import", "it reads a file of whoever types it, and a private key is not sent over a network"),
    ("serve", "it is the other faces"),
    ("mcp", "it is the other faces"),
    ("tools", "it defines them for other faces: GET /api/tools"),
    ("config", "it shows the settings of the command line"),
    ("help", "it shows the help of the command line"),
    ("man", "it writes the manual"),
];

/// Options that only a command line has, and why.
const TYPED_OPTIONS: &[(&str, &[&str], &str)] = &[
    ("vm create", &["dryRun"], "it prints commands for a shell"),
    ("vm delete", &["yes"], "it answers a question that is asked on a terminal"),
    ("vm ip", &["all"], "it says how much is printed; the report has them all"),
    ("vm ip", &["wait", "timeout"], "POST /api/vms/{vm}/wait with for=ip waits, and says how far it is"),
    ("vm exec", &["noStdin"], "there is no standard input but what is sent"),
    ("vm logs", &["follow"], "it is a stream"),
    ("vm screenshot", &["file"], "the picture is the answer"),
    ("doctor", &["list"], "it prints the manual's table"),
];

/// Members whose options have another name or form.
const CALLED: &[(&str, &str, &str)] =
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

/// The operations of a command: one, or several where HTTP has it in several parts.
fn operations_of(command: &str) -> Vec<&'static Operation> {
    api::operations().iter().filter(|operation| operation.command == command).collect()
}

fn camel(kebab: &str) -> String {
    let mut words = kebab.split(['-', '_']);
    let first = words.next().unwrap().to_owned();
    words.fold(first, |name, word| name + &word[..1].to_uppercase() + &word[1..])
}

/// The member that an argument stands for; none where only a command line has it.
fn member(command: &str, arg: &Arg) -> Option<String> {
    let name = camel(arg.get_long().unwrap_or(arg.get_id().as_str()));
    let is_typed_only = |(of, options, _): &&(&str, &[&str], &str)| *of == command && options.contains(&name.as_str());
    if TYPED_OPTIONS.iter().any(|entry| is_typed_only(&entry)) {
        return None;
    }
    let called = CALLED.iter().find(|(of, option, _)| *of == command && *option == name);
    Some(called.map_or(name, |(_, _, member)| (*member).to_owned()))
}

fn args(command: &Command) -> impl Iterator<Item = &Arg> {
    command.get_arguments().filter(|arg| !arg.is_global_set() && !arg.is_hide_set() && arg.get_id() != "help")
}

#[test]
fn every_command_is_an_operation_or_can_only_be_typed() {
    for words in commands().keys() {
        let typed_only = TYPED_ONLY.iter().any(|(command, _)| command == words);
        assert_ne!(typed_only, !operations_of(words).is_empty(), "`vmprov {words}` must be offered by one of both");
    }
    for operation in api::operations() {
        assert!(commands().contains_key(operation.command), "{} is no command", operation.command);
    }
}

#[test]
fn every_option_is_a_member_and_every_member_an_option() {
    for (words, command) in commands() {
        let operations = operations_of(&words);
        if operations.is_empty() {
            continue;
        }
        let typed: BTreeSet<_> = args(&command).filter_map(|arg| member(&words, arg)).collect();
        let members = operations.iter().flat_map(|operation| operation.members()).map(|(name, _)| name.clone());
        let members: BTreeSet<_> = members.collect();
        // What stands in a file on the command line is a member of its own kind.
        let sent: BTreeSet<_> = members.into_iter().filter(|name| name != "stdin").collect();
        assert_eq!(typed, sent, "`vmprov {words}`");
    }
}

#[test]
fn defaults_are_the_same() {
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
                let mut said = operation.example.clone();
                said[&name] = default.parse::<u64>().map_or_else(|_| json!(default), |number| json!(number));
                assert_eq!(operation.read(said).unwrap()[&name], minimal[&name], "{words} {name}");
            }
        }
    }
}

#[test]
fn a_null_is_a_member_that_is_left_out() {
    for operation in api::operations() {
        let minimal = operation.read(operation.example.clone()).unwrap();
        let mut nulls = operation.example.clone();
        for (name, schema) in operation.members() {
            if nulls.get(name).is_none() {
                nulls[name] = Value::Null;
                let says = schema.to_string();
                assert!(says.contains("\"null\""), "{}: the schema of `{name}` has no null: {says}", operation.name);
            }
        }
        assert_eq!(operation.read(nulls).unwrap(), minimal, "{}", operation.name);
    }
}

#[test]
fn the_document_has_every_operation_and_every_member() {
    let document = http::document();
    for operation in api::operations() {
        let described = &document["paths"][operation.path][operation.method.to_lowercase()];
        assert_eq!(described["operationId"], operation.name);
        let parameters = described["parameters"].as_array().unwrap().iter();
        let in_headers = |parameter: &&Value| parameter["in"] != "header";
        let mut members: BTreeSet<_> = parameters.filter(in_headers).map(|p| p["name"].as_str().unwrap()).collect();
        let body = &described["requestBody"]["content"]["application/json"]["schema"]["properties"];
        members.extend(body.as_object().into_iter().flatten().map(|(name, _)| name.as_str()));
        assert_eq!(members, operation.members().map(|(name, _)| name.as_str()).collect(), "{}", operation.name);
        for member in operation.path_members() {
            assert!(members.contains(member), "{}: {{{member}}} is no member", operation.name);
        }
    }
}

#[test]
fn every_reference_of_the_document_leads_somewhere() {
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
        assert!(http::document().pointer(pointer).is_some(), "{reference} leads nowhere");
    }
}
