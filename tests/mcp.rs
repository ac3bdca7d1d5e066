//! The Model Context Protocol and `/api/tools`, without guests: the errors of wrong calls, the restrictions of an
//! agent, and the official clients over both transports.
#![expect(clippy::unwrap_used, reason = "clippy knows only the functions marked as tests")]

#[path = "support/agent.rs"]
#[expect(dead_code, reason = "each test binary uses its own part")]
mod agent;
#[path = "support/http.rs"]
#[expect(dead_code, reason = "each test binary uses its own part")]
mod http;
#[path = "support/mod.rs"]
#[expect(dead_code, reason = "each test binary uses its own part")]
mod support;
#[path = "mcp/wrong_calls.rs"]
mod wrong_calls;

use std::{collections::BTreeSet, fs, process::Command};

use agent::{Agent, HandshakeClient, Pipe};
use http::Service;
use rustix::process::Signal;
use serde_json::{Value, json};
use support::{Running, TEST_DRIVER, TestHost};

/// Returns the command line of `vmprov mcp` on the test's host.
fn server(host: &TestHost, more: &[&str]) -> Vec<String> {
    let keys = host.path("keys");
    let words = [
        "/usr/bin/env",
        "-i",
        "PATH=/usr/sbin:/usr/bin:/sbin:/bin",
        env!("CARGO_BIN_EXE_vmprov"),
        "--connect",
        TEST_DRIVER,
    ];
    let home = format!("HOME={}", host.path("").display());
    let mut words: Vec<_> = words.map(str::to_owned).into();
    words.insert(3, home);
    words.extend(["--key-dir".to_owned(), keys.display().to_string(), "mcp".to_owned()]);
    words.extend(more.iter().map(|&word| word.to_owned()));
    words
}

fn serve<'h>(host: &'h TestHost, more: &[&str]) -> Service<Running<'h>> {
    let socket = host.path("api.sock");
    let address = format!("unix:{}", socket.display());
    let keys = host.path("keys").display().to_string();
    let args = ["--key-dir", &keys, "serve", "--listen", &address].into_iter().chain(more.iter().copied());
    Service::new(host.start(&args.collect::<Vec<_>>(), ""), Running::signal, socket)
}

fn names(listed: &Value) -> BTreeSet<&str> {
    listed["tools"].as_array().unwrap().iter().map(|tool| tool["name"].as_str().unwrap()).collect()
}

/// Returns the error text of a failed call, and the call that it suggests next.
fn error_of(result: &Value) -> (String, Value) {
    let structure = &result["structuredContent"];
    assert_eq!(result["isError"], true, "{result}");
    (result["content"][0]["text"].as_str().unwrap().to_owned(), structure["next"].clone())
}

#[test]
fn standard_output_contains_only_protocol_messages() {
    let host = TestHost::new();
    let mut client = HandshakeClient::connect(&server(&host, &[]));
    // Input that is not a valid request does not end the server.
    client.pipe.send("this is no JSON");
    client.pipe.send("{\"jsonrpc\":\"2.0\",\"id\":99,\"method\":\"no/such\",\"params\":{}}");
    let refused = client.pipe.line().unwrap();
    assert!(refused["error"]["code"].is_i64(), "{refused}");
    let sent: Vec<_> =
        (0..5).map(|_| client.begin("tools/call", &json!({"name": "vm_list", "arguments": {}}))).collect();
    // Requests sent before the end of the input are still answered.
    client.pipe.close_input();
    let mut answered = BTreeSet::new();
    while let Some(line) = client.pipe.line() {
        assert_eq!(line["jsonrpc"], "2.0", "{line}");
        if line["result"]["isError"] == false {
            answered.insert(line["id"].as_u64().unwrap());
        }
    }
    assert_eq!(answered, sent.into_iter().collect());
    assert!(client.pipe.end().success());
}

#[test]
fn the_server_exits_successfully_at_end_of_input_and_on_sigterm() {
    let host = TestHost::new();
    assert!(Pipe::start(&server(&host, &[])).end().success());
    let mut client = HandshakeClient::connect(&server(&host, &[]));
    rustix::process::kill_process(client.pipe.id(), Signal::TERM).unwrap();
    while client.pipe.line().is_some() {}
    assert!(client.pipe.end().success());
}

