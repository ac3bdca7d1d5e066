//! [`Queue`]: the lines that wait for the audit log, and the one thread that writes them. A disk that stalls holds up that
//! thread and nothing else.

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

/// How many lines may wait.
const CAPACITY: usize = 4096;

/// How many more may wait if they tell of a change. No change is begun while [`CAPACITY`] lines wait, so that this many
/// suffice for the changes that are under way.
const RESERVE: usize = 4096;

/// How long a line may take to be written before the log counts as stalled.
const STALL: Duration = Duration::from_secs(2);

/// How long to wait before a line that could not be written is tried again.
const RETRY: Duration = Duration::from_millis(500);

/// Lines that wait to be written to a file.
#[derive(Debug)]
pub(super) struct Queue {
    path: Utf8PathBuf,
    state: Mutex<State>,
    /// Notified of each entry, and of the end.
    changed: Condvar,
    /// How many lines are not written yet.
    left: watch::Sender<usize>,
    /// Counts the lines that were lost since the service began.
    lost: Counter,
}

#[derive(Debug, Default)]
struct State {
    entries: VecDeque<Entry>,
    /// Since when the writer has been at its line.
    writing: Option<Instant>,
    /// Why the last attempt to write failed.
    failure: Option<String>,
    /// How many lines were lost since it was last possible to write.
    lost: u64,
    is_closed: bool,
}

#[derive(Debug)]
enum Entry {
    Line(Vec<u8>),
    /// The file is to be opened again, after the lines before this.
    Reopen,
}

impl Queue {
    /// Opens the file and starts the thread that writes to it.
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

    /// Queues a line. It is lost if too many wait already.
    pub(super) fn push(&self, line: Vec<u8>, tells_of_change: bool) {
        let mut state = self.lock();
        let capacity = if tells_of_change { CAPACITY + RESERVE } else { CAPACITY };
        if state.entries.len() >= capacity {
            self.lost.inc();
            state.lost += 1;
            if state.lost == 1 {
                tracing::error!("the audit log `{}` loses records: {}", self.path, state.obstacle());
            }
            return;
        }
        state.entries.push_back(Entry::Line(line));
        self.left.send_modify(|left| *left += 1);
        self.changed.notify_one();
    }

    /// Has the file opened again, after the lines that wait already.
    pub(super) fn reopen(&self) {
        self.lock().entries.push_back(Entry::Reopen);
        self.changed.notify_one();
    }

    /// Returns why a new record might be lost, if that is so.
    pub(super) fn obstacle(&self) -> Option<String> {
        let state = self.lock();
        let is_stalled = state.writing.is_some_and(|since| since.elapsed() > STALL);
        let is_obstructed = state.failure.is_some() || is_stalled || state.entries.len() >= CAPACITY;
        is_obstructed.then(|| state.obstacle())
    }

    /// Waits until every line is written, for a limited time; returns how many are not.
    pub(super) async fn flush(&self, limit: Duration) -> usize {
        let mut left = self.left.subscribe();
        // What is not written in time is told by the number.
        let _ = tokio::time::timeout(limit, left.wait_for(|left| *left == 0)).await;
        *self.left.borrow()
    }

    /// Ends the thread once it has written what waits.
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

    /// Waits for the next entry; returns none at the end.
    fn next(&self) -> Option<Entry> {
        let is_idle = |state: &mut State| state.entries.is_empty() && !state.is_closed;
        let mut state = self.changed.wait_while(self.lock(), is_idle).unwrap_or_else(PoisonError::into_inner);
        let entry = state.entries.pop_front();
        state.writing = matches!(entry, Some(Entry::Line(_))).then(Instant::now);
        entry
    }

    /// Waits before the line is tried again; true if the file is to be opened again first, none at the end.
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
            tracing::warn!("the audit log `{}` is written again; {lost} records were lost", self.path);
        }
        self.left.send_modify(|left| *left -= 1);
    }

    fn open_again(&self, file: &mut File) {
        match append_to(&self.path) {
            Ok(new) => *file = new,
            Err(error) => tracing::error!("{error}. The audit log goes on in the file that was open"),
        }
    }
}

impl State {
    /// Why lines wait.
    fn obstacle(&self) -> String {
        match (&self.failure, self.writing) {
            (Some(failure), _) => failure.clone(),
            (None, Some(since)) if since.elapsed() > STALL => "the disk does not answer".to_owned(),
            (None, _) => format!("{} records wait to be written", self.entries.len()),
        }
    }
}

/// Writes what is left of a line, and shortens it by what was written.
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
    // A FIFO that has no reader fails at once instead of holding up the service's start.
    options.append(true).create(true).mode(MODE).custom_flags(OFlags::NONBLOCK.bits().cast_signed());
    let file = options.open(path).map_err(|error| failed(&error))?;
    let blocking = rustix::fs::fcntl_getfl(&file)
        .and_then(|flags| rustix::fs::fcntl_setfl(&file, flags.difference(OFlags::NONBLOCK)));
    blocking.map_err(|error| failed(&error.into()))?;
    Ok(file)
}
