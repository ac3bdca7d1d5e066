//! The lifecycle of a real guest over HTTP. Every response arrives within a minute, even if the operation takes longer.
#![expect(clippy::unwrap_used, reason = "clippy knows only the functions marked as tests")]

#[path = "support/arguments.rs"]
mod arguments;
#[path = "support/http.rs"]
#[expect(dead_code, reason = "each test binary uses its own part")]
mod http;
#[path = "support/lab.rs"]
#[expect(dead_code, reason = "each test binary uses its own part")]
mod lab;
#[path = "support/mirror.rs"]
#[expect(dead_code, reason = "each test binary uses its own part")]
mod mirror;

use std::{process::Command, thread, time::Duration};

use arguments::ArgumentWatcher;
use http::{Response, Service};
use lab::{Lab, Running, wait_until};
use mirror::{Fault, Mirror};
use serde_json::{Value, json};

/// How long a guest may take to come up or go down.
const LIMIT: Duration = Duration::from_mins(12);

/// The image's file name, from which vmprov knows the login user.
const FILE: &str = "debian-12.qcow2";

/// Text that is part of the requests and appears nowhere else on this machine.
const CONTENT: &str = "content-of-a-request";

const JSON: &str = "Content-Type: application/json";

struct Site {
    service: Option<Service<Running>>,
    mirror: Mirror,
    lab: Lab,
}

impl Drop for Site {
    /// A failed test leaves no guest running.
    fn drop(&mut self) {
        if thread::panicking() {
            self.lab.run(&["vm", "delete", "web", "www", "--yes", "--ignore-missing"]);
        }
    }
}

impl Site {
    fn send(&self, method: &str, path: &str, prefer: &str, body: &Value) -> Response {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        self.service.as_ref().unwrap().client.send(method, path, &[JSON, &format!("Prefer: {prefer}")], &body)
    }

    /// Sends a request, and polls if it takes longer than a second. The operation must succeed.
    #[track_caller]
    fn ok(&self, method: &str, path: &str, body: &Value) -> Value {
        let answer = self.send(method, path, "wait=1", body);
        if answer.status != 202 {
            assert!(answer.status < 300, "{method} {path}: {answer}");
            return answer.value();
        }
        let done = self.service.as_ref().unwrap().client.finished(&answer, LIMIT, |_| ());
        assert_eq!(done["state"], "succeeded", "{method} {path}: {done}");
        done["result"].clone()
    }

    /// Runs a command in the guest, and returns the result.
    #[track_caller]
    fn exec(&self, request: &Value) -> Value {
        self.ok("POST", "/api/vms/web/exec", request)
    }

    #[track_caller]
    fn get(&self, path: &str) -> Response {
        self.send("GET", path, "wait=1", &Value::Null)
    }

    /// Sends a request like [`Self::ok`], and checks that no process has its content in the arguments.
    #[track_caller]
    fn ok_unseen(&self, method: &str, path: &str, body: &Value) -> Value {
        let body = serde_json::from_str(&body.to_string().replace("CONTENT", CONTENT)).unwrap();
        let watched = ArgumentWatcher::new("virsh", &[CONTENT]);
        let done = self.ok(method, path, &body);
        assert_eq!(watched.seen(), ["virsh"], "{method} {path}");
        done
    }
}

#[test]
fn a_guest_goes_through_its_lifecycle_over_http() {
    let lab = Lab::qemu();
    lab.use_real_virsh();
    let mirror = Mirror::inside(&lab.network());
    let built = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/lab/image")).output().unwrap();
    let image = std::fs::read(String::from_utf8(built.stdout).unwrap().trim()).unwrap();
    let half = image.len() / 2;
    mirror.put(FILE, image);
    let tiny = lab.image("tiny.qcow2", "10M");
    lab.run(&["vm", "create", "warm", "--image", &tiny, "--user", "debian", "--no-start"]).succeeded();
    lab.run(&["vm", "delete", "warm", "--yes"]).succeeded();
    lab.run(&["image", "prune", "--all"]).succeeded();
    let before = lab.snapshot();
    let service = Service::new(lab.serve(&[]), Running::signal, lab.socket());
    let mut site = Site { service: Some(service), mirror, lab };

    create_with_progress(&site, half);
    access(&site);
    change(&site);
    pause_and_reset(&site);
    rename(&site);
    let deleted = site.ok("DELETE", "/api/vms/www", &Value::Null);
    assert_eq!((&deleted["status"], &deleted["kept"]), (&json!("deleted"), &json!([])), "{deleted}");
    site.get("/api/vms/www").is(404);
    for key in ["first", "second"] {
        site.ok("DELETE", &format!("/api/ssh-keys/{key}"), &Value::Null);
    }
    site.ok("POST", "/api/images/prune", &json!({"all": true}));
    site.service.take().unwrap().end().end().succeeded();
    // The known_hosts files for plain ssh are removed by the next `ssh-config`.
    site.lab.settles_without(&before, |line| line.contains("known_hosts-"), "after everything was deleted");
}

