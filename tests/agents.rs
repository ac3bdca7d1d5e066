//! The workflow of an agent against real guests, through the Model Context Protocol with the official client and through `/api/tools`,
//! both at a time: it creates a VM, gets a key in, restarts it, waits, runs a command, reads its output, and deletes it.
#![expect(clippy::unwrap_used, reason = "clippy knows only the functions marked as tests")]

#[path = "support/agent.rs"]
#[expect(dead_code, reason = "each test binary uses its own part")]
mod agent;
#[path = "support/http.rs"]
#[expect(dead_code, reason = "each test binary uses its own part")]
mod http;
#[path = "support/lab.rs"]
#[expect(dead_code, reason = "each test binary uses its own part")]
mod lab;
#[path = "support/mirror.rs"]
#[expect(dead_code, reason = "each test binary uses its own part")]
mod mirror;

use std::{process::Command, thread};

use agent::{Agent, Hand};
use http::{Client, Service};
use lab::{Lab, Running, wait_until};
use mirror::{Fault, Mirror};
use serde_json::{Value, json};

/// The image's file, whose name tells the user.
const FILE: &str = "debian-12.qcow2";

/// The VMs of both agents.
const VMS: [&str; 2] = ["mcp-env", "web-env"];

struct Site {
    mirror: Mirror,
    lab: Lab,
}

impl Drop for Site {
    /// A failed test leaves no guest running.
    fn drop(&mut self) {
        if thread::panicking() {
            for vm in VMS {
                self.lab.run(&["vm", "delete", vm, "--yes", "--ignore-missing"]);
            }
        }
    }
}

/// How an agent calls a tool that must succeed, and follows it to its end.
type Calls<'c> = dyn FnMut(&str, Value) -> Value + 'c;

/// What the first service's document has an agent do, and then what an agent is there for.
fn work(vm: &str, key: &str, image: &str, call: &mut Calls<'_>) {
    let created = call("vm_create", json!({"name": vm, "memory": 640, "vcpus": 1, "imageUrl": image}));
    assert_eq!((&created["state"], &created["user"]), (&json!("running"), &json!("debian")), "{created}");
    let made = call("ssh_key_generate", json!({"name": key}));
    assert!(made["publicKey"].as_str().unwrap().starts_with("ssh-rsa "), "{made}");
    let injected = call("vm_inject_ssh_key", json!({"vmName": vm, "keyName": key}));
    assert_eq!((&injected["vm"], &injected["key"]), (&json!(vm), &json!(key)), "{injected}");
    assert_eq!(call("vm_stop", json!({"name": vm, "timeout": "10m"}))["state"], "shut off");
    assert_eq!(call("vm_start", json!({"name": vm}))["state"], "running");
    let waited = call("vm_wait", json!({"name": vm, "for": "ssh", "timeout": "15m"}));
    assert_eq!(waited["reached"], "ssh", "{waited}");
    let script = "echo from $(uname -n); echo complaint >&2; exit 7";
    let ran = call("vm_exec", json!({"name": vm, "command": ["sh", "-c", script]}));
    let said = ["stdout", "stderr", "exitStatus"].map(|member| ran[member].clone());
    assert_eq!(json!(said), json!([format!("from {vm}\n"), "complaint\n", 7]), "{ran}");
    let long = call("vm_exec", json!({"name": vm, "command": ["sh", "-c", "seq 100000"]}));
    let text = long["stdout"].as_str().unwrap();
    assert!(text.len() < 20_000 && text.starts_with("1\n2\n") && text.ends_with("\n100000\n"), "{} bytes", text.len());
    let login = call("vm_ssh_command", json!({"name": vm}));
    assert!(login["command"].as_str().unwrap().contains("StrictHostKeyChecking=yes"), "{login}");
    let console = call("vm_logs", json!({"name": vm, "lines": 5}));
    assert!(console["lines"].as_array().unwrap().len() <= 5, "{console}");
    let deleted = call("vm_delete", json!({"name": vm, "confirm": vm}));
    assert_eq!((&deleted["status"], &deleted["kept"]), (&json!("deleted"), &json!([])), "{deleted}");
}

/// Calls tools over HTTP as a tool server does that knows nothing of them, each within the first client's minute.
fn post(client: &Client, tool: &str, arguments: &Value) -> Value {
    let json = "Content-Type: application/json";
    let mut answer = client.send("POST", &format!("/api/tools/{tool}"), &[json], &arguments.to_string());
    assert!(answer.status < 300, "{tool} {arguments}: {answer}");
    if answer.status != 202 {
        return answer.value();
    }
    let next = answer.value()["next"].take();
    loop {
        let path = format!("/api/tools/{}", next["tool"].as_str().unwrap());
        answer = client.send("POST", &path, &[json], &next["arguments"].to_string());
        let mut view = answer.is(200).value();
        match view["state"].as_str() {
            Some("queued" | "running") => {}
            Some("succeeded") => return view["result"].take(),
            _ => panic!("{tool} {arguments}: {view}"),
        }
    }
}

