//! One `virsh event` for all readers of the [`Feed`](super::event_log::Feed), for as long as the service lives.

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
    event_log::{HearingState, ServiceEvent},
};
use crate::ops::vm::{self, EventFilter};

/// How long virsh takes, once it is connected, until it listens: milliseconds. It cannot tell, and whoever is told that
/// libvirt is heard relies on it.
const SETTLING: Duration = Duration::from_millis(250);

/// How long to wait before libvirt is tried again at first, and at most.
const WAITS: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(15));

/// Whether it has begun: without a reader nobody has to listen.
#[derive(Default)]
pub(crate) struct EventListener(AtomicBool);

#[cfg(test)]
impl EventListener {
    /// Nobody begins to listen.
    pub(crate) fn close(&self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Begins to listen, unless that has begun.
pub(crate) fn begin(service: &Arc<Service>) {
    if !service.ears.0.swap(true, Ordering::SeqCst) {
        tokio::spawn(listen(service.clone()));
    }
}

async fn listen(service: Arc<Service>) {
    let (first, most) = WAITS;
    let mut wait = first;
    while !service.is_over() {
        let listening = service.clone();
        let reason = tokio::task::spawn_blocking(move || hear(&listening)).await;
        if service.is_over() {
            return;
        }
        let was_heard = service.feed.present().0.state == HearingState::Connected;
        service.feed.lost(reason.unwrap_or_else(|panic| panic.to_string()));
        wait = if was_heard { first } else { most.min(wait * 2) };
        tokio::time::sleep(wait).await;
    }
}

/// Hears until libvirt goes, and returns why it went.
fn hear(service: &Service) -> String {
    let connected = || {
        std::thread::sleep(SETTLING);
        service.reads.outdate();
        service.feed.heard();
    };
    let heard = vm::listen(&service.host_for_listening(), &EventFilter::default(), None, connected, |event| {
        // Whoever asks because of it must not be shown what was looked at before.
        service.reads.outdate();
        service.feed.tell(ServiceEvent::Vm(event.clone()));
        Ok(ControlFlow::Continue(()))
    });
    heard.map_or_else(|error| error.to_string(), |()| "virsh has ended".to_owned())
}