/// Creates keys, and a VM whose image downloads slowly, so that its progress is visible.
fn create_with_progress(site: &Site, half: usize) {
    for key in ["first", "second"] {
        site.ok("POST", "/api/ssh-keys", &json!({"name": key, "type": "ed25519"}));
    }
    site.mirror.inject_faults(FILE, [Fault::Hold(half)]);
    let data = format!("#cloud-config\nbootcmd:\n- echo {CONTENT}\n");
    let new = json!({"name": "web", "imageUrl": site.mirror.url(FILE), "memory": 640, "vcpus": 1, "sshKeys": ["first"],
        "userData": data});
    let watched = ArgumentWatcher::new("virsh", &[CONTENT]);
    let accepted = site.send("POST", "/api/vms", "wait=5", &new);
    let poll = accepted.is(202).header("location").unwrap().to_owned();
    assert_eq!(accepted.header("preference-applied"), Some("wait=5"));
    wait_until("half of the image", || {
        let view = site.get(&poll).is(200).value();
        view["bytesDone"] == half
            && view["bytesTotal"].as_u64() > view["bytesDone"].as_u64()
            && view["step"].is_string()
    });
    site.mirror.release();
    let client = &site.service.as_ref().unwrap().client;
    let done = client.finished(&accepted, LIMIT, |_| ());
    assert_eq!(watched.seen(), ["virsh"]);
    assert_eq!((&done["state"], &done["status"]), (&json!("succeeded"), &json!(201)), "{done}");
    assert_eq!((&done["result"]["state"], &done["result"]["user"]), (&json!("running"), &json!("debian")), "{done}");
    let listed = site.get("/api/vms").is(200).value();
    assert!(listed["vms"].as_array().unwrap().iter().any(|vm| vm["name"] == "web"), "{listed}");
}

/// Waits for the guest, and accesses it in every way that HTTP offers.
fn access(site: &Site) {
    let waited = site.ok("POST", "/api/vms/web/wait", &json!({"for": "cloud-init", "timeout": "12m"}));
    assert_eq!(waited["reached"], "cloud-init", "{waited}");
    for via in ["ssh", "agent"] {
        let ran = site.exec(&json!({"command": ["uname", "-n"], "via": via}));
        assert_eq!(
            (&ran["exitStatus"], &ran["stdout"], &ran["via"]),
            (&json!(0), &json!("web\n"), &json!(via)),
            "{ran}"
        );
        let ran = site.exec(&json!({"command": ["sh", "-c", "cat; echo no >&2; exit 7"], "stdin": "a\nü", "via": via}));
        assert_eq!((&ran["exitStatus"], &ran["stdout"]), (&json!(7), &json!("a\nü")), "{ran}");
        assert!(ran["stderr"].as_str().unwrap().contains("no"), "{ran}");
        let script = "# CONTENT %h 'é'\n\tcat; printf '%s|' \"$@\"";
        let request = json!({"command": ["sh", "-c", script, "x", "", " a\t\"b\" ", "CONTENT ü\n"], "stdin": "CONTENT\n", "via": via});
        let ran = site.ok_unseen("POST", "/api/vms/web/exec", &request);
        assert_eq!(ran["stdout"], format!("{CONTENT}\n| a\t\"b\" |{CONTENT} ü\n|"), "{ran}");
    }
    let logs = site.get("/api/vms/web/logs?lines=500").is(200).value();
    assert!(
        logs["lines"].as_array().unwrap().iter().any(|line| line.as_str().unwrap().contains("web login")),
        "{logs}"
    );
    let screenshot = site.get("/api/vms/web/screenshot");
    assert_eq!(screenshot.is(200).header("content-type"), Some("image/png"));
    assert!(screenshot.body.starts_with(b"\x89PNG\r\n\x1a\n"));
    let addresses = site.get("/api/vms/web/addresses").is(200).value();
    assert!(addresses["addresses"].as_array().is_some_and(|list| !list.is_empty()), "{addresses}");
}

