//! Checks which module may use which: the layers that `src/lib.rs` describes.
#![expect(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

/// Each module of the crate, and the other modules that it may use.
const MAY_USE: &[(&str, &[&str])] = &[
    ("main", &["cli"]),
    (
        "lib",
        &[
            "agents",
            "api",
            "cancel",
            "catalogue",
            "cli",
            "cloud_init",
            "error",
            "http",
            "model",
            "observer",
            "ops",
            "service",
            "store",
            "tools",
        ],
    ),
    ("cli", &["api", "http", "agents", "service", "ops", "model", "error", "cancel"]),
    ("http", &["agents", "service", "api", "ops", "model", "error"]),
    ("agents", &["service", "api", "model", "error"]),
    ("service", &["api", "ops", "model", "error", "cancel", "observer"]),
    ("api", &["ops", "model", "error"]),
    ("ops", &["tools", "store", "catalogue", "cloud_init", "model", "error", "cancel", "observer"]),
    ("tools", &["model", "error", "cancel", "observer"]),
    ("store", &["model", "error", "cancel"]),
    ("cloud_init", &["model", "error"]),
    ("catalogue", &["model", "error"]),
    ("model", &["error"]),
    ("cancel", &["error"]),
    ("observer", &["error"]),
    ("error", &[]),
];

/// Pieces of code, the only modules that may contain them, and what the code does.
const ONLY_IN: &[(&[&str], &[&str], &str)] = &[
    (&["std::process::Command", "process::Command", "Command::new(\"", "duct::"], &["tools"], "start a process"),
    (
        &["env::var", "env::vars", "env::set_var", "env::temp_dir", "env::home_dir", "choose_app_strategy"],
        &["cli/settings.rs"],
        "read the environment",
    ),
    (&["env::args"], &["cli/usage_error.rs"], "read the command line"),
    (&["println!", "print!(", "io::stdout", "io::stdin", "anstream"], &["cli"], "use the terminal"),
    (&["axum::", "hyper::", "hyper_util::", "tower::", "tower_http::"], &["http"], "speak HTTP"),
    (
        &["StatusCode", "http_status()", "::http_status", "status_of("],
        &["http", "agents", "api", "error"],
        "use HTTP statuses",
    ),
    (
        &["std::fs", "fs::", "File::", "std::net", "ureq::"],
        &[
            "cli",
            "ops",
            "tools",
            "store",
            "http/listen.rs",
            "http/socket_file.rs",
            "http/tokens.rs",
            "service/audit/queue.rs",
        ],
        "do input or output",
    ),
];

/// A source file: its path in `src`, and its code without comments and tests.
struct Source {
    path: String,
    code: String,
}

impl Source {
    /// Returns the module of the crate that the file belongs to.
    fn module(&self) -> &str {
        self.path.split(['/', '.']).next().unwrap()
    }

    /// Returns the path of its module: `ops::vm` for `ops/vm/mod.rs`.
    fn path_of_module(&self) -> Vec<&str> {
        let names = self.path.trim_end_matches(".rs").split('/');
        names.filter(|name| !matches!(*name, "mod" | "lib" | "main")).collect()
    }

    /// Returns the paths in the code, from the crate's root: those of `crate::a::b`, `use crate::{a, b::c}`, `super::…`.
    fn references(&self) -> BTreeSet<String> {
        let mut found = BTreeSet::new();
        for root in ["crate::", "vmprov::", "super::", "self::"] {
            for (at, _) in self.code.match_indices(root) {
                if !self.code[..at].ends_with(|c: char| c == ':' || is_of_name(c)) {
                    found.extend(paths_in_tree(&self.code[at..]).iter().map(|path| self.absolute(path)));
                }
            }
        }
        found
    }

    /// Returns a path of this file as a path from the crate's root.
    fn absolute(&self, path: &str) -> String {
        let mut names = self.path_of_module();
        for name in path.split("::") {
            match name {
                "crate" | "vmprov" => names.clear(),
                "super" => drop(names.pop()),
                "self" => {}
                name => names.push(name),
            }
        }
        names.join("::")
    }

    /// Returns the modules of the crate's root that it uses.
    fn uses(&self) -> BTreeSet<String> {
        let references = self.references();
        let first = references.iter().filter_map(|path| path.split("::").next());
        first.filter(|name| MAY_USE.iter().any(|(module, _)| module == name)).map(str::to_owned).collect()
    }
}

fn is_of_name(c: char) -> bool {
    c == '_' || c.is_alphanumeric()
}

/// Returns the paths at the beginning of code: `a::b` and `a::c::d` for `a::{b, c::{d}}`.
fn paths_in_tree(code: &str) -> Vec<String> {
    let end = code.find(|c: char| c != ':' && !is_of_name(c)).unwrap_or(code.len());
    let (path, rest) = code.split_at(end);
    let Some(group) = rest.strip_prefix('{') else { return vec![path.to_owned()] };
    let members = members(group).into_iter().map(str::trim).filter(|member| !member.is_empty());
    let inner = members.flat_map(paths_in_tree);
    inner.map(|inner| format!("{path}{inner}")).collect()
}

