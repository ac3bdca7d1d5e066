//! [`Jobs`]: the running jobs, and those that ended recently.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use serde_json::Value;
use tokio::sync::Semaphore;
use uuid::Uuid;

use super::{
    Service, blocking,
    client::Client,
    job::Job,
    quota::Reservation,
    vm_queue::{Ticket, VmQueues},
};
use crate::{
    api::Operation,
    error::{Code, Error, Result},
    ops::doctor,
};

/// The permits of jobs that change something.
static CHANGE_PERMITS: Semaphore = Semaphore::const_new(16);

/// The permits of jobs that wait for guests. They cost next to nothing and must not block the changes.
static GUEST_PERMITS: Semaphore = Semaphore::const_new(64);

/// The permits of jobs that compute. They are separate, so that waiting for one blocks no change.
static COMPUTE_PERMITS: Semaphore = Semaphore::const_new(1);

/// How many jobs that wait for guests one client may have, so that permits remain for other clients.
const MAX_WAITS: usize = 32;

/// How many ended jobs are kept.
const MAX_ENDED: usize = 512;

/// How many bytes of reports are kept. The output of commands in guests can be large.
const MAX_REPORT_BYTES: usize = 16 << 20;

/// How many jobs may be queued and running at a time. No legitimate use needs more.
const MAX_ACTIVE: usize = 1024;

/// How often the progress of a job is published.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(1);

/// The active jobs and the ended jobs that are kept.
#[derive(Default)]
pub(crate) struct Jobs {
    known: Mutex<VecDeque<Known>>,
    queues: VmQueues,
}

struct Known {
    id: Uuid,
    job: Arc<Job>,
    key: Option<IdempotencyKey>,
}

/// A key by which a client marks a request, so that sending the request again does not run it again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct IdempotencyKey {
    /// The name of the client.
    pub(crate) client: String,
    /// The key.
    pub(crate) key: String,
    /// The digest of the request.
    pub(crate) fingerprint: String,
}

/// A job to start.
pub(crate) struct NewJob {
    pub(crate) operation: &'static Operation,
    pub(crate) request: Value,
    pub(crate) client: Arc<Client>,
    pub(crate) request_id: String,
    pub(crate) reservation: Option<Arc<Reservation>>,
    /// The VM in whose queue the job waits.
    pub(crate) queue: Option<String>,
    pub(crate) key: Option<IdempotencyKey>,
}

impl Jobs {
    fn lock(&self) -> MutexGuard<'_, VecDeque<Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts a job, or returns the job with the same idempotency key. The job continues if the client stops waiting.
    pub(crate) fn begin(service: &Arc<Service>, new: NewJob) -> Result<Arc<Job>> {
        let NewJob { operation, request, client, request_id, reservation, queue, key } = new;
        let jobs = &service.jobs;
        let mut known = jobs.lock();
        if let Some(found) = key.as_ref().and_then(|key| find_by_key(&known, key)) {
            return found;
        }
        if service.is_shutting_down() {
            return Err(shutting_down());
        }
        if known.iter().filter(|known| !known.job.is_ended()).count() >= MAX_ACTIVE {
            return Err(Error::new(Code::Busy, format!("{MAX_ACTIVE} operations are already queued or running"))
                .hint("Try again when some of them have ended"));
        }
        require_wait_capacity(&known, operation, &client)?;
        let about = (&client.name[..], &request_id[..]);
        let job = Arc::new(Job::new(operation, &request, about, (&service.metrics, &service.event_log)));
        let ticket = queue.map(|vm| jobs.queues.take(&vm));
        known.push_front(Known { id: job.id, job: job.clone(), key });
        forget(&mut known);
        drop(known);
        tokio::spawn(publish_progress(job.clone()));
        let work = Work { client, request, ticket, reservation };
        tokio::spawn(run(service.clone(), job.clone(), work));
        Ok(job)
    }

    /// Returns the job with this ID.
    pub(crate) fn find(&self, id: Uuid) -> Option<Arc<Job>> {
        self.lock().iter().find(|known| known.id == id).map(|known| known.job.clone())
    }

    /// Returns the jobs that a client may see, the newest first.
    pub(crate) fn visible_to(&self, client: &Client) -> Vec<Arc<Job>> {
        self.lock().iter().filter(|known| client.may_see(&known.job.client)).map(|known| known.job.clone()).collect()
    }

    fn active(&self) -> Vec<Arc<Job>> {
        self.lock().iter().map(|known| known.job.clone()).filter(|job| !job.is_ended()).collect()
    }

    /// Waits until all active jobs have ended, at most for `limit`; returns whether all have ended.
    pub(crate) async fn finish(&self, limit: Duration) -> bool {
        let all_end = async {
            for job in self.active() {
                job.ends().await;
            }
        };
        tokio::time::timeout(limit, all_end).await.is_ok()
    }

    /// Cancels all active jobs, which then roll back their changes.
    pub(crate) fn stop(&self) {
        for job in self.active() {
            job.stop();
        }
    }
}

