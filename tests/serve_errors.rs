//! Every error response of `vmprov serve` is a problem document that says what went wrong and what to do.
#![expect(clippy::unwrap_used, reason = "clippy knows only the functions marked as tests")]

#[path = "support/http.rs"]
#[expect(dead_code, reason = "each test binary uses its own part")]
mod http;
#[path = "support/mod.rs"]
#[expect(dead_code, reason = "each test binary uses its own part")]
mod support;

use std::{io::Read, time::Duration};

use http::{Response, Service, request};
use serde_json::json;
use support::{Running, TestHost};

const JSON: &str = "Content-Type: application/json";

fn serve(host: &TestHost) -> Service<Running<'_>> {
    let socket = host.path("api.sock");
    let running = host.start(&["serve", "--listen", &format!("unix:{}", socket.display())], "");
    Service::new(running, Running::signal, socket)
}

/// Asserts that the response is a problem document with all members, whose detail contains `parts`.
#[track_caller]
fn assert_problem(answer: &Response, status: u16, parts: &[&str]) {
    answer.is(status);
    assert_eq!(answer.header("content-type"), Some("application/problem+json"), "{answer}");
    assert!(answer.header("x-request-id").is_some() && answer.header("cache-control") == Some("no-store"), "{answer}");
    let problem = answer.value();
    for member in ["type", "title", "detail", "error", "code"] {
        assert!(problem[member].as_str().is_some_and(|text| !text.is_empty()), "no `{member}`: {answer}");
    }
    assert_eq!(problem["status"], status, "{answer}");
    assert!(problem["retryable"].is_boolean(), "{answer}");
    for member in ["cause", "hint", "details"] {
        assert!(problem.get(member).is_some(), "no `{member}`: {answer}");
    }
    for part in parts {
        assert!(problem["detail"].as_str().unwrap().contains(part), "the detail does not contain `{part}`: {answer}");
    }
}

