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

/// How many operations run at a time; the others wait for their turn.
static ROOM: Semaphore = Semaphore::const_new(16);

/// How many wait for guests beside those. They cost next to nothing, and must not hold up the others.
static WAITING_ROOM: Semaphore = Semaphore::const_new(64);

/// How many compute at a time. Others wait beside [`ROOM`], so that they hold up nothing else.
static COMPUTING_ROOM: Semaphore = Semaphore::const_new(1);

/// How many of those one client may have, so that others can wait, too.
const MOST_WAITS: usize = 32;

/// How many operations that have ended are remembered.
const REMEMBERED: usize = 512;

/// How many bytes of their reports are kept: commands in guests print as they like.
const MOST_BYTES: usize = 16 << 20;

/// How many may wait and run at a time. More than that is no use but abuse.
const MOST: usize = 1024;

/// How often it is told how far an operation is.
const TELLING: Duration = Duration::from_secs(1);

/// Every operation that is known.
#[derive(Default)]
pub(crate) struct Jobs {
    known: Mutex<VecDeque<Known>>,
    turns: VmQueues,
}

struct Known {
    id: Uuid,
    job: Arc<Job>,
    /// The client's own name for it, and what it named.
    key: Option<IdempotencyKey>,
}

/// A client's own name for a request, so that it is carried out once however often it is sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct IdempotencyKey {
    /// Whose name it is.
    pub(crate) client: String,
    /// The name.
    pub(crate) key: String,
    /// What it names.
    pub(crate) fingerprint: String,
}

/// What is to be done, and for whom.
pub(crate) struct Order {
    pub(crate) operation: &'static Operation,
    pub(crate) request: Value,
    pub(crate) client: Arc<Client>,
    pub(crate) request_id: String,
    pub(crate) reservation: Option<Arc<Reservation>>,
    /// The VM in whose queue it is put.
    pub(crate) queue: Option<String>,
    pub(crate) key: Option<IdempotencyKey>,
}

impl Jobs {
    fn lock(&self) -> MutexGuard<'_, VecDeque<Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins what was ordered, or finds it where it was ordered before under the same key. It goes on when nobody waits for it
    /// any more.
    pub(crate) fn begin(service: &Arc<Service>, order: Order) -> Result<Arc<Job>> {
        let Order { operation, request, client, request_id, reservation, queue, key } = order;
        let jobs = &service.jobs;
        let mut known = jobs.lock();
        if let Some(found) = key.as_ref().and_then(|key| ordered_before(&known, key)) {
            return found;
        }
        if service.is_ending() {
            return Err(ending());
        }
        if known.iter().filter(|known| !known.job.is_ended()).count() >= MOST {
            return Err(Error::new(Code::Busy, format!("{MOST} operations are under way already"))
                .hint("Try again when some of them have ended."));
        }
        require_patience(&known, operation, &client)?;
        let about = (&client.name[..], &request_id[..]);
        let job = Arc::new(Job::new(operation, &request, about, (&service.metrics, &service.feed)));
        let turn = queue.map(|vm| jobs.turns.take(&vm));
        known.push_front(Known { id: job.id, job: job.clone(), key });
        forget(&mut known);
        drop(known);
        tokio::spawn(tell(job.clone()));
        let work = Work { client, request, turn, reservation };
        tokio::spawn(carry_out(service.clone(), job.clone(), work));
        Ok(job)
    }

    /// Finds one.
    pub(crate) fn find(&self, id: Uuid) -> Option<Arc<Job>> {
        self.lock().iter().find(|known| known.id == id).map(|known| known.job.clone())
    }

    /// Returns those that a client may see, the newest first.
    pub(crate) fn visible_to(&self, client: &Client) -> Vec<Arc<Job>> {
        self.lock().iter().filter(|known| client.may_see(&known.job.client)).map(|known| known.job.clone()).collect()
    }

    fn under_way(&self) -> Vec<Arc<Job>> {
        self.lock().iter().map(|known| known.job.clone()).filter(|job| !job.is_ended()).collect()
    }

    /// Waits until nothing is under way; false where something is when the time is over.
    pub(crate) async fn finish(&self, limit: Duration) -> bool {
        let all_end = async {
            for job in self.under_way() {
                job.ends().await;
            }
        };
        tokio::time::timeout(limit, all_end).await.is_ok()
    }

