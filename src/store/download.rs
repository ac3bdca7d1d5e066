//! Downloads of large files: into a `.part` file that a later call resumes, with the checksum computed on the way.

use std::{
    fs::{self, File, OpenOptions},
    io::{Read, Seek, SeekFrom, Write},
    os::unix::fs::OpenOptionsExt,
    time::Duration,
};

use camino::{Utf8Path, Utf8PathBuf};
use serde::{Deserialize, Serialize};

use super::{
    checksum_file::Sums,
    disk_space,
    http::{Answer, Conditions, Failure, Http, Listener, truncated},
    lock::Lock,
    partial_file,
};
use crate::{
    cancel::Cancel,
    error::{Code, Error, Result},
    model::{digest, image::Algorithm},
};

/// How long to wait for another vmprov that downloads the same file.
const LOCK_LIMIT: Duration = Duration::from_hours(2);

/// The number of new bytes from which an attempt counts as progress.
const MIN_PROGRESS: u64 = 1 << 20;

/// The number of bytes after which the free space is checked again if the length is unknown.
const CHECK_INTERVAL: u64 = 64 << 20;

/// A file that was downloaded completely.
#[derive(Debug)]
pub struct Downloaded {
    /// Its path.
    pub path: Utf8PathBuf,
    /// Its checksums.
    pub sums: Sums,
    /// What the server said about it.
    pub facts: Facts,
    /// Keeps other processes from downloading the same file.
    _lock: Lock,
}

impl Downloaded {
    /// Removes the file.
    pub fn discard(&self) {
        partial_file::discard(&self.path);
    }
}

/// What a server said about a file. It is stored beside the `.part` file during the download.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Facts {
    /// The URL that was requested.
    pub url: String,
    /// The length in bytes.
    pub length: Option<u64>,
    /// The entity tag.
    pub etag: Option<String>,
    /// The `Last-Modified` header, as the server sent it.
    pub last_modified: Option<String>,
    /// Whether every hop of every request used TLS.
    pub tls: bool,
}

impl Facts {
    fn of(url: &str, answer: &Answer) -> Self {
        Self {
            url: url.to_owned(),
            length: answer.range().map_or_else(|| answer.length(), |(_, total)| total),
            etag: answer.etag(),
            last_modified: answer.last_modified(),
            tls: answer.tls,
        }
    }

    /// Returns a validator for `If-Range`: a strong entity tag, or else a date (RFC 9110, section 13.1.5).
    fn validator(&self) -> Option<&String> {
        let strong = self.etag.as_ref().filter(|etag| !etag.starts_with("W/"));
        strong.or(self.last_modified.as_ref())
    }

    /// Returns whether both can describe the same file. Members that only one of them has do not count.
    fn is_same(&self, other: &Self) -> bool {
        let differ = |a: &Option<String>, b: &Option<String>| a.is_some() && b.is_some() && a != b;
        self.length == other.length
            && !differ(&self.etag, &other.etag)
            && !differ(&self.last_modified, &other.last_modified)
    }
}

/// Downloads `url` into `folder`, and resumes an interrupted download.
///
/// `admit` is called with the length as soon as it is known, or else with the bytes received, and may refuse the file.
/// A failed download keeps its `.part` file if another call can resume it, and leaves nothing otherwise.
pub fn download(
    http: &Http,
    url: &str,
    folder: &Utf8Path,
    algorithms: &[Algorithm],
    admit: &dyn Fn(u64) -> Result<()>,
    listener: &dyn Listener,
    cancel: &Cancel,
) -> Result<Downloaded> {
    fs::create_dir_all(folder).map_err(|error| Error::io(format!("create the folder `{folder}`"), &error))?;
    let mut part = Part::open(url, folder, algorithms, cancel)?;
    let fetched = http.retrying(listener, || part.fetch(http, url, admit, listener));
    let is_permanent = fetched.as_ref().is_err_and(|error| !error.code.is_retryable());
    if is_permanent || fetched.is_err() && (part.received == 0 || part.facts.validator().is_none()) {
        partial_file::discard(&part.path);
    }
    fetched?;
    Ok(Downloaded { path: part.path, sums: part.sums, facts: part.facts, _lock: part.lock })
}

/// Returns the path of the `.part` file for `url`.
fn part_of(url: &str, folder: &Utf8Path) -> Utf8PathBuf {
    folder.join(format!("{}.part", &digest::of(url.as_bytes())[..16]))
}

/// A download in progress.
struct Part {
    path: Utf8PathBuf,
    file: File,
    /// The size of the file, in bytes.
    received: u64,
    sums: Sums,
    facts: Facts,
    /// The largest size that the file ever had, in bytes.
    max_received: u64,
    lock: Lock,
}