/// Returns the members of a group, which ends at its closing brace.
fn members(group: &str) -> Vec<&str> {
    let (mut members, mut level, mut start) = (Vec::new(), 0, 0);
    for (at, c) in group.char_indices() {
        match c {
            '{' => level += 1,
            '}' if level > 0 => level -= 1,
            ',' | '}' if level == 0 => {
                members.push(&group[start..at]);
                start = at + 1;
                if c == '}' {
                    break;
                }
            }
            _ => {}
        }
    }
    members
}

fn sources() -> Vec<Source> {
    let mut found = sources_in("src");
    // Files that contain only tests may use anything.
    found.retain(|source| !source.path.ends_with("tests.rs") && !source.path.contains("/tests/"));
    found
}

fn sources_in(folder: &str) -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let mut found = Vec::new();
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path: PathBuf = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let name = path.strip_prefix(&root).unwrap().to_str().unwrap().to_owned();
                found.push(Source { code: code(&fs::read_to_string(&path).unwrap()), path: name });
            }
        }
    }
    found
}

/// Returns code without line comments and without the tests at its end.
fn code(text: &str) -> String {
    let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
    let uncommented = |line: &str| match line.trim_start() {
        comment if comment.starts_with("//") => String::new(),
        _ => line.split(" // ").next().unwrap().to_owned() + "\n",
    };
    text.lines().map(uncommented).collect()
}

/// Returns the violations of the rules, one line each.
fn violations(sources: &[Source]) -> Vec<String> {
    let mut violations = Vec::new();
    for source in sources {
        let module = source.module();
        match MAY_USE.iter().find(|(name, _)| *name == module) {
            None => violations.push(format!("src/{}: the module `{module}` is in no layer; add it", source.path)),
            Some((_, may)) => {
                for used in source.uses().iter().filter(|used| *used != module && !may.contains(&used.as_str())) {
                    violations.push(format!("src/{}: `{module}` must not use `{used}`", source.path));
                }
            }
        }
        for (needles, places, action) in ONLY_IN {
            let may = places.iter().any(|place| source.path == *place || source.path.starts_with(&format!("{place}/")));
            let found = needles.iter().find(|needle| source.code.contains(**needle));
            if let Some(needle) = found.filter(|_| !may) {
                let places = places.join(", ");
                violations.push(format!("src/{}: only {places} may {action} (`{needle}`)", source.path));
            }
        }
    }
    violations
}

#[test]
fn modules_use_only_what_their_layer_allows() {
    let sources = sources();
    assert!(sources.len() > 40, "too few source files were found in `src`");
    let violations = violations(&sources);
    assert!(violations.is_empty(), "\n{}", violations.join("\n"));
}

/// Returns the files that are in a cycle or between two cycles, each with those of them that it uses.
///
/// The `mod.rs` of a folder uses all files of the folder. They may use it in return: it has what they share.
fn cycles(sources: &[Source]) -> BTreeMap<String, BTreeSet<String>> {
    let modules: BTreeSet<String> = sources.iter().map(|source| source.path_of_module().join("::")).collect();
    let is_in = |module: &str, folder: &str| module.strip_prefix(folder).is_some_and(|rest| rest.starts_with("::"));
    let module_of = |path: &String| {
        let in_path = modules.iter().filter(|module| path == *module || is_in(path, module));
        in_path.max_by_key(|module| module.len()).cloned()
    };
    let mut uses: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for source in sources {
        let module = source.path_of_module().join("::");
        let named = source.references();
        let outer = named.iter().filter_map(module_of).filter(|other| *other != module && !is_in(&module, other));
        let inner = modules.iter().filter(|other| is_in(other, &module)).cloned();
        let others = outer.chain(inner).collect();
        uses.insert(module, others);
    }
    loop {
        // A file that uses no other, or that no other uses, is in no cycle.
        let before = uses.len();
        let targets: BTreeSet<_> = uses.values().flatten().cloned().collect();
        uses.retain(|module, others| !others.is_empty() && targets.contains(module));
        let left: BTreeSet<_> = uses.keys().cloned().collect();
        for others in uses.values_mut() {
            others.retain(|other| left.contains(other));
        }
        if uses.len() == before {
            return uses;
        }
    }
}

/// Files that use each other can only be understood together.
#[test]
fn no_files_use_each_other_in_a_cycle() {
    // The definitions, calls and hints of `agents` still use each other.
    let sources: Vec<_> = sources().into_iter().filter(|source| source.module() != "agents").collect();
    let cycles = cycles(&sources);
    assert!(cycles.is_empty(), "{cycles:#?}");
}

/// A dropped `Process` ends what it started. `output()` and `status()` wait for the end anyway.
#[test]
fn only_the_process_helper_spawns_processes() {
    // In two parts, so that this file is not found.
    let needle = [".spawn", "()"].concat();
    let spawning: Vec<_> = sources_in("tests").into_iter().filter(|source| source.code.contains(&needle)).collect();
    let paths: Vec<_> = spawning.iter().map(|source| source.path.as_str()).collect();
    assert_eq!(paths, ["support/process.rs"]);
}

