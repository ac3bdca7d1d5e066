//! `vmprov serve` in a test, and a plain client of it: over a socket of the file system, which is there in every network
//! namespace, and byte for byte as the test says.

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

/// How long an answer may take: the existing client gives up after that.
const ANSWER_LIMIT: Duration = Duration::from_mins(1);

/// How long the service may take until it listens.
const START_LIMIT: Duration = Duration::from_secs(20);

/// How often is looked.
const POLL: Duration = Duration::from_millis(20);

/// A service, which is killed when it is dropped.
pub(crate) struct Service<R> {
    pub(crate) client: Client,
    running: R,
    signal: fn(&R, Signal),
}

impl<R> Service<R> {
    /// Waits until a service that was started with `--listen unix:SOCKET` listens.
    pub(crate) fn new(running: R, signal: fn(&R, Signal), socket: impl Into<PathBuf>) -> Self {
        let service = Self { client: Client::at(socket), running, signal };
        let deadline = Instant::now() + START_LIMIT;
        while !service.client.is_answered() {
            assert!(Instant::now() < deadline, "the service does not listen");
            thread::sleep(POLL);
        }
        service
    }

    /// Returns what runs it.
    pub(crate) fn running(&self) -> &R {
        &self.running
    }

    /// Tells it to end; its end is to be waited for.
    pub(crate) fn end(self) -> R {
        (self.signal)(&self.running, Signal::TERM);
        self.running
    }
}

/// A client, with a connection for each request.
#[derive(Clone)]
pub(crate) struct Client {
    socket: PathBuf,
}

impl Client {
    pub(crate) fn at(socket: impl Into<PathBuf>) -> Self {
        Self { socket: socket.into() }
    }

    /// Whether somebody listens.
    pub(crate) fn is_answered(&self) -> bool {
        UnixStream::connect(&self.socket).is_ok()
    }

    /// Begins to read what is streamed.
    pub(crate) fn follow(&self, path: &str) -> Followed {
        let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
        let mut stream = self.open(request.as_bytes());
        let followed = Followed::default();
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

    /// Sends bytes and leaves the rest to the caller.
    pub(crate) fn open(&self, bytes: &[u8]) -> UnixStream {
        let mut stream = UnixStream::connect(&self.socket).unwrap();
        stream.set_read_timeout(Some(ANSWER_LIMIT)).unwrap();
        // A service that has read enough may have closed it before everything is sent.
        stream.write_all(bytes).ok();
        stream
    }

    /// Sends bytes and reads the answer to its end.
    #[track_caller]
    pub(crate) fn raw(&self, bytes: &[u8]) -> Answer {
        Answer::read(self.open(bytes))
    }

    /// Sends a request; `head` has further lines.
    #[track_caller]
    pub(crate) fn send(&self, method: &str, path: &str, head: &[&str], body: &str) -> Answer {
        self.raw(request(method, path, head, body).as_bytes())
    }

    /// Sends JSON and nothing else.
    #[track_caller]
    pub(crate) fn json(&self, method: &str, path: &str, body: &Value) -> Answer {
        self.send(method, path, &["Content-Type: application/json"], &body.to_string())
    }

    #[track_caller]
    pub(crate) fn get(&self, path: &str) -> Answer {
        self.send("GET", path, &[], "")
    }

    /// Polls the operation that an answer leads to until it has ended; `watch` sees each state of it. Without an end
    /// within the limit the test fails.
    #[track_caller]
    pub(crate) fn finished(&self, accepted: &Answer, limit: Duration, mut watch: impl FnMut(&Value)) -> Value {
        let poll = accepted.is(202).header("location").unwrap_or_else(|| panic!("no Location: {accepted}"));
        let deadline = Instant::now() + limit;
        loop {
            let view = self.get(poll).is(200).value();
            watch(&view);
            if !view["finished"].is_null() {
                return view;
            }
            assert!(Instant::now() < deadline, "it does not end: {view}");
            thread::sleep(POLL);
        }
    }
}

/// The text of a request.
pub(crate) fn request(method: &str, path: &str, head: &[&str], body: &str) -> String {
    let lines: String = head.iter().flat_map(|line| [line, "\r\n"]).collect();
    let length = if body.is_empty() { String::new() } else { format!("Content-Length: {}\r\n", body.len()) };
    format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{lines}{length}\r\n{body}")
}

/// An answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    head: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    #[track_caller]
    pub(crate) fn read(mut stream: UnixStream) -> Self {
        let mut bytes = Vec::new();
        // Where more was sent than was read, the connection is reset after the answer.
        if let Err(error) = stream.read_to_end(&mut bytes) {
            assert!(!bytes.is_empty(), "no answer: {error}");
        }
        let end = bytes.windows(4).position(|window| window == b"\r\n\r\n");
        let end = end.unwrap_or_else(|| panic!("no answer: {}", String::from_utf8_lossy(&bytes)));
        let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
        let (first, fields) = head.split_once("\r\n").unwrap_or((&head, ""));
        let fields = fields.lines().filter_map(|line| line.split_once(':'));
        let head = fields.map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned())).collect();
        Self { status: first.split(' ').nth(1).unwrap().parse().unwrap(), head, body: bytes[end + 4..].to_vec() }
    }

    /// It has this status.
    #[track_caller]
    pub(crate) fn is(&self, status: u16) -> &Self {
        assert_eq!(self.status, status, "{self}");
        self
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// The body as JSON.
    #[track_caller]
    pub(crate) fn value(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("no JSON ({error}): {self}"))
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

impl std::fmt::Display for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {:?}\n{}", self.status, self.head, self.text())
    }
}

/// What has been streamed so far.
#[derive(Default)]
pub(crate) struct Followed {
    text: Arc<Mutex<String>>,
    ended: Arc<Mutex<bool>>,
}

impl Followed {
    pub(crate) fn text(&self) -> String {
        self.text.lock().unwrap().clone()
    }

    /// Whether the service has ended the stream.
    pub(crate) fn has_ended(&self) -> bool {
        *self.ended.lock().unwrap()
    }
}
