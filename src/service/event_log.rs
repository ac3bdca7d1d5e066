//! [`EventLog`]: the latest events, numbered, so that a reader can continue where it stopped.
//!
//! A reader is only a number. A slow or reconnecting reader costs no memory, and is told if it missed events.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
};

use jiff::Timestamp;
use serde::Serialize;
use tokio::sync::{Semaphore, watch};
use utoipa::ToSchema;

use crate::{api::OperationView, ops::vm};

/// How many events are kept.
const CAPACITY: usize = 1024;

/// How many clients may read at a time.
const MAX_READERS: usize = 256;

/// An event of libvirt or of the service.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[serde(untagged)]
#[schema(as = ServiceEvent)]
pub(crate) enum ServiceEvent {
    /// An event of a VM, from libvirt.
    Vm(vm::Event),
    /// A new state or more progress of an operation: the operation at that time, without its result.
    Operation(Box<OperationView>),
    /// The connection to libvirt's events was established or lost.
    Libvirt(LibvirtConnection),
    /// Events may have been lost. Clients must read again what they show.
    Reset(Reset),
}

impl ServiceEvent {
    /// Returns the event's kind, by which readers filter.
    pub(crate) fn kind(&self) -> &str {
        match self {
            Self::Vm(event) => &event.kind,
            Self::Operation(_) => "operation",
            Self::Libvirt(_) => "libvirt",
            Self::Reset(_) => "reset",
        }
    }
}

/// The connection to libvirt's events
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct LibvirtConnection {
    /// When the state changed (RFC 3339, UTC)
    pub(crate) time: Timestamp,
    /// `connecting`, `connected` or `disconnected`
    pub(crate) state: ConnectionState,
    /// Why the connection was lost
    pub(crate) reason: Option<String>,
}

/// The state of the connection to libvirt's events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum ConnectionState {
    /// libvirt has not answered yet.
    Connecting,
    /// Events are received.
    Connected,
    /// No events are received; the service keeps trying to reconnect.
    Disconnected,
}

/// Events may have been lost
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Reset {
    /// Why
    pub(crate) reason: &'static str,
    /// What to do
    pub(crate) hint: &'static str,
}

impl Reset {
    pub(crate) const fn because(reason: &'static str) -> Self {
        Self { reason, hint: "Read the lists again: events were lost" }
    }
}

/// A numbered event.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Event {
    pub(crate) number: u64,
    pub(crate) content: ServiceEvent,
    /// The event as the front end writes it.
    text: OnceLock<String>,
}

impl Event {
    /// Returns the event as `write` writes it. It is written once for all readers.
    pub(crate) fn text(&self, write: impl FnOnce(&ServiceEvent) -> String) -> &str {
        self.text.get_or_init(|| write(&self.content))
    }
}

/// What follows an event number.
#[derive(Debug, PartialEq)]
pub(crate) enum Next {
    /// The next event.
    Event(Arc<Event>),
    /// The next events are no longer kept. The number is that of the latest event.
    Lagged(u64),
    /// Nothing yet.
    Nothing,
    /// Nothing, and the log is closed.
    End,
}

/// The log of the latest events.
pub(crate) struct EventLog {
    /// Identifies this run of the service, because each run numbers its events from 1.
    epoch: String,
    entries: Mutex<Entries>,
    /// Notified of each new event, and of the end.
    changed: watch::Sender<()>,
    /// The permits of the readers.
    pub(crate) readers: Arc<Semaphore>,
}

struct Entries {
    /// The number of the last event.
    last: u64,
    events: VecDeque<Arc<Event>>,
    connection: LibvirtConnection,
    is_closed: bool,
}

