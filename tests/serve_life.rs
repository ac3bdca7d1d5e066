//! The lifecycle of a service with a real libvirt: libvirtd stops and starts again, and the service is stopped while it
//! runs operations.
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

use std::{fs, thread};

use http::Client;
use lab::{Lab, Running, wait_until};
use mirror::{Fault, Mirror};
use rustix::process::Signal;
use serde_json::{Value, json};

/// A script that replaces genisoimage and runs until vmprov ends.
const STUCK: &str = "while kill -0 $PPID; do sleep 0.05; done 2>/dev/null";

/// Starts a service, and waits until it accepts connections.
fn serve(lab: &Lab, drain: &str) -> (Running, Client) {
    let socket = lab.file("api.sock");
    let address = format!("unix:{}", socket.display());
    let folder = lab.file("");
    let images = ["--allow-image-host", "127.0.0.1", "--allow-image-folder", folder.to_str().unwrap()];
    let running = lab.begin("", &[&["serve", "--listen", &address, "--drain", drain][..], &images].concat());
    let client = Client::at(&socket);
    wait_until("the service", || client.can_connect());
    (running, client)
}

fn create(image: &str) -> String {
    json!({"name": "web", "image": image, "user": "debian", "memory": 64, "vcpus": 1}).to_string()
}

/// Starts a create without waiting for it, and returns the URL to poll.
fn start_create(client: &Client, image: &str) -> String {
    let accepted =
        client.send("POST", "/api/vms", &["Content-Type: application/json", "Prefer: respond-async"], &create(image));
    assert_eq!(accepted.status, 202, "{accepted:?}");
    accepted.value()["poll"].as_str().unwrap().to_owned()
}

fn domains(lab: &Lab) -> String {
    lab.virsh(&["list", "--all", "--name"])
}

/// Returns whether a line of a snapshot is a file that vmprov caches about the host.
fn is_host_cache(line: &str) -> bool {
    line.starts_with("home .cache/")
}

/// Requests a path until the response meets a condition.
fn wait_for(client: &Client, path: &str, what: &str, is_met: impl Fn(u16, &Value) -> bool) {
    let mut last = String::new();
    wait_until(what, || {
        let answer = client.get(path);
        last = answer.text();
        is_met(answer.status, &serde_json::from_slice(&answer.body).unwrap_or_default())
    });
}

#[test]
fn a_service_reports_a_stopped_libvirtd_and_recovers_when_it_restarts() {
    let lab = Lab::warm();
    let before = lab.snapshot();
    let (service, client) = serve(&lab, "30s");
    assert_eq!(client.get("/readyz").status, 200);
    assert_eq!(client.get("/api/vms").status, 200);
    let events = client.follow("/api/events");
    wait_until("the connected event", || events.text().contains("\"connected\""));

    lab.stop_daemon();
    wait_until("the disconnected event", || events.text().contains("\"disconnected\""));
    let list = client.get("/api/vms");
    assert_eq!((list.status, &list.value()["code"]), (503, &"unreachable".into()), "{list:?}");
    wait_for(&client, "/readyz", "the service to be unready", |status, problem| {
        status == 503 && problem["details"]["checks"][0]["id"] == "daemon.reachable"
    });
    wait_until("libvirt_up 0 in the metrics", || client.get("/metrics").text().contains("\nlibvirt_up 0\n"));
    assert_eq!(client.get("/healthz").text(), "OK");

    lab.start_daemon();
    wait_for(&client, "/readyz", "the service to be ready", |status, ready| status == 200 && ready["ready"] == true);
    assert_eq!(client.get("/api/vms").status, 200);
    wait_until("libvirt_up 1 in the metrics", || client.get("/metrics").text().contains("\nlibvirt_up 1\n"));
    wait_until("the reset event", || events.text().contains("event: reset"));
    lab.virsh_with(
        &["define", "/dev/stdin"],
        "<domain type='qemu'><name>other</name><memory>65536</memory><os><type>hvm</type></os></domain>",
    );
    wait_until("the event of the new VM", || events.text().contains("\"vm\":\"other\""));
    lab.virsh(&["undefine", "--domain", "other"]);

    service.signal(Signal::TERM);
    assert_eq!(service.end().succeeded().code(), Some(0));
    wait_until("the end of the event stream", || events.has_ended());
    // libvirtd is a new process now.
    lab.settles_without(&before, |line| line.starts_with("process "), "after the service ended");
}

