//! A service whose virsh never answers.
#![expect(clippy::unwrap_used, reason = "clippy knows only the functions marked as tests")]

#[path = "support/http.rs"]
#[expect(dead_code, reason = "each test binary uses its own part")]
mod http;
#[path = "support/mod.rs"]
#[expect(dead_code, reason = "each test binary uses its own part")]
mod support;

use std::{
    fs, thread,
    time::{Duration, Instant},
};

use http::Client;
use support::{TestHost, within};

/// Far longer than it takes a service to listen.
const START: Duration = Duration::from_secs(20);

#[test]
fn identical_requests_share_a_hanging_virsh_and_other_requests_do_not_wait() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("calls");
    let script = format!("echo \"$*\" >>{}\nexec sleep 600", log.display());
    let host = TestHost::new().with_program("virsh", &script);
    let socket = host.path("api.sock");
    let address = format!("unix:{}", socket.display());
    let service = host.start(&["serve", "--listen", &address, "--drain", "0s"], "");
    let client = Client::at(&socket);
    assert!(within(START, || client.can_connect()), "{}", service.stderr());

    let clients: Vec<_> = (0..20).map(|_| client.clone()).collect();
    let lists = thread::spawn(move || {
        let threads: Vec<_> = clients.into_iter().map(|client| thread::spawn(move || client.get("/api/vms"))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect::<Vec<_>>()
    });
    let began = Instant::now();
    assert_eq!(client.get("/healthz").text(), "OK");
    let metrics = client.get("/metrics").text();
    assert!(metrics.contains("\nlibvirt_up 0\n"), "{metrics}");
    let ready = client.get("/readyz");
    assert_eq!(ready.status, 503, "{ready:?}");
    assert_eq!(ready.value()["details"]["checks"][0]["id"], "tools.virsh", "{ready:?}");
    // The other requests do not wait for the list, which times out after half a minute.
    assert!(began.elapsed() < Duration::from_secs(25) && !lists.is_finished());

    for list in lists.join().unwrap() {
        assert_eq!((list.status, &list.value()["code"]), (504, &"timeout".into()), "{list:?}");
    }
    let calls = fs::read_to_string(&log).unwrap();
    assert!(calls.lines().count() <= 4, "{calls}");

    service.signal(rustix::process::Signal::TERM);
    service.end().succeeds();
}
