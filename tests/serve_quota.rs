//! A token's quota, with a libvirt that several processes share: concurrent creates do not exceed it.
#![expect(clippy::unwrap_used, reason = "clippy knows only the functions marked as tests")]

#[path = "support/lab.rs"]
#[expect(dead_code, reason = "each test binary uses its own part")]
mod lab;

use std::{
    io::{Read, Write},
    os::unix::net::UnixStream,
    path::Path,
};

use lab::{Lab, wait_until};
use rustix::process::Signal;
use serde_json::{Value, json};

/// The token. The token file contains its digest.
const SECRET: &str = "agent-0123456789abcdef";

/// Sends a request, and returns the status and the body of the response.
fn send(socket: &Path, method: &str, path: &str, body: &Value) -> (u16, Value) {
    let mut stream = UnixStream::connect(socket).unwrap();
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let head = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {SECRET}\r\n");
    let length = body.len();
    write!(stream, "{head}Content-Length: {length}\r\nConnection: close\r\n\r\n{body}").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head[9..12].parse().unwrap(), serde_json::from_str(body).unwrap_or_default())
}

fn new_vm(name: &str) -> Value {
    json!({"name": name, "start": false, "vcpus": 2, "memory": 64, "diskSize": "1G"})
}

#[test]
fn concurrent_creates_stay_within_the_quota() {
    let lab = Lab::in_memory();
    let _held = lab.keep_connected();
    let sha256 = vmprov::model::digest::of(SECRET.as_bytes());
    let quota = "quota = {vms = 3, vcpus = 7}";
    let tokens = format!("[[token]]\nname='agent1'\nscope='operate'\nsha256='{sha256}'\nprefix='a1-'\n{quota}\n");
    let tokens = lab.write("tokens.toml", tokens);
    let socket = lab.file("api.sock");
    let address = format!("unix:{}", socket.display());
    let service = lab.begin("", &["serve", "--listen", &address, "--tokens", &tokens]);
    wait_until("the service", || UnixStream::connect(&socket).is_ok());

    // VMs that the command line creates have no owner.
    lab.run(&["vm", "create", "a1-operators", "--no-start", "--disk-size", "1"]).succeeded();
    let create = |number: usize| send(&socket, "POST", "/api/vms", &new_vm(&format!("a1-{number}")));
    let answers: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..10).map(|number| scope.spawn(move || create(number))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let created: Vec<_> = answers.iter().filter(|(status, _)| *status == 201).collect();
    assert_eq!(created.len(), 3, "{answers:?}");
    for (status, body) in answers.iter().filter(|(status, _)| *status != 201) {
        assert_eq!((*status, &body["code"]), (403, &"quota_exceeded".into()), "{body}");
    }

    let (_, vm) = created[0];
    assert_eq!(vm["owner"], "agent1");
    let path = format!("/api/vms/{}", vm["name"].as_str().unwrap());
    let (status, refused) = send(&socket, "PATCH", &path, &json!({"vcpus": 4}));
    assert_eq!((status, &refused["details"]["wanted"]), (403, &8.into()), "{refused}");
    assert_eq!(send(&socket, "PATCH", &path, &json!({"vcpus": 3})).0, 200);
    // A replaced VM does not count in addition to its replacement.
    let mut again = new_vm(vm["name"].as_str().unwrap());
    again["ifExists"] = "replace".into();
    assert_eq!(send(&socket, "POST", "/api/vms", &again).1["status"], "replaced");
    // A deleted VM does not count any more.
    assert_eq!(send(&socket, "DELETE", &path, &Value::Null).0, 200);
    assert_eq!(send(&socket, "POST", "/api/vms", &new_vm("a1-last")).0, 201);

    service.signal(Signal::TERM);
    service.end().succeeded();
}