#[test]
fn a_read_only_agent_has_only_read_only_tools() {
    let host = TestHost::new();
    let mut client = HandshakeClient::connect(&server(&host, &["--read-only"]));
    let listed = client.ask("tools/list", &json!({}))["result"].take();
    let all: BTreeSet<_> = vmprov::agents::tools().iter().map(|tool| tool.name).collect();
    let available = names(&listed);
    for tool in listed["tools"].as_array().unwrap() {
        assert_eq!(tool["annotations"]["readOnlyHint"], true, "{}", tool["name"]);
    }
    for name in all.difference(&available) {
        let (text, next) = error_of(&client.call(name, &json!({"name": "test", "confirm": "test"})));
        assert!(
            text.starts_with(&format!(
                "the agent `mcp` is not authorized to call {name}: this requires the scope `operate`, and it has `read`"
            )),
            "{text}"
        );
        assert_eq!(next["tool"], "vm_list", "{text}");
    }
    assert_eq!(all.len() - available.len(), 16);
    assert_eq!(client.call("vm_info", &json!({"name": "test"}))["isError"], false);
}

#[test]
fn an_agent_with_a_prefix_uses_only_names_with_that_prefix() {
    let host = TestHost::new();
    let mut client = HandshakeClient::connect(&server(&host, &["--prefix", "a1-"]));
    assert_eq!(client.call("vm_list", &json!({}))["structuredContent"], json!({"vms": []}));
    for (tool, arguments) in [
        ("vm_info", json!({"name": "test"})),
        ("vm_delete", json!({"name": "test", "confirm": "test"})),
        ("vm_exec", json!({"name": "6695eb01-f6a4-8304-79aa-97f2502e193f", "command": ["id"]})),
        ("vm_create", json!({"name": "test"})),
        ("ssh_key_generate", json!({"name": "dev"})),
        ("vm_create", json!({"name": "a1-web", "image": "debian:12", "sshKeys": ["dev"]})),
        ("vm_inject_ssh_key", json!({"vmName": "a1-web", "keyName": "dev"})),
    ] {
        let (text, next) = error_of(&client.call(tool, &arguments));
        let hint = "Use names that begin with `a1-`: the agent `mcp` is restricted to them";
        assert!(text.contains(hint), "{tool}: {text}");
        assert!(next["tool"] == "vm_list" || next["tool"] == "ssh_key_list", "{tool}: {next}");
    }
    let listed = client.ask("tools/list", &json!({}))["result"].take();
    assert!(!names(&listed).contains("doctor"), "doctor reports on the whole host");
    let (text, next) = error_of(&client.call("doctor", &json!({})));
    assert!(text.contains("is not authorized to check the host") && next["tool"] == "vm_list", "{text} {next}");
    let made = client.call("ssh_key_generate", &json!({"name": "a1-dev", "type": "ed25519"}));
    assert_eq!(made["structuredContent"]["name"], "a1-dev", "{made}");
    let resources = client.ask("resources/list", &json!({}))["result"]["resources"].take();
    assert_eq!(resources.as_array().unwrap().len(), 1, "{resources}");
    assert_eq!(resources[0]["uri"], "key://a1-dev");
    let foreign = client.ask("resources/read", &json!({"uri": "vm://test"}));
    assert!(foreign["error"]["message"].as_str().unwrap().starts_with("VM `test` does not exist"), "{foreign}");
    for wrong in ["A-", "", "-a", "a b"] {
        assert_eq!(host.args(&["mcp", "--prefix", wrong]).code(), 2, "{wrong}");
    }
}

