//! Fetching a large file: into a `.part` that a later call goes on with, its checksum computed on the way.

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
    http::{Answer, Conditions, Failure, Http, Listener, broken},
    lock::Lock,
    partial_file,
};
use crate::{
    cancel::Cancel,
    error::{Code, Error, Result},
    model::{digest, image::Algorithm},
};

/// How long another vmprov may take to fetch the same.
const TURN: Duration = Duration::from_hours(2);

/// What a try must bring to count as one that got on, in bytes.
const WORTHWHILE: u64 = 1 << 20;

/// After how many bytes of unknown length is looked whether there is still room.
const LOOK: u64 = 64 << 20;

/// A file that has been fetched whole.
#[derive(Debug)]
pub struct Downloaded {
    /// Where it is.
    pub path: Utf8PathBuf,
    /// Its checksums.
    pub sums: Sums,
    /// What is known of it.
    pub facts: Facts,
    /// Nobody else fetches it meanwhile.
    _alone: Lock,
}

impl Downloaded {
    /// Removes it.
    pub fn discard(&self) {
        partial_file::discard(&self.path);
    }
}

/// What a server said of a file, kept beside it while it is being fetched.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Facts {
    /// The address that was asked.
    pub url: String,
    /// The length in bytes.
    pub length: Option<u64>,
    /// The entity tag.
    pub etag: Option<String>,
    /// When it was changed, in the server's words.
    pub last_modified: Option<String>,
    /// Whether every hop of every part had TLS.
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

    /// What `If-Range` can compare: a strong entity tag, or else a date (RFC 9110, section 13.1.5).
    fn validator(&self) -> Option<&String> {
        let strong = self.etag.as_ref().filter(|etag| !etag.starts_with("W/"));
        strong.or(self.last_modified.as_ref())
    }

    /// Whether a part of the one and a part of the other are parts of the same file, as far as anybody can tell.
    fn is_same(&self, other: &Self) -> bool {
        let differ = |a: &Option<String>, b: &Option<String>| a.is_some() && b.is_some() && a != b;
        self.length == other.length
            && !differ(&self.etag, &other.etag)
            && !differ(&self.last_modified, &other.last_modified)
    }
}

/// Fetches `url` into `folder`, going on where an earlier call was cut short. `admit` is told the length as soon as it
/// is known, or else what has come so far, and may refuse. What another try may finish leaves its `.part`, everything else leaves nothing.
pub fn download(
    http: &Http,
    url: &str,
    folder: &Utf8Path,
    algorithms: &[Algorithm],
    admit: &dyn Fn(u64) -> Result<()>,
    listener: &dyn Listener,
    cancel: &Cancel,
) -> Result<Downloaded> {
    fs::create_dir_all(folder).map_err(|error| Error::io(format!("make the folder `{folder}`"), &error))?;
    let mut part = Part::open(url, folder, algorithms, cancel)?;
    let fetched = http.retrying(listener, || part.fetch(http, url, admit, listener));
    // One that cannot be gone on with is only in the way.
    let lasting = fetched.as_ref().is_err_and(|error| !error.code.is_retryable());
    if lasting || fetched.is_err() && (part.have == 0 || part.facts.validator().is_none()) {
        partial_file::discard(&part.path);
    }
    fetched?;
    Ok(Downloaded { path: part.path, sums: part.sums, facts: part.facts, _alone: part.alone })
}

/// What `url`'s part is called.
fn part_of(url: &str, folder: &Utf8Path) -> Utf8PathBuf {
    folder.join(format!("{}.part", &digest::of(url.as_bytes())[..16]))
}

/// A file on its way.
struct Part {
    path: Utf8PathBuf,
    file: File,
    have: u64,
    sums: Sums,
    facts: Facts,
    /// The most that was ever there, in bytes.
    reached: u64,
    alone: Lock,
}

