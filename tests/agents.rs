//! The workflow of an agent against real guests, over the Model Context Protocol with the official client and over
//! `/api/tools` at the same time: create a VM, inject a key, restart it, wait, run a command, and delete it.
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

use agent::{Agent, HandshakeClient};
use http::{Client, Service};
use lab::{Lab, Running, wait_until};
use mirror::{Fault, Mirror};
use serde_json::{Value, json};

/// The file name of the image, from which vmprov derives the login user.
const FILE: &str = "debian-12.qcow2";

/// The VMs of both agents.
const VMS: [&str; 2] = ["mcp-env", "web-env"];

struct Fixture {
    mirror: Mirror,
    lab: Lab,
}

impl Drop for Fixture {
    /// Deletes the VMs of a failed test, so that no guest keeps running.
    fn drop(&mut self) {
        if thread::panicking() {
            for vm in VMS {
                self.lab.run(&["vm", "delete", vm, "--yes", "--ignore-missing"]);
            }
        }
    }
}

/// Calls a tool that must succeed, waits for its end, and returns its result.
type CallTool<'c> = dyn FnMut(&str, Value) -> Value + 'c;

/// Performs the workflow in the documentation of the original service, then runs commands in the guest.
fn run_workflow(vm: &str, key: &str, image: &str, call: &mut CallTool<'_>) {
    let created = call("vm_create", json!({"name": vm, "memory": 640, "vcpus": 1, "imageUrl": image}));
    assert_eq!((&created["state"], &created["user"]), (&json!("running"), &json!("debian")), "{created}");
    let generated = call("ssh_key_generate", json!({"name": key}));
    assert!(generated["publicKey"].as_str().unwrap().starts_with("ssh-rsa "), "{generated}");
    let injected = call("vm_inject_ssh_key", json!({"vmName": vm, "keyName": key}));
    assert_eq!((&injected["vm"], &injected["key"]), (&json!(vm), &json!(key)), "{injected}");
    assert_eq!(call("vm_stop", json!({"name": vm, "timeout": "10m"}))["state"], "shut off");
    assert_eq!(call("vm_start", json!({"name": vm}))["state"], "running");
    let waited = call("vm_wait", json!({"name": vm, "for": "ssh", "timeout": "15m"}));
    assert_eq!(waited["reached"], "ssh", "{waited}");
    let script = "echo from $(uname -n); echo complaint >&2; exit 7";
    let ran = call("vm_exec", json!({"name": vm, "command": ["sh", "-c", script]}));
    let output = ["stdout", "stderr", "exitStatus"].map(|member| ran[member].clone());
    assert_eq!(json!(output), json!([format!("from {vm}\n"), "complaint\n", 7]), "{ran}");
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

/// Calls a tool over HTTP as a generic tool server does. Each request has the existing client's timeout of one minute.
fn call_over_http(client: &Client, tool: &str, arguments: &Value) -> Value {
    let json = "Content-Type: application/json";
    let mut response = client.send("POST", &format!("/api/tools/{tool}"), &[json], &arguments.to_string());
    assert!(response.status < 300, "{tool} {arguments}: {response}");
    if response.status != 202 {
        return response.value();
    }
    let next = response.value()["next"].take();
    loop {
        let path = format!("/api/tools/{}", next["tool"].as_str().unwrap());
        response = client.send("POST", &path, &[json], &next["arguments"].to_string());
        let mut view = response.is(200).value();
        match view["state"].as_str() {
            Some("queued" | "running") => {}
            Some("succeeded") => return view["result"].take(),
            _ => panic!("{tool} {arguments}: {view}"),
        }
    }
}

#[test]
fn agents_create_use_and_delete_a_guest() {
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
    let server = lab.vmprov_command(&[
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
    let fixture = Fixture { mirror, lab };

    assert_pull_can_be_cancelled(&fixture, &mut agent, half);
    let image = fixture.mirror.url(FILE);
    thread::scope(|scope| {
        let client = service.client.clone();
        let image = &image;
        let over_http = scope.spawn(move || {
            let mut call = |tool: &str, arguments: Value| call_over_http(&client, tool, &arguments);
            run_workflow("web-env", "web-key", image, &mut call);
        });
        let mut over_mcp = |tool: &str, arguments: Value| {
            let result = agent.call_to_end(tool, &arguments);
            match tool {
                "vm_create" => assert_operator_limits(&mut agent),
                "vm_ssh_command" => assert_logs_in(&fixture, result["command"].as_str().unwrap()),
                _ => {}
            }
            result
        };
        run_workflow("mcp-env", "mcp-key", image, &mut over_mcp);
        over_http.join().unwrap();
    });
    agent.end();
    service.end().end().succeeded();
    for key in ["mcp-key", "web-key"] {
        fixture.lab.run(&["key", "delete", key]).succeeded();
    }
    fixture.lab.run(&["image", "prune", "--all"]).succeeded();
    // The next `ssh-config` removes the known_hosts files.
    fixture.lab.settles_without(
        &before,
        |line| line.contains("known_hosts-") || line.ends_with(" audit.log"),
        "at the end",
    );
}

#[test]
fn an_agent_that_disconnects_leaves_nothing_behind() {
    let lab = Lab::qemu();
    let mirror = Mirror::inside(&lab.network());
    let image = std::fs::read(lab.image("tiny.qcow2", "10M")).unwrap();
    mirror.put(FILE, image);
    let new = json!({"name": "mcp-env", "imageUrl": mirror.url(FILE), "start": false});
    lab.run(&["vm", "create", "warm", "--no-start"]).succeeded();
    lab.run(&["vm", "delete", "warm", "--yes"]).succeeded();
    let before = lab.snapshot();
    mirror.inject_faults(FILE, [Fault::Hold(1000)]);
    let fixture = Fixture { mirror, lab };
    let words = fixture.lab.vmprov_command(&["mcp", "--allow-image-host", "127.0.0.1", "--answer-within", "1s"]);
    // One agent has an operation in the background, the other an open call. Clients send SIGTERM soon after they
    // disconnect.
    for is_answered in [true, false] {
        let mut client = HandshakeClient::connect(&words);
        let earlier = fixture.mirror.requests().len();
        if is_answered {
            let accepted = client.call("vm_create", &new);
            assert_eq!(accepted["structuredContent"]["status"], "accepted", "{accepted}");
        } else {
            client.begin("tools/call", &json!({"name": "vm_create", "arguments": new}));
        }
        wait_until("the image request", || fixture.mirror.requests().len() > earlier);
        client.pipe.close_input();
        rustix::process::kill_process(client.pipe.id(), rustix::process::Signal::TERM).unwrap();
        assert!(client.pipe.end().success());
        fixture.mirror.inject_faults(FILE, [Fault::Hold(1000)]);
    }
    fixture.lab.settles_without(&before, |line| line.contains(".cache/vmprov"), "after the agents disconnected");
}

/// Asserts that a pull reports its progress, and that cancellation ends it.
fn assert_pull_can_be_cancelled(fixture: &Fixture, agent: &mut Agent, half: usize) {
    fixture.mirror.inject_faults(FILE, [Fault::Hold(half)]);
    let url = fixture.mirror.url(FILE);
    let result = agent.ok(&json!({
        "do": "call", "name": "image_pull", "arguments": {"image": url}, "cancel_after_progress": 3,
    }));
    assert_eq!(result["cancelled"], true, "{result}");
    let progress = result["progress"].as_array().unwrap();
    let counts: Vec<_> = progress.iter().map(|update| update[0].as_f64().unwrap()).collect();
    assert!(counts.is_sorted() && counts.len() >= 3, "{result}");
    assert!(progress.iter().any(|update| update[2].as_str().unwrap().contains(" MiB)")), "{result}");
    // The server ends the operation, too; the client does not merely stop listening.
    wait_until("the pull to end", || {
        let log = std::fs::read_to_string(fixture.lab.file("audit.log")).unwrap_or_default();
        let mut lines = log.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        lines.any(|line| {
            line["event"] == "operation" && line["operation"] == "image_pull" && line["code"] == "interrupted"
        })
    });
    fixture.mirror.release();
    let listed = agent.call_to_end("image_list", &json!({}));
    assert_eq!(listed["images"], json!([]), "{listed}");
}

/// Asserts that the command logs in, both as a line of shell code and as the result of a shell's word splitting.
fn assert_logs_in(fixture: &Fixture, command: &str) {
    let [program, rest @ ..] = fixture.lab.nsenter();
    for script in ["eval \"$1\" uname -n", "$1 uname -n"] {
        let ran = Command::new(program).args(rest).args(["/bin/sh", "-c", script, "sh", command]).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&ran.stdout), "mcp-env\n", "{command}: {ran:?}");
    }
}

/// Asserts that the agent's VM has the owner and expiry that the operator configured.
fn assert_operator_limits(agent: &mut Agent) {
    let info = agent.call_to_end("vm_info", &json!({"name": "mcp-env"}));
    assert_eq!(info["owner"], "mcp", "{info}");
    assert!(info["expires"].is_string(), "{info}");
}
