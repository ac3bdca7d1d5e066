//! Asking over HTTP(S): redirects and proxies honoured, TLS always verified, a bound on every silence and none on the
//! whole, and another try where that can help.

mod public_only;
mod route;

use std::{
    io::Read,
    sync::mpsc::{Receiver, RecvTimeoutError, sync_channel},
    time::{Duration, Instant},
};

pub use public_only::UrlTrust;
use route::{Arrival, Routes};
use ureq::http::{HeaderMap, header};

use crate::{
    cancel::Cancel,
    error::{Code, Error, Result},
    model::proxy::Proxies,
};

/// The most that connecting may take, however patient one is with a silence.
const CONNECT_LIMIT: Duration = Duration::from_secs(30);

/// How often a transfer looks whether it has been cancelled.
const POLL: Duration = Duration::from_millis(50);

/// How often something is tried before it is given up.
const TRIES: u32 = 5;

/// The longest pause that a server's `Retry-After` is heeded for.
const LONGEST_PAUSE: Duration = Duration::from_mins(1);

/// The most that a text may have: checksum files of whole releases have some 100 KiB.
const MOST_TEXT: usize = 4 << 20;

/// Told of a transfer.
pub trait Listener {
    /// So many bytes are there, of how many where the server says so.
    fn bytes(&self, _done: u64, _total: Option<u64>) {}
    /// So many more bytes have come.
    fn received(&self, _bytes: u64) {}
    /// A try failed; the next one begins after a pause.
    fn retry(&self, _error: &Error, _pause: Duration) {}
}

impl Listener for () {}

/// Asks over HTTP(S).
#[derive(Clone)]
pub struct Http {
    routes: Routes,
    /// Who gives the URLs.
    giver: UrlTrust,
    /// How long a server may be silent.
    patience: Duration,
    cancel: Cancel,
}

/// What of a file is wanted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Conditions {
    /// Only what comes behind so many bytes, if the file still has this validator (`Range`, `If-Range`; RFC 9110,
    /// section 13.1.5).
    pub behind: Option<(u64, String)>,
    /// Nothing, if the file still has this entity tag (`If-None-Match`).
    pub etag: Option<String>,
    /// Nothing, if the file was not changed since (`If-Modified-Since`).
    pub last_modified: Option<String>,
}

/// The head of an answer, and its body as it comes.
pub struct Answer {
    /// The status, after redirects.
    pub status: u16,
    /// Whether every hop on the way had TLS.
    pub tls: bool,
    /// The address that answered, after redirects.
    pub url: String,
    headers: HeaderMap,
    chunks: Receiver<Message>,
    patience: Duration,
    cancel: Cancel,
}

/// Why a try failed, and whether another one can help.
#[derive(Debug)]
pub struct Failure {
    /// What to report when it is the last one.
    pub error: Error,
    /// The least pause before the next try, where the server says so; none where no try can help.
    pub again: Option<Duration>,
    /// Whether this try got on, so that the next is as good as a first one.
    pub progressed: bool,
}

impl Failure {
    /// One that another try cannot mend.
    pub const fn lasting(error: Error) -> Self {
        Self { error, again: None, progressed: false }
    }

    /// One that another try may mend.
    pub const fn passing(error: Error) -> Self {
        Self { error, again: Some(Duration::ZERO), progressed: false }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::lasting(error)
    }
}

enum Message {
    Head {
        status: u16,
        tls: bool,
        url: String,
        headers: HeaderMap,
    },
    Refused(ureq::Error),
    /// What was read at once; an empty one is the end.
    Chunk(std::io::Result<Vec<u8>>),
}

impl Http {
    /// Asks with `patience` for a server's silences; `cancel` ends it.
    pub fn new(patience: Duration, proxies: &Proxies, cancel: Cancel) -> Self {
        Self { routes: Routes::new(patience, proxies), giver: UrlTrust::Request, patience, cancel }
    }

