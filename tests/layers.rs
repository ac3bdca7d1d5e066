//! Who may import whom: the picture in `src/lib.rs`, held.
#![expect(clippy::unwrap_used, reason = "a test ends where something goes wrong")]

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// A module of the crate, and those of the crate's modules that it may use beside itself.
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

/// Code, the modules that alone may hold it, and why.
const ONLY_IN: &[(&[&str], &[&str], &str)] = &[
    (&["std::process::Command", "process::Command", "Command::new(\"", "duct::"], &["tools"], "start a process"),
    (
        &["env::var", "env::vars", "env::set_var", "env::temp_dir", "env::home_dir", "choose_app_strategy"],
        &["cli/settings.rs"],
        "read the environment",
    ),
    (&["env::args"], &["cli/usage_error.rs"], "read the command line"),
    (&["println!", "print!(", "io::stdout", "io::stdin", "anstream"], &["cli"], "talk to the terminal"),
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

/// A source file: its path below `src`, and its code without comments and tests.
struct Source {
    path: String,
    code: String,
}

impl Source {
    /// The module of the crate that it belongs to.
    fn module(&self) -> &str {
        self.path.split(['/', '.']).next().unwrap()
    }

    /// The modules of the crate that it names, be it `crate::a::b`, `use crate::{a, b::c}` or `super::…` upwards.
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

    /// How many `super::` lead to the crate's root.
    fn depth(&self) -> usize {
        let names = self.path.trim_end_matches(".rs").split('/').filter(|name| *name != "mod");
        names.filter(|name| !matches!(*name, "lib" | "main")).count()
    }
}

/// The first name of a path, or of each path of a group in braces.
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
    // Tests of their own may read what they like.
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

/// Code without line comments and without the tests at its end.
fn code(text: &str) -> String {
    let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
    let uncommented = |line: &str| match line.trim_start() {
        comment if comment.starts_with("//") => String::new(),
        _ => line.split(" // ").next().unwrap().to_owned() + "\n",
    };
    text.lines().map(uncommented).collect()
}

/// What breaks a rule, a line each.
fn breaches(sources: &[Source]) -> Vec<String> {
    let mut breaches = Vec::new();
    for source in sources {
        let module = source.module();
        match MAY_USE.iter().find(|(name, _)| *name == module) {
            None => breaches.push(format!("src/{}: the module `{module}` is in no layer; give it one", source.path)),
            Some((_, may)) => {
                for used in source.uses().iter().filter(|used| *used != module && !may.contains(&used.as_str())) {
                    breaches.push(format!("src/{}: `{module}` must not use `{used}`", source.path));
                }
            }
        }
        for (needles, places, what) in ONLY_IN {
            let may = places.iter().any(|place| source.path == *place || source.path.starts_with(&format!("{place}/")));
            let found = needles.iter().find(|needle| source.code.contains(**needle));
            if let Some(needle) = found.filter(|_| !may) {
                let places = places.join(", ");
                breaches.push(format!("src/{}: only {places} may {what} (`{needle}`)", source.path));
            }
        }
    }
    breaches
}

#[test]
fn every_module_keeps_to_its_layer() {
    let sources = sources();
    assert!(sources.len() > 40, "the sources are not where they are looked for");
    let breaches = breaches(&sources);
    assert!(breaches.is_empty(), "\n{}", breaches.join("\n"));
}

/// `Process` ends what it starts when the test ends. `output()` and `status()` wait for the end anyway.
#[test]
fn the_tests_start_processes_only_where_they_are_ended() {
    // In two parts, so that it is not found here.
    let needle = [".spawn", "()"].concat();
    let starting: Vec<_> = sources_in("tests").into_iter().filter(|source| source.code.contains(&needle)).collect();
    let paths: Vec<_> = starting.iter().map(|source| source.path.as_str()).collect();
    assert_eq!(paths, ["support/process.rs"]);
}

/// ARCHITECTURE.md names files and folders, which must exist, and describes every layer.
#[test]
fn the_architecture_names_what_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = fs::read_to_string(root.join("ARCHITECTURE.md")).unwrap();
    let paths: BTreeSet<_> =
        text.split('`').filter(|name| name.starts_with("src/") || name.starts_with("tests/")).collect();
    assert!(paths.len() > 30, "{paths:?}");
    let missing: Vec<_> = paths.into_iter().filter(|path| !root.join(path).exists()).collect();
    assert!(missing.is_empty(), "ARCHITECTURE.md names {missing:?}");
    for (module, _) in MAY_USE.iter().filter(|(module, _)| !matches!(*module, "main" | "lib" | "cancel")) {
        assert!(text.contains(&format!("| `{module}` |")), "ARCHITECTURE.md does not describe `{module}`");
    }
}

/// The test itself: each kind of breach is seen.
#[test]
fn a_breach_is_seen() {
    for (path, text, breach) in [
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
        let seen = breaches(&[Source { path: path.to_owned(), code: code(text) }]);
        assert!(seen.iter().any(|line| line.contains(breach)), "{path}: {text}: {seen:?}");
    }
    let fine = "use super::Tool; // crate::ops\n/// crate::cli\nuse crate::error::Error;\n#[cfg(test)]\nmod tests { crate::ops }";
    assert_eq!(breaches(&[Source { path: "tools/ssh.rs".to_owned(), code: code(fine) }]), Vec::<String>::new());
}