    /// Tells all that is under way to end, and to undo what it has done.
    pub(crate) fn stop(&self) {
        for job in self.under_way() {
            job.stop();
        }
    }
}

/// Refuses one wait too many.
fn require_patience(known: &VecDeque<Known>, operation: &Operation, client: &Client) -> Result<()> {
    let is_theirs = |job: &Job| job.operation.waits() && !job.is_ended() && job.client == client.name;
    if operation.waits() && known.iter().filter(|known| is_theirs(&known.job)).count() >= MOST_WAITS {
        let message = format!("{MOST_WAITS} waits and commands of {} are under way already", client.title());
        return Err(Error::new(Code::Busy, message).hint("Try again when some of them have ended."));
    }
    Ok(())
}

/// The error for a request that comes while the service ends.
pub(crate) fn ending() -> Error {
    Error::new(Code::Interrupted, "the service is ending").hint("Try again in a moment.")
}

/// What was ordered under a key.
fn ordered_before(known: &VecDeque<Known>, key: &IdempotencyKey) -> Option<Result<Arc<Job>>> {
    let is_meant = |other: &IdempotencyKey| other.client == key.client && other.key == key.key;
    let found = known.iter().find(|known| known.key.as_ref().is_some_and(is_meant))?;
    Some(if found.key.as_ref().is_some_and(|other| other.fingerprint == key.fingerprint) {
        Ok(found.job.clone())
    } else {
        let message = format!("the Idempotency-Key `{}` was used for another request", key.key.escape_debug());
        Err(Error::new(Code::KeyReused, message)
            .hint("Take a new key for each new request, and the same one only to send the very same request again."))
    })
}

/// Forgets what ended longest ago.
fn forget(known: &mut VecDeque<Known>) {
    let (mut ended, mut bytes) = (0, 0);
    known.retain(|known| {
        ended += usize::from(known.job.is_ended());
        bytes += known.job.weight();
        !known.job.is_ended() || ended <= REMEMBERED && bytes <= MOST_BYTES
    });
}

/// Tells how far an operation is, until it has ended.
async fn tell(job: Arc<Job>) {
    while tokio::time::timeout(TELLING, job.ends()).await.is_err() {
        job.tell_progress();
    }
}

/// What it takes to carry an order out.
struct Work {
    client: Arc<Client>,
    request: Value,
    turn: Option<Ticket>,
    reservation: Option<Arc<Reservation>>,
}

