//! An HTTP(S) client: it follows redirects, uses proxies, always verifies TLS, and retries where that can help.
//!
//! Every wait for data has a limit, but a whole transfer has none.

mod public_only;
mod route;

use std::{
    io::Read,
    sync::mpsc::{Receiver, RecvTimeoutError, sync_channel},
    time::{Duration, Instant},
};

pub use public_only::UrlTrust;
use route::{FinalResponse, Routes};
use ureq::http::{HeaderMap, header};

use crate::{
    cancel::Cancel,
    error::{Code, Error, Hint, Result},
    model::proxy::Proxies,
};

/// The longest that connecting may take, however long the stall timeout is.
const CONNECT_LIMIT: Duration = Duration::from_secs(30);

/// The interval at which a transfer checks for cancellation.
const POLL: Duration = Duration::from_millis(50);

/// The number of attempts in a row that may fail without progress.
const MAX_ATTEMPTS: u32 = 5;

/// The longest pause between two attempts, also if a server's `Retry-After` asks for more.
const MAX_PAUSE: Duration = Duration::from_mins(1);

/// The size limit of a text file. Checksum files of whole releases have about 100 KiB.
const MAX_TEXT: usize = 4 << 20;

/// An observer of a transfer.
pub trait Listener {
    /// `done` bytes are downloaded in total, of `total` if the server declared the length.
    fn bytes(&self, _done: u64, _total: Option<u64>) {}
    /// `bytes` more bytes were received.
    fn received(&self, _bytes: u64) {}
    /// An attempt failed; the next one begins after a pause.
    fn retry(&self, _error: &Error, _pause: Duration) {}
}

impl Listener for () {}

/// An HTTP(S) client.
#[derive(Clone)]
pub struct Http {
    routes: Routes,
    /// How far the URLs are trusted.
    trust: UrlTrust,
    /// How long a server may send nothing.
    stall_timeout: Duration,
    cancel: Cancel,
}

/// What a request asks for, if not for the whole file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Conditions {
    /// Only the bytes from this offset on, if the file still has this validator (`Range`, `If-Range`; RFC 9110,
    /// section 13.1.5).
    pub resume: Option<(u64, String)>,
    /// Nothing if the file still has this entity tag (`If-None-Match`).
    pub etag: Option<String>,
    /// Nothing if the file has not changed since this date (`If-Modified-Since`).
    pub last_modified: Option<String>,
}

/// The head of a response, and its body as it arrives.
pub struct Answer {
    /// The status after redirects.
    pub status: u16,
    /// Whether every hop used TLS.
    pub tls: bool,
    /// The URL after redirects.
    pub url: String,
    headers: HeaderMap,
    chunks: Receiver<Message>,
    stall_timeout: Duration,
    cancel: Cancel,
}

/// Why an attempt failed, and whether another one can help.
#[derive(Debug)]
pub struct Failure {
    /// What to report if this was the last attempt.
    pub error: Error,
    /// The shortest pause before the next attempt, zero unless the server asks for one. `None` if no retry can help.
    pub retry_after: Option<Duration>,
    /// Whether this attempt made progress, so that the next one counts as the first.
    pub progressed: bool,
}

impl Failure {
    /// Returns a failure that a retry cannot help.
    pub const fn permanent(error: Error) -> Self {
        Self { error, retry_after: None, progressed: false }
    }

    /// Returns a failure that a retry may help.
    pub const fn transient(error: Error) -> Self {
        Self { error, retry_after: Some(Duration::ZERO), progressed: false }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::permanent(error)
    }
}

enum Message {
    Head {
        status: u16,
        tls: bool,
        url: String,
        headers: HeaderMap,
    },
    Failed(ureq::Error),
    /// The result of one read. An empty chunk is the end.
    Chunk(std::io::Result<Vec<u8>>),
}

impl Http {
    /// Returns a client whose requests fail if a server sends nothing for `stall_timeout`. `cancel` ends them.
    pub fn new(stall_timeout: Duration, proxies: &Proxies, cancel: Cancel) -> Self {
        Self { routes: Routes::new(stall_timeout, proxies), trust: UrlTrust::Request, stall_timeout, cancel }
    }

