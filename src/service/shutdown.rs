//! How a service lives and ends, whatever its face: its threads, the signals that it heeds, and what becomes of what is under way.

use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::Service;
use crate::error::{Code, Error, Result};

/// How many threads work for the connections. They only read and write; whatever waits for a program has its own.
const WORKERS: usize = 2;

/// How long the last calls of programs may take to end, once nobody waits for them.
const LAST_CALLS: Duration = Duration::from_secs(6);

/// How long undoing may take when a service ends.
pub(crate) const UNDOING: Duration = Duration::from_mins(1);

/// Runs a service on threads of its own, until it has ended.
pub(crate) fn run(service: impl Future<Output = Result<()>>) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .enable_all()
        .build()
        .map_err(|error| Error::io("start the threads of the service", &error))?;
    let ended = runtime.block_on(service);
    runtime.shutdown_timeout(LAST_CALLS);
    ended
}

/// The signals that a service heeds.
pub(crate) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

/// What somebody wants of a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ShutdownSignal {
    /// That it ends.
    End,
    /// That it reads again what may have changed.
    Reload,
}

impl Signals {
    pub(crate) fn new() -> Result<Self> {
        let listen = |kind| signal(kind).map_err(|error| Error::io("listen for signals", &error));
        Ok(Self {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
            hangup: listen(SignalKind::hangup())?,
        })
    }

    /// Waits until somebody wants something.
    pub(crate) async fn wish(&mut self) -> ShutdownSignal {
        tokio::select! {
            _ = self.terminate.recv() => ShutdownSignal::End,
            _ = self.interrupt.recv() => ShutdownSignal::End,
            _ = self.hangup.recv() => ShutdownSignal::Reload,
        }
    }

    /// Waits until somebody wants the service to end, be it for the first time or again.
    pub(crate) async fn end(&mut self) {
        while self.wish().await != ShutdownSignal::End {}
    }
}

impl Service {
    /// Takes nothing more, waits for what is under way, and undoes what is not finished by then; says whether all of it was
    /// finished. A first signal to end cuts the waiting short, a second one the undoing.
    pub(crate) async fn drain(&self, drain: Duration, signals: &mut Signals) -> Result<bool> {
        self.close();
        let mut was_hurried = false;
        let finished = tokio::select! {
            finished = self.jobs.finish(drain) => finished,
            () = signals.end() => {
                was_hurried = true;
                false
            }
        };
        if finished {
            return Ok(true);
        }
        tracing::warn!("what is under way is undone");
        self.jobs.stop();
        let given_up = async {
            if !was_hurried {
                signals.end().await;
            }
            signals.end().await;
        };
        let undone = tokio::select! {
            undone = self.jobs.finish(UNDOING) => undone,
            () = given_up => {
                let error = Error::new(Code::Interrupted, "the service was ended before everything was undone");
                return Err(error.hint("Clean up with: vmprov gc"));
            }
        };
        if !undone {
            tracing::error!("something could not be undone in time; clean up with: vmprov gc");
        }
        Ok(false)
    }
}
