//! The commands in README.md, ARCHITECTURE.md and docs/ exist, and those that need no guest work.
#![expect(clippy::unwrap_used, reason = "an error fails the test")]

#[path = "support/lab.rs"]
#[expect(dead_code, reason = "each test binary uses its own part")]
mod lab;
#[expect(dead_code, reason = "each test binary uses its own part")]
mod support;

use std::{collections::BTreeSet, fs, path::Path, time::Duration};

use clap::error::ErrorKind;
use lab::Lab;
use pulldown_cmark::{CodeBlockKind, Event, Parser, Tag, TagEnd};
use serde_json::Value;
use support::{TestHost, within};
use vmprov::{agents, api, cli};

const ALREADY_EXISTS: i32 = 4;

/// The line that starts the service, which answers the lines with `curl`.
const SERVE: &str = "vmprov serve";

/// Lines that run in the lab, in an order in which each works, and their exit statuses.
const RUN: &[(&str, i32)] = &[
    ("vmprov doctor", 0),
    ("vmprov key generate dev", 0),
    ("vmprov image search ubuntu", 0),
    (SERVE, 0),
    ("curl -s http://127.0.0.1:8092/api/vms", 0),
    ("curl -s 'http://127.0.0.1:8092/api/tools?format=kfuncdb'", 0),
    (
        "curl -s -H 'Content-Type: application/json' -d '{\"name\": \"web\", \"image\": \"debian:12\", \"sshKeys\": \
         [\"dev\"]}' http://127.0.0.1:8092/api/vms",
        0,
    ),
    ("vmprov vm list", 0),
    ("vmprov ssh-config >~/.ssh/vmprov", 0),
    ("vmprov vm create web --image debian:12 --ssh-key dev --memory 4G --if-exists ok", ALREADY_EXISTS),
    ("vmprov vm set web --memory 1G --vcpus 4 --disk-size 40G --description \"the web server\"", 0),
    ("vmprov vm create ci-1 --image debian:12 --ssh-key dev --ttl 2h", 0),
    ("vmprov vm ttl ci-1 30m", 0),
    ("vmprov reap --dry-run", 0),
    ("vmprov --quiet reap -o name", 0),
    ("vmprov vm delete web --yes", 0),
];

/// Lines that do not run here, and why.
const NOT_RUN: &[(&str, &[&str])] = &[
    (
        "needs a guest that has booted",
        &[
            "vmprov vm create web --image debian-12-genericcloud-amd64.qcow2 --ssh-key dev --wait",
            "vmprov vm create web --image debian-12.qcow2 --ssh-key dev --wait",
            "vmprov vm create web --image ubuntu:24.04 --ssh-key dev --wait",
            "vmprov vm wait web",
            "vmprov vm ssh web -- uname -sr",
            "vmprov inject web other",
            "vmprov vm stop web",
            "vmprov vm pause web",
            "vmprov vm resume web",
            "vmprov vm reset web",
            "vmprov vm rename web www",
            "vmprov vm exec web -- sh -c 'df -h / | tail -n 1'",
            "tar c site | vmprov vm exec web --timeout 5m -- tar x -C /srv",
            "vmprov vm cp site web:/srv/",
            "rsync -a site/ web:site/",
            "curl -s -H 'Content-Type: application/json' -d '{\"name\": \"web\", \"image\": \"debian:12\", \
             \"sshKeys\": [\"dev\"], \"wait\": \"ssh\"}' http://127.0.0.1:8092/api/tools/vm_create",
            "curl -s -H 'Content-Type: application/json' -d '{\"name\": \"web\", \"command\": [\"uname\", \"-a\"]}' \
             http://127.0.0.1:8092/api/tools/vm_exec",
        ],
    ),
    ("installs packages and makes a release build", &["./install.sh --demo"]),
    ("runs every test, this one included", &["tests/run"]),
    (
        "starts a lab, as this test does",
        &[
            "tests/lab/install",
            "tests/lab/libvirtd start",
            "tests/lab/libvirtd exec target/debug/vmprov vm create demo --image \"$(tests/lab/image)\"",
            "tests/lab/libvirtd stop",
        ],
    ),
];