/// Refuses a job that waits for a guest if the client already has [`MAX_WAITS`] of them.
fn require_wait_capacity(known: &VecDeque<Known>, operation: &Operation, client: &Client) -> Result<()> {
    let is_counted = |job: &Job| job.operation.waits() && !job.is_ended() && job.client == client.name;
    if operation.waits() && known.iter().filter(|known| is_counted(&known.job)).count() >= MAX_WAITS {
        let message = format!("{MAX_WAITS} waits and commands of {} are already running", client.title());
        return Err(Error::new(Code::Busy, message).hint("Try again when some of them have ended"));
    }
    Ok(())
}

/// Returns the error for a request that arrives while the service shuts down.
pub(crate) fn shutting_down() -> Error {
    Error::new(Code::Interrupted, "the service is shutting down").hint("Try again in a moment")
}

/// Returns the job that was started with an idempotency key. Fails if the key was used for a different request.
fn find_by_key(known: &VecDeque<Known>, key: &IdempotencyKey) -> Option<Result<Arc<Job>>> {
    let is_same = |other: &IdempotencyKey| other.client == key.client && other.key == key.key;
    let found = known.iter().find(|known| known.key.as_ref().is_some_and(is_same))?;
    Some(if found.key.as_ref().is_some_and(|other| other.fingerprint == key.fingerprint) {
        Ok(found.job.clone())
    } else {
        let message = format!("the idempotency key `{}` was used for another request", key.key.escape_debug());
        Err(Error::new(Code::KeyReused, message)
            .hint("Use a new key for each new request")
            .hint("Reuse a key only to send the same request again"))
    })
}

/// Removes the jobs that ended longest ago.
fn forget(known: &mut VecDeque<Known>) {
    let (mut ended, mut bytes) = (0, 0);
    known.retain(|known| {
        ended += usize::from(known.job.is_ended());
        bytes += known.job.report_size();
        !known.job.is_ended() || ended <= MAX_ENDED && bytes <= MAX_REPORT_BYTES
    });
}

/// Publishes the progress of a job until it has ended.
async fn publish_progress(job: Arc<Job>) {
    while tokio::time::timeout(PROGRESS_INTERVAL, job.ends()).await.is_err() {
        job.publish_progress();
    }
}

/// What a job needs to run.
struct Work {
    client: Arc<Client>,
    request: Value,
    ticket: Option<Ticket>,
    reservation: Option<Arc<Reservation>>,
}

