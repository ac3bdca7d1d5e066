//! Signals to a service, and its notifications to the service manager.
#![expect(clippy::unwrap_used, reason = "clippy knows only the functions marked as tests")]

#[path = "support/http.rs"]
#[expect(dead_code, reason = "each test binary uses its own part")]
mod http;
#[path = "support/mod.rs"]
#[expect(dead_code, reason = "each test binary uses its own part")]
mod support;

use std::{
    io::{Read, Write},
    os::unix::net::{UnixDatagram, UnixStream},
    time::Duration,
};

use http::Client;
use rustix::process::Signal;
use support::{Running, TestHost, within};

/// Far longer than anything here takes.
const LIMIT: Duration = Duration::from_secs(30);

fn serve(host: &TestHost) -> (Running<'_>, Client) {
    let socket = host.path("api.sock");
    let service = host.start(&["serve", "--listen", &format!("unix:{}", socket.display())], "");
    let client = Client::at(&socket);
    assert!(within(LIMIT, || client.can_connect()), "{}", service.stderr());
    (service, client)
}

/// Returns the next notification that is not the watchdog's.
fn next_notification(manager: &UnixDatagram) -> String {
    let mut bytes = [0; 1024];
    loop {
        let count = manager.recv(&mut bytes).unwrap();
        let text = String::from_utf8_lossy(&bytes[..count]).trim().to_owned();
        if text != "WATCHDOG=1" {
            return text;
        }
    }
}

#[test]
fn the_manager_is_notified_of_start_reload_and_shutdown() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notify");
    let manager = UnixDatagram::bind(&path).unwrap();
    manager.set_read_timeout(Some(LIMIT)).unwrap();
    let host = TestHost::new().with_env("NOTIFY_SOCKET", path.to_str().unwrap());
    let (service, client) = serve(&host);
    assert_eq!(next_notification(&manager), "READY=1");
    service.signal(Signal::HUP);
    let reloading = next_notification(&manager);
    assert!(reloading.starts_with("RELOADING=1\nMONOTONIC_USEC="), "{reloading}");
    assert_eq!(next_notification(&manager), "READY=1");
    assert_eq!(client.get("/healthz").text(), "OK");
    service.signal(Signal::TERM);
    let stopping = next_notification(&manager);
    assert!(stopping.starts_with("STOPPING=1\nEXTEND_TIMEOUT_USEC="), "{stopping}");
    service.end().succeeds();
}

#[test]
fn the_watchdog_is_notified_repeatedly() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notify");
    let manager = UnixDatagram::bind(&path).unwrap();
    manager.set_read_timeout(Some(LIMIT)).unwrap();
    let host = TestHost::new().with_env("NOTIFY_SOCKET", path.to_str().unwrap()).with_env("WATCHDOG_USEC", "20000");
    let (service, _) = serve(&host);
    let mut bytes = [0; 1024];
    let mut seen = 0;
    while seen < 3 {
        let count = manager.recv(&mut bytes).unwrap();
        seen += usize::from(&bytes[..count] == b"WATCHDOG=1\n" || &bytes[..count] == b"WATCHDOG=1");
    }
    service.signal(Signal::TERM);
    service.end().succeeds();
}

#[test]
fn shutdown_closes_idle_connections_and_ends_event_streams() {
    let host = TestHost::new();
    let (service, client) = serve(&host);
    let events = client.follow("/api/events");
    assert!(within(LIMIT, || events.text().contains("\"connected\"")), "{}", events.text());
    let mut idle = UnixStream::connect(host.path("api.sock")).unwrap();
    idle.set_read_timeout(Some(LIMIT)).unwrap();
    idle.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    let mut answer = String::new();
    let mut bytes = [0; 1024];
    while !answer.ends_with("OK") {
        let count = idle.read(&mut bytes).unwrap();
        answer.push_str(&String::from_utf8_lossy(&bytes[..count]));
    }
    service.signal(Signal::TERM);
    assert_eq!(idle.read(&mut bytes).unwrap(), 0);
    assert!(within(LIMIT, || events.has_ended()));
    service.end().succeeds();
    assert!(!host.path("api.sock").exists());
}

#[test]
fn requests_are_counted_by_route_template() {
    let host = TestHost::new();
    let (service, client) = serve(&host);
    assert_eq!(client.get("/api/vms/not-there").status, 404);
    assert_eq!(client.get("/nobody/knows/this").status, 404);
    let metrics = client.get("/metrics").text();
    for route in ["/api/vms/{vm}", "none"] {
        let line = format!("vmprov_http_requests_total{{route=\"{route}\",method=\"GET\",code=\"404\"}} 1");
        assert!(metrics.lines().any(|other| other == line), "no {line} in {metrics}");
    }
    assert!(!metrics.contains("not-there") && !metrics.contains("nobody"), "{metrics}");
    service.signal(Signal::INT);
    service.end().succeeds();
}
