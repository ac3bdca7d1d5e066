//! Checks which module may use which: the layers that `src/lib.rs` describes.
#![expect(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

use std::{
    collections::BTreeSet,
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

    /// Returns the modules of the crate that it uses, as `crate::a::b`, `use crate::{a, b::c}` or `super::…`.
    fn uses(&self) -> BTreeSet<String> {
        let mut used = BTreeSet::new();
        let depth = self.depth();
        for prefix in ["crate::".to_owned(), "vmprov::".to_owned(), "super::".repeat(depth)] {
            if prefix.is_empty() {
                continue;
            }
            for (at, _) in self.code.match_indices(&prefix) {
                let before = self.code[..at].chars().next_back();
                if before.is_some_and(|c| c == ':' || c == '_' || c.is_alphanumeric()) {
                    continue;
                }
                used.extend(first_names(&self.code[at + prefix.len()..]));
            }
        }
        used.retain(|name| MAY_USE.iter().any(|(module, _)| module == name));
        used
    }

    /// Returns how many `super::` lead to the crate's root.
    fn depth(&self) -> usize {
        let names = self.path.trim_end_matches(".rs").split('/').filter(|name| *name != "mod");
        names.filter(|name| !matches!(*name, "lib" | "main")).count()
    }
}

/// Returns the first name of a path, or of each path in a group in braces.
fn first_names(rest: &str) -> Vec<String> {
    let name =
        |text: &str| -> String { text.trim_start().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect() };
    let Some(group) = rest.strip_prefix('{') else { return vec![name(rest)] };
    let mut names = vec![name(group)];
    let mut level = 0;
    for (at, c) in group.char_indices() {
        match c {
            '{' => level += 1,
            '}' if level == 0 => break,
            '}' => level -= 1,
            ',' if level == 0 => names.push(name(&group[at + 1..])),
            _ => {}
        }
    }
    names
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
        ("mcp/mod.rs", "", "is in no layer"),
    ] {
        let found = violations(&[Source { path: path.to_owned(), code: code(text) }]);
        assert!(found.iter().any(|line| line.contains(violation)), "{path}: {text}: {found:?}");
    }
    let allowed = "use super::Tool; // crate::ops\n/// crate::cli\nuse crate::error::Error;\n#[cfg(test)]\nmod tests { crate::ops }";
    assert_eq!(violations(&[Source { path: "tools/ssh.rs".to_owned(), code: code(allowed) }]), Vec::<String>::new());
}