#[test]
fn agents_go_through_the_life_of_a_guest() {
    let lab = Lab::qemu();
    let mirror = Mirror::inside(&lab.network());
    let built = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/lab/image")).output().unwrap();
    let image = std::fs::read(String::from_utf8(built.stdout).unwrap().trim()).unwrap();
    let half = image.len() / 2;
    mirror.put(FILE, image);
    lab.run(&["vm", "create", "warm", "--no-start"]).succeeded();
    lab.run(&["vm", "delete", "warm", "--yes"]).succeeded();
    lab.run(&["image", "prune", "--all"]).succeeded();
    let before = lab.snapshot();
    let audit = lab.file("audit.log");
    let server = lab.words(&[
        "mcp",
        "--audit-log",
        audit.to_str().unwrap(),
        "--prefix",
        "mcp-",
        "--ttl-default",
        "4h",
        "--allow-image-host",
        "127.0.0.1",
        "--answer-within",
        "20s",
    ]);
    let mut agent = Agent::over_pipe("auto", &server);
    let service = Service::new(lab.serve(&[]), Running::signal, lab.socket());
    let site = Site { mirror, lab };

    cancelled(&site, &mut agent, half);
    let image = site.mirror.url(FILE);
    thread::scope(|both| {
        let client = service.client.clone();
        let image = &image;
        let over_http = both.spawn(move || {
            work("web-env", "web-key", image, &mut |tool, arguments| post(&client, tool, &arguments));
        });
        let mut over_mcp = |tool: &str, arguments: Value| {
            let done = agent.done(tool, &arguments);
            match tool {
                "vm_create" => bounded(&mut agent),
                "vm_ssh_command" => logs_in(&site, done["command"].as_str().unwrap()),
                _ => {}
            }
            done
        };
        work("mcp-env", "mcp-key", image, &mut over_mcp);
        over_http.join().unwrap();
    });
    agent.end();
    service.end().end().succeeded();
    for key in ["mcp-key", "web-key"] {
        site.lab.run(&["key", "delete", key]).succeeded();
    }
    site.lab.run(&["image", "prune", "--all"]).succeeded();
    // What plain ssh was told of the guests' host keys goes with the next `ssh-config`.
    site.lab.settles_without(
        &before,
        |line| line.contains("known_hosts-") || line.ends_with(" audit.log"),
        "at the end",
    );
}

#[test]
fn an_agent_that_goes_leaves_nothing_half_done() {
    let lab = Lab::qemu();
    let mirror = Mirror::inside(&lab.network());
    let image = std::fs::read(lab.image("tiny.qcow2", "10M")).unwrap();
    mirror.put(FILE, image);
    let new = json!({"name": "mcp-env", "imageUrl": mirror.url(FILE), "start": false});
    lab.run(&["vm", "create", "warm", "--no-start"]).succeeded();
    lab.run(&["vm", "delete", "warm", "--yes"]).succeeded();
    let before = lab.snapshot();
    mirror.spoil(FILE, [Fault::Hold(1000)]);
    let site = Site { mirror, lab };
    let words = site.lab.words(&["mcp", "--allow-image-host", "127.0.0.1", "--answer-within", "1s"]);
    // One whose work goes on, and one whose call is not answered yet. Clients send SIGTERM soon after they have hung up.
    for is_answered in [true, false] {
        let mut hand = Hand::shake(&words);
        let asked = site.mirror.requests().len();
        if is_answered {
            let accepted = hand.call("vm_create", &new);
            assert_eq!(accepted["structuredContent"]["status"], "accepted", "{accepted}");
        } else {
            hand.begin("tools/call", &json!({"name": "vm_create", "arguments": new}));
        }
        wait_until("the image to be asked for", || site.mirror.requests().len() > asked);
        hand.pipe.hang_up();
        rustix::process::kill_process(hand.pipe.id(), rustix::process::Signal::TERM).unwrap();
        assert!(hand.pipe.end().success());
        site.mirror.spoil(FILE, [Fault::Hold(1000)]);
    }
    site.lab.settles_without(&before, |line| line.contains(".cache/vmprov"), "after the agent had gone");
}

/// A fetch that is told how far it is, and is cancelled.
fn cancelled(site: &Site, agent: &mut Agent, half: usize) {
    site.mirror.spoil(FILE, [Fault::Hold(half)]);
    let url = site.mirror.url(FILE);
    let told = agent.ok(&json!({
        "do": "call", "name": "image_pull", "arguments": {"image": url}, "cancel_after_progress": 3,
    }));
    assert_eq!(told["cancelled"], true, "{told}");
    let progress = told["progress"].as_array().unwrap();
    let counts: Vec<_> = progress.iter().map(|one| one[0].as_f64().unwrap()).collect();
    assert!(counts.is_sorted() && counts.len() >= 3, "{told}");
    assert!(progress.iter().any(|one| one[2].as_str().unwrap().contains(" MiB)")), "{told}");
    // It is cancelled, not only left alone.
    wait_until("the fetch to be given up", || {
        let log = std::fs::read_to_string(site.lab.file("audit.log")).unwrap_or_default();
        let mut lines = log.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        lines.any(|line| {
            line["event"] == "operation" && line["operation"] == "image_pull" && line["code"] == "interrupted"
        })
    });
    site.mirror.open_gate();
    let listed = agent.done("image_list", &json!({}));
    assert_eq!(listed["images"], json!([]), "{listed}");
}

/// The command logs in, be it read as a shell's line or as what another command has printed.
fn logs_in(site: &Site, command: &str) {
    let [program, rest @ ..] = site.lab.entrance();
    for script in ["eval \"$1\" uname -n", "$1 uname -n"] {
        let ran = Command::new(program).args(rest).args(["/bin/sh", "-c", script, "sh", command]).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&ran.stdout), "mcp-env\n", "{command}: {ran:?}");
    }
}

/// What the agent made is bounded as the operator has said.
fn bounded(agent: &mut Agent) {
    let info = agent.done("vm_info", &json!({"name": "mcp-env"}));
    assert_eq!(info["owner"], "mcp", "{info}");
    assert!(info["expires"].is_string(), "{info}");
}
