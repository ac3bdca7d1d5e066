//! A service whose audit log cannot be written: its responses, refused changes, and what it logs at shutdown.
#![expect(clippy::unwrap_used, reason = "clippy knows only the functions marked as tests")]

#[path = "support/http.rs"]
#[expect(dead_code, reason = "each test binary uses its own part")]
mod http;
#[path = "support/mod.rs"]
#[expect(dead_code, reason = "each test binary uses its own part")]
mod support;

use std::{
    fs::{self, File, OpenOptions},
    io::{Read, Write},
    os::unix::fs::OpenOptionsExt,
    time::Duration,
};

use http::Client;
use rustix::{fs::OFlags, process::Signal};
use serde_json::{Value, json};
use support::{Running, TestHost, within};

/// Far longer than any of these tests takes.
const LIMIT: Duration = Duration::from_mins(1);

/// Starts a service whose audit log is a full FIFO. Returns the service, a client, and the FIFO's other end.
fn serve_with_full_fifo<'h>(host: &'h TestHost, more: &[&str]) -> (Running<'h>, Client, File) {
    let (fifo, socket) = (host.path("audit.fifo"), host.path("api.sock"));
    host.tool("mkfifo", &["audit.fifo"]);
    let flags = OFlags::NONBLOCK.bits().cast_signed();
    let mut end = OpenOptions::new().read(true).write(true).custom_flags(flags).open(&fifo).unwrap();
    while end.write(b"\n").is_ok() {}
    let address = format!("unix:{}", socket.display());
    let args = ["serve", "--listen", &address, "--drain", "0s", "--audit-log", fifo.to_str().unwrap()];
    let service = host.start(&[&args, more].concat(), "");
    let client = Client::at(&socket);
    assert!(within(LIMIT, || client.can_connect()), "{}", service.stderr());
    (service, client, end)
}

/// Reads records until one has this event and this status.
fn read_until(end: &mut File, event: &str, status: u16) {
    let (mut text, mut read) = (String::new(), 0);
    let mut is_written = || {
        let mut bytes = [0; 4096];
        while let Ok(count @ 1..) = end.read(&mut bytes) {
            text.push_str(std::str::from_utf8(&bytes[..count]).unwrap());
        }
        let whole = text.rfind('\n').map_or(0, |end| end + 1);
        let lines = text[read.min(whole)..whole].lines().filter(|line| !line.is_empty());
        read = whole;
        let mut records = lines.map(|line| serde_json::from_str::<Value>(line).unwrap());
        records.any(|record| {
            let is_key = record["operation"] == "ssh_key_generate";
            is_key && record["event"] == event && record["status"] == status
        })
    };
    assert!(within(LIMIT, &mut is_written), "no event {event} with status {status} was written");
}

#[test]
fn a_stalled_required_log_refuses_only_changes() {
    let host = TestHost::new();
    let (service, client, mut end) = serve_with_full_fifo(&host, &["--audit-required"]);
    // The record of this request does not fit into the FIFO.
    client.get("/api/vms").is(200);
    let missing = "/api/operations/6e7b1b8e-0000-4000-8000-000000000000";
    assert!(within(LIMIT, || client.send("DELETE", missing, &[], "").status == 503), "{}", service.stderr());
    let refused = client.json("POST", "/api/ssh-keys", &json!({"name": "dev", "type": "ed25519"}));
    let problem = refused.is(503).value();
    assert_eq!(problem["error"], "cannot record the request in the audit log", "{refused}");
    assert_eq!((&problem["cause"], &problem["retryable"]), (&json!("the write to the file is stalled"), &json!(true)));
    assert!(!host.path(".local/share/vmprov/keys/dev").exists());
    assert_eq!(client.get("/healthz").text(), "OK");
    assert_eq!(client.get("/api/ssh-keys").is(200).value()["keys"], json!([]));
    assert_eq!(client.get("/api/operations").is(200).value(), json!({"operations": []}));
    // Once the FIFO is read, every record arrives and changes are allowed again.
    read_until(&mut end, "request", 503);
    let create = || client.json("POST", "/api/ssh-keys", &json!({"name": "dev", "type": "ed25519"})).status == 201;
    assert!(within(LIMIT, create), "{}", service.stderr());
    service.signal(Signal::TERM);
    service.end().succeeds();
    read_until(&mut end, "operation", 201);
}

#[test]
fn a_stalled_optional_log_blocks_nothing_and_lost_records_are_reported() {
    let host = TestHost::new();
    let (service, client, _end) = serve_with_full_fifo(&host, &[]);
    for number in 0..3 {
        let key = json!({"name": format!("key{number}"), "type": "ed25519"});
        client.json("POST", "/api/ssh-keys", &key).is(201);
        assert_eq!(client.get("/healthz").text(), "OK");
    }
    let metrics = client.get("/metrics").text();
    assert!(metrics.contains("\nvmprov_audit_records_lost_total 0\n"), "{metrics}");
    service.signal(Signal::TERM);
    let ended = service.end().succeeds();
    assert!(ended.stderr.contains("records to the audit log: the service is shutting down"), "{ended:?}");
    assert!(fs::metadata(host.path(".local/share/vmprov/keys/key2")).is_ok());
}
