//! How a service lives and ends, with a real libvirt: libvirtd goes and comes back, and the service is told to end in the midst
//! of its work.
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

/// What stands in front of genisoimage and does not end before vmprov does.
const STUCK: &str = "while kill -0 $PPID; do sleep 0.05; done 2>/dev/null";

/// Starts a service, and waits until it answers.
fn serve(lab: &Lab, drain: &str) -> (Running, Client) {
    let socket = lab.file("api.sock");
    let place = format!("unix:{}", socket.display());
    let folder = lab.file("");
    let images = ["--allow-image-host", "127.0.0.1", "--allow-image-folder", folder.to_str().unwrap()];
    let running = lab.begin("", &[&["serve", "--listen", &place, "--drain", drain][..], &images].concat());
    let client = Client::at(&socket);
    wait_until("the service", || client.is_answered());
    (running, client)
}

fn create(image: &str) -> String {
    json!({"name": "web", "image": image, "user": "debian", "memory": 64, "vcpus": 1}).to_string()
}

/// Orders a VM and does not wait for it; returns where to ask.
fn order(client: &Client, image: &str) -> String {
    let accepted =
        client.send("POST", "/api/vms", &["Content-Type: application/json", "Prefer: respond-async"], &create(image));
    assert_eq!(accepted.status, 202, "{accepted:?}");
    accepted.value()["poll"].as_str().unwrap().to_owned()
}

fn domains(lab: &Lab) -> String {
    lab.virsh(&["list", "--all", "--name"])
}

/// What vmprov has found out of the host, and keeps.
fn is_of_the_host(line: &str) -> bool {
    line.starts_with("home .cache/")
}

/// What is asked for until it is so.
fn wait_for(client: &Client, path: &str, what: &str, is_so: impl Fn(u16, &Value) -> bool) {
    let mut last = String::new();
    wait_until(what, || {
        let answer = client.get(path);
        last = answer.text();
        is_so(answer.status, &serde_json::from_slice(&answer.body).unwrap_or_default())
    });
}

#[test]
fn a_libvirtd_that_goes_is_told_and_all_is_well_when_it_is_back() {
    let lab = Lab::warm();
    let before = lab.snapshot();
    let (service, client) = serve(&lab, "30s");
    assert_eq!(client.get("/readyz").status, 200);
    assert_eq!(client.get("/api/vms").status, 200);
    let events = client.follow("/api/events");
    wait_until("the events' libvirt", || events.text().contains("\"connected\""));

    lab.stop_daemon();
    wait_until("the news", || events.text().contains("\"disconnected\""));
    let list = client.get("/api/vms");
    assert_eq!((list.status, &list.value()["code"]), (503, &"unreachable".into()), "{list:?}");
    wait_for(&client, "/readyz", "the service to be unready", |status, problem| {
        status == 503 && problem["details"]["checks"][0]["id"] == "daemon.reachable"
    });
    wait_until("the metrics to tell", || client.get("/metrics").text().contains("\nlibvirt_up 0\n"));
    assert_eq!(client.get("/healthz").text(), "OK");

    lab.start_daemon();
    wait_for(&client, "/readyz", "the service to be ready", |status, ready| status == 200 && ready["ready"] == true);
    assert_eq!(client.get("/api/vms").status, 200);
    wait_until("the metrics", || client.get("/metrics").text().contains("\nlibvirt_up 1\n"));
    wait_until("the events to go on", || events.text().contains("event: reset"));
    lab.virsh_with(
        &["define", "/dev/stdin"],
        "<domain type='qemu'><name>other</name><memory>65536</memory><os><type>hvm</type></os></domain>",
    );
    wait_until("an event", || events.text().contains("\"vm\":\"other\""));
    lab.virsh(&["undefine", "--domain", "other"]);

    service.signal(Signal::TERM);
    assert_eq!(service.end().succeeded().code(), Some(0));
    wait_until("the stream's end", || events.has_ended());
    // libvirtd is another process now.
    lab.settles_without(&before, |line| line.starts_with("process "), "a service that has ended");
}

#[test]
fn a_create_that_is_not_finished_in_time_is_undone() {
    let lab = Lab::warm();
    let image = lab.image("i.qcow2", "10M");
    lab.run(&["image", "pull", &image]).succeeded();
    let before = lab.snapshot();
    lab.fake("genisoimage", STUCK);
    // The first time it is the limit that ends the waiting, the second time a second signal.
    for (drain, signals) in [("0s", 1), ("1h", 2)] {
        let (service, client) = serve(&lab, drain);
        let events = client.follow("/api/events?kind=operation");
        order(&client, &image);
        wait_until("the definition", || domains(&lab).contains("web"));
        service.signal(Signal::TERM);
        if signals == 2 {
            // Signals that come together are one.
            wait_until("the closed socket", || !client.is_answered());
            service.signal(Signal::TERM);
        }
        service.end().succeeded();
        wait_until("the stream's end", || events.has_ended());
        assert!(events.text().contains("\"state\":\"cancelled\""), "{}", events.text());
        lab.settles_without(&before, is_of_the_host, drain);
    }
}

#[test]
fn a_create_that_finishes_in_time_is_kept_and_answered() {
    let lab = Lab::warm();
    let mirror = Mirror::inside(&lab.network());
    let image = lab.image("i.qcow2", "10M");
    let before = lab.snapshot();
    mirror.put("i.qcow2", fs::read(&image).unwrap());
    mirror.spoil("i.qcow2", [Fault::Hold(1000)]);
    let (service, client) = serve(&lab, "1h");
    let asker = client.clone();
    let body = create(&mirror.url("i.qcow2"));
    let answer = thread::spawn(move || asker.send("POST", "/api/vms", &["Content-Type: application/json"], &body));
    wait_until("the download", || mirror.sent() >= 1000);
    service.signal(Signal::TERM);
    wait_until("the closed socket", || !client.is_answered());
    mirror.open_gate();
    let answer = answer.join().unwrap();
    assert_eq!(answer.status, 201, "{answer:?}");
    service.end().succeeded();
    assert!(domains(&lab).contains("web"));
    lab.run(&["vm", "delete", "web", "--yes"]).succeeded();
    lab.run(&["image", "delete", &mirror.url("i.qcow2")]).succeeded();
    lab.settles_without(&before, is_of_the_host, "a VM that was kept, and deleted");
}

#[test]
fn what_a_killed_service_has_left_is_cleaned_up_by_the_next() {
    let lab = Lab::warm();
    let image = lab.image("i.qcow2", "10M");
    lab.run(&["image", "pull", &image]).succeeded();
    let before = lab.snapshot();
    lab.fake("genisoimage", STUCK);
    let (service, client) = serve(&lab, "30s");
    order(&client, &image);
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
    lab.settles_without(&before, is_of_the_host, "gc");
}
