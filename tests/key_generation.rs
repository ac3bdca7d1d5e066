//! The generation of an RSA key takes long. It can be cancelled like every other long step, and does not slow down the
//! service.
#![expect(clippy::unwrap_used, reason = "clippy knows only the functions marked as tests")]

#[path = "support/http.rs"]
#[expect(dead_code, reason = "each test binary uses its own part")]
mod http;
#[path = "support/mod.rs"]
#[expect(dead_code, reason = "each test binary uses its own part")]
mod support;

use std::{fs, time::Duration};

use http::{Client, Service};
use rustix::process::{Pid, Signal};
use serde_json::json;
use support::{Running, TestHost, within};

/// Far longer than a canceled generation takes to end, even without optimization.
const LIMIT: Duration = Duration::from_mins(2);

/// The name of the thread that generates a key.
const THREAD: &str = "key generation";

/// Returns the niceness of each thread of a process that generates a key.
fn generating(pid: Pid) -> Vec<i32> {
    let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else { return Vec::new() };
    let stats = tasks.filter_map(|task| fs::read_to_string(task.unwrap().path().join("stat")).ok());
    let niceness = |stat: String| {
        let (head, fields) = stat.rsplit_once(") ")?;
        // Field 19 of the line; the first of `fields` is the third.
        head.ends_with(THREAD).then(|| fields.split(' ').nth(16).unwrap().parse().unwrap())
    };
    stats.filter_map(niceness).collect()
}

#[test]
fn a_signal_ends_key_generation_and_leaves_nothing() {
    for signal in [Signal::INT, Signal::TERM] {
        let host = TestHost::new();
        let before = host.files();
        let args = ["--key-dir", "keys", "key", "generate", "k", "--type", "rsa", "--bits", "8192"];
        let running = host.start(&args, "");
        assert!(within(LIMIT, || !generating(running.id()).is_empty()), "{}", running.stderr());
        running.signal(signal);
        running.end().fails_saying(130, &["error: interrupted\n"]);
        let mut files = host.files();
        // The empty folder for the keys may exist.
        files.remove("keys");
        assert_eq!(files, before);
    }
}

fn generate(client: &Client, key: &serde_json::Value) -> http::Response {
    let head = ["Content-Type: application/json", "Prefer: respond-async"];
    client.send("POST", "/api/ssh-keys", &head, &key.to_string())
}

#[test]
fn the_service_generates_one_rsa_key_at_a_time() {
    let host = TestHost::new();
    let socket = host.path("api.sock");
    let args = ["--key-dir", "keys", "serve", "--listen", &format!("unix:{}", socket.display())];
    let running = host.start(&args, "");
    let pid = running.id();
    let service = Service::new(running, Running::signal, socket);
    let client = &service.client;
    let begin = |name: &str| {
        let accepted = generate(client, &json!({"name": name, "type": "rsa", "bits": 8192}));
        accepted.is(202).header("location").unwrap().to_owned()
    };
    let first = begin("one");
    assert!(within(LIMIT, || !generating(pid).is_empty()));
    let keys = [first, begin("two")];

    // One generation runs at a time, on one processor, with a low priority.
    let state = |path: &String| client.get(path).is(200).value()["state"].as_str().unwrap().to_owned();
    let states = || keys.iter().map(state).collect::<Vec<_>>();
    assert!(within(LIMIT, || generating(pid) == [10]), "{:?}", generating(pid));
    assert_eq!(states(), ["running", "queued"]);

    // Other keys and other requests do not wait for it.
    let other = client.json("POST", "/api/ssh-keys", &json!({"name": "other", "type": "ed25519"}));
    other.is(201);
    assert_eq!(client.get("/healthz").text(), "OK");
    assert_eq!(states(), ["running", "queued"]);

    // The queued key and the running one can both be cancelled.
    for path in keys.iter().rev() {
        let view = client.send("DELETE", path, &[], "").is(200).value();
        assert_eq!(view["state"], "cancelled", "{view}");
    }
    assert!(within(LIMIT, || generating(pid).is_empty()));
    service.end().end().succeeds();
    let mut files: Vec<_> = fs::read_dir(host.path("keys")).unwrap().map(|file| file.unwrap().file_name()).collect();
    files.sort();
    assert_eq!(files, ["other", "other.pub"]);
}
