//! Generated files, and tables in documents that are generated from the code, are current. `UPDATE=1` writes them.
#![expect(clippy::unwrap_used, reason = "an error fails the test")]

#[path = "support/guide.rs"]
mod guide;

use std::{
    collections::BTreeMap,
    fmt::Write,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use vmprov::{agents, cli, error::Code, ops::doctor::CHECKS};

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn updates() -> bool {
    std::env::var_os("UPDATE").is_some()
}

/// The files of a folder, by name.
fn files(folder: &Path) -> BTreeMap<String, String> {
    let Ok(entries) = fs::read_dir(folder) else { return BTreeMap::new() };
    let file =
        |entry: fs::DirEntry| (entry.file_name().into_string().unwrap(), fs::read_to_string(entry.path()).unwrap());
    entries.map(Result::unwrap).filter(|entry| entry.path().is_file()).map(file).collect()
}

/// The guides that are manual pages, too: the file in `docs/`, the page's name and section, and what it is about.
const GUIDES: &[(&str, &str, &str, &str)] = &[
    ("vms.md", "vmprov-vms", "7", "Change, recreate and expire VMs"),
    ("guests.md", "vmprov-guests", "7", "Log in to guests, run commands and copy files"),
    ("images.md", "vmprov-images", "7", "Find, verify, update and remove images"),
    ("agents.md", "vmprov-agents", "7", "Tools for language models and agents"),
    ("doctor.md", "vmprov-doctor", "7", "Checks of the host"),
    ("http.md", "vmprov-serve", "8", "Run the HTTP API: listening, tokens, audit log"),
];

/// The manual pages as the program and the guides give them now.
fn manual() -> BTreeMap<String, String> {
    let folder = tempfile::tempdir().unwrap();
    let made = Command::new(env!("CARGO_BIN_EXE_vmprov")).arg("man").arg(folder.path()).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let mut pages = files(folder.path());
    for (file, name, section, about) in GUIDES {
        let markdown = fs::read_to_string(root().join("docs").join(file)).unwrap();
        pages.insert(format!("{name}.{section}"), guide::manual_page(name, section, about, &markdown));
    }
    pages
}

/// One test, because guides with current tables become manual pages, and with `UPDATE=1` several tests would write the
/// same files at the same time.
#[test]
fn tables_in_documents_and_manual_pages_are_current() {
    compare_tables();
    compare_manual_pages();
}

fn compare_manual_pages() {
    let (folder, now) = (root().join("man"), manual());
    if updates() {
        for name in files(&folder).keys().filter(|name| !now.contains_key(*name)) {
            fs::remove_file(folder.join(name)).unwrap();
        }
        for (name, text) in &now {
            fs::write(folder.join(name), text).unwrap();
        }
    }
    let saved = files(&folder);
    assert!(now.keys().eq(saved.keys()), "man/ has pages {:?}, not {:?}: UPDATE=1", saved.keys(), now.keys());
    for (name, text) in &now {
        assert_eq!(saved[name], *text, "man/{name} is not current: UPDATE=1 cargo test --test generated");
    }
}

#[test]
fn the_openapi_document_is_current() {
    let file = root().join("src/http/openapi.json");
    let now = serde_json::to_string_pretty(vmprov::http::document()).unwrap() + "\n";
    if updates() {
        fs::write(&file, &now).unwrap();
    }
    let saved = fs::read_to_string(&file).unwrap();
    assert!(saved == now, "src/http/openapi.json is not current: UPDATE=1 cargo test --test generated");
}

/// Every completion script runs the binary, which prints its completions.
#[test]
fn the_completion_scripts_run_the_binary() {
    for shell in ["bash", "zsh", "fish"] {
        let stub = fs::read_to_string(root().join(format!("completions/vmprov.{shell}"))).unwrap();
        assert!(stub.contains(&format!("COMPLETE={shell} vmprov")), "{stub}");
        let answer = Command::new(env!("CARGO_BIN_EXE_vmprov")).env("COMPLETE", shell).output().unwrap();
        assert!(answer.status.success() && !answer.stdout.is_empty(), "{shell}: {answer:?}");
    }
}

/// Tests that share the lab would otherwise spend their time limits waiting for each other.
#[test]
fn every_test_that_uses_the_lab_is_in_its_group() {
    let groups = fs::read_to_string(root().join(".config/nextest.toml")).unwrap();
    let filters = groups.lines().filter(|line| line.starts_with("filter = ") && line.contains('|'));
    let groups: Vec<_> = filters.map(|line| line.split(['|', '(', ')']).collect::<Vec<_>>()).collect();
    let [first, second, third] = &groups[..] else { panic!("expected three groups of labs: {groups:?}") };
    // The code of the lab determines which lab a test binary uses.
    let code = fs::read_to_string(root().join("tests/support/lab.rs")).unwrap();
    let (_, code) = code
        .split_once("match env!(\"CARGO_CRATE_NAME\")")
        .expect("lab.rs must choose the lab by the test binary's name");
    let is_in = |lab: &str, binary: &str| {
        let after = code.split_once(&format!("\"{binary}\"")).and_then(|(_, rest)| rest.split_once("=>"));
        after.is_some_and(|(_, arm)| arm.trim_start_matches([' ', '{', '\n']).starts_with(lab))
    };
    for (name, text) in files(&root().join("tests")) {
        let Some(binary) = name.strip_suffix(".rs") else { continue };
        let group = match () {
            () if is_in("(\"\",", binary) => first,
            () if is_in("(\"-2\",", binary) => second,
            () => third,
        };
        let uses_lab = text.contains("#[path = \"support/lab.rs\"]");
        assert!(!uses_lab || group.contains(&binary), "{binary} is not in .config/nextest.toml's group");
    }
}

/// Compares the text between two markers in a document with `now`.
fn compare_in(document: &str, mark: &str, now: &str) {
    let path = root().join(document);
    let text = fs::read_to_string(&path).unwrap();
    let (begin, end) = (format!("<!-- {mark} -->\n"), format!("<!-- end of {mark} -->\n"));
    let (before, rest) = text.split_once(&begin).unwrap_or_else(|| panic!("{document} has no {begin}"));
    let (found, after) = rest.split_once(&end).unwrap_or_else(|| panic!("{document} has no {end}"));
    if updates() {
        fs::write(&path, format!("{before}{begin}{now}{end}{after}")).unwrap();
    } else {
        assert_eq!(found, now, "the {mark} of {document} are not current: UPDATE=1 cargo test --test generated");
    }
}

fn compare_tables() {
    let mut statuses = String::from("| Status | `code` in JSON | Meaning |\n|---|---|---|\n| 0 | | success |\n");
    for code in Code::ALL {
        writeln!(statuses, "| {} | `{}` | {} |", code.exit_status(), code.name(), code.meaning()).unwrap();
    }
    compare_in("docs/reference.md", "exit statuses", &statuses);

    let mut rows = String::from("| Tool | Required | Does |\n|---|---|---|\n");
    for tool in agents::tools() {
        let required = tool.arguments().map(|(name, _)| name.as_str()).filter(|name| tool.requires(name));
        let required: Vec<_> = required.map(|name| format!("`{name}`")).collect();
        writeln!(rows, "| `{}` | {} | {} |", tool.name, required.join(", "), tool.summary).unwrap();
    }
    compare_in("docs/agents.md", "tools", &rows);

    let mut checks = String::from("| Check | Passes if |\n|---|---|\n");
    for check in CHECKS {
        writeln!(checks, "| `{}` | {} |", check.id, check.about).unwrap();
    }
    compare_in("docs/doctor.md", "checks", &checks);

    let mut commands = String::from("| Command | Does |\n|---|---|\n");
    let manual = manual();
    for (_, page) in leaves(&manual, "vmprov") {
        let about = page.lines().skip_while(|line| *line != ".SH NAME").nth(1).unwrap();
        let (_, about) = about.split_once(" \\- ").unwrap();
        let about = about.replace("\\-", "-").replace("\\*(Aq", "'");
        let synopsis = page.lines().skip_while(|line| *line != ".SH SYNOPSIS").nth(1).unwrap();
        let command = synopsis.strip_prefix("\\fB").and_then(|rest| rest.split("\\fR").next()).unwrap();
        writeln!(commands, "| `{}` | {about} |", command.replace("\\-", "-")).unwrap();
    }
    compare_in("docs/reference.md", "commands", &commands);

    let mut settings = String::from("| Setting | Flag | Environment | Default |\n|---|---|---|---|\n");
    for cli::SettingDefinition { name, flag, variables, default, .. } in cli::settings() {
        let flag = flag.map(|flag| format!("`{flag}`")).unwrap_or_default();
        let variables: Vec<_> = variables.iter().map(|variable| format!("`{variable}`")).collect();
        writeln!(settings, "| `{name}` | {flag} | {} | {default} |", variables.join(", then ")).unwrap();
    }
    compare_in("docs/reference.md", "settings", &settings);
}

/// The pages below a title that list no subcommands, in the order of the help.
fn leaves(manual: &BTreeMap<String, String>, title: &str) -> Vec<(String, String)> {
    let page = &manual[&format!("{title}.1")];
    let Some((_, rest)) = page.split_once("\n.SH SUBCOMMANDS\n") else {
        return vec![(title.to_owned(), page.clone())];
    };
    let section = rest.split("\n.SH ").next().unwrap();
    let below = section.lines().filter_map(|line| line.strip_suffix("(1)"));
    below.flat_map(|below| leaves(manual, &below.replace("\\-", "-"))).collect()
}
