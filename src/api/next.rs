//! What an error says to do next, in the words of another face: operations name the command line, and whoever reads an
//! answer of HTTP or calls a tool has none.

use serde_json::{Map, Value, json};

use super::{Operation, operations, segment};

/// How a command line begins in a text.
const PROGRAM: &str = "vmprov ";

/// Options of the command line whose members have other names.
const NAMES: &[(&str, &str)] = &[("ssh-key", "sshKeys")];

/// A text whose command lines are HTTP requests, and whose options are members.
pub fn over_http(text: &str) -> String {
    in_words_of(text, &mut |operation, request, line| {
        let mut rest = request.clone();
        let part = |part: &str| match part.strip_prefix('{').and_then(|part| part.strip_suffix('}')) {
            Some(member) => rest.shift_remove(member).map_or_else(|| part.to_owned(), |value| segment(&plain(&value))),
            None => part.to_owned(),
        };
        let path = operation.path.split('/').map(part).collect::<Vec<_>>().join("/");
        let call = format!("{} {path}", operation.method);
        line.marked(match operation.method {
            _ if rest.is_empty() => call,
            "GET" | "DELETE" => {
                let query = rest.iter().map(|(name, value)| format!("{name}={}", segment(&plain(value))));
                format!("{call}?{}", query.collect::<Vec<_>>().join("&"))
            }
            _ => format!("{call} {}", Value::Object(rest)),
        })
    })
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// A command line in a text.
#[derive(Debug, Clone, Copy)]
pub struct Line<'t> {
    /// It, without the program's name.
    pub command: &'t str,
    is_marked: bool,
}

impl Line<'_> {
    /// What is put in its place, in marks where it stood in marks.
    pub fn marked(&self, text: String) -> String {
        if self.is_marked { format!("`{text}`") } else { text }
    }
}

/// How a face puts an operation, its request, and the command line that says the same.
pub type Phrase<'p> = dyn FnMut(&Operation, &Map<String, Value>, Line<'_>) -> String + 'p;

/// A text whose command lines are put as a face puts them, and whose options are members.
pub fn in_words_of(text: &str, call: &mut Phrase<'_>) -> String {
    let mut written = String::new();
    let mut rest = text;
    while let Some(at) = rest.find(PROGRAM) {
        let behind = &rest[at + PROGRAM.len()..];
        let Some((operation, behind)) = command(behind) else {
            written.push_str(&rest[..at + PROGRAM.len()]);
            rest = behind;
            continue;
        };
        let (request, left) = arguments(operation, behind);
        if left.starts_with(" --") {
            // It has an option that no other face has.
            written.push_str(&options_as_members(&rest[..at]));
            written.push_str(&rest[at..rest.len() - left.len()]);
            let end = left[1..].find(|c: char| !(c.is_ascii_lowercase() || c == '-')).map_or(left.len(), |end| end + 1);
            written.push_str(&left[..end]);
            rest = &left[end..];
            continue;
        }
        let command = &rest[at + PROGRAM.len()..rest.len() - left.len()];
        let (before, left, is_marked) = match (rest[..at].strip_suffix('`'), left.strip_prefix('`')) {
            (Some(before), Some(left)) => (before, left, true),
            _ => (&rest[..at], left, false),
        };
        written.push_str(&options_as_members(before));
        written.push_str(&call(operation, &request, Line { command, is_marked }));
        rest = left;
    }
    written.push_str(&options_as_members(rest));
    written
}

/// The operation whose command a text begins with, and what comes behind that.
fn command(text: &str) -> Option<(&'static Operation, &str)> {
    let is_whole = |rest: &&str| !rest.starts_with(|c: char| c.is_alphanumeric() || c == '-');
    let found = operations().iter().filter_map(|operation| {
        let rest = text.strip_prefix(operation.command).filter(is_whole)?;
        Some((operation, rest))
    });
    // Of two with the same command, the first is the plain one.
    found.min_by_key(|(_, rest)| rest.len())
}

