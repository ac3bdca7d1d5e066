//! `vmprov serve` in a test, and a minimal HTTP client that sends exactly the bytes that a test specifies. They use a
//! Unix socket, which is reachable from every network namespace.

use std::{
    io::{Read, Write},
    os::unix::net::UnixStream,
    path::PathBuf,
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use rustix::process::Signal;
use serde_json::Value;

/// How long a response may take: the timeout of the existing client.
const RESPONSE_LIMIT: Duration = Duration::from_mins(1);

/// How long the service may take to start listening.
const START_LIMIT: Duration = Duration::from_secs(20);

/// How often to check a condition.
const POLL: Duration = Duration::from_millis(20);

/// A running service. Dropping it kills the service.
pub(crate) struct Service<R> {
    pub(crate) client: Client,
    running: R,
    signal: fn(&R, Signal),
}

impl<R> Service<R> {
    /// Waits for a service that was started with `--listen unix:SOCKET` to accept connections.
    pub(crate) fn new(running: R, signal: fn(&R, Signal), socket: impl Into<PathBuf>) -> Self {
        let service = Self { client: Client::at(socket), running, signal };
        let deadline = Instant::now() + START_LIMIT;
        while !service.client.can_connect() {
            assert!(Instant::now() < deadline, "the service did not start listening");
            thread::sleep(POLL);
        }
        service
    }

    /// Returns the process of the service.
    pub(crate) fn running(&self) -> &R {
        &self.running
    }

    /// Sends SIGTERM and returns the process, for whose end the caller must wait.
    pub(crate) fn end(self) -> R {
        (self.signal)(&self.running, Signal::TERM);
        self.running
    }
}

/// A client that opens a connection for each request.
#[derive(Clone)]
pub(crate) struct Client {
    socket: PathBuf,
}

impl Client {
    pub(crate) fn at(socket: impl Into<PathBuf>) -> Self {
        Self { socket: socket.into() }
    }

    /// Returns whether the service accepts connections.
    pub(crate) fn can_connect(&self) -> bool {
        UnixStream::connect(&self.socket).is_ok()
    }

    /// Starts to read a stream.
    pub(crate) fn follow(&self, path: &str) -> FollowedStream {
        let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
        let mut stream = self.open(request.as_bytes());
        let followed = FollowedStream::default();
        let (text, ended) = (followed.text.clone(), followed.ended.clone());
        thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(count @ 1..) = stream.read(&mut bytes) {
                text.lock().unwrap().push_str(&String::from_utf8_lossy(&bytes[..count]));
            }
            *ended.lock().unwrap() = true;
        });
        followed
    }

    /// Sends bytes and returns the connection.
    pub(crate) fn open(&self, bytes: &[u8]) -> UnixStream {
        let mut stream = UnixStream::connect(&self.socket).unwrap();
        stream.set_read_timeout(Some(RESPONSE_LIMIT)).unwrap();
        // The service may close the connection before it has read everything.
        stream.write_all(bytes).ok();
        stream
    }

    /// Sends bytes and reads the response to its end.
    #[track_caller]
    pub(crate) fn raw(&self, bytes: &[u8]) -> Response {
        Response::read(self.open(bytes))
    }

    /// Sends a request; `head` holds additional header lines.
    #[track_caller]
    pub(crate) fn send(&self, method: &str, path: &str, head: &[&str], body: &str) -> Response {
        self.raw(request(method, path, head, body).as_bytes())
    }

    /// Sends a request with a JSON body.
    #[track_caller]
    pub(crate) fn json(&self, method: &str, path: &str, body: &Value) -> Response {
        self.send(method, path, &["Content-Type: application/json"], &body.to_string())
    }

    #[track_caller]
    pub(crate) fn get(&self, path: &str) -> Response {
        self.send("GET", path, &[], "")
    }

    /// Polls the operation of a 202 response until it has finished, and passes each state to `watch`. Panics after
    /// `limit`.
    #[track_caller]
    pub(crate) fn finished(&self, accepted: &Response, limit: Duration, mut watch: impl FnMut(&Value)) -> Value {
        let poll = accepted.is(202).header("location").unwrap_or_else(|| panic!("no Location: {accepted}"));
        let deadline = Instant::now() + limit;
        loop {
            let view = self.get(poll).is(200).value();
            watch(&view);
            if !view["finished"].is_null() {
                return view;
            }
            assert!(Instant::now() < deadline, "the operation did not finish: {view}");
            thread::sleep(POLL);
        }
    }
}

/// Returns the text of a request.
pub(crate) fn request(method: &str, path: &str, head: &[&str], body: &str) -> String {
    let lines: String = head.iter().flat_map(|line| [line, "\r\n"]).collect();
    let length = if body.is_empty() { String::new() } else { format!("Content-Length: {}\r\n", body.len()) };
    format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{lines}{length}\r\n{body}")
}

/// A response.
#[derive(Debug)]
pub(crate) struct Response {
    pub(crate) status: u16,
    head: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Response {
    #[track_caller]
    pub(crate) fn read(mut stream: UnixStream) -> Self {
        let mut bytes = Vec::new();
        // If the service did not read the whole request, the connection is reset after the response.
        if let Err(error) = stream.read_to_end(&mut bytes) {
            assert!(!bytes.is_empty(), "no response: {error}");
        }
        let end = bytes.windows(4).position(|window| window == b"\r\n\r\n");
        let end = end.unwrap_or_else(|| panic!("no response: {}", String::from_utf8_lossy(&bytes)));
        let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
        let (first, fields) = head.split_once("\r\n").unwrap_or((&head, ""));
        let fields = fields.lines().filter_map(|line| line.split_once(':'));
        let head = fields.map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned())).collect();
        Self { status: first.split(' ').nth(1).unwrap().parse().unwrap(), head, body: bytes[end + 4..].to_vec() }
    }

    /// Asserts that the status is `status`.
    #[track_caller]
    pub(crate) fn is(&self, status: u16) -> &Self {
        assert_eq!(self.status, status, "{self}");
        self
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// Parses the body as JSON.
    #[track_caller]
    pub(crate) fn value(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("invalid JSON ({error}): {self}"))
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

impl std::fmt::Display for Response {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {:?}\n{}", self.status, self.head, self.text())
    }
}

/// A stream that a thread reads in the background.
#[derive(Default)]
pub(crate) struct FollowedStream {
    text: Arc<Mutex<String>>,
    ended: Arc<Mutex<bool>>,
}

impl FollowedStream {
    /// Returns the text received so far.
    pub(crate) fn text(&self) -> String {
        self.text.lock().unwrap().clone()
    }

    /// Returns whether the service has ended the stream.
    pub(crate) fn has_ended(&self) -> bool {
        *self.ended.lock().unwrap()
    }
}
