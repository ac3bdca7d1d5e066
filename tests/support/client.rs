//! An HTTP client on a socket of the file system, which leads into any network namespace.

use std::{
    io::{Read, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

/// How long an answer may take before the test gives it up.
const LIMIT: Duration = Duration::from_mins(2);

/// A service, by its socket.
#[derive(Clone)]
pub(crate) struct Client(PathBuf);

/// An answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: String,
}

impl Answer {
    /// The body as JSON.
    #[track_caller]
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("no JSON ({error}): {self:?}"))
    }
}

impl Client {
    pub(crate) fn at(socket: &Path) -> Self {
        Self(socket.to_owned())
    }

    /// Whether somebody listens.
    pub(crate) fn is_answered(&self) -> bool {
        UnixStream::connect(&self.0).is_ok()
    }

    /// Sends a request, with a header perhaps, and reads the whole answer.
    pub(crate) fn ask(&self, line: &str, header: &str, body: &str) -> Answer {
        let mut stream = self.send(line, header, body, true);
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer to {line}: {text}"));
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Answer { status, body: body.to_owned() }
    }

    pub(crate) fn get(&self, path: &str) -> Answer {
        self.ask(&format!("GET {path}"), "", "")
    }

    /// Begins to read what is streamed.
    pub(crate) fn follow(&self, path: &str) -> Followed {
        let mut stream = self.send(&format!("GET {path}"), "", "", false);
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

    fn send(&self, line: &str, header: &str, body: &str, close: bool) -> UnixStream {
        let mut stream = UnixStream::connect(&self.0).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        let mut head = format!("{line} HTTP/1.1\r\nHost: localhost\r\n");
        if !header.is_empty() {
            head = format!("{head}{header}\r\n");
        }
        if close {
            head.push_str("Connection: close\r\n");
        }
        if !body.is_empty() {
            head = format!("{head}Content-Type: application/json\r\nContent-Length: {}\r\n", body.len());
        }
        stream.write_all(format!("{head}\r\n{body}").as_bytes()).unwrap();
        stream
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
