//! [`Reads`]: one look answers all who ask for the same at the same time.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use futures_util::{
    FutureExt,
    future::{BoxFuture, Shared},
};
use serde_json::Value;
use tokio::sync::Semaphore;

use super::{client::Client, pool, service::Service};
use crate::{
    api::{Operation, Report},
    error::Result,
    ops::doctor,
};

/// How many different looks there are at a time.
static ROOM: Semaphore = Semaphore::const_new(8);

/// What a look has seen, for all who asked.
pub(super) type Seen = Arc<Result<Report>>;

/// The looks that are under way.
#[derive(Default)]
pub(super) struct Reads {
    under_way: Mutex<HashMap<String, Shared<BoxFuture<'static, Seen>>>>,
    /// Raised when something has been changed: whoever asks after that must not be shown what was seen before.
    changes: AtomicU64,
}

impl Reads {
    /// Says that something has been changed.
    pub(super) fn outdate(&self) {
        self.changes.fetch_add(1, Ordering::SeqCst);
    }

    /// Looks, or waits for somebody's look that is under way.
    pub(super) async fn look(
        service: &Arc<Service>,
        client: &Arc<Client>,
        operation: &'static Operation,
        request: Value,
    ) -> Seen {
        let reads = &service.reads;
        // Those who see the same share a look, whoever they are.
        let view = (&client.prefix, &client.image_hosts);
        let key = format!("{} {} {view:?} {request}", reads.changes.load(Ordering::SeqCst), operation.name);
        let look = {
            let mut under_way = reads.under_way.lock().unwrap_or_else(PoisonError::into_inner);
            under_way.get(&key).cloned().unwrap_or_else(|| {
                let look = begin(service.clone(), client.clone(), operation, request, key.clone());
                under_way.insert(key, look.clone());
                look
            })
        };
        look.await
    }
}

/// Begins a look, which goes on when nobody waits for it any more.
fn begin(
    service: Arc<Service>,
    client: Arc<Client>,
    operation: &'static Operation,
    request: Value,
    key: String,
) -> Shared<BoxFuture<'static, Seen>> {
    let task = tokio::spawn(async move {
        let host = service.host_for_look(&client);
        let seen =
            pool::run(&ROOM, move || operation.run(&host, request).map_err(|error| doctor::explain(&host, error)));
        let seen = Arc::new(seen.await);
        service.reads.under_way.lock().unwrap_or_else(PoisonError::into_inner).remove(&key);
        seen
    });
    let seen = task.map(|seen| {
        seen.unwrap_or_else(|panic| Arc::new(Err(crate::error::Error::internal("a look has failed").because(panic))))
    });
    seen.boxed().shared()
}