#[test]
fn a_create_that_exceeds_the_drain_limit_is_rolled_back() {
    let lab = Lab::warm();
    let image = lab.image("i.qcow2", "10M");
    lab.run(&["image", "pull", &image]).succeeded();
    let before = lab.snapshot();
    lab.fake("genisoimage", STUCK);
    // The drain ends at its limit in the first round, and at a second signal in the second round.
    for (drain, signals) in [("0s", 1), ("1h", 2)] {
        let (service, client) = serve(&lab, drain);
        let events = client.follow("/api/events?kind=operation");
        start_create(&client, &image);
        wait_until("the definition", || domains(&lab).contains("web"));
        service.signal(Signal::TERM);
        if signals == 2 {
            // Two signals at the same moment would count as one.
            wait_until("the closed socket", || !client.can_connect());
            service.signal(Signal::TERM);
        }
        service.end().succeeded();
        wait_until("the end of the event stream", || events.has_ended());
        assert!(events.text().contains("\"state\":\"cancelled\""), "{}", events.text());
        lab.settles_without(&before, is_host_cache, drain);
    }
}

#[test]
fn a_create_that_finishes_within_the_drain_limit_is_kept() {
    let lab = Lab::warm();
    let mirror = Mirror::inside(&lab.network());
    let image = lab.image("i.qcow2", "10M");
    let before = lab.snapshot();
    mirror.put("i.qcow2", fs::read(&image).unwrap());
    mirror.inject_faults("i.qcow2", [Fault::Hold(1000)]);
    let (service, client) = serve(&lab, "1h");
    let sender = client.clone();
    let body = create(&mirror.url("i.qcow2"));
    let answer = thread::spawn(move || sender.send("POST", "/api/vms", &["Content-Type: application/json"], &body));
    wait_until("the download", || mirror.sent() >= 1000);
    service.signal(Signal::TERM);
    wait_until("the closed socket", || !client.can_connect());
    mirror.release();
    let answer = answer.join().unwrap();
    assert_eq!(answer.status, 201, "{answer:?}");
    service.end().succeeded();
    assert!(domains(&lab).contains("web"));
    lab.run(&["vm", "delete", "web", "--yes"]).succeeded();
    lab.run(&["image", "delete", &mirror.url("i.qcow2")]).succeeded();
    lab.settles_without(&before, is_host_cache, "after the kept VM was deleted");
}

#[test]
fn the_leftovers_of_a_killed_service_are_removed_by_gc() {
    let lab = Lab::warm();
    let image = lab.image("i.qcow2", "10M");
    lab.run(&["image", "pull", &image]).succeeded();
    let before = lab.snapshot();
    lab.fake("genisoimage", STUCK);
    let (service, client) = serve(&lab, "30s");
    start_create(&client, &image);
    wait_until("the definition", || domains(&lab).contains("web"));
    service.signal(Signal::KILL);
    assert!(service.end().was_killed());
    lab.fake("genisoimage", "exec /usr/bin/genisoimage \"$@\"");

    let (service, client) = serve(&lab, "30s");
    assert!(domains(&lab).contains("web"));
    let cleaned = client.send("POST", "/api/gc", &[], "");
    assert_eq!(cleaned.status, 200, "{cleaned:?}");
    assert!(cleaned.value()["vms"].to_string().contains("web"), "{cleaned:?}");
    service.signal(Signal::TERM);
    service.end().succeeded();
    lab.settles_without(&before, is_host_cache, "after gc");
}
