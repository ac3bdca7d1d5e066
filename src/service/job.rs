//! [`Job`]: a submitted operation that may take long, and its state.

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
    event_log::{EventLog, ServiceEvent},
    metrics::{self, Metrics},
};
use crate::{
    api::{Operation, OperationState, OperationView, Report},
    cancel::Cancel,
    error::Result,
    ops::progress::Progress,
};

/// Returns the size of a report in bytes.
fn size(report: &Report) -> usize {
    match report {
        Report::Json(value) => value.to_string().len(),
        Report::Text(text) => text.len(),
        Report::Png(png) => png.len(),
    }
}

/// The state of a job, its metrics, and whether it has progress that was not published yet.
struct Current {
    view: OperationView,
    metrics: Option<metrics::Operation>,
    has_progress: bool,
}

/// A submitted operation that may take long.
pub(crate) struct Job {
    pub(crate) operation: &'static Operation,
    /// The names in the request, for the audit log.
    pub(crate) targets: Vec<String>,
    pub(crate) id: Uuid,
    /// The name of the client that submitted it.
    pub(crate) client: String,
    pub(crate) cancel: Cancel,
    current: Mutex<Current>,
    event_log: Arc<EventLog>,
    outcome: Mutex<Option<Result<Arc<Report>>>>,
    report_size: AtomicUsize,
    ended: watch::Sender<bool>,
    cancelled: watch::Sender<bool>,
}

