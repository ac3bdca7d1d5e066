//! The help of every command: it fits a screen, and its examples work.
#![expect(clippy::unwrap_used, reason = "a test ends where something goes wrong")]

#[expect(dead_code, reason = "each test binary uses its own part")]
mod support;

use clap::Command;
use support::TestHost;
use vmprov::cli;

/// The screen that `-h` has to fit.
const SCREEN: (usize, usize) = (40, 80);

/// Examples that need nothing but libvirt's in-memory driver, in an order in which each works.
const WITHOUT_A_GUEST: &[&str] = &[
    "vmprov vm list",
    "vmprov vm list -o name",
    "vmprov image search ubuntu",
    "vmprov image list",
    "vmprov image prune --dry-run",
    "vmprov key generate dev",
    "vmprov key list",
    "vmprov key show dev",
    "vmprov key delete dev",
    "vmprov key generate dev --type ed25519",
    "vmprov ssh-config >~/.ssh/vmprov",
    "vmprov gc",
    "vmprov reap --dry-run",
    "vmprov tools --format openai",
    "vmprov config",
    "vmprov help exit-codes",
    "vmprov help vm create",
];

/// The words of an example after the program's name, without a shell's redirection or substitution.
fn arguments(example: &str) -> Vec<String> {
    let line = example.strip_prefix("eval \"$(").map_or(example, |rest| rest.split(')').next().unwrap());
    let words = shell_words::split(line).unwrap();
    assert_eq!(words[0], "vmprov", "{example}");
    words.into_iter().skip(1).filter(|word| !word.starts_with('>')).collect()
}

/// The path of every visible command.
fn commands(command: &Command, path: &str, found: &mut Vec<String>) {
    found.push(path.to_owned());
    for below in command.get_subcommands().filter(|below| !below.is_hide_set()) {
        commands(below, &format!("{path} {}", below.get_name()), found);
    }
}

fn every_command() -> Vec<String> {
    let mut found = Vec::new();
    commands(&cli::grammar(), "vmprov", &mut found);
    found
}

#[test]
fn every_command_has_examples_and_each_parses() {
    let examples = cli::examples();
    for command in every_command() {
        let mut own = examples.iter().filter(|(known, ..)| *known == command).peekable();
        assert!(own.peek().is_some(), "`{command}` has no example");
        for (_, _, line) in own {
            let is_its_own = line.contains(&command);
            assert!(is_its_own, "the example `{line}` is not one of `{command}`");
            let parsed = cli::grammar().try_get_matches_from([vec!["vmprov".to_owned()], arguments(line)].concat());
            assert!(parsed.is_ok(), "{line}: {}", parsed.unwrap_err());
        }
    }
    let known = every_command();
    for (command, ..) in examples {
        assert!(known.iter().any(|known| known == command), "there is no command `{command}`");
    }
}

#[test]
fn examples_that_need_no_guest_work() {
    let host = TestHost::new();
    for line in WITHOUT_A_GUEST {
        assert!(cli::examples().iter().any(|(_, _, example)| example == line), "`{line}` is no example");
        let words = arguments(line);
        host.args(&words.iter().map(String::as_str).collect::<Vec<_>>()).succeeds();
    }
}

#[test]
fn the_short_help_of_every_command_fits_a_screen() {
    let host = TestHost::new().with_env("COLUMNS", "80");
    let mut too_large = Vec::new();
    for command in every_command() {
        let words: Vec<_> = command.split(' ').skip(1).chain(["-h"]).collect();
        let help = host.args(&words).succeeds().stdout.clone();
        let (lines, width) = (help.lines().count(), help.lines().map(|line| line.chars().count()).max().unwrap());
        if lines > SCREEN.0 || width > SCREEN.1 {
            too_large.push(format!("{command}: {lines} lines, {width} columns"));
        }
        assert!(help.trim_end().ends_with('.'), "{command} does not say where to go next:\n{help}");
    }
    assert!(too_large.is_empty(), "{}", too_large.join("\n"));
}

#[test]
fn every_subcommand_is_in_a_group() {
    let host = TestHost::new();
    for (words, command) in [(vec!["-h"], "vmprov"), (vec!["vm", "-h"], "vmprov vm")] {
        let help = host.args(&words).succeeds().stdout.clone();
        let prefix = format!("{command} ");
        for below in every_command().iter().filter_map(|known| known.strip_prefix(&prefix)) {
            let is_listed = help.lines().any(|line| line.trim_start().split(' ').next() == Some(below));
            assert!(below.contains(' ') || is_listed, "`{command} {below}` is not listed:\n{help}");
        }
    }
}

#[test]
fn the_long_help_lists_the_json_members() {
    let host = TestHost::new();
    for (command, members) in [
        ("vm list", "JSON members: vms: [managed, incomplete, image, "),
        ("vm start", "JSON members: results: ["),
        ("key show", "JSON members: name"),
        ("doctor", "JSON members: checks: [id, status, observed"),
    ] {
        let words: Vec<_> = command.split(' ').chain(["--help"]).collect();
        let help = host.args(&words).succeeds().stdout.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(help.contains(members), "{command}: {help}");
    }
}

#[test]
fn topics_and_commands_have_a_page() {
    let host = TestHost::new();
    for (topic, says) in [
        ("environment", "LIBVIRT_URI"),
        ("exit-codes", "130  interrupted"),
        ("formats", "json    One JSON document"),
        ("references", "Its name or UUID"),
    ] {
        let page = host.args(&["help", topic]).succeeds().stdout.clone();
        assert!(page.contains(says), "{topic}: {page}");
    }
    let long = host.run("vm create --help").succeeds().stdout.clone();
    assert_eq!(host.run("help vm create").succeeds().stdout, long);
    assert_eq!(host.run("help").succeeds().stdout, host.run("--help").succeeds().stdout);
    host.run("help nothing").fails(
        2,
        "error: no help for `nothing`\nhint: List the commands: vmprov help\n\
         hint: Or choose a topic: environment, exit-codes, formats, references\n",
    );
}
