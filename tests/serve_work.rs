//! Work that takes long, over HTTP: what a client is told of it, that it goes on without one, is cancelled and undone, is
//! done once however often it is asked for, and comes in order for each VM.
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

use http::{Answer, Client, Service, request};
use lab::{Lab, Running, Snapshot, wait_until};
use mirror::{Fault, Mirror};
use serde_json::{Value, json};

/// How long any of this may take.
const LIMIT: Duration = Duration::from_mins(1);

const JSON: &str = "Content-Type: application/json";
const LATER: &str = "Prefer: respond-async";

/// How much of an image comes before its server waits.
const HELD: usize = 100_000;

/// A service, and a mirror whose image is held half-way until its gate is opened.
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
        mirror.spoil("debian-12.qcow2", [Fault::Hold(HELD)]);
        let before = lab.snapshot();
        let service = Service::new(lab.serve(&[]), Running::signal, lab.socket());
        Self { service, mirror, before, lab }
    }

    fn client(&self) -> &Client {
        &self.service.client
    }

    /// The body that asks for a VM of that image.
    fn new_vm(&self) -> Value {
        json!({"name": "work", "imageUrl": self.mirror.url("debian-12.qcow2"), "memory": 64, "diskSize": 1, "start": false})
    }

    fn create(&self, head: &[&str]) -> Answer {
        self.client().send("POST", "/api/vms", &[&[JSON], head].concat(), &self.new_vm().to_string())
    }

    /// The operation whose download is held, once it is.
    fn held(&self) -> Value {
        let mut held = None;
        wait_until("the download", || {
            let known = self.client().get("/api/operations").is(200).value();
            held = known["operations"].as_array().unwrap().iter().find(|view| view["bytesDone"] == HELD).cloned();
            held.is_some()
        });
        held.unwrap()
    }

    /// Ends the service, and finds everything as it was before it; but for what the image itself leaves.
    fn ends_as_it_began(self) {
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
fn what_takes_long_is_accepted_polled_and_answered_for() {
    let site = Site::new();
    let accepted = site.create(&["Prefer: respond-async, wait=1"]);
    let poll = accepted.is(202).header("location").unwrap().to_owned();
    assert!(accepted.header("retry-after").unwrap().parse::<u32>().unwrap() > 0, "{accepted}");
    assert_eq!(accepted.header("preference-applied"), Some("respond-async, wait=1"));
    let body = accepted.value();
    assert_eq!((&body["status"], &body["poll"]), (&json!("accepted"), &json!(poll)), "{body}");
    assert!(body["message"].as_str().unwrap().contains(&format!("GET {poll}")), "{body}");
    assert_eq!(body["operation"]["vm"], "work");

    let view = site.held();
    assert_eq!((&view["state"], &view["operation"]), (&json!("running"), &json!("vm_create")), "{view}");
    assert!(view["step"].as_str().is_some_and(|step| !step.is_empty()), "{view}");
    assert!(view["bytesTotal"].as_u64().unwrap() > HELD as u64, "{view}");
    assert_eq!(view["requestId"], accepted.header("x-request-id").unwrap(), "{view}");
    // Somebody else waits for it, in vain; looking does not wait for it.
    let again = site.create(&["Prefer: wait=0"]);
    assert_eq!(again.is(202).header("preference-applied"), Some("wait=0"));
    site.client().get("/api/vms").is(200);

    site.mirror.open_gate();
    let done = site.client().finished(&accepted, LIMIT, |_| ());
    assert_eq!((&done["state"], &done["status"]), (&json!("succeeded"), &json!(201)), "{done}");
    assert_eq!((&done["result"]["name"], &done["error"]), (&json!("work"), &Value::Null), "{done}");
    let refused = site.client().finished(&again, LIMIT, |_| ());
    assert_eq!((&refused["state"], &refused["status"]), (&json!("failed"), &json!(409)), "{refused}");
    assert!(refused["error"]["error"].is_string() || refused["error"]["message"].is_string(), "{refused}");

    let ended = site.client().send("DELETE", &poll, &[], "");
    assert_eq!(ended.is(409).value()["code"], "conflict", "{ended}");
    site.client().send("DELETE", "/api/vms/work", &[], "").is(200);
    site.ends_as_it_began();
}

#[test]
fn a_client_that_hangs_up_does_not_end_its_work() {
    let site = Site::new();
    let asked = request("POST", "/api/vms", &[JSON], &site.new_vm().to_string());
    let connection = site.client().open(asked.as_bytes());
    let view = site.held();
    drop(connection);
    site.mirror.open_gate();
    let poll = format!("/api/operations/{}", view["id"].as_str().unwrap());
    wait_until("the create", || site.client().get(&poll).is(200).value()["state"] == "succeeded");
    site.client().get("/api/vms/work").is(200);
    site.client().send("DELETE", "/api/vms/work", &[], "").is(200);
    site.ends_as_it_began();
}

#[test]
fn what_is_cancelled_is_undone() {
    let site = Site::new();
    let accepted = site.create(&[LATER]);
    let queued = site.client().send("POST", "/api/vms/work/start", &[LATER], "");
    site.held();
    let poll = accepted.header("location").unwrap();
    let cancelled = site.client().send("DELETE", poll, &[], "");
    assert_eq!(cancelled.is(200).value()["state"], "cancelled", "{cancelled}");
    // Again is no error, as it is what was wanted.
    assert_eq!(site.client().send("DELETE", poll, &[], "").is(200).value()["state"], "cancelled");
    site.client().get("/api/vms/work").is(404);
    assert_eq!(site.client().finished(&queued, LIMIT, |_| ())["status"], 404);
    let service = |line: &str| line.starts_with("home") || line.starts_with("process vmprov");
    site.lab.settles_without(&site.before, service, "after the cancelled create");
    site.mirror.open_gate();
    let partial = site.lab.file(".cache/vmprov/downloads");
    let Site { service, lab, .. } = site;
    service.end().end().succeeded();
    // What came of the image is kept for the next try, and only that.
    let kept: Vec<_> = std::fs::read_dir(partial).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(kept.iter().any(|path| path.extension().is_some_and(|extension| extension == "part")), "{kept:?}");
    lab.run(&["image", "prune", "--all"]).succeeded();
}

#[test]
fn what_was_cancelled_in_the_queue_is_never_begun() {
    let site = Site::new();
    let first = site.create(&[LATER]);
    let second = site.client().send("POST", "/api/vms/work/protect", &[LATER], "");
    let third = site.client().send("POST", "/api/vms/work/start", &[LATER], "");
    site.held();
    let cancelled = site.client().send("DELETE", second.is(202).header("location").unwrap(), &[], "");
    let view = cancelled.is(200).value();
    assert_eq!((&view["state"], &view["started"]), (&json!("cancelled"), &Value::Null), "{view}");
    // Its place is kept: what stood behind it still waits for what stood before it.
    assert_eq!(site.client().get(third.header("location").unwrap()).value()["state"], "queued");
    site.mirror.open_gate();
    site.client().finished(&first, LIMIT, |_| ());
    assert_eq!(site.client().finished(&third, LIMIT, |_| ())["state"], "succeeded");
    assert_eq!(site.client().get("/api/vms/work").is(200).value()["protected"], false);
    site.client().send("DELETE", "/api/vms/work", &[], "").is(200);
    site.ends_as_it_began();
}

#[test]
fn the_same_idempotency_key_is_the_same_work() {
    let site = Site::new();
    let key = "Idempotency-Key: \"6e7b1b8e\"";
    let first = site.create(&[LATER, key]);
    site.held();
    let while_it_runs = site.create(&[LATER, key]);
    assert_eq!(while_it_runs.is(202).header("location"), first.header("location"));
    let other = site.client().send("POST", "/api/vms", &[JSON, key], r#"{"name":"other"}"#);
    assert_eq!(other.is(422).value()["code"], "key_reused", "{other}");
    assert!(other.value()["detail"].as_str().unwrap().contains("new key"), "{other}");
    let elsewhere = site.client().send("POST", "/api/vms/work/start", &[key], "");
    assert_eq!(elsewhere.is(422).value()["code"], "key_reused", "{elsewhere}");
    site.mirror.open_gate();
    let done = site.client().finished(&first, LIMIT, |_| ());
    // The members may stand in another order, and what is said may be left out.
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
    site.ends_as_it_began();
}

#[test]
fn what_is_asked_of_one_vm_is_done_in_that_order_but_power_is_cut_at_once() {
    let site = Site::new();
    let later = |method: &str, path: &str| site.client().send(method, &format!("/api/vms/work{path}"), &[LATER], "");
    let created = site.create(&[LATER]);
    let asked = [
        (later("POST", "/protect"), 200),
        (later("DELETE", ""), 409),
        (later("POST", "/unprotect"), 200),
        (later("POST", "/start"), 200),
        (later("DELETE", ""), 200),
        (later("POST", "/start"), 404),
    ];
    site.held();
    for (answer, _) in &asked {
        let view = site.client().get(answer.is(202).header("location").unwrap()).value();
        assert_eq!((&view["state"], &view["started"]), (&json!("queued"), &Value::Null), "{view}");
    }
    // The VM is not there yet, which is told without waiting for those in the queue; another VM has another queue.
    site.client().send("POST", "/api/vms/work/stop?force=true", &[], "").is(404);
    site.client().send("POST", "/api/vms/another/start", &[], "").is(404);
    assert_eq!(site.held()["state"], "running");
    site.mirror.open_gate();
    assert_eq!(site.client().finished(&created, LIMIT, |_| ())["status"], 201);
    for (answer, status) in &asked {
        let view = site.client().finished(answer, LIMIT, |_| ());
        assert_eq!(view["status"], *status, "{view}");
    }
    site.ends_as_it_began();
}

/// How many commands' outputs the load below has: nearly all that is kept.
const OUTPUTS: u64 = 14;

/// How many clients list the operations at the same time, and how often each.
const POLLERS: u32 = 50;
const POLLS: u32 = 4;

#[test]
fn results_are_not_in_the_list_of_operations_and_many_who_poll_it_cost_little_memory() {
    let lab = Lab::warm();
    // As ssh does, it says in its log that it was let in.
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
        let accepted = client.send("POST", "/api/vms/loud/exec", &[JSON, LATER], &exec);
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
                    assert_eq!(answer.is(200).body.len() / 100_000, 0, "results are in the list");
                    let listing = answer.value();
                    assert!(listing["operations"].as_array().unwrap().iter().all(|view| view["result"].is_null()));
                }
            });
        }
    });
    // One copy of the results, not one for each client.
    let more = service.running().peak_memory() - before;
    assert!(more <= OUTPUTS << 20, "{} MiB more than before", more >> 20);
    let view = client.get(&format!("/api/operations/{last}")).is(200).value();
    assert_eq!(view["result"]["stdout"].as_str().map(str::len), Some(1 << 20));
    service.end().end().succeeded();
    lab.run(&["vm", "delete", "loud", "--yes"]).succeeded();
}