/// Tests the server with the official client.
fn exercise(agent: &mut Agent) {
    let about = agent.ok(&json!({"do": "about"}));
    assert_eq!((&about["name"], &about["version"]), (&json!("vmprov"), &json!(env!("CARGO_PKG_VERSION"))));
    assert!(about["instructions"].as_str().unwrap().contains("operation_get"), "{about}");
    let listed = agent.ok(&json!({"do": "tools"}));
    assert_eq!(names(&listed), vmprov::agents::tools().iter().map(|tool| tool.name).collect());
    let made = agent.call("ssh_key_generate", &json!({"name": "dev", "type": "ed25519", "comment": null}));
    let public = made["structuredContent"]["publicKey"].as_str().unwrap().to_owned();
    let read = agent.ok(&json!({"do": "read", "uri": "key://dev"}));
    assert_eq!(read["contents"][0]["text"], public, "{read}");
    // The client validates each structure against the tool's output schema.
    for (tool, arguments) in [
        ("vm_list", json!({})),
        ("vm_info", json!({"name": "test"})),
        ("ssh_key_list", json!({})),
        ("image_search", json!({"term": "debian"})),
        ("image_list", json!({})),
        ("doctor", json!({"checks": ["tools"]})),
    ] {
        let answer = agent.call(tool, &arguments);
        assert_eq!(answer["isError"], false, "{tool}: {answer}");
        let text: Value = serde_json::from_str(answer["content"][0]["text"].as_str().unwrap()).unwrap();
        assert_eq!(text, answer["structuredContent"], "{tool}");
    }
    let screenshot = agent.call("vm_screenshot", &json!({"name": "test"}));
    assert_eq!(
        (&screenshot["content"][0]["type"], &screenshot["content"][0]["mimeType"]),
        (&json!("image"), &json!("image/png"))
    );
    let (text, next) = error_of(&agent.call("vm_info", &json!({"name": "tset"})));
    assert_eq!(
        (text.as_str(), &next["tool"]),
        ("VM `tset` does not exist. Check the name; similar: `test`. List the VMs: vm_list", &json!("vm_list"))
    );
    let unknown = agent.ask(&json!({"do": "call", "name": "vm_lst", "arguments": {}}));
    assert!(unknown["error"].as_str().unwrap().contains("Use `vm_list` instead"), "{unknown}");
    let templates = agent.ok(&json!({"do": "templates"}));
    assert_eq!(templates["resourceTemplates"].as_array().unwrap().len(), 3, "{templates}");
    let resources = agent.ok(&json!({"do": "resources"}));
    let uris: BTreeSet<_> =
        resources["resources"].as_array().unwrap().iter().map(|one| one["uri"].as_str().unwrap()).collect();
    assert_eq!(uris, BTreeSet::from(["vm://test", "vm://test/console", "key://dev"]));
    let vm = agent.ok(&json!({"do": "read", "uri": "vm://test"}));
    assert_eq!(vm["contents"][0]["mimeType"], "application/json", "{vm}");
    for missing in ["vm://nobody", "vm://test/disk", "key://none", "disk://test", "test"] {
        assert!(agent.ask(&json!({"do": "read", "uri": missing}))["error"].is_string(), "{missing}");
    }
    let prompts = agent.ok(&json!({"do": "prompts"}));
    assert_eq!(prompts["prompts"].as_array().unwrap().len(), 4, "{prompts}");
    let prompt = agent.ok(&json!({"do": "prompt", "name": "diagnose-vm", "arguments": {"vm": "web"}}));
    assert!(prompt["messages"][0]["content"]["text"].as_str().unwrap().contains("virtual machine web"), "{prompt}");
    let completed = agent.ok(&json!({"do": "complete", "ref": "vm://{name}", "argument": "name", "value": "te"}));
    assert_eq!(completed["completion"]["values"], json!(["test"]));
    let completed = agent.ok(&json!({"do": "complete", "ref": "diagnose-vm", "argument": "vm", "value": "x"}));
    assert_eq!(completed["completion"]["values"], json!([]));
}

#[test]
fn the_official_client_can_use_everything_over_a_pipe() {
    for mode in ["auto", "legacy"] {
        let host = TestHost::new();
        let mut agent = Agent::over_pipe(mode, &server(&host, &[]));
        exercise(&mut agent);
        agent.end();
    }
}

#[test]
fn the_official_client_can_use_everything_over_http() {
    for mode in ["auto", "legacy"] {
        let host = TestHost::new();
        let service = serve(&host, &[]);
        let mut agent = Agent::over_http(mode, host.path("api.sock").to_str().unwrap(), "");
        exercise(&mut agent);
        agent.end();
        service.end().end().succeeds();
    }
}

/// Runs the official inspector. Returns whether it succeeded, its output, and its error output.
fn inspect(args: &[&str]) -> (bool, Value, String) {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/lab/mcp");
    let ran = Command::new(script).arg("inspector").args(args).output().unwrap();
    let output = serde_json::from_slice(&ran.stdout).unwrap_or_default();
    (ran.status.success(), output, String::from_utf8_lossy(&ran.stderr).into_owned())
}

#[test]
fn the_official_inspector_reports_no_problems() {
    let host = TestHost::new();
    // One word, because the inspector would parse the server's options as its own.
    let line = server(&host, &[]).join("' '");
    let script = host.write("server", format!("#!/bin/sh\nexec '{line}'\n"));
    host.tool("chmod", &["700", &script]);
    let with = |method: &[&str]| inspect(&[&[&*script, "--method"], method].concat());
    let (ok, listed, stderr) = with(&["tools/list", "--strict"]);
    assert!(ok && stderr.is_empty(), "the inspector reports a schema that some clients reject: {stderr}");
    assert_eq!(names(&listed).len(), vmprov::agents::tools().len());
    let (ok, called, stderr) = with(&["tools/call", "--tool-name", "vm_info", "--tool-arg", "name=test"]);
    assert!(ok && called["structuredContent"]["name"] == "test", "{called} {stderr}");
    let (_, called, stderr) = with(&["tools/call", "--tool-name", "vm_info", "--tool-arg", "name=tset"]);
    assert_eq!(called["isError"], true, "{called} {stderr}");
    let (ok, resources, stderr) = with(&["resources/list"]);
    assert!(ok && resources["resources"].as_array().unwrap().len() == 2, "{resources} {stderr}");
    let (ok, prompts, stderr) = with(&["prompts/list"]);
    assert!(ok && prompts["prompts"].as_array().unwrap().len() == 4, "{prompts} {stderr}");
}

