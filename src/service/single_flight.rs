//! [`SingleFlight`]: coalesces identical concurrent reads into one.

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

use super::{READ_TIMEOUT, Service, blocking, client::Client};
use crate::{
    api::{Operation, Report},
    error::{Code, Error, Hint, Result},
    ops::doctor,
};

/// The permits of reads that run at a time.
static READ_PERMITS: Semaphore = Semaphore::const_new(8);

/// How many different reads may wait and run. No legitimate use needs more.
const MAX_READS: usize = 512;

/// How long a client waits for a read: the time limit of one program, and the time to end it. A read may run several
/// programs, and may have to wait for other reads.
const LIMIT: Duration = READ_TIMEOUT.saturating_add(Duration::from_secs(5));

/// The outcome of a read, shared by all callers.
pub(crate) type SharedReport = Arc<Result<Report>>;

/// The running reads.
#[derive(Default)]
pub(crate) struct SingleFlight {
    pending: Mutex<HashMap<String, Shared<BoxFuture<'static, SharedReport>>>>,
    /// Incremented by each change. A client that reads after a change must not receive an older report.
    changes: AtomicU64,
}

impl SingleFlight {
    /// Makes later reads ignore the running ones, because something has changed.
    pub(crate) fn invalidate(&self) {
        self.changes.fetch_add(1, Ordering::SeqCst);
    }

    /// Runs a read, or waits for the identical read that is running.
    pub(crate) async fn read(
        service: &Arc<Service>,
        client: &Arc<Client>,
        operation: &'static Operation,
        request: Value,
    ) -> SharedReport {
        let reads = &service.reads;
        // Clients that can see the same share a read.
        let caller = client.caller();
        let view = (&client.prefix, &client.image_hosts, caller.tenant());
        let key = format!("{} {} {view:?} {request}", reads.changes.load(Ordering::SeqCst), operation.name);
        let read = {
            let mut pending = reads.pending.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(read) = pending.get(&key) {
                read.clone()
            } else if pending.len() >= MAX_READS {
                return Arc::new(Err(too_many()));
            } else {
                let read = start(service.clone(), client.clone(), operation, request, key.clone());
                pending.insert(key, read.clone());
                read
            }
        };
        tokio::time::timeout(LIMIT, read).await.unwrap_or_else(|_| Arc::new(Err(timed_out())))
    }
}

fn too_many() -> Error {
    Error::new(Code::Busy, format!("{MAX_READS} different reads are already running"))
        .hint("Try again when some of them have ended")
}

/// Returns the error for a read that takes too long. The read continues, and later identical requests wait for it.
fn timed_out() -> Error {
    Error::new(Code::Timeout, format!("the read took longer than {} s", LIMIT.as_secs()))
        .hint(Hint::call_any("Check whether libvirtd is stuck", "doctor"))
}

/// Starts a read, which continues if all clients stop waiting.
fn start(
    service: Arc<Service>,
    client: Arc<Client>,
    operation: &'static Operation,
    request: Value,
    key: String,
) -> Shared<BoxFuture<'static, SharedReport>> {
    let task = tokio::spawn(async move {
        let host = service.host_for_read(&client);
        let work = move || operation.run(&host, request).map_err(|error| doctor::explain(&host, error));
        let report = Arc::new(blocking::run(&READ_PERMITS, work).await);
        service.reads.pending.lock().unwrap_or_else(PoisonError::into_inner).remove(&key);
        report
    });
    let panicked = |panic| Arc::new(Err(Error::internal("the read panicked").because(panic)));
    task.map(move |report| report.unwrap_or_else(panicked)).boxed().shared()
}

#[cfg(test)]
mod tests {
    use futures_util::future::join_all;
    use serde_json::json;

    use super::*;
    use crate::model::stats::Stats;

    /// Returns how many virsh processes were started.
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
    async fn identical_concurrent_reads_are_coalesced() {
        let service = Service::for_test();
        let ((operation, request), client) = (list(), Arc::new(Client::anonymous()));
        SingleFlight::read(&service, &client, operation, request.clone()).await.as_ref().as_ref().unwrap();
        let one = processes(&service);
        assert!(one > 0);
        let reports =
            join_all((0..50).map(|_| SingleFlight::read(&service, &client, operation, request.clone()))).await;
        assert!(reports.iter().all(|other| Arc::ptr_eq(other, &reports[0])));
        assert_eq!(processes(&service), 2 * one);
        assert!(service.reads.pending.lock().unwrap().is_empty());
    }

    #[tokio::test]
    async fn a_read_after_a_change_does_not_share_an_earlier_read() {
        let service = Service::for_test();
        let ((operation, request), client) = (list(), Arc::new(Client::anonymous()));
        let mut before = Box::pin(SingleFlight::read(&service, &client, operation, request.clone()));
        assert!((&mut before).now_or_never().is_none());
        service.reads.invalidate();
        let (before, after) = tokio::join!(before, SingleFlight::read(&service, &client, operation, request));
        assert!(!Arc::ptr_eq(&before, &after));
    }

    #[tokio::test]
    async fn a_read_over_the_limit_is_refused() {
        let service = Service::for_test();
        let (client, info) = (Arc::new(Client::anonymous()), crate::api::find("vm_info").unwrap());
        let _all = READ_PERMITS.acquire_many(8).await.unwrap();
        let read = |vm: usize| SingleFlight::read(&service, &client, info, json!({"vm": vm.to_string()}));
        let mut waiting: Vec<_> = (0..MAX_READS).map(|vm| Box::pin(read(vm))).collect();
        assert!(waiting.iter_mut().all(|read| read.now_or_never().is_none()));
        assert_eq!(read(MAX_READS).await.as_ref().as_ref().unwrap_err().code, Code::Busy);
    }
}
