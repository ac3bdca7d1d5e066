//! Runs one `virsh event` for all readers of the [`EventLog`](super::event_log::EventLog), until the service stops.

use std::{
    ops::ControlFlow,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use super::{
    Service,
    event_log::{ConnectionState, ServiceEvent},
};
use crate::ops::vm::{self, EventFilter};

/// How long virsh needs to register for events after it has connected. This takes milliseconds. virsh does not report
/// it, but no event may be missed after `connected` was published.
const REGISTRATION: Duration = Duration::from_millis(250);

/// The first and the longest delay between two attempts to connect to libvirt.
const RETRY_DELAYS: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(15));

/// Whether the listener was started. The first reader starts it.
#[derive(Default)]
pub(crate) struct EventListener(AtomicBool);

#[cfg(test)]
impl EventListener {
    /// Prevents that the listener is started.
    pub(crate) fn disable(&self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Starts the listener, unless it was started before.
pub(crate) fn start(service: &Arc<Service>) {
    if !service.listener.0.swap(true, Ordering::SeqCst) {
        tokio::spawn(listen(service.clone()));
    }
}

async fn listen(service: Arc<Service>) {
    let (first, longest) = RETRY_DELAYS;
    let mut delay = first;
    while !service.is_stopped() {
        let listening = service.clone();
        let reason = tokio::task::spawn_blocking(move || forward_events(&listening)).await;
        if service.is_stopped() {
            return;
        }
        let was_connected = service.event_log.current().0.state == ConnectionState::Connected;
        service.event_log.disconnected(reason.unwrap_or_else(|panic| panic.to_string()));
        delay = if was_connected { first } else { longest.min(delay * 2) };
        tokio::time::sleep(delay).await;
    }
}

/// Publishes libvirt's events until the connection ends, and returns why it ended.
fn forward_events(service: &Service) -> String {
    let connected = || {
        std::thread::sleep(REGISTRATION);
        service.reads.invalidate();
        service.event_log.connected();
    };
    let ended = vm::listen(&service.background_host(), &EventFilter::default(), None, connected, |event| {
        // A client that reads because of this event must not receive an older report.
        service.reads.invalidate();
        service.event_log.publish(ServiceEvent::Vm(event.clone()));
        Ok(ControlFlow::Continue(()))
    });
    ended.map_or_else(|error| error.to_string(), |()| "virsh exited".to_owned())
}
