//! [`Jobs`]: the operations that are under way, and those that ended not long ago.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use serde_json::Value;
use tokio::sync::Semaphore;
use uuid::Uuid;

use super::{
    job::{Job, View},
    pool,
    service::Service,
    turns::{Turn, Turns},
};
use crate::{
    api::Operation,
    error::{Code, Error, Result},
    ops::doctor,
};

/// How many operations run at a time; the others wait for their turn.
static ROOM: Semaphore = Semaphore::const_new(16);

/// How many operations that have ended are remembered.
const REMEMBERED: usize = 512;

/// How many may wait and run at a time. More than that is no use but abuse.
const MOST: usize = 1024;

/// How long undoing may take when the service ends.
const UNDOING: Duration = Duration::from_mins(1);

/// Every operation that is known.
#[derive(Default)]
pub(super) struct Jobs {
    known: Mutex<VecDeque<Known>>,
    turns: Turns,
}

struct Known {
    id: Uuid,
    job: Arc<Job>,
    /// The client's own name for it, and what it named.
    key: Option<IdempotencyKey>,
}

/// A client's own name for a request, so that it is carried out once however often it is sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct IdempotencyKey {
    /// Whose name it is.
    pub(super) client: String,
    /// The name.
    pub(super) key: String,
    /// What it names.
    pub(super) fingerprint: String,
}

/// What is to be done, and for whom.
pub(super) struct Order {
    pub(super) operation: &'static Operation,
    pub(super) request: Value,
    pub(super) client: String,
    pub(super) request_id: String,
    pub(super) key: Option<IdempotencyKey>,
}

impl Jobs {
    fn lock(&self) -> MutexGuard<'_, VecDeque<Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins what was ordered, or finds it where it was ordered before under the same key. It goes on when nobody waits for it
    /// any more.
    pub(super) fn begin(service: &Arc<Service>, order: Order) -> Result<Arc<Job>> {
        let Order { operation, request, client, request_id, key } = order;
        let jobs = &service.jobs;
        let mut known = jobs.lock();
        if let Some(found) = key.as_ref().and_then(|key| ordered_before(&known, key)) {
            return found;
        }
        if service.is_ending() {
            return Err(super::ending());
        }
        if known.iter().filter(|known| !known.job.is_ended()).count() >= MOST {
            return Err(Error::new(Code::Busy, format!("{MOST} operations are under way already"))
                .hint("Try again when some of them have ended: GET /api/operations."));
        }
        let vm = operation.vm(&request);
        let job = Arc::new(Job::new(operation, vm, &client, &request_id));
        let turn = vm.filter(|_| operation.is_ordered(&request)).map(|vm| jobs.turns.take(vm));
        known.push_front(Known { id: job.view().id, job: job.clone(), key });
        forget(&mut known);
        drop(known);
        tokio::spawn(carry_out(service.clone(), job.clone(), request, turn));
        Ok(job)
    }

    /// Finds one.
    pub(super) fn find(&self, id: Uuid) -> Option<Arc<Job>> {
        self.lock().iter().find(|known| known.id == id).map(|known| known.job.clone())
    }

    /// How each of them is, the newest first.
    pub(super) fn views(&self) -> Vec<View> {
        self.lock().iter().map(|known| known.job.view()).collect()
    }

    /// Waits until nothing is under way: what has not ended in time is told to, and undoes what it has done.
    pub(super) async fn drain(&self, limit: Duration) {
        let under_way: Vec<_> =
            self.lock().iter().map(|known| known.job.clone()).filter(|job| !job.is_ended()).collect();
        let all_end = || async {
            for job in &under_way {
                job.ends().await;
            }
        };
        if tokio::time::timeout(limit, all_end()).await.is_ok() {
            return;
        }
        for job in &under_way {
            job.stop();
        }
        if tokio::time::timeout(UNDOING, all_end()).await.is_err() {
            tracing::error!("something could not be undone in time; clean up with: vmprov gc");
        }
    }
}

/// What was ordered under a key.
fn ordered_before(known: &VecDeque<Known>, key: &IdempotencyKey) -> Option<Result<Arc<Job>>> {
    let is_meant = |other: &IdempotencyKey| other.client == key.client && other.key == key.key;
    let found = known.iter().find(|known| known.key.as_ref().is_some_and(is_meant))?;
    Some(if found.key.as_ref().is_some_and(|other| other.fingerprint == key.fingerprint) {
        Ok(found.job.clone())
    } else {
        Err(Error::conflict(format!("the Idempotency-Key `{}` was used for another request", key.key.escape_debug()))
            .hint("Take a new key for each new request, and the same one only to send the very same request again."))
    })
}

/// Forgets what ended longest ago.
fn forget(known: &mut VecDeque<Known>) {
    let mut ended = 0;
    known.retain(|known| {
        ended += usize::from(known.job.is_ended());
        !known.job.is_ended() || ended <= REMEMBERED
    });
}

async fn carry_out(service: Arc<Service>, job: Arc<Job>, request: Value, mut turn: Option<Turn>) {
    let cancelled = || Error::new(Code::Interrupted, "cancelled before it was begun");
    let outcome = tokio::select! {
        () = job.is_cancelled() => Err(cancelled()),
        () = async { if let Some(turn) = &mut turn { turn.comes().await } } => {
            let host = service.host(job.cancel.clone(), job.clone());
            let at_work = job.clone();
            pool::run(&ROOM, move || {
                if !at_work.begin() {
                    return Err(cancelled());
                }
                let operation = at_work.operation;
                operation.run(&host, request).map_err(|error| doctor::explain(&host, error))
            }).await
        }
    };
    service.reads.outdate();
    job.end(outcome);
    // One that was cancelled while it waited must not let the next one past those before it.
    if let Some(turn) = &mut turn {
        turn.comes().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_its_clients_own_and_names_one_request() {
        let key = |client: &str, fingerprint: &str| IdempotencyKey {
            client: client.to_owned(),
            key: "same".to_owned(),
            fingerprint: fingerprint.to_owned(),
        };
        let operation = crate::api::find("vm_start").unwrap();
        let job = Arc::new(Job::new(operation, Some("web"), "alice", "request"));
        let known =
            VecDeque::from([Known { id: job.view().id, job: job.clone(), key: Some(key("alice", "start web")) }]);
        let found = |key: &IdempotencyKey| ordered_before(&known, key);
        assert!(Arc::ptr_eq(&found(&key("alice", "start web")).unwrap().unwrap(), &job));
        let Some(Err(error)) = found(&key("alice", "start other")) else {
            panic!("another request has the key's answer")
        };
        assert_eq!(error.code, Code::Conflict);
        assert!(found(&key("bob", "start web")).is_none(), "it is another client's");
    }

    #[test]
    fn what_ended_longest_ago_is_forgotten_and_what_is_under_way_never() {
        let operation = crate::api::find("vm_start").unwrap();
        let job = || Arc::new(Job::new(operation, Some("web"), "alice", "request"));
        let mut known = VecDeque::new();
        for number in 0..REMEMBERED + 20 {
            let job = job();
            if number > 0 {
                job.end(Err(Error::not_found("none")));
            }
            known.push_front(Known { id: job.view().id, job, key: None });
        }
        let newest = known[0].id;
        forget(&mut known);
        assert_eq!((known.len(), known[0].id), (REMEMBERED + 1, newest));
        assert!(!known[REMEMBERED].job.is_ended());
    }
}
