//! Long-running operations over HTTP: their status, clients that disconnect, cancellation and rollback, idempotency
//! keys, and the queue of each VM.
#![expect(clippy::unwrap_used, reason = "clippy knows only the functions marked as tests")]

#[path = "support/http.rs"]
#[expect(dead_code, reason = "each test binary uses its own part")]
mod http;
#[path = "support/lab.rs"]
#[expect(dead_code, reason = "each test binary uses its own part")]
mod lab;
#[path = "support/mirror.rs"]
#[expect(dead_code, reason = "each test binary uses its own part")]
mod mirror;

use std::{thread, time::Duration};

use http::{Client, Response, Service, request};
use lab::{Lab, Running, Snapshot, wait_until};
use mirror::{Fault, Mirror};
use serde_json::{Value, json};

/// The time limit for any of these operations.
const LIMIT: Duration = Duration::from_mins(1);

const JSON: &str = "Content-Type: application/json";
const ASYNC: &str = "Prefer: respond-async";

/// The number of bytes of the image that the server sends before it waits.
const HELD: usize = 100_000;

/// A service, and a mirror that holds its image halfway until it is released.
struct Site {
    service: Service<Running>,
    mirror: Mirror,
    before: Snapshot,
    lab: Lab,
}

impl Site {
    fn new() -> Self {
        let lab = Lab::qemu();
        let mirror = Mirror::inside(&lab.network());
        let file = lab.image("debian-12.qcow2", "10M");
        mirror.put("debian-12.qcow2", std::fs::read(&file).unwrap());
        lab.run(&["vm", "delete", "work", "--yes", "--ignore-missing"]).succeeded();
        lab.run(&["vm", "create", "warm", "--image", &file, "--no-start"]).succeeded();
        lab.run(&["vm", "delete", "warm", "--yes"]).succeeded();
        lab.run(&["image", "prune", "--all"]).succeeded();
        mirror.inject_faults("debian-12.qcow2", [Fault::Hold(HELD)]);
        let before = lab.snapshot();
        let service = Service::new(lab.serve(&[]), Running::signal, lab.socket());
        Self { service, mirror, before, lab }
    }

    fn client(&self) -> &Client {
        &self.service.client
    }

    /// Returns the body of a request to create a VM from that image.
    fn new_vm(&self) -> Value {
        json!({"name": "work", "imageUrl": self.mirror.url("debian-12.qcow2"), "memory": 64, "diskSize": 1, "start": false})
    }

    fn create(&self, head: &[&str]) -> Response {
        self.client().send("POST", "/api/vms", &[&[JSON], head].concat(), &self.new_vm().to_string())
    }

    /// Waits until a download is held, and returns its operation.
    fn wait_until_held(&self) -> Value {
        let mut held = None;
        wait_until("the download", || {
            let known = self.client().get("/api/operations").is(200).value();
            held = known["operations"].as_array().unwrap().iter().find(|view| view["bytesDone"] == HELD).cloned();
            held.is_some()
        });
        held.unwrap()
    }

    /// Ends the service, and checks that everything is as it was before, except for the files of the image.
    fn end_and_check(self) {
        self.service.end().end().succeeded();
        let of_image = |line: &str| {
            line.contains("/base-")
                || line.contains("/source-")
                || line.contains("file base-")
                || line.contains("file source-")
        };
        self.lab.settles_without(&self.before, of_image, "after the service");
        self.lab.run(&["image", "prune", "--all"]).succeeded();
    }
}

#[test]
fn a_long_operation_is_accepted_and_can_be_polled() {
    let site = Site::new();
    let accepted = site.create(&["Prefer: respond-async, wait=1"]);
    let poll = accepted.is(202).header("location").unwrap().to_owned();
    assert!(accepted.header("retry-after").unwrap().parse::<u32>().unwrap() > 0, "{accepted}");
    assert_eq!(accepted.header("preference-applied"), Some("respond-async, wait=1"));
    let body = accepted.value();
    assert_eq!((&body["status"], &body["poll"]), (&json!("accepted"), &json!(poll)), "{body}");
    assert!(body["message"].as_str().unwrap().contains(&format!("GET {poll}")), "{body}");
    assert_eq!(body["operation"]["vm"], "work");

    let view = site.wait_until_held();
    assert_eq!((&view["state"], &view["operation"]), (&json!("running"), &json!("vm_create")), "{view}");
    assert!(view["step"].as_str().is_some_and(|step| !step.is_empty()), "{view}");
    assert!(view["bytesTotal"].as_u64().unwrap() > HELD as u64, "{view}");
    assert_eq!(view["requestId"], accepted.header("x-request-id").unwrap(), "{view}");
    // A second create waits for the first one and will fail. Reads do not wait.
    let again = site.create(&["Prefer: wait=0"]);
    assert_eq!(again.is(202).header("preference-applied"), Some("wait=0"));
    site.client().get("/api/vms").is(200);

    site.mirror.release();
    let done = site.client().finished(&accepted, LIMIT, |_| ());
    assert_eq!((&done["state"], &done["status"]), (&json!("succeeded"), &json!(201)), "{done}");
    assert_eq!((&done["result"]["name"], &done["error"]), (&json!("work"), &Value::Null), "{done}");
    let refused = site.client().finished(&again, LIMIT, |_| ());
    assert_eq!((&refused["state"], &refused["status"]), (&json!("failed"), &json!(409)), "{refused}");
    assert!(refused["error"]["error"].is_string() || refused["error"]["message"].is_string(), "{refused}");

    let ended = site.client().send("DELETE", &poll, &[], "");
    assert_eq!(ended.is(409).value()["code"], "conflict", "{ended}");
    site.client().send("DELETE", "/api/vms/work", &[], "").is(200);
    site.end_and_check();
}

