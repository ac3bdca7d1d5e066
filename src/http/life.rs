//! How the service lives and ends: signals, and what its manager (systemd) is told.

use std::{sync::Arc, time::Duration};

use sd_notify::NotifyState;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::{gate::Gate, listen::Serving};
use crate::{
    error::{Code, Error, Result},
    service::Service,
};

/// How long undoing may take when the service ends.
const UNDOING: Duration = Duration::from_mins(1);

/// The signals that the service heeds.
pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    pub(super) fn new() -> Result<Self> {
        let listen = |kind| signal(kind).map_err(|error| Error::io("listen for signals", &error));
        Ok(Self {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
            hangup: listen(SignalKind::hangup())?,
        })
    }

    /// Waits until somebody wants the service to end, be it for the first time or again.
    async fn end(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// Lives until somebody wants the end; reads what can be read anew on each SIGHUP.
pub(super) async fn live(service: &Service, gate: &Gate, signals: &mut Signals) {
    tell(&[NotifyState::Ready]);
    if let Some(limit) = sd_notify::watchdog_enabled() {
        tokio::spawn(pat(limit / 2));
    }
    loop {
        tokio::select! {
            _ = signals.terminate.recv() => return,
            _ = signals.interrupt.recv() => return,
            _ = signals.hangup.recv() => {
                reloading();
                service.reload();
                gate.reload();
                tell(&[NotifyState::Ready]);
            }
        }
    }
}

/// Ends: takes nothing more, waits for what is under way, and undoes what is not finished by then. A second signal to end cuts
/// the waiting short, a third one the undoing.
pub(super) async fn end(
    service: &Arc<Service>,
    (serving, streams): (Serving, CancellationToken),
    signals: &mut Signals,
    drain: Duration,
) -> Result<()> {
    tracing::info!("ending: no further requests are taken");
    service.close();
    // The manager's own limit begins now, and must not be shorter than what was promised.
    let most = u32::try_from((drain + UNDOING * 2).as_micros()).unwrap_or(u32::MAX);
    tell(&[NotifyState::Stopping, NotifyState::ExtendTimeoutUsec(most)]);
    serving.stop();
    let deadline = tokio::time::Instant::now() + drain;
    let finished = tokio::select! {
        finished = service.jobs.finish(drain) => finished,
        () = signals.end() => false,
    };
    if !finished {
        tracing::warn!("what is under way is undone");
        service.jobs.stop();
        let undone = tokio::select! {
            undone = service.jobs.finish(UNDOING) => undone,
            () = signals.end() => return Err(not_undone()),
        };
        if !undone {
            tracing::error!("something could not be undone in time; clean up with: vmprov gc");
        }
    }
    service.feed.end();
    streams.cancel();
    let left = if finished { deadline.saturating_duration_since(tokio::time::Instant::now()) } else { Duration::ZERO };
    tokio::select! {
        () = serving.finish(left) => {}
        () = signals.end() => {}
    }
    Ok(())
}

fn not_undone() -> Error {
    Error::new(Code::Interrupted, "the service was ended before everything was undone").hint("Clean up with: vmprov gc")
}

/// Tells the manager again and again that the async threads get their turns.
async fn pat(every: Duration) {
    let mut times = tokio::time::interval(every);
    loop {
        times.tick().await;
        tell(&[NotifyState::Watchdog]);
    }
}

fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(error) => tracing::debug!("the manager is not told of a reload: {error}"),
    }
}

/// Tells the manager, where there is one.
fn tell(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!("the service's manager cannot be told: {error}");
    }
}