    /// Asks once. A status that is none of success is an answer, too.
    pub fn get(&self, url: &str, conditions: &Conditions) -> Result<Answer, Failure> {
        // A content encoding would be undone on the way, and the length then be another one.
        let mut headers = vec![(header::ACCEPT_ENCODING, "identity".to_owned())];
        if let Some((from, validator)) = &conditions.behind {
            headers.extend([(header::RANGE, format!("bytes={from}-")), (header::IF_RANGE, validator.clone())]);
        }
        headers.extend(conditions.etag.iter().map(|etag| (header::IF_NONE_MATCH, etag.clone())));
        headers.extend(conditions.last_modified.iter().map(|date| (header::IF_MODIFIED_SINCE, date.clone())));
        let (routes, giver, address) = (self.routes.clone(), self.giver, url.to_owned());
        let (sender, chunks) = sync_channel(4);
        // A thread of its own asks and reads, so that neither a silent server nor a slow resolver can hold this one.
        std::thread::spawn(move || {
            let Arrival { response, url, tls } = match routes.get(&address, giver, &headers) {
                Ok(arrival) => arrival,
                Err(error) => return drop(sender.send(Message::Refused(error))),
            };
            let (status, headers) = (response.status().as_u16(), response.headers().clone());
            let head = Message::Head { status, tls, url, headers };
            let mut wanted = sender.send(head).is_ok();
            let mut body = response.into_body().into_reader();
            // Nobody listens any more when the transfer was given up.
            while wanted {
                let mut chunk = vec![0; 1 << 18];
                let read = body.read(&mut chunk).map(|read| {
                    chunk.truncate(read);
                    chunk
                });
                let more = matches!(&read, Ok(chunk) if !chunk.is_empty());
                wanted = sender.send(Message::Chunk(read)).is_ok() && more;
            }
        });
        // Resolving, connecting and answering have a bound each, on each hop.
        match receive(&chunks, (self.patience * 3 + CONNECT_LIMIT) * 2, &self.cancel)? {
            Some(Message::Head { status, tls, url, headers }) => {
                Ok(Answer { status, tls, url, headers, chunks, patience: self.patience, cancel: self.cancel.clone() })
            }
            Some(Message::Refused(error)) => Err(refused(url, &error)),
            _ => Err(silent(url, self.patience)),
        }
    }

    /// Fetches a text of moderate size; `None` where the server says that there is none.
    pub fn text(&self, url: &str, listener: &dyn Listener) -> Result<Option<Text>> {
        self.retrying(listener, || self.text_once(url))
    }

    /// The same in one try.
    pub fn text_once(&self, url: &str) -> Result<Option<Text>, Failure> {
        let mut answer = self.get(url, &Conditions::default())?;
        match answer.status {
            200 => {}
            // Object stores answer so where there is nothing.
            403 | 404 | 410 => return Ok(None),
            _ => return Err(answer.refusal(url)),
        }
        let mut bytes = Vec::new();
        while let Some(chunk) = answer.chunk(url)? {
            bytes.extend(chunk);
            if bytes.len() > MOST_TEXT {
                let error = Error::invalid(format!("`{url}` has more than {MOST_TEXT} bytes, which is no such file"));
                return Err(Failure::lasting(error));
            }
        }
        if answer.length().is_some_and(|length| length != bytes.len() as u64) {
            return Err(broken(url, bytes.len() as u64, answer.length(), "the connection was closed"));
        }
        Ok(Some(Text { bytes, tls: answer.tls }))
    }

    /// Tries until it succeeds or another try cannot help. Pauses grow, and are in proportion to the patience, so that
    /// whoever wants to know soon is told soon.
    pub fn retrying<T>(&self, listener: &dyn Listener, mut attempt: impl FnMut() -> Result<T, Failure>) -> Result<T> {
        let mut tried = 0;
        loop {
            let Failure { error, again, progressed } = match attempt() {
                Ok(done) => return Ok(done),
                Err(failure) => failure,
            };
            tried = if progressed { 1 } else { tried + 1 };
            let Some(least) = again.filter(|_| tried < TRIES) else { return Err(error) };
            let pause = (self.patience / 30 * 2_u32.pow(tried - 1)).max(least).min(LONGEST_PAUSE);
            listener.retry(&error, pause);
            let end = Instant::now() + pause;
            while Instant::now() < end {
                self.cancel.check()?;
                std::thread::sleep(POLL.min(pause));
            }
        }
    }
}

/// A small file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Text {
    /// What it holds.
    pub bytes: Vec<u8>,
    /// Whether every hop on the way had TLS.
    pub tls: bool,
}

impl Answer {
    /// The next piece of the body; none at its end.
    pub fn chunk(&mut self, url: &str) -> Result<Option<Vec<u8>>, Failure> {
        match receive(&self.chunks, self.patience, &self.cancel)? {
            Some(Message::Chunk(Ok(chunk))) if chunk.is_empty() => Ok(None),
            Some(Message::Chunk(Ok(chunk))) => Ok(Some(chunk)),
            Some(Message::Chunk(Err(error))) => Err(broken(url, 0, None, &error.to_string())),
            _ => Err(silent(url, self.patience)),
        }
    }

    /// The length of the body, where the server says so.
    pub fn length(&self) -> Option<u64> {
        self.header(header::CONTENT_LENGTH)?.parse().ok()
    }