impl Part {
    fn open(url: &str, folder: &Utf8Path, algorithms: &[Algorithm], cancel: &Cancel) -> Result<Self> {
        let path = part_of(url, folder);
        let failed = |error: &std::io::Error| Error::io(format!("write `{path}`"), error);
        // Another vmprov may fetch the same for another pool; each of this pool waits before it comes here.
        let alone = partial_file::lock(&path, TURN, cancel)?;
        let nofollow = rustix::fs::OFlags::NOFOLLOW.bits().cast_signed();
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600).custom_flags(nofollow);
        let file = options.open(&path).map_err(|error| failed(&error))?;
        let known =
            fs::read(partial_file::facts_of(&path)).ok().and_then(|json| serde_json::from_slice::<Facts>(&json).ok());
        let facts = known.filter(|facts| facts.url == url && facts.validator().is_some());
        let (sums, nothing) = (Sums::new(algorithms), Facts::default());
        let mut part = Self { path: path.clone(), file, have: 0, sums, facts: nothing, reached: 0, alone };
        match facts {
            Some(facts) => {
                part.facts = facts;
                part.read_again(cancel)?;
            }
            None => part.restart().map_err(|error| failed(&error))?,
        }
        Ok(part)
    }

    /// Computes the checksums of what is there.
    fn read_again(&mut self, cancel: &Cancel) -> Result<()> {
        let failed = |error: std::io::Error| Error::io("read what was fetched before", &error);
        let mut buffer = vec![0; 1 << 20];
        loop {
            cancel.check()?;
            match self.file.read(&mut buffer).map_err(failed)? {
                0 => return Ok(()),
                read => {
                    self.sums.update(&buffer[..read]);
                    self.have += read as u64;
                    self.reached = self.have;
                }
            }
        }
    }

    fn restart(&mut self) -> std::io::Result<()> {
        self.file.set_len(0)?;
        self.file.seek(SeekFrom::Start(0))?;
        self.have = 0;
        self.sums = self.sums.anew();
        Ok(())
    }

    /// Tries once to get the rest.
    fn fetch(
        &mut self,
        http: &Http,
        url: &str,
        admit: &dyn Fn(u64) -> Result<()>,
        listener: &dyn Listener,
    ) -> Result<(), Failure> {
        let failed = |error: &std::io::Error| Error::io(format!("write the file fetched from `{url}`"), error);
        let behind = self.facts.validator().filter(|_| self.have > 0).map(|validator| (self.have, validator.clone()));
        let mut answer = http.get(url, &Conditions { behind: behind.clone(), ..Conditions::default() })?;
        let told = Facts::of(url, &answer);
        match (answer.status, answer.range()) {
            (206, Some((Some(from), _))) if behind.is_some() && from == self.have && told.is_same(&self.facts) => {
                self.facts.tls &= answer.tls;
            }
            // Nothing comes behind what is there: it is whole.
            (416, range)
                if behind.is_some()
                    && Some(self.have) == range.map_or(self.facts.length, |(_, total)| total)
                    && self.facts.length.is_none_or(|length| length == self.have) =>
            {
                return Ok(());
            }
            // The file has become another one, or the server counts otherwise: all over again.
            (206 | 416, _) if behind.is_some() => {
                self.restart().map_err(|error| failed(&error))?;
                answer = http.get(url, &Conditions::default())?;
                if answer.status != 200 {
                    return Err(answer.refusal(url));
                }
                self.facts = Facts::of(url, &answer);
            }
            (200, _) => {
                self.restart().map_err(|error| failed(&error))?;
                self.facts = told;
            }
            _ => return Err(answer.refusal(url)),
        }
        if let Some(length) = self.facts.length {
            admit(length)?;
            disk_space::require(self.path.parent().unwrap_or(&self.path), length.saturating_sub(self.have))?;
        }
        self.note().map_err(|error| failed(&error))?;
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
                Err(failure) => return Err(self.judge(failure)),
            };
            let written = self.file.write_all(&chunk);
            written.map_err(|error| Error::io(format!("write the file fetched from `{url}`"), &error))?;
            self.sums.update(&chunk);
            self.have += chunk.len() as u64;
            // A body without a length may have no end.
            if length.is_none() && self.have / LOOK != (self.have - chunk.len() as u64) / LOOK {
                admit(self.have)?;
                disk_space::require(self.path.parent().unwrap_or(&self.path), LOOK)?;
            }
            listener.received(chunk.len() as u64);
            listener.bytes(self.have, length);
        }
        match length {
            Some(length) if length != self.have => {
                Err(self.judge(broken(url, self.have, Some(length), "the connection was closed")))
            }
            _ => Ok(()),
        }
    }

    /// Adds where it broke off, and whether this try was worth its while: a line that breaks again and again still
    /// brings the file, as long as each try brings more of it than was ever there.
    fn judge(&mut self, mut failure: Failure) -> Failure {
        if failure.error.code == Code::Unreachable {
            failure.error.message = broken(&self.facts.url, self.have, self.facts.length, "").error.message;
        }
        failure.progressed = self.have >= self.reached + WORTHWHILE;
        self.reached = self.reached.max(self.have);
        failure
    }

    /// Notes what a later call needs to go on. Before the body: a kill can come at any byte of it.
    fn note(&self) -> std::io::Result<()> {
        let json = serde_json::to_vec(&self.facts).map_err(std::io::Error::other)?;
        let path = partial_file::facts_of(&self.path);
        let fresh = path.with_extension("json.new");
        fs::write(&fresh, json)?;
        fs::rename(fresh, path)
    }
}