    /// Sends one request. A response with an error status is not a failure.
    pub fn get(&self, url: &str, conditions: &Conditions) -> Result<Answer, Failure> {
        // A content encoding would be decoded on the way, so that the length would not match.
        let mut headers = vec![(header::ACCEPT_ENCODING, "identity".to_owned())];
        if let Some((from, validator)) = &conditions.resume {
            headers.extend([(header::RANGE, format!("bytes={from}-")), (header::IF_RANGE, validator.clone())]);
        }
        headers.extend(conditions.etag.iter().map(|etag| (header::IF_NONE_MATCH, etag.clone())));
        headers.extend(conditions.last_modified.iter().map(|date| (header::IF_MODIFIED_SINCE, date.clone())));
        let (routes, trust, requested) = (self.routes.clone(), self.trust, url.to_owned());
        let (sender, chunks) = sync_channel(4);
        // A separate thread does the I/O, so that neither a stalled server nor a slow resolver blocks this one.
        std::thread::spawn(move || {
            let FinalResponse { response, url, tls } = match routes.get(&requested, trust, &headers) {
                Ok(response) => response,
                Err(error) => return drop(sender.send(Message::Failed(error))),
            };
            let (status, headers) = (response.status().as_u16(), response.headers().clone());
            let head = Message::Head { status, tls, url, headers };
            let mut is_wanted = sender.send(head).is_ok();
            let mut body = response.into_body().into_reader();
            // The receiver is dropped when the transfer is given up.
            while is_wanted {
                let mut chunk = vec![0; 1 << 18];
                let read = body.read(&mut chunk).map(|read| {
                    chunk.truncate(read);
                    chunk
                });
                let has_more = matches!(&read, Ok(chunk) if !chunk.is_empty());
                is_wanted = sender.send(Message::Chunk(read)).is_ok() && has_more;
            }
        });
        // Each hop limits resolving, connecting and waiting for the response separately.
        let limit = (self.stall_timeout * 3 + CONNECT_LIMIT) * 2;
        match receive(&chunks, limit, &self.cancel)? {
            Some(Message::Head { status, tls, url, headers }) => {
                let (stall_timeout, cancel) = (self.stall_timeout, self.cancel.clone());
                Ok(Answer { status, tls, url, headers, chunks, stall_timeout, cancel })
            }
            Some(Message::Failed(error)) => Err(failed(url, &error)),
            _ => Err(stalled(url, self.stall_timeout)),
        }
    }

    /// Fetches a text file of moderate size. Returns `None` if the server says that it does not exist.
    pub fn text(&self, url: &str, listener: &dyn Listener) -> Result<Option<Text>> {
        self.retrying(listener, || self.text_once(url))
    }

    /// Fetches a text file in one attempt.
    pub fn text_once(&self, url: &str) -> Result<Option<Text>, Failure> {
        let mut answer = self.get(url, &Conditions::default())?;
        match answer.status {
            200 => {}
            // Object stores respond with 403 if an object does not exist.
            403 | 404 | 410 => return Ok(None),
            _ => return Err(answer.refusal(url)),
        }
        let mut bytes = Vec::new();
        while let Some(chunk) = answer.chunk(url)? {
            bytes.extend(chunk);
            if bytes.len() > MAX_TEXT {
                let error = Error::invalid(format!("`{url}` is larger than {MAX_TEXT} bytes, the limit of text files"));
                return Err(Failure::permanent(error));
            }
        }
        if answer.length().is_some_and(|length| length != bytes.len() as u64) {
            return Err(truncated(url, bytes.len() as u64, answer.length(), "the connection was closed"));
        }
        Ok(Some(Text { bytes, tls: answer.tls }))
    }

    /// Repeats `attempt` until it succeeds, a retry cannot help or too many attempts failed.
    ///
    /// The pauses grow. They are proportional to the stall timeout, so that a short timeout also means a quick failure.
    pub fn retrying<T>(&self, listener: &dyn Listener, mut attempt: impl FnMut() -> Result<T, Failure>) -> Result<T> {
        let mut failed = 0;
        loop {
            let Failure { error, retry_after, progressed } = match attempt() {
                Ok(done) => return Ok(done),
                Err(failure) => failure,
            };
            failed = if progressed { 1 } else { failed + 1 };
            let Some(min_pause) = retry_after.filter(|_| failed < MAX_ATTEMPTS) else { return Err(error) };
            let pause = (self.stall_timeout / 30 * 2_u32.pow(failed - 1)).max(min_pause).min(MAX_PAUSE);
            listener.retry(&error, pause);
            let end = Instant::now() + pause;
            while Instant::now() < end {
                self.cancel.check()?;
                std::thread::sleep(POLL.min(pause));
            }
        }
    }
}

/// A text file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Text {
    /// Its content.
    pub bytes: Vec<u8>,
    /// Whether every hop used TLS.
    pub tls: bool,
}

impl Answer {
    /// Returns the next chunk of the body, or `None` at its end.
    pub fn chunk(&mut self, url: &str) -> Result<Option<Vec<u8>>, Failure> {
        match receive(&self.chunks, self.stall_timeout, &self.cancel)? {
            Some(Message::Chunk(Ok(chunk))) if chunk.is_empty() => Ok(None),
            Some(Message::Chunk(Ok(chunk))) => Ok(Some(chunk)),
            Some(Message::Chunk(Err(error))) => Err(truncated(url, 0, None, &error.to_string())),
            _ => Err(stalled(url, self.stall_timeout)),
        }
    }

    /// Returns the length of the body, if the server declared it.
    pub fn length(&self) -> Option<u64> {
        self.header(header::CONTENT_LENGTH)?.parse().ok()
    }

