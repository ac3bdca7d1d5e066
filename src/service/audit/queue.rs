//! [`Queue`]: the queued lines of the audit log, and the thread that writes them.
//!
//! A stalled disk blocks only that thread.

use std::{
    collections::VecDeque,
    fs::{File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use camino::{Utf8Path, Utf8PathBuf};
use prometheus_client::metrics::counter::Counter;
use rustix::fs::OFlags;
use tokio::sync::watch;

use crate::error::{Error, Result};

/// The mode of the file: only its owner may read it.
pub(super) const MODE: u32 = 0o600;

/// How many lines the queue holds.
const CAPACITY: usize = 4096;

/// How many more lines about changes the queue holds.
///
/// No change is started while [`CAPACITY`] lines wait, so the reserve suffices for the changes that already run.
const RESERVE: usize = 4096;

/// How long a write may take before the log counts as stalled.
const STALL: Duration = Duration::from_secs(2);

/// How long to wait before retrying a failed write.
const RETRY: Duration = Duration::from_millis(500);

/// A queue of lines to be written to a file.
#[derive(Debug)]
pub(super) struct Queue {
    path: Utf8PathBuf,
    state: Mutex<State>,
    /// Notified of each entry, and when the queue is closed.
    changed: Condvar,
    /// How many lines are not written yet.
    left: watch::Sender<usize>,
    /// Counts the lines lost since the service started.
    lost: Counter,
}

#[derive(Debug, Default)]
struct State {
    entries: VecDeque<Entry>,
    /// When the writer began its current line.
    writing: Option<Instant>,
    /// Why the last write failed.
    failure: Option<String>,
    /// How many lines were lost since the last successful write.
    lost: u64,
    is_closed: bool,
}

#[derive(Debug)]
enum Entry {
    Line(Vec<u8>),
    /// A request to reopen the file after the lines before this entry.
    Reopen,
}

impl Queue {
    /// Opens the file and starts the writer thread.
    pub(super) fn open(path: Utf8PathBuf, lost: Counter) -> Result<Arc<Self>> {
        let file = append_to(&path)?;
        let queue = Arc::new(Self {
            path,
            state: Mutex::default(),
            changed: Condvar::new(),
            left: watch::Sender::new(0),
            lost,
        });
        let writer = queue.clone();
        let spawned = std::thread::Builder::new().name("audit".to_owned()).spawn(move || writer.write(file));
        spawned.map_err(|error| Error::io("start the thread that writes the audit log", &error))?;
        Ok(queue)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues a line. The line is lost if the queue is full.
    pub(super) fn push(&self, line: Vec<u8>, is_change: bool) {
        let mut state = self.lock();
        let capacity = if is_change { CAPACITY + RESERVE } else { CAPACITY };
        if state.entries.len() >= capacity {
            self.lost.inc();
            state.lost += 1;
            if state.lost == 1 {
                tracing::error!("the audit log `{}` is losing records: {}", self.path, state.obstacle());
            }
            return;
        }
        state.entries.push_back(Entry::Line(line));
        self.left.send_modify(|left| *left += 1);
        self.changed.notify_one();
    }

    /// Makes the writer reopen the file after the lines that are already queued.
    pub(super) fn reopen(&self) {
        self.lock().entries.push_back(Entry::Reopen);
        self.changed.notify_one();
    }

    /// Returns why a new record might be lost; none if it cannot be lost.
    pub(super) fn obstacle(&self) -> Option<String> {
        let state = self.lock();
        let is_stalled = state.writing.is_some_and(|since| since.elapsed() > STALL);
        let is_obstructed = state.failure.is_some() || is_stalled || state.entries.len() >= CAPACITY;
        is_obstructed.then(|| state.obstacle())
    }

    /// Waits until every line is written, at most for `limit`; returns how many are not.
    pub(super) async fn flush(&self, limit: Duration) -> usize {
        let mut left = self.left.subscribe();
        // A timeout shows in the returned number.
        let _ = tokio::time::timeout(limit, left.wait_for(|left| *left == 0)).await;
        *self.left.borrow()
    }

    /// Ends the writer thread after it has written the queued lines.
    pub(super) fn close(&self) {
        self.lock().is_closed = true;
        self.changed.notify_one();
    }

    fn write(&self, mut file: File) {
        while let Some(entry) = self.next() {
            let Entry::Line(line) = entry else {
                self.open_again(&mut file);
                continue;
            };
            let mut rest = &line[..];
            while let Err(error) = write_all(&mut file, &mut rest) {
                let Some(reopens) = self.failed(&error) else { return };
                if reopens {
                    self.open_again(&mut file);
                    rest = &line;
                }
            }
            self.written();
        }
    }

    /// Waits for the next entry; returns none if the queue is closed and empty.
    fn next(&self) -> Option<Entry> {
        let is_idle = |state: &mut State| state.entries.is_empty() && !state.is_closed;
        let mut state = self.changed.wait_while(self.lock(), is_idle).unwrap_or_else(PoisonError::into_inner);
        let entry = state.entries.pop_front();
        state.writing = matches!(entry, Some(Entry::Line(_))).then(Instant::now);
        entry
    }

    /// Waits before the next attempt. Returns whether to reopen the file first; none if the queue is closed.
    fn failed(&self, error: &io::Error) -> Option<bool> {
        let mut state = self.lock();
        if state.failure.replace(error.to_string()).is_none() {
            tracing::error!("cannot write to the audit log `{}`: {error}", self.path);
        }
        let reopens = |entry: &Entry| matches!(entry, Entry::Reopen);
        let waits = |state: &mut State| !state.is_closed && !state.entries.iter().any(reopens);
        let waited = self.changed.wait_timeout_while(state, RETRY, waits).unwrap_or_else(PoisonError::into_inner);
        let mut state = waited.0;
        let found = state.entries.iter().position(reopens);
        found.map(|at| state.entries.remove(at));
        (!state.is_closed).then_some(found.is_some())
    }

    fn written(&self) {
        let mut state = self.lock();
        state.writing = None;
        let (failure, lost) = (state.failure.take(), std::mem::take(&mut state.lost));
        if failure.is_some() || lost > 0 {
            tracing::warn!("the audit log `{}` can be written again: {lost} records were lost", self.path);
        }
        self.left.send_modify(|left| *left -= 1);
    }

    fn open_again(&self, file: &mut File) {
        match append_to(&self.path) {
            Ok(new) => *file = new,
            Err(error) => tracing::error!("{error}; still writing the audit log to the file that was open before"),
        }
    }
}

impl State {
    /// Returns why lines wait.
    fn obstacle(&self) -> String {
        match (&self.failure, self.writing) {
            (Some(failure), _) => failure.clone(),
            (None, Some(since)) if since.elapsed() > STALL => "the write to the file is stalled".to_owned(),
            (None, _) => format!("{} records are waiting to be written", self.entries.len()),
        }
    }
}

/// Writes the rest of a line, and removes what was written from it.
fn write_all(file: &mut File, rest: &mut &[u8]) -> io::Result<()> {
    while !rest.is_empty() {
        match file.write(rest) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => *rest = &rest[count..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn append_to(path: &Utf8Path) -> Result<File> {
    let failed = |error: &io::Error| Error::io(format!("open the audit log `{path}`"), error);
    let mut options = OpenOptions::new();
    // Without this, a FIFO without a reader would block the start of the service.
    options.append(true).create(true).mode(MODE).custom_flags(OFlags::NONBLOCK.bits().cast_signed());
    let file = options.open(path).map_err(|error| failed(&error))?;
    let blocking = rustix::fs::fcntl_getfl(&file)
        .and_then(|flags| rustix::fs::fcntl_setfl(&file, flags.difference(OFlags::NONBLOCK)));
    blocking.map_err(|error| failed(&error.into()))?;
    Ok(file)
}