/// Gives the VM another key, a time to live and a description, and stops and starts it.
fn change(site: &Site) {
    let second = site.get("/api/ssh-keys/second").is(200).value()["publicKey"].as_str().unwrap().to_owned();
    let watched = ArgumentWatcher::new("virsh", &[second.split(' ').nth(1).unwrap()]);
    let injected = site.ok("POST", "/api/vms/web/ssh-keys/second", &Value::Null);
    assert_eq!(watched.seen(), ["virsh"]);
    assert_eq!((&injected["status"], &injected["key"]), (&json!("injected"), &json!("second")), "{injected}");
    assert_eq!((&injected["method"], &injected["restartNeeded"]), (&json!("agent"), &json!(false)), "{injected}");
    let keys = site.exec(&json!({"command": ["grep", "-c", ".", ".ssh/authorized_keys"]}));
    assert_eq!(keys["stdout"], "2\n", "{keys}");
    let expiry = site.ok("PUT", "/api/vms/web/ttl", &json!({"ttl": "2h"}));
    assert!(expiry["expires"].is_string(), "{expiry}");
    let text = format!("for the web: {CONTENT}\n é");
    let new = json!({"description": text.replace(CONTENT, "CONTENT"), "autostart": true});
    let edited = site.ok_unseen("PATCH", "/api/vms/web", &new);
    assert_eq!(edited["changed"], true, "{edited}");
    let stopped = site.ok("POST", "/api/vms/web/stop", &json!({"timeout": "12m"}));
    assert_eq!((&stopped["status"], &stopped["forced"]), (&json!("stopped"), &json!(false)), "{stopped}");
    let shown = site.get("/api/vms/web").is(200).value();
    assert_eq!((&shown["state"], &shown["autostart"]), (&json!("shut off"), &json!(true)), "{shown}");
    assert_eq!((&shown["description"], &shown["expires"]), (&json!(text), &expiry["expires"]), "{shown}");
    let started = site.ok("POST", "/api/vms/web/start", &Value::Null);
    assert_eq!((&started["status"], &started["state"]), (&json!("started"), &json!("running")), "{started}");
}

/// Waits for a login, and returns the ID of the guest's boot.
fn boot_id(site: &Site, vm: &str) -> Value {
    site.ok("POST", &format!("/api/vms/{vm}/wait"), &json!({"timeout": "12m"}));
    let command = json!({"command": ["cat", "/proc/sys/kernel/random/boot_id"], "via": "ssh"});
    site.ok("POST", &format!("/api/vms/{vm}/exec"), &command)["stdout"].clone()
}

/// A paused guest does not respond, and continues where it was; a reset one boots again.
fn pause_and_reset(site: &Site) {
    let boot = boot_id(site, "web");
    let paused = site.ok("POST", "/api/vms/web/pause", &Value::Null);
    assert_eq!((&paused["status"], &paused["state"]), (&json!("paused"), &json!("paused")), "{paused}");
    site.send("POST", "/api/vms/web/exec", "wait=30", &json!({"command": ["true"]})).is(409);
    let waited = site.send("POST", "/api/vms/web/wait", "wait=30", &json!({"timeout": "3s"}));
    assert!(waited.is(504).value()["hint"].as_str().unwrap().contains("POST /api/vms/web/resume"), "{waited}");
    let resumed = site.ok("POST", "/api/vms/web/resume", &Value::Null);
    assert_eq!((&resumed["status"], &resumed["state"]), (&json!("resumed"), &json!("running")), "{resumed}");
    assert_eq!(boot_id(site, "web"), boot, "the guest was restarted");
    let reset = site.ok("POST", "/api/vms/web/reset", &Value::Null);
    assert_eq!((&reset["status"], &reset["state"]), (&json!("reset"), &json!("running")), "{reset}");
    wait_until("the guest to go down", || {
        let waited = site.send("POST", "/api/vms/web/wait", "wait=30", &json!({"timeout": "1s"}));
        waited.status == 504
    });
    assert_ne!(boot_id(site, "web"), boot, "the guest was not reset");
}

/// A renamed guest is reached by its new name, and knows itself by the old one.
fn rename(site: &Site) {
    site.ok("POST", "/api/vms/web/stop", &json!({"timeout": "12m"}));
    let renamed = site.ok("POST", "/api/vms/web/rename", &json!({"newName": "www"}));
    assert_eq!((&renamed["vm"], &renamed["oldName"]), (&json!("www"), &json!("web")), "{renamed}");
    site.get("/api/vms/web").is(404);
    site.ok("POST", "/api/vms/www/start", &Value::Null);
    boot_id(site, "www");
    let ran = site.ok("POST", "/api/vms/www/exec", &json!({"command": ["uname", "-n"], "via": "ssh"}));
    assert_eq!(ran["stdout"], "web\n", "{ran}");
}
