//! What the manager of the service (systemd) is told while it lives and ends.

use std::{sync::Arc, time::Duration};

use sd_notify::NotifyState;

use super::{authentication::Authenticator, listen::Serving, mcp_transport::Mcp};
use crate::{
    error::Result,
    service::{
        Service,
        shutdown::{ShutdownSignal, Signals, UNDOING},
    },
};

/// Lives until somebody wants the end; reads what can be read anew on each SIGHUP.
pub(super) async fn live(service: &Service, gate: &Authenticator, signals: &mut Signals) {
    tell(&[NotifyState::Ready]);
    if let Some(limit) = sd_notify::watchdog_enabled() {
        tokio::spawn(pat(limit / 2));
    }
    loop {
        match signals.wish().await {
            ShutdownSignal::End => return,
            ShutdownSignal::Reload => {
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
    (serving, mcp): (Serving, &Mcp),
    signals: &mut Signals,
    drain: Duration,
) -> Result<()> {
    tracing::info!("ending: no further requests are taken");
    // The manager's own limit begins now, and must not be shorter than what was promised.
    let most = u32::try_from((drain + UNDOING * 2).as_micros()).unwrap_or(u32::MAX);
    tell(&[NotifyState::Stopping, NotifyState::ExtendTimeoutUsec(most)]);
    serving.stop();
    let deadline = tokio::time::Instant::now() + drain;
    let finished = service.drain(drain, signals).await?;
    service.feed.end();
    mcp.end().await;
    let left = if finished { deadline.saturating_duration_since(tokio::time::Instant::now()) } else { Duration::ZERO };
    tokio::select! {
        () = serving.finish(left) => {}
        () = signals.end() => {}
    }
    Ok(())
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