/// Writes a token file with three tokens: one that reads, one that is restricted to a prefix, and one with all rights.
fn tokens(host: &TestHost) -> String {
    let entry = |name: &str, scope: &str, more: &str| {
        format!("[[token]]\nname='{name}'\nscope='{scope}'\ntoken='{name}-0123456789abcdef'\n{more}\n")
    };
    let path = host.write(
        "tokens.toml",
        [
            entry("viewer", "read", ""),
            entry("agent", "operate", "prefix='a1-'\nttl-default='4h'"),
            entry("root", "admin", ""),
        ]
        .concat(),
    );
    host.tool("chmod", &["600", &path]);
    path
}

#[test]
fn over_http_a_token_restricts_an_agent_and_owns_its_session() {
    let host = TestHost::new();
    let audit = host.path("audit.log");
    let service = serve(&host, &["--tokens", &tokens(&host), "--audit-log", audit.to_str().unwrap()]);
    let socket = host.path("api.sock");
    let socket = socket.to_str().unwrap();
    service.client.send("POST", "/mcp", &["Accept: application/json, text/event-stream", JSON], "{}").is(401);
    let mut agent = Agent::over_http("legacy", socket, "agent-0123456789abcdef");
    assert_eq!(agent.call("vm_list", &json!({}))["structuredContent"], json!({"vms": []}));
    let (text, _) = error_of(&agent.call("vm_info", &json!({"name": "test"})));
    assert!(text.contains("Use names that begin with `a1-`: the token `agent` is restricted to them"), "{text}");
    agent.end();
    let mut viewer = Agent::over_http("auto", socket, "viewer-0123456789abcdef");
    assert_eq!(names(&viewer.ok(&json!({"do": "tools"}))).len(), vmprov::agents::tools().len() - 16);
    let (text, _) = error_of(&viewer.call("vm_stop", &json!({"name": "test"})));
    assert!(text.starts_with("the token `viewer` is not authorized to call vm_stop"), "{text}");
    viewer.end();
    reuse_session(&service);
    service.end().end().succeeds();
    let log = fs::read_to_string(audit).unwrap();
    let lines: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let refused = lines.iter().find(|line| line["route"] == "mcp vm_stop").unwrap();
    let fields = ["client", "operation", "status", "code", "method"].map(|member| refused[member].clone());
    assert_eq!(json!(fields), json!(["viewer", "vm_stop", 403, "forbidden", "CALL"]), "{refused}");
    assert!(!log.contains("0123456789abcdef"), "the audit log contains a token");
}

const JSON: &str = "Content-Type: application/json";

/// Sends requests to the session of a token with all rights, with another token.
fn reuse_session(service: &Service<Running<'_>>) {
    let accept = "Accept: application/json, text/event-stream";
    let bearer = |name: &str| format!("Authorization: Bearer {name}-0123456789abcdef");
    let initialize = json!({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {
        "protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}}});
    let started = service.client.send("POST", "/mcp", &[accept, JSON, &bearer("root")], &initialize.to_string());
    let session = format!("Mcp-Session-Id: {}", started.is(200).header("mcp-session-id").unwrap());
    let version = "Mcp-Protocol-Version: 2025-06-18";
    let send = |name: &str, request: &Value| {
        service.client.send("POST", "/mcp", &[accept, JSON, version, &session, &bearer(name)], &request.to_string())
    };
    send("root", &json!({"jsonrpc": "2.0", "method": "notifications/initialized"})).is(202);
    let call = json!({"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": {"name": "vm_start", "arguments": {"name": "test"}}});
    for request in [&call, &json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 2}})]
    {
        let refused = send("viewer", request).is(404).value();
        assert_eq!(refused["error"], "the session does not exist");
    }
    for method in ["GET", "DELETE"] {
        service
            .client
            .send(method, "/mcp", &["Accept: text/event-stream", version, &session, &bearer("viewer")], "")
            .is(404);
    }
    let done = send("root", &call).is(200).text();
    assert!(done.contains("\\\"changed\\\":false"), "{done}");
    service.client.send("DELETE", "/mcp", &[version, &session, &bearer("root")], "");
    send("root", &call).is(404);
}
