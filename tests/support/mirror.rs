//! A web server with injectable faults, on the loopback of this machine or of the lab.

use std::{
    collections::{BTreeMap, VecDeque},
    io::{BufRead, BufReader, Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc::channel,
    },
    thread,
    time::Duration,
};

/// How long the server keeps a connection silent at most: far longer than any test's client waits.
const MAX_SILENCE: Duration = Duration::from_mins(2);

/// A running server. Dropping it stops the server.
pub(crate) struct Mirror {
    /// `http://127.0.0.1:PORT`
    pub(crate) url: String,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    files: Mutex<BTreeMap<String, Served>>,
    requests: Mutex<Vec<String>>,
    sent: AtomicU64,
    /// Whether responses paused by [`Fault::Hold`] may continue.
    released: (Mutex<bool>, Condvar),
    ended: AtomicBool,
}

/// A file and how it is served.
#[derive(Clone, Default)]
pub(crate) struct Served {
    pub(crate) body: Vec<u8>,
    pub(crate) etag: Option<String>,
    pub(crate) last_modified: Option<String>,
    /// Whether the server supports `Range`.
    pub(crate) ranges: bool,
    /// Whether the server honors `Range` without evaluating `If-Range`, and omits the entity tag.
    pub(crate) ignores_if_range: bool,
    /// The faults of the next requests, one each.
    pub(crate) faults: VecDeque<Fault>,
}

/// A fault in the response to one request.
#[derive(Clone, Debug)]
pub(crate) enum Fault {
    /// Responds with this status.
    Status(u16),
    /// Responds with this status and `Retry-After` in seconds.
    RetryAfter(u16, u64),
    /// Redirects to this URL.
    Redirect(String),
    /// Closes the connection after this many bytes.
    Cut(usize),
    /// Sends nothing after this many bytes.
    Stall(usize),
    /// Pauses after this many bytes until [`Mirror::release`].
    Hold(usize),
    /// Sends this incorrect `Content-Length`.
    Length(usize),
    /// Omits `Content-Length`, so that the body ends with the connection.
    NoLength,
}

impl Mirror {
    /// Starts a server on this machine's loopback.
    pub(crate) fn new() -> Self {
        Self::bind(|| ())
    }

    /// Starts a server on the loopback of another network namespace, given as `/proc/PID/ns/net`.
    pub(crate) fn inside(namespace: &str) -> Self {
        let namespace = std::fs::File::open(namespace).unwrap();
        Self::bind(move || {
            let kind = Some(rustix::thread::LinkNameSpaceType::Network);
            rustix::thread::move_into_link_name_space(std::os::fd::AsFd::as_fd(&namespace), kind).unwrap();
        })
    }

    fn bind(enter: impl FnOnce() + Send + 'static) -> Self {
        let state = Arc::new(State::default());
        let (sender, receiver) = channel();
        let shared = state.clone();
        thread::spawn(move || {
            enter();
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            sender.send(listener.local_addr().unwrap()).unwrap();
            for connection in listener.incoming() {
                if shared.ended.load(Ordering::SeqCst) {
                    return;
                }
                let state = shared.clone();
                // An error only means that the client has closed the connection.
                thread::spawn(move || drop(serve(&state, connection.unwrap())));
            }
        });
        Self { url: format!("http://{}", receiver.recv().unwrap()), state }
    }

    /// Returns the URL of a file.
    pub(crate) fn url(&self, path: &str) -> String {
        format!("{}/{path}", self.url)
    }

    /// Serves a file without faults, with support for ranges and with an entity tag.
    pub(crate) fn put(&self, path: &str, body: impl Into<Vec<u8>>) {
        let body = body.into();
        let sum = body.iter().fold(0_u64, |sum, &byte| sum.wrapping_mul(31).wrapping_add(byte.into()));
        let served = Served { etag: Some(format!("\"{sum:x}\"")), ranges: true, body, ..Served::default() };
        self.serve(path, served);
    }

    /// Serves a file as `served` specifies.
    pub(crate) fn serve(&self, path: &str, served: Served) {
        self.state.files.lock().unwrap().insert(format!("/{path}"), served);
    }

    /// Stops serving a file.
    pub(crate) fn remove(&self, path: &str) {
        self.state.files.lock().unwrap().remove(&format!("/{path}"));
    }

    /// Injects faults into the next requests for a file, one each.
    pub(crate) fn inject_faults(&self, path: &str, faults: impl IntoIterator<Item = Fault>) {
        let mut files = self.state.files.lock().unwrap();
        files.entry(format!("/{path}")).or_default().faults.extend(faults);
    }

    /// Returns the requests since the last call: `GET /PATH`, the range, and the status.
    pub(crate) fn requests(&self) -> Vec<String> {
        std::mem::take(&mut self.state.requests.lock().unwrap())
    }

    /// Returns how many bytes of bodies were sent so far.
    pub(crate) fn sent(&self) -> u64 {
        self.state.sent.load(Ordering::SeqCst)
    }

    /// Lets responses paused by [`Fault::Hold`] continue.
    pub(crate) fn release(&self) {
        *self.state.released.0.lock().unwrap() = true;
        self.state.released.1.notify_all();
    }
}