impl Job {
    pub(crate) fn new(
        operation: &'static Operation,
        request: &Value,
        (client, request_id): (&str, &str),
        (metrics, event_log): (&Metrics, &Arc<EventLog>),
    ) -> Self {
        let view = OperationView::new(operation, request, client, request_id);
        event_log.publish(ServiceEvent::Operation(Box::new(view.clone())));
        let metrics = Some(metrics.operation(operation.name));
        Self {
            operation,
            targets: authorization::targets(operation, request),
            id: view.id,
            client: client.to_owned(),
            cancel: Cancel::default(),
            current: Mutex::new(Current { view, metrics, has_progress: false }),
            event_log: event_log.clone(),
            outcome: Mutex::default(),
            report_size: AtomicUsize::new(0),
            ended: watch::Sender::new(false),
            cancelled: watch::Sender::new(false),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Current> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Publishes the state. The lock must be held, so that the events have the order of the changes.
    fn publish(&self, current: &mut Current) {
        current.has_progress = false;
        self.event_log.publish(ServiceEvent::Operation(Box::new(current.view.clone())));
    }

    /// Publishes the progress, if there is more than was published.
    pub(crate) fn publish_progress(&self) {
        let mut current = self.lock();
        if current.has_progress {
            self.publish(&mut current);
        }
    }

    /// Returns the current state without the result.
    pub(crate) fn summary(&self) -> OperationView {
        self.lock().view.clone()
    }

    /// Returns the current state with the result, which is shared and not copied.
    pub(crate) fn view(&self) -> OperationView {
        let current = self.lock();
        let result = self.outcome().and_then(Result::ok).filter(|report| !matches!(**report, Report::Png(_)));
        OperationView { result, ..current.view.clone() }
    }

    /// Returns the approximate size of the kept report in bytes.
    pub(crate) fn report_size(&self) -> usize {
        self.report_size.load(Ordering::Relaxed)
    }

    /// Returns whether the job has ended.
    pub(crate) fn is_ended(&self) -> bool {
        *self.ended.borrow()
    }

    /// Returns the outcome if the job has ended.
    pub(crate) fn outcome(&self) -> Option<Result<Arc<Report>>> {
        self.outcome.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Changes the state to running; returns false if the job was cancelled before.
    pub(crate) fn begin(&self) -> bool {
        let mut current = self.lock();
        let is_queued = current.view.state == OperationState::Queued;
        if is_queued {
            current.view.state = OperationState::Running;
            current.view.started = Some(Timestamp::now());
            current.metrics.iter_mut().for_each(metrics::Operation::begin);
            self.publish(&mut current);
        }
        is_queued
    }

    /// Cancels the job; returns false if it has already succeeded or failed.
    pub(crate) fn stop(&self) -> bool {
        let mut current = self.lock();
        if current.view.state.is_final() {
            return current.view.state == OperationState::Cancelled;
        }
        if current.view.state != OperationState::Cancelling {
            current.view.state = OperationState::Cancelling;
            self.publish(&mut current);
        }
        drop(current);
        self.cancel.raise();
        self.cancelled.send_replace(true);
        true
    }

    /// Ends the job. Calls `record` before the end becomes visible to clients.
    pub(crate) fn end(&self, outcome: Result<Report>, record: impl FnOnce(&OperationView)) {
        let mut current = self.lock();
        current.view.end(self.operation, &outcome);
        if let Ok(report) = &outcome {
            self.report_size.store(size(report), Ordering::Relaxed);
        }
        if let Some(metrics) = current.metrics.take() {
            metrics.end(outcome.as_ref().map(|_| ()).map_err(|error| error.code));
        }
        record(&current.view);
        self.publish(&mut current);
        // Before the lock is released and the end becomes visible.
        *self.outcome.lock().unwrap_or_else(PoisonError::into_inner) = Some(outcome.map(Arc::new));
        drop(current);
        self.ended.send_replace(true);
    }

    /// Waits until the job has ended.
    pub(crate) async fn ends(&self) {
        // This cannot fail: the job itself keeps the sender.
        let _ = self.ended.subscribe().wait_for(|ended| *ended).await;
    }

    /// Waits until the job has ended, at most for `limit`.
    pub(crate) async fn ends_within(&self, limit: Duration) {
        // A timeout shows in the state of the job.
        let _ = tokio::time::timeout(limit, self.ends()).await;
    }

    /// Waits until the job is cancelled.
    pub(crate) async fn cancelled(&self) {
        let _ = self.cancelled.subscribe().wait_for(|cancelled| *cancelled).await;
    }
}

impl Progress for Job {
    fn step(&self, text: &str) {
        let mut current = self.lock();
        current.view.step = Some(text.to_owned());
        (current.view.bytes_done, current.view.bytes_total) = (None, None);
        current.has_progress = true;
    }

    fn bytes(&self, done: u64, total: Option<u64>) {
        let mut current = self.lock();
        (current.view.bytes_done, current.view.bytes_total) = (Some(done), total);
        current.has_progress = true;
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{Service, event_log::Next},
        *,
    };

    #[test]
    fn each_state_is_published_and_progress_only_if_there_is_more() {
        let service = Service::for_test();
        let operation = crate::api::find("vm_create").unwrap();
        let job = Job::new(
            operation,
            &serde_json::json!({"name": "web"}),
            ("other", "1"),
            (&service.metrics, &service.event_log),
        );
        job.publish_progress();
        assert!(job.begin() && !job.begin());
        job.step("fetching");
        job.bytes(3, Some(5));
        job.publish_progress();
        job.publish_progress();
        assert!(job.stop() && job.stop());
        job.end(Ok(Report::Text("a result".to_owned())), |_| ());
        let mut published = Vec::new();
        while let Next::Event(event) = service.event_log.after(published.len() as u64) {
            let ServiceEvent::Operation(view) = &event.content else { panic!("{event:?}") };
            assert_eq!(view.result, None);
            published.push((view.state, view.step.clone(), view.bytes_done));
        }
        let fetching = |state| (state, Some("fetching".to_owned()), Some(3));
        assert_eq!(
            published,
            [
                (OperationState::Queued, None, None),
                (OperationState::Running, None, None),
                fetching(OperationState::Running),
                fetching(OperationState::Cancelling),
                (OperationState::Succeeded, None, None)
            ]
        );
    }
}