    /// What `Content-Range` says: where the body begins (none in a refusal), and the length of the whole.
    pub fn range(&self) -> Option<(Option<u64>, Option<u64>)> {
        let (range, total) = self.header(header::CONTENT_RANGE)?.strip_prefix("bytes ")?.split_once('/')?;
        Some((range.split_once('-').and_then(|(from, _)| from.parse().ok()), total.parse().ok()))
    }

    /// The entity tag.
    pub fn etag(&self) -> Option<String> {
        self.header(header::ETAG).map(str::to_owned)
    }

    /// When the file was changed, in the server's words.
    pub fn last_modified(&self) -> Option<String> {
        self.header(header::LAST_MODIFIED).map(str::to_owned)
    }

    fn header(&self, name: header::HeaderName) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// The failure that a status stands for.
    pub fn refusal(&self, url: &str) -> Failure {
        let (code, hint) = match self.status {
            404 | 410 => (Code::NotFound, "Look for the image's present address at its publisher."),
            401 | 403 | 407 => (Code::Denied, "The server wants a login, which vmprov does not have."),
            _ => (Code::Unreachable, "Try again later."),
        };
        let error = Error::new(code, format!("cannot fetch `{url}`"))
            .because(format!("the server answered with HTTP status {}", self.status))
            .hint(hint);
        let seconds = || self.header(header::RETRY_AFTER)?.parse().ok().map(Duration::from_secs);
        match self.status {
            408 | 425 | 429 | 500 | 502 | 503 | 504 => {
                Failure { again: Some(seconds().unwrap_or_default()), ..Failure::passing(error) }
            }
            _ => Failure::lasting(error),
        }
    }
}

/// What comes next; none when nothing has come for `limit`.
fn receive<T>(coming: &Receiver<T>, limit: Duration, cancel: &Cancel) -> Result<Option<T>> {
    let deadline = Instant::now() + limit;
    loop {
        cancel.check()?;
        match coming.recv_timeout(POLL) {
            Ok(message) => return Ok(Some(message)),
            Err(RecvTimeoutError::Timeout) if Instant::now() < deadline => {}
            Err(_) => return Ok(None),
        }
    }
}

fn silent(url: &str, patience: Duration) -> Failure {
    let error = Error::new(Code::Timeout, format!("`{url}` sent nothing for {} s", patience.as_secs_f32()))
        .hint("Try again later; the setting stall-timeout says how long a server may be silent.");
    Failure::passing(error)
}

/// A transfer that ended too early.
pub(super) fn broken(url: &str, done: u64, length: Option<u64>, why: &str) -> Failure {
    let of = length.map(|length| format!(" of {length}")).unwrap_or_default();
    let error = Error::new(Code::Unreachable, format!("the transfer of `{url}` broke off after {done}{of} bytes"))
        .because(why)
        .hint("Try again: it goes on from there, where the server can.");
    Failure::passing(error)
}

fn refused(url: &str, error: &ureq::Error) -> Failure {
    if let ureq::Error::Other(other) = error
        && let Some(denied) = other.downcast_ref::<Error>()
    {
        // It may be of where a redirect led.
        return Failure::lasting(Error { message: format!("cannot fetch `{url}`"), ..denied.clone() });
    }
    let (code, passing, hint) = match error {
        ureq::Error::BadUri(_) | ureq::Error::Http(_) => {
            (Code::InvalidInput, false, "An image's URL begins with http:// or https://.")
        }
        ureq::Error::Rustls(_) | ureq::Error::Tls(_) => (
            Code::Unreachable,
            false,
            "The server's certificate is not trusted here. Add your own authority's to the system's (update-ca-certificates), or map the host to a mirror.",
        ),
        ureq::Error::Timeout(_) => {
            (Code::Timeout, true, "Look whether this machine reaches the internet, or needs HTTPS_PROXY set.")
        }
        ureq::Error::InvalidProxyUrl => {
            (Code::InvalidInput, false, "The proxy of HTTPS_PROXY, HTTP_PROXY or ALL_PROXY cannot be used.")
        }
        ureq::Error::TooManyRedirects | ureq::Error::RedirectFailed | ureq::Error::Protocol(_) => {
            (Code::Unreachable, false, "The server, or a proxy, answers what nobody can use. Look at it with curl -v.")
        }
        // rustls' refusals come wrapped.
        ureq::Error::Io(io) if io.to_string().contains("certificate") => {
            (Code::Unreachable, false, "The server's certificate is not trusted here.")
        }
        _ => (Code::Unreachable, true, "Look whether this machine reaches the server, or needs HTTPS_PROXY set."),
    };
    let error = Error::new(code, format!("cannot fetch `{url}`")).because(error).hint(hint);
    if passing { Failure::passing(error) } else { Failure::lasting(error) }
}