/// Everything in the documents that a reader may type.
#[derive(Default)]
struct Shown {
    /// Command lines in blocks.
    lines: BTreeSet<String>,
    /// Commands within the text, with or without `vmprov`: they may be cut short and contain placeholders.
    mentions: BTreeSet<String>,
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn shown() -> Shown {
    let mut shown = Shown::default();
    let guides = fs::read_dir(root().join("docs")).unwrap().map(|entry| entry.unwrap().path());
    let guides = guides.filter(|path| path.extension().is_some_and(|extension| extension == "md"));
    for path in guides.chain(["README.md", "ARCHITECTURE.md"].map(|name| root().join(name))) {
        shown.add(&fs::read_to_string(path).unwrap());
    }
    assert!(shown.lines.len() > 25 && shown.mentions.len() > 80, "{:?}", shown.lines);
    shown
}

impl Shown {
    fn add(&mut self, markdown: &str) {
        let mut language = None;
        for event in Parser::new(markdown) {
            match event {
                Event::Start(Tag::CodeBlock(CodeBlockKind::Fenced(name))) => language = Some(name),
                Event::End(TagEnd::CodeBlock) => language = None,
                Event::Text(text) => {
                    if let Some(language) = &language {
                        self.lines.extend(text.lines().filter_map(|line| command_line(language, line)));
                    }
                }
                Event::Code(text) => {
                    self.mentions.insert(text.into_string());
                }
                _ => {}
            }
        }
    }
}

/// The command in a line of a block, without its prompt and comment. Only a diagram and a crontab have no language.
fn command_line(language: &str, line: &str) -> Option<String> {
    let command = match language {
        "sh" => line,
        "console" => line.strip_prefix("$ ")?,
        "" => &line[line.find("vmprov ")?..],
        _ => return None,
    };
    Some(command.split("  #").next().unwrap().trim_end().to_owned())
}

/// The calls of a program in a command line: in each part of a pipe, its words without redirections.
fn calls(line: &str, program: &str) -> Vec<Vec<String>> {
    let words = shell_words::split(line).unwrap();
    let is_program = |word: &String| word.rsplit('/').next() == Some(program);
    let call = |part: &[String]| -> Option<Vec<String>> {
        let words = &part[part.iter().position(is_program)?..];
        Some(words.iter().filter(|word| !word.starts_with('>')).cloned().collect())
    };
    words.split(|word| word == "|").filter_map(call).collect()
}

#[test]
fn every_line_is_run_or_has_a_reason_not_to() {
    let listed: Vec<_> =
        RUN.iter().map(|(line, _)| *line).chain(NOT_RUN.iter().flat_map(|(_, lines)| *lines).copied()).collect();
    let shown = shown().lines;
    let unlisted: Vec<_> = shown.iter().filter(|line| !listed.contains(&line.as_str())).collect();
    assert!(unlisted.is_empty(), "add these lines to RUN or to NOT_RUN: {unlisted:#?}");
    let stale: Vec<_> = listed.iter().filter(|line| !shown.contains(**line)).collect();
    assert!(stale.is_empty(), "no document shows these lines: {stale:#?}");
}

#[test]
fn every_command_line_parses() {
    for line in shown().lines {
        for call in calls(&line, "vmprov") {
            let parsed = cli::grammar().try_get_matches_from(call);
            assert!(parsed.is_ok(), "{line}: {}", parsed.unwrap_err());
        }
    }
}

/// A command in the text may lack arguments and have placeholders as values, but what it names must exist.
#[test]
fn every_mentioned_command_exists() {
    let commands: BTreeSet<_> = cli::grammar().get_subcommands().map(|command| command.get_name().to_owned()).collect();
    let mut checked = 0;
    for mention in shown().mentions {
        let words = mention.split(' ').take_while(|word| !["…", "COMMAND", "TOPIC"].contains(word));
        let words: Vec<_> = words.skip_while(|word| *word == "vmprov").collect();
        if words.first().is_none_or(|first| !commands.contains(*first) && !mention.starts_with("vmprov ")) {
            continue;
        }
        checked += 1;
        let Err(error) = cli::grammar().try_get_matches_from([vec!["vmprov"], words].concat()) else { continue };
        let is_unknown = matches!(error.kind(), ErrorKind::UnknownArgument | ErrorKind::InvalidSubcommand);
        assert!(!is_unknown, "`{mention}`: {error}");
    }
    assert!(checked > 80, "{checked}");
}

#[test]
fn every_request_is_valid() {
    let mut checked = 0;
    for line in shown().lines {
        for call in calls(&line, "curl") {
            let url = call.iter().find_map(|word| word.strip_prefix("http://127.0.0.1:8092")).unwrap();
            let path = url.split('?').next().unwrap();
            let body = call.iter().skip_while(|word| *word != "-d").nth(1);
            let body: Option<Value> = body.map(|body| serde_json::from_str(body).unwrap());
            checked += 1;
            match (path.strip_prefix("/api/tools"), body) {
                (Some(""), None) => {}
                (Some(name), Some(body)) => {
                    let tool = agents::tools().iter().find(|tool| name.strip_prefix('/') == Some(tool.name));
                    let tool = tool.unwrap_or_else(|| panic!("no such tool: {line}"));
                    let known: Vec<_> = tool.arguments().map(|(name, _)| name).collect();
                    let given = body.as_object().unwrap();
                    assert!(given.keys().all(|name| known.contains(&name)), "{line}: {known:?}");
                    let missing = known.iter().find(|name| tool.requires(name) && !given.contains_key(**name));
                    assert_eq!(missing, None, "{line}");
                }
                (_, body) => {
                    let method = if body.is_some() { "POST" } else { "GET" };
                    let operation = api::operations().iter().find(|found| (found.method, found.path) == (method, path));
                    let operation = operation.unwrap_or_else(|| panic!("no such route: {line}"));
                    operation.read(body.unwrap_or_else(|| Value::Object(serde_json::Map::new()))).unwrap();
                }
            }
        }
    }
    assert!(checked > 3, "{checked}");
}

/// The configuration of an MCP client starts the program with arguments that it accepts.
#[test]
fn the_configuration_for_mcp_clients_is_valid() {
    let text = fs::read_to_string(root().join("docs/agents.md")).unwrap();
    let json = text.split("```json\n").nth(1).unwrap().split("```").next().unwrap();
    let configuration: Value = serde_json::from_str(json).unwrap();
    let server = &configuration["mcpServers"]["vmprov"];
    let words = [&server["command"]].into_iter().chain(server["args"].as_array().unwrap());
    let parsed = cli::grammar().try_get_matches_from(words.map(|word| word.as_str().unwrap()));
    assert!(parsed.is_ok(), "{}", parsed.unwrap_err());
}

/// A host in the lab with a mirror of Debian's images, whose Debian 12 does not boot.
fn host_with_mirror(lab: &Lab) -> TestHost {
    let host = TestHost::bare().via(lab.nsenter());
    let folder = "mirror/bookworm/latest";
    fs::create_dir_all(host.path(folder)).unwrap();
    fs::create_dir_all(host.path(".ssh")).unwrap();
    let image = format!("{folder}/debian-12-genericcloud-amd64.qcow2");
    host.image(&image);
    let checksum = host.tool("sha512sum", &[&image]).replace(&format!("{folder}/"), "");
    host.write(&format!("{folder}/SHA512SUMS"), checksum);
    let mirror = host.path("mirror");
    let setting = format!("[mirrors]\n'https://cloud.debian.org/images/cloud' = 'file://{}'\n", mirror.display());
    host.write(".config/vmprov/config.toml", setting);
    host
}

#[test]
fn lines_that_need_no_guest_work() {
    let lab = Lab::warm();
    let host = host_with_mirror(&lab);
    let mut service = None;
    for (line, status) in RUN {
        if *line == SERVE {
            service = Some(host.start(&["serve"], ""));
            let answers = || host.shell("curl -sf http://127.0.0.1:8092/healthz").code() == 0;
            assert!(within(Duration::from_mins(1), answers), "the service does not answer");
            continue;
        }
        let line = line.replacen("curl ", "curl --fail-with-body ", 1);
        let ran = host.shell(&line);
        assert_eq!(ran.code(), *status, "{line}: {ran:?}");
    }
    let service = service.unwrap();
    service.signal(rustix::process::Signal::TERM);
    service.end().succeeds();
    host.run("vm delete ci-1 --yes").succeeds();
    host.run("image prune --all").succeeds();
}

#[test]
fn readme_counts_the_images_of_the_catalogue() {
    let names = TestHost::new().run("image search -o name").succeeds().stdout;
    let distributions: BTreeSet<_> = names.lines().map(|name| name.split(':').next().unwrap()).collect();
    let count = format!("lists {} images of {} distributions", names.lines().count(), distributions.len());
    assert!(fs::read_to_string(root().join("README.md")).unwrap().contains(&count), "{count}");
}