#[test]
fn a_client_that_disconnects_does_not_end_its_operation() {
    let site = Site::new();
    let create = request("POST", "/api/vms", &[JSON], &site.new_vm().to_string());
    let connection = site.client().open(create.as_bytes());
    let view = site.wait_until_held();
    drop(connection);
    site.mirror.release();
    let poll = format!("/api/operations/{}", view["id"].as_str().unwrap());
    wait_until("the create", || site.client().get(&poll).is(200).value()["state"] == "succeeded");
    site.client().get("/api/vms/work").is(200);
    site.client().send("DELETE", "/api/vms/work", &[], "").is(200);
    site.end_and_check();
}

#[test]
fn a_cancelled_create_is_rolled_back() {
    let site = Site::new();
    let accepted = site.create(&[ASYNC]);
    let queued = site.client().send("POST", "/api/vms/work/start", &[ASYNC], "");
    site.wait_until_held();
    let poll = accepted.header("location").unwrap();
    let cancelled = site.client().send("DELETE", poll, &[], "");
    assert_eq!(cancelled.is(200).value()["state"], "cancelled", "{cancelled}");
    // Cancelling again is not an error, because the operation is already cancelled.
    assert_eq!(site.client().send("DELETE", poll, &[], "").is(200).value()["state"], "cancelled");
    site.client().get("/api/vms/work").is(404);
    assert_eq!(site.client().finished(&queued, LIMIT, |_| ())["status"], 404);
    let service = |line: &str| line.starts_with("home") || line.starts_with("process vmprov");
    site.lab.settles_without(&site.before, service, "after the cancelled create");
    site.mirror.release();
    let partial = site.lab.file(".cache/vmprov/downloads");
    let Site { service, lab, .. } = site;
    service.end().end().succeeded();
    // The partial download is kept for the next try.
    let kept: Vec<_> = std::fs::read_dir(partial).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(kept.iter().any(|path| path.extension().is_some_and(|extension| extension == "part")), "{kept:?}");
    lab.run(&["image", "prune", "--all"]).succeeded();
}

#[test]
fn an_operation_cancelled_in_the_queue_never_starts() {
    let site = Site::new();
    let first = site.create(&[ASYNC]);
    let second = site.client().send("POST", "/api/vms/work/protect", &[ASYNC], "");
    let third = site.client().send("POST", "/api/vms/work/start", &[ASYNC], "");
    site.wait_until_held();
    let cancelled = site.client().send("DELETE", second.is(202).header("location").unwrap(), &[], "");
    let view = cancelled.is(200).value();
    assert_eq!((&view["state"], &view["started"]), (&json!("cancelled"), &Value::Null), "{view}");
    // The operation behind it still waits for the operation ahead of it.
    assert_eq!(site.client().get(third.header("location").unwrap()).value()["state"], "queued");
    site.mirror.release();
    site.client().finished(&first, LIMIT, |_| ());
    assert_eq!(site.client().finished(&third, LIMIT, |_| ())["state"], "succeeded");
    assert_eq!(site.client().get("/api/vms/work").is(200).value()["protected"], false);
    site.client().send("DELETE", "/api/vms/work", &[], "").is(200);
    site.end_and_check();
}

