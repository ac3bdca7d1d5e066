//! Fetching a file over HTTP(S), with a bound on every silence and none on the whole.

use std::{
    fs::File,
    io::{Read, Write},
    sync::mpsc::{Receiver, RecvTimeoutError, sync_channel},
    time::{Duration, Instant},
};

use ureq::{
    Agent,
    http::header::CONTENT_LENGTH,
    tls::{RootCerts, TlsConfig},
};

use crate::{
    cancel::Cancel,
    error::{Code, Error, Result},
};

const CONNECT_LIMIT: Duration = Duration::from_secs(30);
const ANSWER_LIMIT: Duration = Duration::from_mins(1);

/// How long a server may send nothing in the middle of a file.
const STALL_LIMIT: Duration = Duration::from_mins(1);

/// How often a transfer looks whether it has been cancelled.
const POLL: Duration = Duration::from_millis(100);

/// Copies what `url` names into `file`; `progress` is told the bytes done, of how many where the server says so.
pub fn download(url: &str, file: &mut File, cancel: &Cancel, mut progress: impl FnMut(u64, Option<u64>)) -> Result<()> {
    let (length, chunks) = open(url)?;
    let mut done = 0;
    let mut heard = Instant::now();
    loop {
        cancel.check()?;
        match chunks.recv_timeout(POLL) {
            Ok(chunk) => {
                let chunk = chunk.map_err(|error| broken(url, done, length).because(error))?;
                if chunk.is_empty() {
                    break;
                }
                file.write_all(&chunk).map_err(|error| Error::io("write the downloaded file", &error))?;
                done += chunk.len() as u64;
                heard = Instant::now();
                progress(done, length);
            }
            Err(RecvTimeoutError::Timeout) if heard.elapsed() < STALL_LIMIT => {}
            Err(RecvTimeoutError::Timeout) => {
                return Err(Error::new(Code::Timeout, format!("`{url}` sent nothing for {} s", STALL_LIMIT.as_secs()))
                    .hint("Try again later, or fetch the file by hand and give its path."));
            }
            Err(RecvTimeoutError::Disconnected) => return Err(broken(url, done, length)),
        }
    }
    match length {
        Some(length) if length != done => Err(broken(url, done, Some(length))),
        _ => Ok(()),
    }
}

fn broken(url: &str, done: u64, length: Option<u64>) -> Error {
    let of = length.map(|length| format!(" of {length}")).unwrap_or_default();
    Error::new(Code::Unreachable, format!("the transfer of `{url}` broke off after {done}{of} bytes"))
        .hint("Try again.")
}

/// What was read at once; an empty one is the end.
type Chunk = std::io::Result<Vec<u8>>;

/// Asks for the file; a thread reads it, so that a server that falls silent cannot hold this one.
fn open(url: &str) -> Result<(Option<u64>, Receiver<Chunk>)> {
    let agent: Agent = Agent::config_builder()
        .timeout_connect(Some(CONNECT_LIMIT))
        .timeout_recv_response(Some(ANSWER_LIMIT))
        .tls_config(TlsConfig::builder().root_certs(RootCerts::PlatformVerifier).build())
        .user_agent(concat!("vmprov/", env!("CARGO_PKG_VERSION")))
        .build()
        .into();
    // A content encoding would be undone on the way, and the length then be another one.
    let request = agent.get(url).header("accept-encoding", "identity");
    let response = request.call().map_err(|error| refused(url, &error))?;
    let length = response.headers().get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
    let (sender, receiver) = sync_channel(4);
    let mut reader = response.into_body().into_reader();
    std::thread::spawn(move || {
        loop {
            let mut chunk = vec![0; 1 << 18];
            let read = reader.read(&mut chunk).map(|read| {
                chunk.truncate(read);
                chunk
            });
            let last = !matches!(&read, Ok(chunk) if !chunk.is_empty());
            // Nobody listens any more when the transfer was given up.
            if sender.send(read).is_err() || last {
                return;
            }
        }
    });
    Ok((length, receiver))
}

fn refused(url: &str, error: &ureq::Error) -> Error {
    let (code, hint) = match error {
        ureq::Error::StatusCode(404 | 410) => {
            (Code::NotFound, "Look for the image's present address at its publisher.")
        }
        ureq::Error::StatusCode(401 | 403) => (Code::Denied, "The server wants a login, which vmprov does not have."),
        ureq::Error::StatusCode(_) => (Code::Unreachable, "Try again later."),
        ureq::Error::BadUri(_) | ureq::Error::Http(_) => {
            (Code::InvalidInput, "An image's URL begins with http:// or https://.")
        }
        ureq::Error::Timeout(_) => {
            (Code::Timeout, "Look whether this machine reaches the internet, or needs HTTPS_PROXY set.")
        }
        _ => (Code::Unreachable, "Look whether this machine reaches the server, or needs HTTPS_PROXY set."),
    };
    Error::new(code, format!("cannot fetch `{url}`")).because(error).hint(hint)
}
