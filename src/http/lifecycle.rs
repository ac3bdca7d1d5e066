//! The life cycle of the service, and its notifications to the service manager (systemd).

use std::{sync::Arc, time::Duration};

use sd_notify::NotifyState;

use super::{authentication::Authenticator, listen::Serving, mcp_transport::Mcp};
use crate::{
    error::Result,
    service::{
        Service,
        shutdown::{ROLLBACK_LIMIT, ShutdownSignal, Signals},
    },
};

/// Waits for a signal to shut down. Reloads the tokens and the audit log on SIGHUP.
pub(super) async fn run(service: &Service, authenticator: &Authenticator, signals: &mut Signals) {
    notify(&[NotifyState::Ready]);
    if let Some(limit) = sd_notify::watchdog_enabled() {
        tokio::spawn(notify_watchdog(limit / 2));
    }
    loop {
        match signals.next().await {
            ShutdownSignal::End => return,
            ShutdownSignal::Reload => {
                notify_reloading();
                service.reload();
                authenticator.reload();
                notify(&[NotifyState::Ready]);
            }
        }
    }
}

/// Shuts down: refuses new requests, waits at most `drain` for running operations, and then cancels and rolls back the
/// rest. A second signal ends the wait, a third one the rollback.
pub(super) async fn shut_down(
    service: &Arc<Service>,
    (serving, mcp): (Serving, &Mcp),
    signals: &mut Signals,
    drain: Duration,
) -> Result<()> {
    tracing::info!("shutting down: no new requests are accepted");
    // The manager's stop timeout starts now. It must be long enough for the wait and the rollback.
    let timeout = u32::try_from((drain + ROLLBACK_LIMIT * 2).as_micros()).unwrap_or(u32::MAX);
    notify(&[NotifyState::Stopping, NotifyState::ExtendTimeoutUsec(timeout)]);
    serving.stop();
    let deadline = tokio::time::Instant::now() + drain;
    let finished = service.drain(drain, signals).await?;
    service.event_log.close();
    mcp.end().await;
    let left = if finished { deadline.saturating_duration_since(tokio::time::Instant::now()) } else { Duration::ZERO };
    tokio::select! {
        () = serving.finish(left) => {}
        () = signals.end() => {}
    }
    Ok(())
}

/// Notifies the manager regularly that the async threads are not blocked.
async fn notify_watchdog(every: Duration) {
    let mut interval = tokio::time::interval(every);
    loop {
        interval.tick().await;
        notify(&[NotifyState::Watchdog]);
    }
}

fn notify_reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => notify(&[NotifyState::Reloading, now]),
        Err(error) => tracing::debug!("cannot notify the service manager of a reload: {error}"),
    }
}

/// Notifies the service manager, if there is one.
fn notify(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!("cannot notify the service manager: {error}");
    }
}