#[test]
fn the_error_of_an_invalid_body_says_where_and_why() {
    let host = TestHost::new();
    let service = serve(&host);
    let long = format!(r#"{{"name":"a","userData":"{}"}}"#, "x".repeat(3 << 20));
    let deep = format!(r#"{{"name":{}1{}}}"#, "[".repeat(500), "]".repeat(500));
    let cases: &[(&str, u16, &[&str])] = &[
        (r#"{"name":"a","memory":512,}"#, 400, &["not valid JSON", "line 1 column 26"]),
        ("{\n\"name\": a}", 400, &["not valid JSON", "line 2 column 9"]),
        (r#"{"name":"a""#, 400, &["not valid JSON", "line 1 column 11"]),
        (r#"{"name":"a"} x"#, 400, &["not valid JSON", "line 1 column 14"]),
        ("[1]", 400, &["invalid body", "expected a JSON object", "line 1"]),
        ("\"a\"", 400, &["expected a JSON object"]),
        (&deep, 400, &["recursion limit"]),
        ("{}", 400, &["missing member `name`", "Name of the VM"]),
        ("null", 400, &["missing member `name`"]),
        (r#"{"name":null}"#, 400, &["missing member `name`"]),
        (r#"{"name":7}"#, 400, &["invalid member `name`"]),
        (r#"{"name":"a","vcpus":"two"}"#, 400, &["invalid member `vcpus`"]),
        (r#"{"name":"a","vcpus":-1}"#, 400, &["invalid member `vcpus`"]),
        (r#"{"name":"a","memory":1}"#, 400, &["invalid member `memory`"]),
        (r#"{"name":"a","sshKeys":["b",7]}"#, 400, &["invalid member `sshKeys[1]`"]),
        (r#"{"name":"a","diskSise":5}"#, 400, &["unknown member `diskSise`", "Use `diskSize` instead"]),
        (r#"{"name":"a","\u001b[2J":5}"#, 400, &["unknown member `\\u{1b}[2J`"]),
        (r#"{"name":"a","name":"b"}"#, 400, &["`name`", "twice"]),
        (&long, 413, &["larger than 2097152 bytes"]),
    ];
    for (body, status, parts) in cases {
        assert_problem(&service.client.send("POST", "/api/vms", &[JSON], body), *status, parts);
    }
    // Invalid UTF-8, chunked, empty and truncated bodies.
    let post = |head: &[&str], body: &[u8]| {
        let mut bytes = request("POST", "/api/vms", head, "").into_bytes();
        bytes.extend(body);
        service.client.raw(&bytes)
    };
    assert_problem(&post(&[JSON, "Content-Length: 12"], b"{\"name\":\"\xff\"}"), 400, &["not valid JSON"]);
    let chunked = ["Transfer-Encoding: chunked", JSON];
    assert_problem(
        &post(&chunked, b"8\r\n{\"name\":\r\n5\r\n true\r\n1\r\n}\r\n0\r\n\r\n"),
        400,
        &["invalid member `name`"],
    );
    assert_problem(&post(&chunked, b"0\r\n\r\n"), 400, &["missing member `name`"]);
    assert_problem(&post(&chunked, b"zz\r\n{}\r\n0\r\n\r\n"), 400, &["cannot read the body"]);
    assert_problem(&post(&[JSON, "Content-Length: 0"], b""), 400, &["missing member `name`"]);
    assert_problem(&post(&[], b""), 400, &["missing member `name`"]);
    for kind in ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", ""] {
        let answer = service.client.send("POST", "/api/vms", &[&format!("Content-Type: {kind}")], "{}");
        assert_problem(&answer, 415, &["application/json"]);
        assert_eq!(answer.header("accept"), Some("application/json"));
    }
    let answer = service.client.send("POST", "/api/vms", &[JSON, "Content-Encoding: gzip"], "{}");
    assert_problem(&answer, 415, &["gzip"]);
    assert_eq!(answer.header("accept-encoding"), Some("identity"));
    service.end().end().succeeds();
}

#[test]
fn the_error_of_an_unknown_route_suggests_the_right_one() {
    let host = TestHost::new();
    let service = serve(&host);
    let cases: &[(&str, &str, u16, &[&str])] = &[
        ("GET", "/", 404, &["route `/` does not exist"]),
        ("GET", "/api/vm", 404, &["route `/api/vm` does not exist", "/api/vms"]),
        ("GET", "/api/vms/", 404, &["slash", "/api/vms"]),
        ("GET", "/vms", 404, &["route `/vms` does not exist", "/api/vms"]),
        ("GET", "/api/VMs", 404, &["route `/api/VMs` does not exist", "/api/vms"]),
        ("POST", "/api/vms/a/starts", 404, &["route `/api/vms/a/starts` does not exist", "/api/vms/{vm}/start"]),
        ("GET", "/api//vms", 404, &["route `/api//vms` does not exist"]),
        ("GET", "/api/vms/a/../b", 404, &["route `/api/vms/a/../b` does not exist"]),
        ("GET", "/api/vms/%ff", 400, &["UTF-8"]),
        ("GET", "/api/vms/%00", 404, &["VM `\\0` does not exist"]),
        ("GET", "/api/vms/..%2f..%2fetc", 404, &["VM `../../etc` does not exist"]),
        ("GET", "/api/vms?brief=%ff", 400, &["query is not UTF-8"]),
        ("GET", "/api/vms?brief=maybe", 400, &["invalid member `brief`"]),
        ("GET", "/api/vms?brief=true&brief=false", 400, &["`brief` is given twice"]),
        ("GET", "/api/vms?breif=true", 400, &["Use `brief` instead"]),
        ("GET", "/api/vms/test?vm=other", 400, &["`vm` is given twice"]),
        ("GET", "/api/vms/nobody/logs?lines=-1", 400, &["invalid member `lines`"]),
        ("GET", "/api/vms/nobody", 404, &["nobody"]),
        ("GET", "/api/operations/7", 404, &["operation `7` does not exist"]),
        (
            "DELETE",
            "/api/operations/6e7b1b8e-0000-4000-8000-000000000000",
            404,
            &["operation `6e7b1b8e-0000-4000-8000-000000000000` does not exist"],
        ),
        ("PUT", "/api/vms", 405, &["GET, HEAD, POST"]),
        ("OPTIONS", "/api/vms", 405, &["OPTIONS"]),
        ("TRACE", "/api/vms", 405, &["TRACE"]),
        ("BREW", "/api/vms/a/start", 405, &["POST"]),
        ("POST", "/healthz", 405, &["GET, HEAD"]),
    ];
    for (method, path, status, parts) in cases {
        let answer = service.client.send(method, path, &[], "");
        assert_problem(&answer, *status, parts);
        assert_eq!(answer.header("allow").is_some(), *status == 405, "{answer}");
    }
    let answer = service.client.send("HEAD", "/api/vms", &[], "");
    assert!(answer.is(200).body.is_empty() && answer.header("content-length") != Some("0"), "{answer}");
    assert!(service.client.send("HEAD", "/api/nothing", &[], "").is(404).body.is_empty());
    assert_eq!(service.client.get("/healthz").is(200).text(), "OK");
    service.end().end().succeeds();
}

#[test]
fn an_invalid_request_head_ends_only_its_connection() {
    let host = TestHost::new();
    let service = serve(&host);
    let big = format!("X-Big: {}", "x".repeat(1 << 20));
    let many: Vec<_> = (0..500).map(|number| format!("X-{number}: y")).collect();
    let many: Vec<_> = many.iter().map(String::as_str).collect();
    // The kernel resets a connection whose input is not read, possibly before the response arrives.
    let mut answer = Vec::new();
    let whole = format!("GET /healthz HTTP/1.1\r\nHost: x\r\n{big}\r\n\r\n");
    let cut = service.client.open(whole.as_bytes()).read_to_end(&mut answer).is_err();
    assert!(answer.starts_with(b"HTTP/1.1 431 ") || cut && answer.is_empty(), "{}", String::from_utf8_lossy(&answer));
    assert_eq!(service.client.send("GET", "/healthz", &many, "").status, 431);
    assert_eq!(service.client.raw(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n").status, 400);
    assert_eq!(service.client.raw(b"GET / HTTP/9.9\r\n\r\n").status, 400);
    assert_eq!(service.client.raw(b"GET /a b HTTP/1.1\r\nHost: x\r\n\r\n").status, 400);
    // An HTTP/2 preface ends the connection. An upgrade to HTTP/2 is ignored.
    let mut received = Vec::new();
    service.client.open(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").read_to_end(&mut received).ok();
    assert!(received.is_empty(), "{received:?}");
    let upgrade = "GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, HTTP2-Settings, close\r\nUpgrade: h2c\r\n\
                   HTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA\r\n\r\n";
    assert_eq!(service.client.raw(upgrade.as_bytes()).is(200).text(), "OK");
    let id = service.client.send("GET", "/healthz", &["X-Request-Id: mine-7"], "");
    assert_eq!(id.header("x-request-id"), Some("mine-7"));
    let id = service.client.send("GET", "/healthz", &["X-Request-Id: a b"], "");
    assert_ne!(id.header("x-request-id"), Some("a b"));
    service.end().end().succeeds();
}

#[test]
fn a_successful_request_describes_its_result() {
    let host = TestHost::new();
    let service = serve(&host);
    let client = &service.client;
    let made = client.json("POST", "/api/ssh-keys", &json!({"name": "k", "type": "ed25519"}));
    assert_eq!(made.is(201).header("location"), Some("/api/ssh-keys/k"));
    let taken = client.json("POST", "/api/ssh-keys", &json!({"name": "k", "type": "ed25519"}));
    assert_problem(&taken, 409, &["k"]);
    let line = client.get("/api/ssh-keys/k/public");
    assert_eq!(line.is(200).text().trim(), made.value()["publicKey"]);
    let body = client.send("DELETE", "/api/ssh-keys/k", &[JSON], "{}");
    assert_eq!(body.is(200).value()["status"], "deleted");
    assert_problem(&client.send("DELETE", "/api/ssh-keys/k", &[], ""), 404, &["k"]);
    let accepted = client.send("POST", "/api/ssh-keys", &[JSON, "Prefer: respond-async"], r#"{"name":"late"}"#);
    let view = client.finished(&accepted, Duration::from_mins(1), |_| ());
    assert_eq!(
        (&view["state"], &view["status"], &view["result"]["name"]),
        (&json!("succeeded"), &json!(201), &json!("late"))
    );
    service.end().end().succeeds();
}