/// Runs a job, from waiting in the queue to recording its outcome.
async fn run(service: Arc<Service>, job: Arc<Job>, work: Work) {
    let Work { client, request, mut ticket, reservation } = work;
    let cancelled = || Error::new(Code::Interrupted, "canceled before it started");
    let permits = match job.operation {
        operation if operation.waits() => &GUEST_PERMITS,
        operation if operation.computes(&request) => &COMPUTE_PERMITS,
        _ => &CHANGE_PERMITS,
    };
    let queued = async {
        if let Some(ticket) = &mut ticket {
            ticket.ready().await;
        }
        blocking::permit(permits).await
    };
    let permit = tokio::select! {
        () = job.cancelled() => Err(cancelled()),
        permit = queued => permit,
    };
    let outcome = match permit {
        Err(error) => Err(error),
        Ok(permit) => {
            let host = service.host(&client, job.cancel.clone(), job.clone());
            let host = match &reservation {
                Some(reservation) => host.within(reservation.clone()),
                None => host,
            };
            let running = job.clone();
            let work = move || {
                if !running.begin() {
                    return Err(cancelled());
                }
                running.operation.run(&host, request).map_err(|error| doctor::explain(&host, error))
            };
            blocking::run_with(permit, work).await
        }
    };
    service.reads.invalidate();
    // From now on, libvirt reports what the job created.
    if let Some(reservation) = reservation {
        reservation.end(outcome.is_ok());
    }
    job.end(outcome, |view| service.audit.record_end(view, &job.targets));
    // A job that was cancelled in the queue keeps its ticket, so that the next job still waits for the earlier ones.
    if let Some(ticket) = &mut ticket {
        ticket.ready().await;
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::api::{OperationState, Report};

    /// Far longer than any of these tests takes.
    const LIMIT: Duration = Duration::from_secs(30);

    fn new_job() -> NewJob {
        let operation = crate::api::find("gc").unwrap();
        let request = operation.read(json!({})).unwrap();
        let client = Arc::new(Client::anonymous());
        NewJob { operation, request, client, request_id: "1".to_owned(), reservation: None, queue: None, key: None }
    }

    #[tokio::test]
    async fn a_job_that_waits_for_a_permit_is_cancelled_at_once() {
        let service = Service::for_test();
        let _all = CHANGE_PERMITS.acquire_many(16).await.unwrap();
        let job = Jobs::begin(&service, new_job()).unwrap();
        tokio::task::yield_now().await;
        assert!(job.stop());
        tokio::time::timeout(LIMIT, job.ends()).await.unwrap();
        assert_eq!(job.view().state, OperationState::Cancelled);
    }

    #[tokio::test]
    async fn jobs_that_wait_for_guests_have_their_own_permits() {
        let service = Service::for_test();
        let _all = CHANGE_PERMITS.acquire_many(16).await.unwrap();
        let operation = crate::api::find("vm_wait").unwrap();
        let request = operation.read(json!({"vm": "nobody"})).unwrap();
        let job = Jobs::begin(&service, NewJob { operation, request, ..new_job() }).unwrap();
        tokio::time::timeout(LIMIT, job.ends()).await.unwrap();
        assert_eq!(job.view().state, OperationState::Failed);
    }

    #[tokio::test]
    async fn a_closed_service_refuses_new_jobs_and_cancels_active_ones() {
        let service = Service::for_test();
        let _all = CHANGE_PERMITS.acquire_many(16).await.unwrap();
        let job = Jobs::begin(&service, new_job()).unwrap();
        service.close();
        assert_eq!(Jobs::begin(&service, new_job()).err().unwrap().code, Code::Interrupted);
        assert!(!service.jobs.finish(Duration::ZERO).await);
        service.jobs.stop();
        assert!(service.jobs.finish(LIMIT).await);
        assert!(job.is_ended());
    }

    #[test]
    fn an_idempotency_key_belongs_to_one_client_and_one_request() {
        let key = |client: &str, fingerprint: &str| IdempotencyKey {
            client: client.to_owned(),
            key: "same".to_owned(),
            fingerprint: fingerprint.to_owned(),
        };
        let service = Service::for_test();
        let operation = crate::api::find("vm_start").unwrap();
        let job = Arc::new(Job::new(
            operation,
            &json!({"vm": "web"}),
            ("alice", "request"),
            (&service.metrics, &service.event_log),
        ));
        let known =
            VecDeque::from([Known { id: job.view().id, job: job.clone(), key: Some(key("alice", "start web")) }]);
        let found = |key: &IdempotencyKey| find_by_key(&known, key);
        assert!(Arc::ptr_eq(&found(&key("alice", "start web")).unwrap().unwrap(), &job));
        let Some(Err(error)) = found(&key("alice", "start other")) else {
            panic!("the key was accepted for another request")
        };
        assert_eq!(error.code, Code::KeyReused);
        assert!(found(&key("bob", "start web")).is_none(), "the key belongs to another client");
    }

    #[test]
    fn lists_have_no_results_and_all_views_of_a_job_share_its_result() {
        let service = Service::for_test();
        let operation = crate::api::find("vm_exec").unwrap();
        let job = Arc::new(Job::new(
            operation,
            &json!({"vm": "web"}),
            ("alice", "request"),
            (&service.metrics, &service.event_log),
        ));
        job.end(Ok(Report::Text("x".repeat(1 << 20))), |_| ());
        service.jobs.lock().push_front(Known { id: job.id, job: job.clone(), key: None });
        let alice = Client { name: "alice".to_owned(), scope: crate::api::Scope::Read, ..Client::anonymous() };
        let bob = Client { name: "bob".to_owned(), ..alice.clone() };
        let listed: Vec<_> = service.operations(&alice).collect();
        assert_eq!((listed.len(), listed[0].id, &listed[0].result), (1, job.id, &None));
        assert_eq!(service.operations(&bob).count(), 0);
        let views: Vec<_> = (0..50).map(|_| job.view().written(crate::api::as_request)).collect();
        let outcome = job.outcome().unwrap().unwrap();
        assert!(views.iter().all(|view| Arc::ptr_eq(view.result.as_ref().unwrap(), &outcome)));
    }

    #[test]
    fn the_oldest_ended_jobs_are_forgotten_and_active_jobs_never() {
        let service = Service::for_test();
        let operation = crate::api::find("vm_start").unwrap();
        let job = || {
            Arc::new(Job::new(
                operation,
                &json!({"vm": "web"}),
                ("alice", "request"),
                (&service.metrics, &service.event_log),
            ))
        };
        let mut known = VecDeque::new();
        for number in 0..MAX_ENDED + 20 {
            let job = job();
            if number > 0 {
                job.end(Err(Error::not_found("none")), |_| ());
            }
            known.push_front(Known { id: job.view().id, job, key: None });
        }
        let newest = known[0].id;
        forget(&mut known);
        assert_eq!((known.len(), known[0].id), (MAX_ENDED + 1, newest));
        assert!(!known[MAX_ENDED].job.is_ended());
        let large = || Ok(Report::Text("x".repeat(MAX_REPORT_BYTES / 2)));
        for known in known.iter().take(3) {
            known.job.end(large(), |_| ());
        }
        forget(&mut known);
        assert_eq!((known.len(), known[0].id), (3, newest), "two large reports and the active job");
    }
}