impl EventLog {
    pub(crate) fn new() -> Self {
        let connection = LibvirtConnection { time: Timestamp::now(), state: ConnectionState::Connecting, reason: None };
        Self {
            epoch: format!("{:x}", Timestamp::now().as_microsecond()),
            entries: Mutex::new(Entries { last: 0, events: VecDeque::new(), connection, is_closed: false }),
            changed: watch::Sender::new(()),
            readers: Arc::new(Semaphore::new(MAX_READERS)),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Entries> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds an event and wakes all readers.
    pub(crate) fn publish(&self, event: ServiceEvent) {
        self.lock().add(event);
        self.changed.send_replace(());
    }

    /// Publishes that libvirt is connected. After a disconnection, also publishes a reset, because events were lost.
    pub(crate) fn connected(&self) {
        let mut entries = self.lock();
        let was_lost = entries.connection.state == ConnectionState::Disconnected;
        entries.set_connection(ConnectionState::Connected, None);
        if was_lost {
            entries.add(ServiceEvent::Reset(Reset::because("the connection to libvirt was interrupted")));
        }
        drop(entries);
        self.changed.send_replace(());
    }

    /// Publishes that libvirt is disconnected. Repeated failures to reconnect are not published.
    pub(crate) fn disconnected(&self, reason: String) {
        let mut entries = self.lock();
        if entries.connection.state != ConnectionState::Disconnected {
            entries.set_connection(ConnectionState::Disconnected, Some(reason));
        }
        drop(entries);
        self.changed.send_replace(());
    }

    /// Returns the state of the connection to libvirt, and the number of the last event.
    pub(crate) fn current(&self) -> (LibvirtConnection, u64) {
        let entries = self.lock();
        (entries.connection.clone(), entries.last)
    }

    /// Closes the log: no more events follow.
    pub(crate) fn close(&self) {
        self.lock().is_closed = true;
        self.changed.send_replace(());
    }

    /// Subscribes to changes of the log.
    pub(crate) fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// Returns what follows an event number.
    pub(crate) fn after(&self, number: u64) -> Next {
        let entries = self.lock();
        let Some(first) = entries.events.front().map(|event| event.number).filter(|_| number < entries.last) else {
            return if entries.is_closed { Next::End } else { Next::Nothing };
        };
        let Some(at) = (number + 1).checked_sub(first) else { return Next::Lagged(entries.last) };
        let event = usize::try_from(at).ok().and_then(|at| entries.events.get(at));
        event.map_or(Next::Lagged(entries.last), |event| Next::Event(event.clone()))
    }

    /// Returns the ID of an event, which is unique across runs of the service.
    pub(crate) fn id(&self, number: u64) -> String {
        format!("{}-{number}", self.epoch)
    }

    /// Returns the number of an ID, if all later events are still kept.
    pub(crate) fn number(&self, id: &str) -> Option<u64> {
        let number = id.strip_prefix(&self.epoch)?.strip_prefix('-')?.parse().ok()?;
        let is_known = number <= self.lock().last && !matches!(self.after(number), Next::Lagged(_));
        is_known.then_some(number)
    }
}

impl Entries {
    fn add(&mut self, event: ServiceEvent) {
        self.last += 1;
        self.events.push_back(Arc::new(Event { number: self.last, content: event, text: OnceLock::new() }));
        if self.events.len() > CAPACITY {
            self.events.pop_front();
        }
    }

    fn set_connection(&mut self, state: ConnectionState, reason: Option<String>) {
        self.connection = LibvirtConnection { time: Timestamp::now(), state, reason };
        let connection = self.connection.clone();
        self.add(ServiceEvent::Libvirt(connection));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn publish(log: &EventLog, times: usize) {
        for _ in 0..times {
            log.publish(ServiceEvent::Reset(Reset::because("a test")));
        }
    }

    #[test]
    fn a_reader_continues_after_its_last_event_and_is_told_if_events_are_no_longer_kept() {
        let log = EventLog::new();
        assert_eq!(log.after(0), Next::Nothing);
        assert_eq!(log.number(&log.id(0)), Some(0));
        publish(&log, CAPACITY);
        assert!(matches!(log.after(0), Next::Event(event) if event.number == 1));
        assert!(matches!(log.after(7), Next::Event(event) if event.number == 8));
        publish(&log, 1);
        let last = CAPACITY as u64 + 1;
        assert_eq!(log.after(0), Next::Lagged(last));
        assert_eq!(log.number(&log.id(0)), None);
        assert_eq!(log.number(&log.id(1)), Some(1));
        assert_eq!(log.number(&log.id(last)), Some(last));
        assert_eq!(log.after(last), Next::Nothing);
        for unknown in [log.id(last + 1), log.id(u64::MAX), format!("0-{last}"), "x".to_owned(), String::new()] {
            assert_eq!(log.number(&unknown), None, "{unknown}");
        }
        assert_eq!(log.lock().events.len(), CAPACITY);
    }

    #[test]
    fn events_published_before_the_log_is_closed_can_still_be_read() {
        let log = EventLog::new();
        publish(&log, 1);
        log.close();
        assert!(matches!(log.after(0), Next::Event(_)));
        assert_eq!(log.after(1), Next::End);
    }

    #[test]
    fn a_reconnection_publishes_a_reset_and_a_repeated_failure_publishes_nothing() {
        let log = EventLog::new();
        log.connected();
        log.disconnected("it is gone".to_owned());
        log.disconnected("it is still gone".to_owned());
        log.connected();
        let entries = log.lock();
        let published: Vec<_> = entries.events.iter().map(|event| event.content.kind()).collect();
        assert_eq!(published, ["libvirt", "libvirt", "libvirt", "reset"]);
        let disconnected = serde_json::to_string(&entries.events[1].content).unwrap();
        assert!(disconnected.contains(r#""state":"disconnected","reason":"it is gone""#), "{disconnected}");
    }
}
