//! The threads, the signals and the graceful shutdown of a service, for every front end.

use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::Service;
use crate::error::{Code, Error, Hint, Result};

/// How many threads serve the connections. They only read and write; work that waits for a program has its own threads.
const WORKERS: usize = 2;

/// How long the service waits for the last programs to exit.
const PROGRAM_EXIT_LIMIT: Duration = Duration::from_secs(6);

/// How long the rollback of cancelled operations may take at shutdown.
pub(crate) const ROLLBACK_LIMIT: Duration = Duration::from_mins(1);

/// Runs a service on its own threads until it ends.
pub(crate) fn run(service: impl Future<Output = Result<()>>) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .enable_all()
        .build()
        .map_err(|error| Error::io("start the threads of the service", &error))?;
    let result = runtime.block_on(service);
    runtime.shutdown_timeout(PROGRAM_EXIT_LIMIT);
    result
}

/// The signals that a service handles.
pub(crate) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

/// What a signal requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ShutdownSignal {
    /// To shut down.
    End,
    /// To reload the files that may have changed.
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

    /// Waits for the next signal.
    pub(crate) async fn next(&mut self) -> ShutdownSignal {
        tokio::select! {
            _ = self.terminate.recv() => ShutdownSignal::End,
            _ = self.interrupt.recv() => ShutdownSignal::End,
            _ = self.hangup.recv() => ShutdownSignal::Reload,
        }
    }

    /// Waits for the next signal to shut down.
    pub(crate) async fn end(&mut self) {
        while self.next().await != ShutdownSignal::End {}
    }
}

impl Service {
    /// Refuses new jobs, waits at most `drain` for the active ones, and then cancels and rolls back the rest. Returns
    /// whether all jobs ended without cancellation. A signal to shut down ends the wait, a second one the rollback.
    pub(crate) async fn drain(&self, drain: Duration, signals: &mut Signals) -> Result<bool> {
        self.close();
        let mut is_interrupted = false;
        let finished = tokio::select! {
            finished = self.jobs.finish(drain) => finished,
            () = signals.end() => {
                is_interrupted = true;
                false
            }
        };
        if finished {
            return Ok(true);
        }
        tracing::warn!("cancelling the active operations and rolling back their changes");
        self.jobs.stop();
        let aborted = async {
            if !is_interrupted {
                signals.end().await;
            }
            signals.end().await;
        };
        let rolled_back = tokio::select! {
            finished = self.jobs.finish(ROLLBACK_LIMIT) => finished,
            () = aborted => {
                let error = Error::new(Code::Interrupted, "the service was stopped before the rollback had finished");
                return Err(error.hint(Hint::call_any("Remove the leftovers", "gc")));
            }
        };
        if !rolled_back {
            let limit = ROLLBACK_LIMIT.as_secs();
            tracing::error!("some changes were not rolled back within {limit} s; remove the leftovers: `vmprov gc`");
        }
        Ok(false)
    }
}
