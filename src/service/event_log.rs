//! [`Feed`]: what has happened, kept for a while and numbered, so that whoever reads it goes on where they were.
//!
//! A reader has a number and nothing else: one who is slow, or comes back, costs no memory, and is told when what they have
//! not read is gone.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use jiff::Timestamp;
use serde::Serialize;
use tokio::sync::{Semaphore, watch};
use utoipa::ToSchema;

use super::job::View;
use crate::{api, ops::vm};

/// How many events are kept.
const KEPT: usize = 1024;

/// How many may read at a time.
const MOST_READERS: usize = 256;

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[serde(untagged)]
#[schema(as = ServiceEvent)]
pub(crate) enum ServiceEvent {
    /// Something that libvirt tells of a VM.
    Vm(vm::Event),
    /// An operation has another state, or is further: as it is then, without its result.
    Operation(Box<View>),
    /// libvirt can be heard, or no more.
    Libvirt(Hearing),
    /// Events may have been missed: what is to be known has to be asked for again.
    Reset(Reset),
}

impl ServiceEvent {
    /// Its name, as a reader chooses by it.
    pub(crate) fn kind(&self) -> &str {
        match self {
            Self::Vm(event) => &event.kind,
            Self::Operation(_) => "operation",
            Self::Libvirt(_) => "libvirt",
            Self::Reset(_) => "reset",
        }
    }
}

impl ServiceEvent {
    /// As its readers are told it, over HTTP.
    fn over_http(&self) -> Self {
        match self {
            Self::Operation(view) => Self::Operation(Box::new(view.as_ref().clone().written(api::as_request))),
            other => other.clone(),
        }
    }
}

/// Whether libvirt can be heard
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Hearing {
    /// When that became so (RFC 3339, UTC)
    pub(crate) time: Timestamp,
    /// `connecting`, `connected` or `disconnected`
    pub(crate) state: HearingState,
    /// Why it cannot be heard
    pub(crate) reason: Option<String>,
}

/// How it is with what libvirt tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum HearingState {
    /// It has not answered yet.
    Connecting,
    /// It is heard.
    Connected,
    /// It is not; it is tried again and again.
    Disconnected,
}

/// Events may have been missed
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
        Self { reason, hint: "Ask again for what you show: GET /api/vms, GET /api/operations." }
    }
}

/// An event: its number, and what happened.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Event {
    pub(crate) number: u64,
    pub(crate) happening: ServiceEvent,
    /// The same as JSON, written once for all readers.
    pub(crate) data: String,
}

/// What comes after a number.
#[derive(Debug, PartialEq)]
pub(crate) enum Next {
    /// This.
    Event(Arc<Event>),
    /// Events that are gone; the present is behind this number.
    Lagged(u64),
    /// Nothing yet.
    Nothing,
    /// Nothing any more.
    End,
}

/// What has happened.
pub(crate) struct Feed {
    /// Which run of the service it is: numbers begin anew with each.
    epoch: String,
    kept: Mutex<Kept>,
    /// Told of each change of what is kept.
    changed: watch::Sender<()>,
    pub(crate) places: Arc<Semaphore>,
}

struct Kept {
    /// The number of the last event.
    last: u64,
    events: VecDeque<Arc<Event>>,
    hearing: Hearing,
    has_ended: bool,
}

