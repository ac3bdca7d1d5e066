//! [`Job`]: an operation that may take long, as it is now.

mod view;

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use jiff::Timestamp;
use serde_json::Value;
use tokio::sync::watch;
use uuid::Uuid;

use super::{
    authorization,
    event_log::{Feed, ServiceEvent},
    metrics::{self, Metrics},
};
use crate::{
    api::{Operation, Report},
    cancel::Cancel,
    error::{Code, Result},
    ops::progress::Progress,
};
pub(crate) use view::{State, View};

/// How many bytes a report has.
fn weight(report: &Report) -> usize {
    match report {
        Report::Json(value) => value.to_string().len(),
        Report::Text(text) => text.len(),
        Report::Png(png) => png.len(),
    }
}

/// How it is, who counts it, and whether what was told of it is behind.
struct Now {
    view: View,
    counted: Option<metrics::Operation>,
    is_further: bool,
}

/// An operation that may take long.
pub(crate) struct Job {
    pub(crate) operation: &'static Operation,
    /// The names of what it is about, for the audit log.
    pub(crate) targets: Vec<String>,
    pub(crate) id: Uuid,
    /// The name of the client that asked for it.
    pub(crate) client: String,
    pub(crate) cancel: Cancel,
    now: Mutex<Now>,
    feed: Arc<Feed>,
    outcome: Mutex<Option<Result<Arc<Report>>>>,
    weight: AtomicUsize,
    ended: watch::Sender<bool>,
    cancelled: watch::Sender<bool>,
}