/// The arguments that follow a command, as its request, and what comes behind them.
fn arguments<'t>(operation: &Operation, text: &'t str) -> (Map<String, Value>, &'t str) {
    let mut request = Map::new();
    let required = operation.request["required"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let mut positional = required.map(str::to_owned).collect::<Vec<_>>().into_iter();
    let mut rest = text;
    while let Some((word, behind)) = next_word(rest) {
        if word == "--" {
            // The rest is a command for the guest.
            let Some(name) = positional.next() else { break };
            let mut words = Vec::new();
            rest = behind;
            while let Some((word, behind)) = next_word(rest) {
                words.push(json!(unquoted(word)));
                rest = behind;
            }
            request.insert(name, Value::Array(words));
        } else if let Some(option) = word.strip_prefix("--") {
            let Some((name, schema)) = member(operation, option) else { break };
            let is_switch = schema["type"] == json!(["boolean", "null"]);
            let value = if is_switch { None } else { next_word(behind) };
            rest = value.map_or(behind, |(_, behind)| behind);
            request.insert(name, value.map_or(Value::Bool(true), |(value, _)| json!(unquoted(value))));
        } else if let Some(name) = positional.next() {
            request.insert(name, json!(unquoted(word)));
            rest = behind;
        } else {
            break;
        }
    }
    (request, rest)
}

/// The next word of a command line, without what ends a sentence; none where the command line ends.
fn next_word(text: &str) -> Option<(&str, &str)> {
    let begun = text.strip_prefix(' ')?;
    let quoted = begun.strip_prefix('\'').and_then(|rest| rest.find('\'')).map(|end| end + 2);
    let end = quoted.unwrap_or_else(|| begun.find([' ', '`', ';', ')']).unwrap_or(begun.len()));
    let word = begun[..end].trim_end_matches(['.', ',']);
    (!word.is_empty()).then(|| (word, &begun[word.len()..]))
}

fn unquoted(word: &str) -> &str {
    word.strip_prefix('\'').and_then(|word| word.strip_suffix('\'')).unwrap_or(word)
}

/// The member that an option stands for.
fn member<'o>(operation: &'o Operation, option: &str) -> Option<(String, &'o Value)> {
    let name = member_name(option);
    let (name, schema) = operation.members().find(|(member, _)| **member == name)?;
    Some((name.clone(), schema))
}

/// An option's name as a member's: `disk-size` is `diskSize`.
fn member_name(option: &str) -> String {
    if let Some((_, name)) = NAMES.iter().find(|(known, _)| *known == option) {
        return (*name).to_owned();
    }
    let mut words = option.split('-');
    let first = words.next().unwrap_or_default().to_owned();
    words.fold(first, |name, word| {
        let mut letters = word.chars();
        let initial = letters.next().map(|letter| letter.to_ascii_uppercase());
        name + &initial.into_iter().chain(letters).collect::<String>()
    })
}

/// A text in which options that some operation has are members.
fn options_as_members(text: &str) -> String {
    let mut written = String::new();
    let mut rest = text;
    while let Some(at) = rest.find("--") {
        let option = &rest[at + 2..];
        let end = option.find(|c: char| !(c.is_ascii_lowercase() || c == '-')).unwrap_or(option.len());
        let name = member_name(&option[..end]);
        let is_known = operations().iter().any(|operation| operation.members().any(|(member, _)| *member == name));
        written.push_str(&rest[..at]);
        let is_marked = written.matches('`').count() % 2 == 1;
        let marks = match () {
            // A command of another program's has options of its own.
            () if !is_known || is_marked && !written.ends_with('`') => ["--", &option[..end], ""],
            () if is_marked => ["", &name, ""],
            () => ["`", &name, "`"],
        };
        written.extend(marks);
        rest = &option[end..];
    }
    written + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_lines_are_requests() {
        for (text, http) in [
            ("Start it: vmprov vm start web", "Start it: POST /api/vms/web/start"),
            ("`vmprov vm list` shows the VMs there are.", "`GET /api/vms` shows the VMs there are."),
            ("See: vmprov vm info 'a b/c'.", "See: GET /api/vms/a%20b%2Fc."),
            (
                "Give it longer (--timeout 5m), or power it off: vmprov vm stop web --force",
                "Give it longer (`timeout` 5m), or power it off: POST /api/vms/web/stop {\"force\":true}",
            ),
            ("To go on: vmprov vm delete web --unmanaged", "To go on: DELETE /api/vms/web?unmanaged=true"),
            ("Inject it: vmprov inject web KEY", "Inject it: POST /api/vms/web/ssh-keys/KEY"),
            ("Make it: vmprov key generate dev", "Make it: POST /api/ssh-keys {\"name\":\"dev\"}"),
            ("See why: vmprov vm wait web --timeout 10s", "See why: POST /api/vms/web/wait {\"timeout\":\"10s\"}"),
            ("Fetch it: vmprov image pull debian:12", "Fetch it: POST /api/images {\"image\":\"debian:12\"}"),
            ("vmprov vm start a; vmprov vm stop a", "POST /api/vms/a/start; POST /api/vms/a/stop"),
            ("Look: vmprov vm console VM.", "Look: vmprov vm console VM."),
            ("Give one with --ssh-key, --no-such or --disk-size.", "Give one with `sshKeys`, --no-such or `diskSize`."),
            ("vmprov doctor --list shows them", "vmprov doctor --list shows them"),
            (
                "Look: vmprov vm exec web --via agent -- systemctl status ssh. Or else.",
                "Look: POST /api/vms/web/exec {\"via\":\"agent\",\"command\":[\"systemctl\",\"status\",\"ssh\"]}. Or else.",
            ),
        ] {
            assert_eq!(over_http(text), http, "{text}");
        }
    }
}
