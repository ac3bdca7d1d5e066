//! The client that existed before vmprov works unchanged: it sends its requests with Java's HTTP client and with curl
//! to `vmprov serve` and a real libvirt.
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

use std::{fs, process::Command};

use http::Service;
use lab::{Lab, Running};
use mirror::Mirror;

const URL: &str = "http://127.0.0.1:8092";

/// Runs a program inside the lab; it must succeed.
#[track_caller]
fn client(lab: &Lab, program: &[&str]) -> String {
    let [enter, words @ ..] = lab.nsenter();
    let ran = Command::new(enter).args(words).args(program).output().unwrap();
    let output = format!("{}{}", String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
    assert!(ran.status.success(), "{program:?}:\n{output}");
    output
}

#[test]
fn the_existing_client_works_unchanged() {
    let lab = Lab::qemu();
    let mirror = Mirror::inside(&lab.network());
    let built = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/lab/image")).output().unwrap();
    let image = String::from_utf8(built.stdout).unwrap();
    // The default login user is derived from the file name.
    mirror.put("debian-12.qcow2", fs::read(image.trim()).unwrap());
    let image = mirror.url("debian-12.qcow2");
    lab.run(&["vm", "delete", "existing-vm", "curl-vm", "--yes", "--ignore-missing"]).succeeded();
    lab.run(&["vm", "create", "warm", "--image", &image, "--no-start"]).succeeded();
    lab.run(&["vm", "delete", "warm", "--yes"]).succeeded();
    let before = lab.snapshot();

    let service = Service::new(lab.serve(&[]), Running::signal, lab.socket());
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/client");
    let output = client(&lab, &["java", &format!("{folder}/ExistingClient.java"), URL, &image]);
    assert!(output.lines().count() > 80 && output.lines().all(|line| line.starts_with("ok: ")), "{output}");
    client(&lab, &[&format!("{folder}/existing-client.sh"), URL, &image]);

    service.end().end().succeeded();
    lab.settles(&before, "after both clients");
    lab.run(&["image", "prune", "--all"]).succeeded();
}
