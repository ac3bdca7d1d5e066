//! The virsh that stays connected to a real libvirtd: it is used again, and replaced when it or its connection is lost.
#![expect(clippy::unwrap_used, reason = "clippy knows only the functions marked as tests")]

#[path = "support/http.rs"]
#[expect(dead_code, reason = "each test binary uses its own part")]
mod http;
#[path = "support/lab.rs"]
#[expect(dead_code, reason = "each test binary uses its own part")]
mod lab;
#[path = "support/mod.rs"]
#[expect(dead_code, reason = "each test binary uses its own part")]
mod support;

use std::{
    fs,
    net::Shutdown,
    os::unix::net::{UnixListener, UnixStream},
    path::Path,
    sync::{Arc, Mutex},
};

use http::Service;
use lab::{Lab, wait_until};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use support::{Running, TestHost};

/// Starts a service that calls the real virsh.
fn serve<'h>(host: &'h TestHost, uri: &str) -> (Service<Running<'h>>, Pid) {
    let socket = host.path("api.sock");
    let running = host.start(&["-c", uri, "serve", "--listen", &format!("unix:{}", socket.display())], "");
    let pid = running.id();
    (Service::new(running, Running::signal, socket), pid)
}

/// Returns the processes of virsh that wait for commands of the service.
fn sessions(service: Pid) -> Vec<Pid> {
    let of_service = |pid: &Pid| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let parent = stat.rsplit(") ").next().and_then(|rest| rest.split(' ').nth(1)?.parse().ok());
        let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let words: Vec<_> = command.split(|&byte| byte == 0).collect();
        parent == Some(service.as_raw_nonzero().get()) && matches!(words[..], [b"virsh", b"-q", b"-c", _, b""])
    };
    let entries = fs::read_dir("/proc").unwrap();
    let pids = entries.filter_map(|entry| Pid::from_raw(entry.ok()?.file_name().to_str()?.parse().ok()?));
    pids.filter(of_service).collect()
}

#[test]
fn one_virsh_answers_every_request_and_is_replaced_when_it_is_lost() {
    let lab = Lab::warm();
    let host = TestHost::bare().via(lab.nsenter());
    let (service, pid) = serve(&host, "qemu:///system");
    let list = || service.client.get("/api/vms").status;
    for _ in 0..5 {
        assert_eq!(list(), 200);
    }
    let first = sessions(pid);
    assert_eq!(first.len(), 1);
    // A change uses the same one, and so do its lease and its records.
    let vm = json!({"name": "web", "memory": 64, "vcpus": 1, "start": false});
    service.client.json("POST", "/api/vms", &vm).is(201);
    service.client.send("DELETE", "/api/vms/web", &[], "").is(200);
    assert!(sessions(pid).contains(&first[0]) && sessions(pid).len() <= 4, "{:?}", sessions(pid));

    for session in sessions(pid) {
        kill_process(session, Signal::KILL).unwrap();
    }
    assert_eq!(list(), 200);
    assert_eq!(sessions(pid).len(), 1);

    lab.stop_daemon();
    let unreachable = service.client.get("/api/vms");
    assert_eq!((unreachable.status, &unreachable.value()["code"]), (503, &"unreachable".into()), "{unreachable:?}");
    lab.start_daemon();
    assert_eq!(list(), 200);
    service.end().end().succeeds();
}

/// Forwards connections to libvirtd's socket until they are cut.
struct Proxy {
    streams: Arc<Mutex<Vec<UnixStream>>>,
}

impl Proxy {
    fn new(path: &Path, target: String) -> Self {
        let listener = UnixListener::bind(path).unwrap();
        let streams = Arc::new(Mutex::new(Vec::new()));
        let kept = streams.clone();
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let server = UnixStream::connect(&target).unwrap();
                for (from, to) in [(&client, &server), (&server, &client)] {
                    let (mut from, mut to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                    std::thread::spawn(move || {
                        // It ends when the connection is cut or closed.
                        let _ = std::io::copy(&mut from, &mut to);
                        let _ = to.shutdown(Shutdown::Both);
                    });
                }
                kept.lock().unwrap().extend([client, server]);
            }
        });
        Self { streams }
    }

    fn cut(&self) {
        for stream in self.streams.lock().unwrap().drain(..) {
            // It may have ended already.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

#[test]
fn a_connection_that_was_cut_is_replaced() {
    let lab = Lab::warm();
    let host = TestHost::bare().via(lab.nsenter());
    let socket = host.path("proxy.sock");
    // The socket as seen from outside the lab.
    let proxy = Proxy::new(&socket, format!("/proc/{}/root/run/libvirt/libvirt-sock", lab.nsenter()[2]));
    let (service, pid) = serve(&host, &format!("qemu+unix:///system?socket={}", socket.display()));
    for _ in 0..3 {
        assert_eq!(service.client.get("/api/vms").status, 200);
        let before = sessions(pid);
        assert_eq!(before.len(), 1);
        proxy.cut();
        // virsh reports the cut on its own.
        let is_noticed = || service.client.get("/api/vms").status == 200 && sessions(pid) != before;
        wait_until("a new virsh", is_noticed);
    }
    service.end().end().succeeds();
}