impl Feed {
    pub(crate) fn new() -> Self {
        let hearing = Hearing { time: Timestamp::now(), state: HearingState::Connecting, reason: None };
        Self {
            epoch: format!("{:x}", Timestamp::now().as_microsecond()),
            kept: Mutex::new(Kept { last: 0, events: VecDeque::new(), hearing, has_ended: false }),
            changed: watch::Sender::new(()),
            places: Arc::new(Semaphore::new(MOST_READERS)),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells of something.
    pub(crate) fn tell(&self, happening: ServiceEvent) {
        self.lock().add(happening);
        self.changed.send_replace(());
    }

    /// Says that libvirt is heard. Whatever happened while it was not is unknown.
    pub(crate) fn heard(&self) {
        let mut kept = self.lock();
        let was_lost = kept.hearing.state == HearingState::Disconnected;
        kept.hear(HearingState::Connected, None);
        if was_lost {
            kept.add(ServiceEvent::Reset(Reset::because("libvirt could not be heard for a while")));
        }
        drop(kept);
        self.changed.send_replace(());
    }

    /// Says that libvirt cannot be heard. Each further failure to reach it is no news.
    pub(crate) fn lost(&self, reason: String) {
        let mut kept = self.lock();
        if kept.hearing.state != HearingState::Disconnected {
            kept.hear(HearingState::Disconnected, Some(reason));
        }
        drop(kept);
        self.changed.send_replace(());
    }

    /// Whether libvirt is heard now, and the number of the last event.
    pub(crate) fn present(&self) -> (Hearing, u64) {
        let kept = self.lock();
        (kept.hearing.clone(), kept.last)
    }

    /// Says that nothing comes any more.
    pub(crate) fn end(&self) {
        self.lock().has_ended = true;
        self.changed.send_replace(());
    }

    /// Is told of each change from now on.
    pub(crate) fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// What comes after a number.
    pub(crate) fn after(&self, number: u64) -> Next {
        let kept = self.lock();
        let Some(first) = kept.events.front().map(|event| event.number).filter(|_| number < kept.last) else {
            return if kept.has_ended { Next::End } else { Next::Nothing };
        };
        let Some(at) = (number + 1).checked_sub(first) else { return Next::Lagged(kept.last) };
        let event = usize::try_from(at).ok().and_then(|at| kept.events.get(at));
        event.map_or(Next::Lagged(kept.last), |event| Next::Event(event.clone()))
    }

    /// The id of an event, for good.
    pub(crate) fn id(&self, number: u64) -> String {
        format!("{}-{number}", self.epoch)
    }

    /// The number that an id names, where all that came after it is still there.
    pub(crate) fn number(&self, id: &str) -> Option<u64> {
        let number = id.strip_prefix(&self.epoch)?.strip_prefix('-')?.parse().ok()?;
        let is_known = number <= self.lock().last && !matches!(self.after(number), Next::Lagged(_));
        is_known.then_some(number)
    }
}

impl Kept {
    fn add(&mut self, happening: ServiceEvent) {
        // It has nothing that JSON cannot hold.
        let data = serde_json::to_string(&happening.over_http()).unwrap_or_default();
        self.last += 1;
        self.events.push_back(Arc::new(Event { number: self.last, happening, data }));
        if self.events.len() > KEPT {
            self.events.pop_front();
        }
    }

    fn hear(&mut self, state: HearingState, reason: Option<String>) {
        self.hearing = Hearing { time: Timestamp::now(), state, reason };
        let hearing = self.hearing.clone();
        self.add(ServiceEvent::Libvirt(hearing));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tell(feed: &Feed, times: usize) {
        for _ in 0..times {
            feed.tell(ServiceEvent::Reset(Reset::because("a test")));
        }
    }

    #[test]
    fn whoever_comes_back_goes_on_where_they_were_and_is_told_when_that_is_gone() {
        let feed = Feed::new();
        assert_eq!(feed.after(0), Next::Nothing);
        assert_eq!(feed.number(&feed.id(0)), Some(0));
        tell(&feed, KEPT);
        assert!(matches!(feed.after(0), Next::Event(event) if event.number == 1));
        assert!(matches!(feed.after(7), Next::Event(event) if event.number == 8));
        tell(&feed, 1);
        let last = KEPT as u64 + 1;
        assert_eq!(feed.after(0), Next::Lagged(last));
        assert_eq!(feed.number(&feed.id(0)), None);
        assert_eq!(feed.number(&feed.id(1)), Some(1));
        assert_eq!(feed.number(&feed.id(last)), Some(last));
        assert_eq!(feed.after(last), Next::Nothing);
        for unknown in [feed.id(last + 1), feed.id(u64::MAX), format!("0-{last}"), "x".to_owned(), String::new()] {
            assert_eq!(feed.number(&unknown), None, "{unknown}");
        }
        assert_eq!(feed.lock().events.len(), KEPT);
    }

    #[test]
    fn what_was_told_before_the_end_is_still_read() {
        let feed = Feed::new();
        tell(&feed, 1);
        feed.end();
        assert!(matches!(feed.after(0), Next::Event(_)));
        assert_eq!(feed.after(1), Next::End);
    }

    #[test]
    fn a_libvirt_that_comes_back_is_news_with_a_reset_and_one_that_stays_away_is_none() {
        let feed = Feed::new();
        feed.heard();
        feed.lost("it is gone".to_owned());
        feed.lost("it is still gone".to_owned());
        feed.heard();
        let kept = feed.lock();
        let told: Vec<_> = kept.events.iter().map(|event| event.happening.kind()).collect();
        assert_eq!(told, ["libvirt", "libvirt", "libvirt", "reset"]);
        assert!(kept.events[1].data.contains(r#""state":"disconnected","reason":"it is gone""#), "{:?}", kept.events);
    }
}
