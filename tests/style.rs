//! The house style of texts, as far as a program can check it.
#![expect(clippy::unwrap_used, reason = "a test ends where something goes wrong")]

use std::{
    fs,
    path::{Path, PathBuf},
};

use regex::Regex;
use vmprov::api;

/// Words that texts do not use, and what to write instead.
const AVOIDED: &[(&str, &str)] = &[
    ("nobody|somebody|anybody|whoever", "name the party: the client, the operator, another process"),
    ("whence|hence|thereby|thereof", "write a plain sentence"),
    ("in vain|so far as|be so far|come of it|came of it|at it", "say what happens"),
    ("what is asked for|was asked for|who asks|whom", "say what was requested, and by which party"),
    ("stands? on|speaks? for|one's own", "use the field's term: is based on, verifies, own"),
];

/// Every file below a folder with one of these endings.
fn files(folder: &str, endings: &[&str]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if endings.iter().any(|ending| path.to_str().unwrap().ends_with(ending)) {
                found.push(path);
            }
        }
    }
    found
}

/// The sources without their unit tests, by path.
fn sources() -> Vec<(PathBuf, String)> {
    let read = |path: PathBuf| {
        let text = fs::read_to_string(&path).unwrap();
        let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap().to_owned();
        (path, code)
    };
    let is_test = |path: &PathBuf| path.to_str().unwrap().ends_with("tests.rs");
    files("src", &[".rs"]).into_iter().filter(|path| !is_test(path)).map(read).collect()
}

#[test]
fn texts_use_plain_words() {
    let documents =
        ["README.md", "ARCHITECTURE.md", "CHANGELOG.md"].map(|name| Path::new(env!("CARGO_MANIFEST_DIR")).join(name));
    let documents = documents.into_iter().chain(files("docs", &[".md"])).chain(files("man", &[""]));
    let texts = documents.map(|path| (path.clone(), fs::read_to_string(path).unwrap())).chain(sources());
    let mut found = Vec::new();
    for (path, text) in texts {
        for (words, instead) in AVOIDED {
            let avoided = Regex::new(&format!(r"(?i)\b({words})\b")).unwrap();
            for (number, line) in text.lines().enumerate().filter(|(_, line)| avoided.is_match(line)) {
                found.push(format!("{}:{}: {}: {instead}", path.display(), number + 1, line.trim()));
            }
        }
    }
    assert!(found.is_empty(), "\n{}", found.join("\n"));
}

/// A front end writes a hint as `TEXT: ACTION`, so the text has no full stop and contains no command line.
#[test]
fn hints_are_texts_and_actions() {
    let hint = Regex::new(r#"(?s)(?:\.hint\(|Hint::(?:new|call|call_on_vm|call_any|set|set_to|set_any|run)\()\s*(?:format!\(\s*)?"((?:[^"\\]|\\.)*)""#).unwrap();
    let mut found = Vec::new();
    for (path, code) in sources() {
        for captures in hint.captures_iter(&code) {
            let text = captures[1].replace("\\\n", "");
            if text.trim_end().ends_with(['.', ':']) || text.contains("`vmprov ") || text.contains("--") {
                found.push(format!("{}: {text}", path.display()));
            }
        }
    }
    assert!(found.is_empty(), "\n{}", found.join("\n"));
}

/// A member to set must be one of some operation. The command line alone adds `yes`, which confirms a deletion.
#[test]
fn hints_set_members_that_exist() {
    let set = Regex::new(r#"Hint::set(?:_to)?\(\s*"(?:[^"\\]|\\.)*",\s*"([A-Za-z]+)""#).unwrap();
    let known = |name: &str| {
        name == "yes" || api::operations().iter().any(|operation| operation.members().any(|(member, _)| member == name))
    };
    let sources = sources();
    let members: Vec<_> =
        sources.iter().flat_map(|(_, code)| set.captures_iter(code)).map(|found| found[1].to_owned()).collect();
    assert!(members.len() > 15, "{members:?}");
    for member in members {
        assert!(known(&member), "no request has a member `{member}`");
    }
}

#[test]
fn hints_call_operations_that_exist() {
    let call = Regex::new(r"(?s)Hint::call(?:_on_vm|_any)?\((.{0,400})").unwrap();
    let name = Regex::new(r#""([a-z]+(?:_[a-z]+)*)""#).unwrap();
    let mut calls = 0;
    for (path, code) in sources() {
        if path.ends_with("error/hint.rs") {
            continue;
        }
        for captures in call.captures_iter(&code) {
            // The first literal that looks like an operation's name follows the text.
            let Some(found) = name.captures_iter(&captures[1]).find(|found| {
                found[1].contains('_') || found[1] == *"gc" || found[1] == *"reap" || found[1] == *"doctor"
            }) else {
                panic!("{}: no operation in {}", path.display(), &captures[1]);
            };
            let operation = &found[1];
            assert!(api::find(operation).is_some(), "{}: there is no operation `{operation}`", path.display());
            calls += 1;
        }
    }
    assert!(calls > 30, "{calls}");
}
