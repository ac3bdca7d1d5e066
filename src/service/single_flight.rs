//! [`SingleFlight`]: one look answers all who ask for the same at the same time.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::{
    FutureExt,
    future::{BoxFuture, Shared},
};
use serde_json::Value;
use tokio::sync::Semaphore;

use super::{LOOK_LIMIT, Service, blocking, client::Client};
use crate::{
    api::{Operation, Report},
    error::{Code, Error, Result},
    ops::doctor,
};

/// How many different looks there are at a time.
static ROOM: Semaphore = Semaphore::const_new(8);

/// How many may wait for their turn and run. More than that is no use but abuse.
const MOST: usize = 512;

/// How long an answer is waited for: the limit of one call of a program, and what ending it takes. Several may have to be made,
/// and others may have to be waited for.
const LIMIT: Duration = LOOK_LIMIT.saturating_add(Duration::from_secs(5));

/// What a look has seen, for all who asked.
pub(crate) type SharedReport = Arc<Result<Report>>;

/// The looks that are under way.
#[derive(Default)]
pub(crate) struct SingleFlight {
    under_way: Mutex<HashMap<String, Shared<BoxFuture<'static, SharedReport>>>>,
    /// Raised when something has been changed: whoever asks after that must not be shown what was seen before.
    changes: AtomicU64,
}

impl SingleFlight {
    /// Says that something has been changed.
    pub(crate) fn outdate(&self) {
        self.changes.fetch_add(1, Ordering::SeqCst);
    }

    /// Looks, or waits for somebody's look that is under way.
    pub(crate) async fn look(
        service: &Arc<Service>,
        client: &Arc<Client>,
        operation: &'static Operation,
        request: Value,
    ) -> SharedReport {
        let reads = &service.reads;
        // Those who see the same share a look, whoever they are.
        let caller = client.caller();
        let view = (&client.prefix, &client.image_hosts, caller.tenant());
        let key = format!("{} {} {view:?} {request}", reads.changes.load(Ordering::SeqCst), operation.name);
        let look = {
            let mut under_way = reads.under_way.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(look) = under_way.get(&key) {
                look.clone()
            } else if under_way.len() >= MOST {
                return Arc::new(Err(Error::new(Code::Busy, format!("{MOST} different looks are under way already"))
                    .hint("Try again when some of them have ended.")));
            } else {
                let look = begin(service.clone(), client.clone(), operation, request, key.clone());
                under_way.insert(key, look.clone());
                look
            }
        };
        tokio::time::timeout(LIMIT, look).await.unwrap_or_else(|_| Arc::new(Err(late())))
    }
}

/// A look that takes too long. It goes on, and whoever asks again waits for the same.
fn late() -> Error {
    Error::new(Code::Timeout, format!("nothing was found within {} s", LIMIT.as_secs()))
        .hint("libvirtd may be stuck; look: vmprov doctor")
}

/// Begins a look, which goes on when nobody waits for it any more.
fn begin(
    service: Arc<Service>,
    client: Arc<Client>,
    operation: &'static Operation,
    request: Value,
    key: String,
) -> Shared<BoxFuture<'static, SharedReport>> {
    let task = tokio::spawn(async move {
        let host = service.host_for_look(&client);
        let seen =
            blocking::run(&ROOM, move || operation.run(&host, request).map_err(|error| doctor::explain(&host, error)));
        let seen = Arc::new(seen.await);
        service.reads.under_way.lock().unwrap_or_else(PoisonError::into_inner).remove(&key);
        seen
    });
    let seen = task
        .map(|seen| seen.unwrap_or_else(|panic| Arc::new(Err(Error::internal("a look has failed").because(panic)))));
    seen.boxed().shared()
}

#[cfg(test)]
mod tests {
    use futures_util::future::join_all;
    use serde_json::json;

    use super::*;
    use crate::model::stats::Stats;

    /// How many virshs were started.
    fn processes(service: &Service) -> u64 {
        let text = service.metrics.encode(Ok(&Stats::default()));
        let name = "vmprov_processes_started_total{program=\"virsh\"} ";
        text.lines().find_map(|line| line.strip_prefix(name)).map_or(0, |count| count.parse().unwrap())
    }

    fn list() -> (&'static Operation, Value) {
        let operation = crate::api::find("vm_list").unwrap();
        (operation, operation.read(json!({})).unwrap())
    }

    #[tokio::test]
    async fn all_who_ask_at_the_same_time_have_one_look() {
        let service = Service::for_test();
        let ((operation, request), client) = (list(), Arc::new(Client::anonymous()));
        SingleFlight::look(&service, &client, operation, request.clone()).await.as_ref().as_ref().unwrap();
        let one = processes(&service);
        assert!(one > 0);
        let seen = join_all((0..50).map(|_| SingleFlight::look(&service, &client, operation, request.clone()))).await;
        assert!(seen.iter().all(|other| Arc::ptr_eq(other, &seen[0])));
        assert_eq!(processes(&service), 2 * one);
        assert!(service.reads.under_way.lock().unwrap().is_empty());
    }

    #[tokio::test]
    async fn whoever_asks_after_a_change_is_not_shown_what_was_looked_at_before() {
        let service = Service::for_test();
        let ((operation, request), client) = (list(), Arc::new(Client::anonymous()));
        let mut before = Box::pin(SingleFlight::look(&service, &client, operation, request.clone()));
        assert!((&mut before).now_or_never().is_none());
        service.reads.outdate();
        let (before, after) = tokio::join!(before, SingleFlight::look(&service, &client, operation, request));
        assert!(!Arc::ptr_eq(&before, &after));
    }

    #[tokio::test]
    async fn one_look_too_many_is_refused() {
        let service = Service::for_test();
        let (client, info) = (Arc::new(Client::anonymous()), crate::api::find("vm_info").unwrap());
        let _all = ROOM.acquire_many(8).await.unwrap();
        let look = |vm: usize| SingleFlight::look(&service, &client, info, json!({"vm": vm.to_string()}));
        let mut waiting: Vec<_> = (0..MOST).map(|vm| Box::pin(look(vm))).collect();
        assert!(waiting.iter_mut().all(|look| look.now_or_never().is_none()));
        assert_eq!(look(MOST).await.as_ref().as_ref().unwrap_err().code, Code::Busy);
    }
}