impl Drop for Mirror {
    fn drop(&mut self) {
        self.state.ended.store(true, Ordering::SeqCst);
        self.release();
    }
}

fn serve(state: &State, mut connection: TcpStream) -> std::io::Result<()> {
    let mut lines = BufReader::new(connection.try_clone()?);
    let mut head = read_head(&mut lines)?;
    if head.first().is_some_and(|line| line.starts_with("CONNECT ")) {
        // The server acts as a proxy and answers for every host.
        state.requests.lock().unwrap().push(head[0].clone());
        connection.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n")?;
        head = read_head(&mut lines)?;
    }
    let target = head.first().and_then(|line| line.split(' ').nth(1)).unwrap_or_default().to_owned();
    let path = match target.split_once("://") {
        Some((_, rest)) => rest.find('/').map_or("/", |at| &rest[at..]).to_owned(),
        None => target,
    };
    let path = path.split('?').next().unwrap_or_default().to_owned();
    let header = |name: &str| {
        let line = head.iter().find(|line| line.to_ascii_lowercase().starts_with(&format!("{name}:")))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    };
    let (served, fault) = {
        let mut files = state.files.lock().unwrap();
        let fault = files.get_mut(&path).and_then(|served| served.faults.pop_front());
        (files.get(&path).cloned(), fault)
    };
    let served = served.unwrap_or_else(|| Served { faults: [Fault::Status(404)].into(), ..Served::default() });
    let fault = fault.or_else(|| served.faults.front().filter(|_| served.body.is_empty()).cloned());
    let range =
        header("range").and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse::<usize>().ok());
    let mut status = 200;
    let mut fields = Vec::new();
    let mut body = &served.body[..];
    let tag = served.etag.as_ref().filter(|_| !served.ignores_if_range);
    fields.extend(tag.map(|etag| format!("ETag: {etag}")));
    fields.extend(served.last_modified.as_ref().map(|date| format!("Last-Modified: {date}")));
    let is_same = header("if-range").is_some_and(|validator| {
        [&served.etag, &served.last_modified].into_iter().any(|known| known.as_ref() == Some(&validator))
    });
    if let Some(from) = range.filter(|_| served.ranges && (is_same || served.ignores_if_range)) {
        let length = served.body.len();
        (status, body) = if from < length { (206, &served.body[from..]) } else { (416, &[][..]) };
        fields.push(match status {
            206 => format!("Content-Range: bytes {from}-{}/{length}", length - 1),
            _ => format!("Content-Range: bytes */{length}"),
        });
    }
    let unchanged = header("if-none-match").is_some_and(|tag| Some(tag) == served.etag)
        || header("if-modified-since").is_some_and(|date| Some(date) == served.last_modified);
    if unchanged {
        (status, body) = (304, &[][..]);
    }
    let mut length = Some(body.len());
    match &fault {
        Some(Fault::Status(other)) => (status, body, length) = (*other, &[][..], Some(0)),
        Some(Fault::RetryAfter(other, seconds)) => {
            (status, body, length) = (*other, &[][..], Some(0));
            fields.push(format!("Retry-After: {seconds}"));
        }
        Some(Fault::Redirect(to)) => {
            (status, body, length) = (302, &[][..], Some(0));
            fields.push(format!("Location: {to}"));
        }
        Some(Fault::Length(other)) => length = Some(*other),
        Some(Fault::NoLength) => length = None,
        _ => {}
    }
    fields.extend(length.map(|length| format!("Content-Length: {length}")));
    let requested = range.map(|from| format!(" {from}-")).unwrap_or_default();
    state.requests.lock().unwrap().push(format!("GET {path}{requested} {status}"));
    let head = format!("HTTP/1.1 {status} Said\r\nConnection: close\r\n{}\r\n\r\n", fields.join("\r\n"));
    connection.write_all(head.as_bytes())?;
    let mut send = |bytes: &[u8]| {
        for chunk in bytes.chunks(1 << 16) {
            connection.write_all(chunk)?;
            state.sent.fetch_add(chunk.len() as u64, Ordering::SeqCst);
        }
        std::io::Result::Ok(())
    };
    match fault {
        Some(Fault::Cut(at)) => send(&body[..at.min(body.len())])?,
        Some(Fault::Stall(at)) => {
            send(&body[..at.min(body.len())])?;
            connection.set_read_timeout(Some(MAX_SILENCE))?;
            // Waits until the client closes the connection.
            lines.read_exact(&mut [0]).ok();
        }
        Some(Fault::Hold(at)) => {
            let at = at.min(body.len());
            send(&body[..at])?;
            let released = state.released.0.lock().unwrap();
            drop(state.released.1.wait_timeout_while(released, MAX_SILENCE, |released| !*released).unwrap());
            send(&body[at..])?;
        }
        _ => send(body)?,
    }
    connection.shutdown(Shutdown::Both)
}

fn read_head(lines: &mut impl BufRead) -> std::io::Result<Vec<String>> {
    let mut head = Vec::new();
    loop {
        let mut line = String::new();
        if lines.read_line(&mut line)? == 0 || line.trim().is_empty() {
            return Ok(head);
        }
        head.push(line.trim_end().to_owned());
    }
}