    /// Returns what `Content-Range` says: the offset of the body (`None` with status 416), and the length of the file.
    pub fn range(&self) -> Option<(Option<u64>, Option<u64>)> {
        let (range, total) = self.header(header::CONTENT_RANGE)?.strip_prefix("bytes ")?.split_once('/')?;
        Some((range.split_once('-').and_then(|(from, _)| from.parse().ok()), total.parse().ok()))
    }

    /// Returns the entity tag.
    pub fn etag(&self) -> Option<String> {
        self.header(header::ETAG).map(str::to_owned)
    }

    /// Returns the `Last-Modified` header, as the server sent it.
    pub fn last_modified(&self) -> Option<String> {
        self.header(header::LAST_MODIFIED).map(str::to_owned)
    }

    fn header(&self, name: header::HeaderName) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// Returns the failure that the status means.
    pub fn refusal(&self, url: &str) -> Failure {
        let (code, hint) = match self.status {
            404 | 410 => (Code::NotFound, "Check the publisher's site for the image's current URL"),
            401 | 403 | 407 => (Code::Denied, "Use a URL that requires no login"),
            _ => (Code::Unreachable, "Try again later"),
        };
        let error = Error::new(code, format!("cannot fetch `{url}`"))
            .because(format!("the server responded with HTTP status {}", self.status))
            .hint(hint);
        let seconds = || self.header(header::RETRY_AFTER)?.parse().ok().map(Duration::from_secs);
        match self.status {
            408 | 425 | 429 | 500 | 502 | 503 | 504 => {
                Failure { retry_after: Some(seconds().unwrap_or_default()), ..Failure::transient(error) }
            }
            _ => Failure::permanent(error),
        }
    }
}

/// Returns the next message, or `None` if none arrives within `limit` or the sender is gone.
fn receive<T>(messages: &Receiver<T>, limit: Duration, cancel: &Cancel) -> Result<Option<T>> {
    let deadline = Instant::now() + limit;
    loop {
        cancel.check()?;
        match messages.recv_timeout(POLL) {
            Ok(message) => return Ok(Some(message)),
            Err(RecvTimeoutError::Timeout) if Instant::now() < deadline => {}
            Err(_) => return Ok(None),
        }
    }
}

fn stalled(url: &str, stall_timeout: Duration) -> Failure {
    let error = Error::new(Code::Timeout, format!("no data from `{url}` for {} s", stall_timeout.as_secs_f32()))
        .hint("Try again later")
        .hint("Raise the setting stall-timeout if the server is slow");
    Failure::transient(error)
}

/// Returns the failure of a transfer that ended too early.
pub(super) fn truncated(url: &str, done: u64, length: Option<u64>, why: &str) -> Failure {
    let of = length.map(|length| format!(" of {length}")).unwrap_or_default();
    let error = Error::new(Code::Unreachable, format!("the transfer of `{url}` ended after {done}{of} bytes"))
        .because(why)
        .hint("Try again; the transfer resumes where it ended, if the server supports that");
    Failure::transient(error)
}

/// Returns the failure of a request that got no response.
fn failed(url: &str, error: &ureq::Error) -> Failure {
    if let ureq::Error::Other(other) = error
        && let Some(denied) = other.downcast_ref::<Error>()
    {
        // The error may name the URL of a redirect.
        return Failure::permanent(Error { message: format!("cannot fetch `{url}`"), ..denied.clone() });
    }
    let untrusted = || {
        vec![
            Hint::run("Add the server's certificate authority to this host's", "update-ca-certificates"),
            Hint::new("Map the host to a mirror"),
        ]
    };
    let unreachable = || {
        vec![
            Hint::new("Check that this machine can reach the server"),
            Hint::new("Set HTTPS_PROXY if connections need a proxy"),
        ]
    };
    let (code, is_transient, hints) = match error {
        ureq::Error::BadUri(_) | ureq::Error::Http(_) => {
            (Code::InvalidInput, false, vec!["Use a URL that begins with http:// or https://".into()])
        }
        ureq::Error::Rustls(_) | ureq::Error::Tls(_) => (Code::Unreachable, false, untrusted()),
        ureq::Error::Timeout(_) => (Code::Timeout, true, unreachable()),
        ureq::Error::InvalidProxyUrl => {
            (Code::InvalidInput, false, vec!["Correct the proxy in HTTPS_PROXY, HTTP_PROXY or ALL_PROXY".into()])
        }
        ureq::Error::TooManyRedirects | ureq::Error::RedirectFailed | ureq::Error::Protocol(_) => {
            let command = format!("curl -v {}", shell_words::quote(url));
            (Code::Unreachable, false, vec![Hint::run("Check how the server or the proxy responds", command)])
        }
        // Certificate errors of rustls arrive wrapped in an I/O error.
        ureq::Error::Io(io) if io.to_string().contains("certificate") => (Code::Unreachable, false, untrusted()),
        _ => (Code::Unreachable, true, unreachable()),
    };
    let error = Error { hints, ..Error::new(code, format!("cannot fetch `{url}`")).because(error) };
    if is_transient { Failure::transient(error) } else { Failure::permanent(error) }
}