async fn carry_out(service: Arc<Service>, job: Arc<Job>, work: Work) {
    let Work { client, request, mut turn, reservation } = work;
    let cancelled = || Error::new(Code::Interrupted, "cancelled before it was begun");
    let room = match job.operation {
        operation if operation.waits() => &WAITING_ROOM,
        operation if operation.computes(&request) => &COMPUTING_ROOM,
        _ => &ROOM,
    };
    let turn_and_room = async {
        if let Some(turn) = &mut turn {
            turn.comes().await;
        }
        blocking::place(room).await
    };
    let place = tokio::select! {
        () = job.is_cancelled() => Err(cancelled()),
        place = turn_and_room => place,
    };
    let outcome = match place {
        Err(error) => Err(error),
        Ok(place) => {
            let host = service.host(&client, job.cancel.clone(), job.clone());
            let host = match &reservation {
                Some(reservation) => host.within(reservation.clone()),
                None => host,
            };
            let at_work = job.clone();
            let work = move || {
                if !at_work.begin() {
                    return Err(cancelled());
                }
                at_work.operation.run(&host, request).map_err(|error| doctor::explain(&host, error))
            };
            blocking::run_at(place, work).await
        }
    };
    service.reads.outdate();
    // What there is of it is libvirt's to tell now.
    if let Some(reservation) = reservation {
        reservation.end(outcome.is_ok());
    }
    job.end(outcome, |view| service.audit.ended(view, &job.targets));
    // One that was cancelled while it waited must not let the next one past those before it.
    if let Some(turn) = &mut turn {
        turn.comes().await;
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{super::job::State, *};
    use crate::api::Report;

    /// Far longer than anything here takes.
    const LIMIT: Duration = Duration::from_secs(30);

    fn order() -> Order {
        let operation = crate::api::find("gc").unwrap();
        let request = operation.read(json!({})).unwrap();
        let client = Arc::new(Client::anonymous());
        Order { operation, request, client, request_id: "1".to_owned(), reservation: None, queue: None, key: None }
    }

    #[tokio::test]
    async fn one_that_waits_for_room_is_cancelled_at_once() {
        let service = Service::for_test();
        let _all = ROOM.acquire_many(16).await.unwrap();
        let job = Jobs::begin(&service, order()).unwrap();
        tokio::task::yield_now().await;
        assert!(job.stop());
        tokio::time::timeout(LIMIT, job.ends()).await.unwrap();
        assert_eq!(job.view().state, State::Cancelled);
    }

    #[tokio::test]
    async fn what_waits_for_a_guest_has_room_of_its_own() {
        let service = Service::for_test();
        let _all = ROOM.acquire_many(16).await.unwrap();
        let operation = crate::api::find("vm_wait").unwrap();
        let request = operation.read(json!({"vm": "nobody"})).unwrap();
        let job = Jobs::begin(&service, Order { operation, request, ..order() }).unwrap();
        tokio::time::timeout(LIMIT, job.ends()).await.unwrap();
        assert_eq!(job.view().state, State::Failed);
    }

    #[tokio::test]
    async fn a_service_that_ends_takes_nothing_more_and_ends_what_is_under_way() {
        let service = Service::for_test();
        let _all = ROOM.acquire_many(16).await.unwrap();
        let job = Jobs::begin(&service, order()).unwrap();
        service.close();
        assert_eq!(Jobs::begin(&service, order()).err().unwrap().code, Code::Interrupted);
        assert!(!service.jobs.finish(Duration::ZERO).await);
        service.jobs.stop();
        assert!(service.jobs.finish(LIMIT).await);
        assert!(job.is_ended());
    }

    #[test]
    fn a_key_is_its_clients_own_and_names_one_request() {
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
            (&service.metrics, &service.feed),
        ));
        let known =
            VecDeque::from([Known { id: job.view().id, job: job.clone(), key: Some(key("alice", "start web")) }]);
        let found = |key: &IdempotencyKey| ordered_before(&known, key);
        assert!(Arc::ptr_eq(&found(&key("alice", "start web")).unwrap().unwrap(), &job));
        let Some(Err(error)) = found(&key("alice", "start other")) else {
            panic!("another request has the key's answer")
        };
        assert_eq!(error.code, Code::KeyReused);
        assert!(found(&key("bob", "start web")).is_none(), "it is another client's");
    }

    #[test]
    fn a_list_has_no_results_and_every_view_of_an_operation_shares_its_one() {
        let service = Service::for_test();
        let operation = crate::api::find("vm_exec").unwrap();
        let job = Arc::new(Job::new(
            operation,
            &json!({"vm": "web"}),
            ("alice", "request"),
            (&service.metrics, &service.feed),
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
    fn what_ended_longest_ago_is_forgotten_and_what_is_under_way_never() {
        let service = Service::for_test();
        let operation = crate::api::find("vm_start").unwrap();
        let job = || {
            Arc::new(Job::new(
                operation,
                &json!({"vm": "web"}),
                ("alice", "request"),
                (&service.metrics, &service.feed),
            ))
        };
        let mut known = VecDeque::new();
        for number in 0..REMEMBERED + 20 {
            let job = job();
            if number > 0 {
                job.end(Err(Error::not_found("none")), |_| ());
            }
            known.push_front(Known { id: job.view().id, job, key: None });
        }
        let newest = known[0].id;
        forget(&mut known);
        assert_eq!((known.len(), known[0].id), (REMEMBERED + 1, newest));
        assert!(!known[REMEMBERED].job.is_ended());
        let large = || Ok(Report::Text("x".repeat(MOST_BYTES / 2)));
        for known in known.iter().take(3) {
            known.job.end(large(), |_| ());
        }
        forget(&mut known);
        assert_eq!((known.len(), known[0].id), (3, newest), "two large reports, and what is under way");
    }
}