impl Job {
    pub(crate) fn new(
        operation: &'static Operation,
        request: &Value,
        (client, request_id): (&str, &str),
        (metrics, feed): (&Metrics, &Arc<Feed>),
    ) -> Self {
        let view = View {
            id: Uuid::new_v4(),
            operation: operation.name,
            vm: operation.vm(request).map(str::to_owned),
            state: State::Queued,
            step: None,
            bytes_done: None,
            bytes_total: None,
            client: client.to_owned(),
            request_id: request_id.to_owned(),
            created: Timestamp::now(),
            started: None,
            finished: None,
            status: None,
            result: None,
            error: None,
        };
        feed.tell(ServiceEvent::Operation(Box::new(view.clone())));
        let counted = Some(metrics.operation(operation.name));
        Self {
            operation,
            targets: authorization::targets(operation, request),
            id: view.id,
            client: client.to_owned(),
            cancel: Cancel::default(),
            now: Mutex::new(Now { view, counted, is_further: false }),
            feed: feed.clone(),
            outcome: Mutex::default(),
            weight: AtomicUsize::new(0),
            ended: watch::Sender::new(false),
            cancelled: watch::Sender::new(false),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Now> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells how it is. With the lock, so that it is told in the order in which it came to be.
    fn tell(&self, now: &mut Now) {
        now.is_further = false;
        self.feed.tell(ServiceEvent::Operation(Box::new(now.view.clone())));
    }

    /// Tells how far it is, if it is further than was told.
    pub(crate) fn tell_progress(&self) {
        let mut now = self.lock();
        if now.is_further {
            self.tell(&mut now);
        }
    }

    /// Returns how it is now, without its result.
    pub(crate) fn summary(&self) -> View {
        self.lock().view.clone()
    }

    /// Returns how it is now, with its result, which is shared and not copied.
    pub(crate) fn view(&self) -> View {
        let now = self.lock();
        let result = self.outcome().and_then(Result::ok).filter(|report| !matches!(**report, Report::Png(_)));
        View { result, ..now.view.clone() }
    }

    /// How many bytes are kept of what came of it, roughly.
    pub(crate) fn weight(&self) -> usize {
        self.weight.load(Ordering::Relaxed)
    }

    /// Whether it has ended.
    pub(crate) fn is_ended(&self) -> bool {
        *self.ended.borrow()
    }

    /// What came of it, once it has ended.
    pub(crate) fn outcome(&self) -> Option<Result<Arc<Report>>> {
        self.outcome.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Begins it; false where it has been cancelled before.
    pub(crate) fn begin(&self) -> bool {
        let mut now = self.lock();
        let may = now.view.state == State::Queued;
        if may {
            now.view.state = State::Running;
            now.view.started = Some(Timestamp::now());
            now.counted.iter_mut().for_each(metrics::Operation::begin);
            self.tell(&mut now);
        }
        may
    }

    /// Tells it to end; false where it has ended by itself.
    pub(crate) fn stop(&self) -> bool {
        let mut now = self.lock();
        if now.view.state.is_final() {
            return now.view.state == State::Cancelled;
        }
        if now.view.state != State::Cancelling {
            now.view.state = State::Cancelling;
            self.tell(&mut now);
        }
        drop(now);
        self.cancel.raise();
        self.cancelled.send_replace(true);
        true
    }

    /// Ends it, and has it noted how before anybody is told.
    pub(crate) fn end(&self, outcome: Result<Report>, note: impl FnOnce(&View)) {
        let mut now = self.lock();
        let view = &mut now.view;
        view.finished = Some(Timestamp::now());
        (view.step, view.bytes_done, view.bytes_total) = (None, None, None);
        match &outcome {
            Ok(report) => {
                view.state = State::Succeeded;
                view.status = Some(self.operation.status_of(report));
                self.weight.store(weight(report), Ordering::Relaxed);
            }
            Err(error) => {
                let was_told = view.state == State::Cancelling && error.code == Code::Interrupted;
                view.state = if was_told { State::Cancelled } else { State::Failed };
                view.status = Some(error.code.http_status());
                view.error = Some(error.clone());
            }
        }
        if let Some(counted) = now.counted.take() {
            counted.end(outcome.as_ref().map(|_| ()).map_err(|error| error.code));
        }
        note(&now.view);
        self.tell(&mut now);
        // Before anybody can see that it has ended.
        *self.outcome.lock().unwrap_or_else(PoisonError::into_inner) = Some(outcome.map(Arc::new));
        drop(now);
        self.ended.send_replace(true);
    }

    /// Waits until it has ended.
    pub(crate) async fn ends(&self) {
        // The sender is this job's own, so there is nothing that can fail.
        let _ = self.ended.subscribe().wait_for(|ended| *ended).await;
    }

    /// Waits until it has ended, at most so long.
    pub(crate) async fn ends_within(&self, limit: Duration) {
        // That it has not ended in time shows in the job itself.
        let _ = tokio::time::timeout(limit, self.ends()).await;
    }

    /// Waits until somebody tells it to end.
    pub(crate) async fn is_cancelled(&self) {
        let _ = self.cancelled.subscribe().wait_for(|cancelled| *cancelled).await;
    }
}

impl Progress for Job {
    fn step(&self, text: &str) {
        let mut now = self.lock();
        now.view.step = Some(text.to_owned());
        (now.view.bytes_done, now.view.bytes_total) = (None, None);
        now.is_further = true;
    }

    fn bytes(&self, done: u64, total: Option<u64>) {
        let mut now = self.lock();
        (now.view.bytes_done, now.view.bytes_total) = (Some(done), total);
        now.is_further = true;
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{Service, event_log::Next},
        *,
    };

    #[test]
    fn each_state_is_told_and_so_is_how_far_it_is_if_it_is_further() {
        let service = Service::for_test();
        let operation = crate::api::find("vm_create").unwrap();
        let job = Job::new(
            operation,
            &serde_json::json!({"name": "web"}),
            ("somebody", "1"),
            (&service.metrics, &service.feed),
        );
        job.tell_progress();
        assert!(job.begin() && !job.begin());
        job.step("fetching");
        job.bytes(3, Some(5));
        job.tell_progress();
        job.tell_progress();
        assert!(job.stop() && job.stop());
        job.end(Ok(Report::Text("a result".to_owned())), |_| ());
        let mut told = Vec::new();
        while let Next::Event(event) = service.feed.after(told.len() as u64) {
            let ServiceEvent::Operation(view) = &event.happening else { panic!("{event:?}") };
            assert_eq!(view.result, None);
            told.push((view.state, view.step.clone(), view.bytes_done));
        }
        let fetching = |state| (state, Some("fetching".to_owned()), Some(3));
        assert_eq!(
            told,
            [
                (State::Queued, None, None),
                (State::Running, None, None),
                fetching(State::Running),
                fetching(State::Cancelling),
                (State::Succeeded, None, None)
            ]
        );
    }
}