#[test]
fn requests_with_the_same_idempotency_key_are_one_operation() {
    let site = Site::new();
    let key = "Idempotency-Key: \"6e7b1b8e\"";
    let first = site.create(&[ASYNC, key]);
    site.wait_until_held();
    let while_it_runs = site.create(&[ASYNC, key]);
    assert_eq!(while_it_runs.is(202).header("location"), first.header("location"));
    let other = site.client().send("POST", "/api/vms", &[JSON, key], r#"{"name":"other"}"#);
    assert_eq!(other.is(422).value()["code"], "key_reused", "{other}");
    assert!(other.value()["detail"].as_str().unwrap().contains("new key"), "{other}");
    let elsewhere = site.client().send("POST", "/api/vms/work/start", &[key], "");
    assert_eq!(elsewhere.is(422).value()["code"], "key_reused", "{elsewhere}");
    site.mirror.release();
    let done = site.client().finished(&first, LIMIT, |_| ());
    // The members may be in another order, and defaults may be given explicitly.
    let mut same = json!({"start": false, "vcpus": 2, "network": null});
    same.as_object_mut().unwrap().extend(site.new_vm().as_object().unwrap().clone());
    let answers = [site.create(&[key]), site.client().send("POST", "/api/vms", &[JSON, key], &same.to_string())];
    for answer in &answers {
        assert_eq!(answer.is(201).value(), done["result"], "{answer}");
        assert_eq!(answer.header("location"), Some("/api/vms/work"));
    }
    let listed = site.client().get("/api/vms").is(200).value();
    let named = listed["vms"].as_array().unwrap().iter().filter(|vm| vm["name"] == "work");
    assert_eq!(named.count(), 1, "{listed}");
    site.create(&[]).is(409);
    for (bad, body) in [("Idempotency-Key:", "{}"), (&*format!("Idempotency-Key: {}", "k".repeat(256)), "{}")] {
        site.client().send("POST", "/api/vms/work/protect", &[JSON, bad], body).is(400);
    }
    site.client().send("DELETE", "/api/vms/work", &[], "").is(200);
    site.end_and_check();
}

#[test]
fn operations_on_a_vm_run_in_order_but_a_forced_stop_does_not_wait() {
    let site = Site::new();
    let send_async =
        |method: &str, path: &str| site.client().send(method, &format!("/api/vms/work{path}"), &[ASYNC], "");
    let created = site.create(&[ASYNC]);
    let queued = [
        (send_async("POST", "/protect"), 200),
        (send_async("DELETE", ""), 409),
        (send_async("POST", "/unprotect"), 200),
        (send_async("POST", "/start"), 200),
        (send_async("DELETE", ""), 200),
        (send_async("POST", "/start"), 404),
    ];
    site.wait_until_held();
    for (answer, _) in &queued {
        let view = site.client().get(answer.is(202).header("location").unwrap()).value();
        assert_eq!((&view["state"], &view["started"]), (&json!("queued"), &Value::Null), "{view}");
    }
    // The VM does not exist yet, so a forced stop fails without waiting for the queue. Another VM has its own queue.
    site.client().send("POST", "/api/vms/work/stop?force=true", &[], "").is(404);
    site.client().send("POST", "/api/vms/another/start", &[], "").is(404);
    assert_eq!(site.wait_until_held()["state"], "running");
    site.mirror.release();
    assert_eq!(site.client().finished(&created, LIMIT, |_| ())["status"], 201);
    for (answer, status) in &queued {
        let view = site.client().finished(answer, LIMIT, |_| ());
        assert_eq!(view["status"], *status, "{view}");
    }
    site.end_and_check();
}

/// The number of commands with a large output, close to the limit of the results that are kept.
const OUTPUTS: u64 = 14;

/// The number of clients that list the operations concurrently, and how often each does.
const POLLERS: u32 = 50;
const POLLS: u32 = 4;

#[test]
fn the_operation_list_has_no_results_and_many_pollers_use_little_memory() {
    let lab = Lab::warm();
    // Like ssh, it logs that the login succeeded.
    let authenticate = r#"while [ "$1" != -E ]; do shift; done; echo "Authenticated to guest" >"$2""#;
    lab.fake("ssh", &format!("{authenticate}\nhead -c 1048576 /dev/zero | tr '\\0' x"));
    lab.run(&["vm", "delete", "loud", "--yes", "--ignore-missing"]).succeeded();
    let file = lab.image("debian-12.qcow2", "10M");
    lab.run(&["key", "generate", "loud"]).succeeded();
    let create = ["vm", "create", "loud", "--image", &file, "--network", "user", "--memory", "64", "--ssh-key", "loud"];
    lab.run(&create).succeeded();
    let service = Service::new(lab.serve(&[]), Running::signal, lab.socket());
    let client = &service.client;
    let exec = json!({"command": ["print"], "via": "ssh"}).to_string();
    let mut last = String::new();
    for _ in 0..OUTPUTS {
        let accepted = client.send("POST", "/api/vms/loud/exec", &[JSON, ASYNC], &exec);
        let view = client.finished(&accepted, LIMIT, |_| ());
        assert_eq!(view["result"]["stdout"].as_str().map(str::len), Some(1 << 20), "{}", view["error"]);
        last = view["id"].as_str().unwrap().to_owned();
    }
    let before = service.running().peak_memory();
    thread::scope(|scope| {
        for _ in 0..POLLERS {
            scope.spawn(|| {
                for _ in 0..POLLS {
                    let answer = client.get("/api/operations");
                    assert_eq!(answer.is(200).body.len() / 100_000, 0, "the list contains results");
                    let listing = answer.value();
                    assert!(listing["operations"].as_array().unwrap().iter().all(|view| view["result"].is_null()));
                }
            });
        }
    });
    // The results are in memory once, not once for each client.
    let more = service.running().peak_memory() - before;
    assert!(more <= OUTPUTS << 20, "the service used {} MiB more than before", more >> 20);
    let view = client.get(&format!("/api/operations/{last}")).is(200).value();
    assert_eq!(view["result"]["stdout"].as_str().map(str::len), Some(1 << 20));
    service.end().end().succeeded();
    lab.run(&["vm", "delete", "loud", "--yes"]).succeeded();
}