impl Part {
    fn open(url: &str, folder: &Utf8Path, algorithms: &[Algorithm], cancel: &Cancel) -> Result<Self> {
        let path = part_of(url, folder);
        let failed = |error: &std::io::Error| Error::io(format!("write `{path}`"), error);
        // Only a vmprov that uses another pool can hold this lock: those with the same pool have waited before.
        let lock = partial_file::lock(&path, LOCK_LIMIT, cancel)?;
        let nofollow = rustix::fs::OFlags::NOFOLLOW.bits().cast_signed();
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600).custom_flags(nofollow);
        let file = options.open(&path).map_err(|error| failed(&error))?;
        let saved =
            fs::read(partial_file::facts_of(&path)).ok().and_then(|json| serde_json::from_slice::<Facts>(&json).ok());
        let facts = saved.filter(|facts| facts.url == url && facts.validator().is_some());
        let (sums, no_facts) = (Sums::new(algorithms), Facts::default());
        let mut part = Self { path: path.clone(), file, received: 0, sums, facts: no_facts, max_received: 0, lock };
        match facts {
            Some(facts) => {
                part.facts = facts;
                part.hash_existing(cancel)?;
            }
            None => part.restart().map_err(|error| failed(&error))?,
        }
        Ok(part)
    }

    /// Computes the checksums of what an earlier call downloaded.
    fn hash_existing(&mut self, cancel: &Cancel) -> Result<()> {
        let failed = |error: std::io::Error| Error::io("read the partial download", &error);
        let mut buffer = vec![0; 1 << 20];
        loop {
            cancel.check()?;
            match self.file.read(&mut buffer).map_err(failed)? {
                0 => return Ok(()),
                read => {
                    self.sums.update(&buffer[..read]);
                    self.received += read as u64;
                    self.max_received = self.received;
                }
            }
        }
    }

    fn restart(&mut self) -> std::io::Result<()> {
        self.file.set_len(0)?;
        self.file.seek(SeekFrom::Start(0))?;
        self.received = 0;
        self.sums = self.sums.restarted();
        Ok(())
    }

    /// Makes one attempt to download the rest.
    fn fetch(
        &mut self,
        http: &Http,
        url: &str,
        admit: &dyn Fn(u64) -> Result<()>,
        listener: &dyn Listener,
    ) -> Result<(), Failure> {
        let failed = |error: &std::io::Error| Error::io(format!("write the file downloaded from `{url}`"), error);
        let validator = self.facts.validator().filter(|_| self.received > 0);
        let resume = validator.map(|validator| (self.received, validator.clone()));
        let mut answer = http.get(url, &Conditions { resume: resume.clone(), ..Conditions::default() })?;
        let facts = Facts::of(url, &answer);
        match (answer.status, answer.range()) {
            (206, Some((Some(from), _))) if resume.is_some() && from == self.received && facts.is_same(&self.facts) => {
                self.facts.tls &= answer.tls;
            }
            // There are no bytes after those received: the file is complete.
            (416, range)
                if resume.is_some()
                    && Some(self.received) == range.map_or(self.facts.length, |(_, total)| total)
                    && self.facts.length.is_none_or(|length| length == self.received) =>
            {
                return Ok(());
            }
            // The file has changed, or the server sent another range: start over.
            (206 | 416, _) if resume.is_some() => {
                self.restart().map_err(|error| failed(&error))?;
                answer = http.get(url, &Conditions::default())?;
                if answer.status != 200 {
                    return Err(answer.refusal(url));
                }
                self.facts = Facts::of(url, &answer);
            }
            (200, _) => {
                self.restart().map_err(|error| failed(&error))?;
                self.facts = facts;
            }
            _ => return Err(answer.refusal(url)),
        }
        if let Some(length) = self.facts.length {
            admit(length)?;
            disk_space::require(self.path.parent().unwrap_or(&self.path), length.saturating_sub(self.received))?;
        }
        self.save_facts().map_err(|error| failed(&error))?;
        self.receive(url, &mut answer, admit, listener)
    }

    fn receive(
        &mut self,
        url: &str,
        answer: &mut Answer,
        admit: &dyn Fn(u64) -> Result<()>,
        listener: &dyn Listener,
    ) -> Result<(), Failure> {
        let length = self.facts.length;
        loop {
            let chunk = match answer.chunk(url) {
                Ok(Some(chunk)) => chunk,
                Ok(None) => break,
                Err(failure) => return Err(self.with_progress(failure)),
            };
            let written = self.file.write_all(&chunk);
            written.map_err(|error| Error::io(format!("write the file downloaded from `{url}`"), &error))?;
            self.sums.update(&chunk);
            let before = self.received;
            self.received += chunk.len() as u64;
            // A body without a length may be endless.
            if length.is_none() && self.received / CHECK_INTERVAL != before / CHECK_INTERVAL {
                admit(self.received)?;
                disk_space::require(self.path.parent().unwrap_or(&self.path), CHECK_INTERVAL)?;
            }
            listener.received(chunk.len() as u64);
            listener.bytes(self.received, length);
        }
        match length {
            Some(length) if length != self.received => {
                Err(self.with_progress(truncated(url, self.received, Some(length), "the connection was closed")))
            }
            _ => Ok(()),
        }
    }

    /// Adds where the transfer ended, and whether the attempt made progress.
    ///
    /// An unreliable connection still completes the download, as long as each attempt gets further than all before it.
    fn with_progress(&mut self, mut failure: Failure) -> Failure {
        if failure.error.code == Code::Unreachable {
            failure.error.message = truncated(&self.facts.url, self.received, self.facts.length, "").error.message;
        }
        failure.progressed = self.received >= self.max_received + MIN_PROGRESS;
        self.max_received = self.max_received.max(self.received);
        failure
    }

    /// Saves what a later call needs to resume. This is done before the body is read: a kill can come at any byte.
    fn save_facts(&self) -> std::io::Result<()> {
        let json = serde_json::to_vec(&self.facts).map_err(std::io::Error::other)?;
        let path = partial_file::facts_of(&self.path);
        let fresh = path.with_extension("json.new");
        fs::write(&fresh, json)?;
        fs::rename(fresh, path)
    }
}