#[test]
fn architecture_md_names_existing_paths_and_describes_every_layer() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = fs::read_to_string(root.join("ARCHITECTURE.md")).unwrap();
    let paths: BTreeSet<_> =
        text.split('`').filter(|name| name.starts_with("src/") || name.starts_with("tests/")).collect();
    assert!(paths.len() > 30, "{paths:?}");
    let missing: Vec<_> = paths.into_iter().filter(|path| !root.join(path).exists()).collect();
    assert!(missing.is_empty(), "ARCHITECTURE.md names paths that do not exist: {missing:?}");
    for (module, _) in MAY_USE.iter().filter(|(module, _)| !matches!(*module, "main" | "lib" | "cancel")) {
        assert!(text.contains(&format!("| `{module}` |")), "ARCHITECTURE.md does not describe `{module}`");
    }
}

#[test]
fn cargo_toml_says_what_each_crate_is_for() {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml")).unwrap();
    let section = text.split("[dependencies]\n").nth(1).unwrap().split("\n[").next().unwrap();
    let lines: Vec<_> = section.lines().filter(|line| !line.is_empty()).collect();
    assert!(lines.len() > 40, "{lines:?}");
    let is_comment = |line: &str| line.starts_with('#');
    let unexplained = lines.windows(2).filter(|pair| !is_comment(pair[0]) && !is_comment(pair[1]));
    assert_eq!(unexplained.map(|pair| pair[1]).collect::<Vec<_>>(), [""; 0]);
}

/// Tests the check for cycles itself.
#[test]
fn every_cycle_is_found() {
    let cycle = |files: &[(&str, &str)]| {
        let sources: Vec<_> =
            files.iter().map(|(path, text)| Source { path: (*path).to_owned(), code: code(text) }).collect();
        cycles(&sources).into_keys().collect::<Vec<_>>()
    };
    let user = ("cli/mod.rs", "use crate::ops::vm;");
    let (a, b) = (("ops/vm/a.rs", "use super::{b, Vm};"), ("ops/vm/b.rs", "fn f() { crate::ops::vm::a::g() }"));
    assert_eq!(cycle(&[user, ("ops/vm/mod.rs", ""), a, b]), ["ops::vm::a", "ops::vm::b"]);
    let outside = ("ops/undo.rs", "use super::{\n    Host,\n    vm::{Vm, self},\n};");
    let inside = ("ops/vm/set/mod.rs", "use crate::{error::Error, ops::{undo::{Undo}, Host}};");
    assert_eq!(cycle(&[user, ("ops/vm/mod.rs", ""), outside, inside]), ["ops::undo", "ops::vm", "ops::vm::set"]);
    let shared = ("ops/vm/b.rs", "use super::Vm; // super::a");
    assert_eq!(cycle(&[user, ("ops/vm/mod.rs", "pub use a::g;"), a, shared]), [""; 0]);
}

/// Tests the check of the layers itself.
#[test]
fn every_kind_of_violation_is_found() {
    for (path, text, violation) in [
        ("model/vm.rs", "use crate::ops::Host;", "`model` must not use `ops`"),
        ("model/vm.rs", "use crate::{\n    error::{Error, Result},\n    tools::Tool,\n};", "must not use `tools`"),
        ("tools/virsh/host.rs", "use super::super::super::store::kvm;", "`tools` must not use `store`"),
        ("tools/mod.rs", "use super::ops::x;", "`tools` must not use `ops`"),
        ("store/keys.rs", "fn f() { crate::cli::main(); }", "`store` must not use `cli`"),
        ("cloud_init/parts.rs", "use crate::cancel::Cancel;", "`cloud_init` must not use `cancel`"),
        ("ops/vm/list.rs", "use crate::cli::x;", "`ops` must not use `cli`"),
        ("cli/vm.rs", "use crate::tools::Tool;", "`cli` must not use `tools`"),
        ("ops/key.rs", "use std::process::Command;", "may start a process"),
        ("ops/key.rs", "let x = std::env::var(\"HOME\");", "may read the environment"),
        ("ops/key.rs", "std::env::args()", "may read the command line"),
        ("cloud_init/parts.rs", "std::fs::read(x)", "may do input or output"),
        ("http/mod.rs", "use crate::tools::Tool;", "`http` must not use `tools`"),
        ("agents/mcp.rs", "use axum::http::request;", "may speak HTTP"),
        ("service/job.rs", "error.code.http_status()", "may use HTTP statuses"),
        ("service/job.rs", "self.operation.status_of(report)", "may use HTTP statuses"),
        ("mcp/mod.rs", "", "is in no layer"),
    ] {
        let found = violations(&[Source { path: path.to_owned(), code: code(text) }]);
        assert!(found.iter().any(|line| line.contains(violation)), "{path}: {text}: {found:?}");
    }
    let allowed = "use super::Tool; // crate::ops\n/// crate::cli\nuse crate::error::Error;\n#[cfg(test)]\nmod tests { crate::ops }";
    assert_eq!(violations(&[Source { path: "tools/ssh.rs".to_owned(), code: code(allowed) }]), Vec::<String>::new());
}
