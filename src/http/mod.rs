//! The operations over HTTP: `vmprov serve`. It reads requests, runs operations off the async threads, and writes answers; it
//! decides nothing that another face would have to decide again.

mod answer;
mod body;
mod call;
mod client;
mod docs;
mod events;
mod feed;
mod glance;
mod health;
mod hearing;
mod job;
mod jobs;
mod layers;
mod life;
mod listen;
pub mod metrics;
mod openapi;
mod operations;
mod pool;
mod prefer;
mod problem;
mod reads;
mod routes;
mod scrape;
mod service;
mod turns;

use std::{sync::Arc, time::Duration};

use crate::{
    error::{Code, Error, Result},
    ops::Settings,
};
use life::Signals;
pub use listen::Listen;
pub use openapi::document;
use service::Service;

/// What decides how the service runs; the command line fills it.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where the operations work.
    pub settings: Settings,
    /// Where to listen.
    pub listen: Vec<Listen>,
    /// How long what is under way may take to finish, once the service is told to end; then it is undone.
    pub drain: Duration,
}

/// How many threads work for the connections. They only read and write; whatever waits for a program has its own.
const WORKERS: usize = 2;

/// How long the last calls of programs may take to end, once nobody waits for them.
const LAST_CALLS: Duration = Duration::from_secs(6);

/// Serves until SIGTERM or SIGINT, and then until what is under way is finished or undone.
pub fn serve(options: Options) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .enable_all()
        .build()
        .map_err(|error| Error::io("start the threads of the service", &error))?;
    let ended = runtime.block_on(run(options));
    runtime.shutdown_timeout(LAST_CALLS);
    ended
}

async fn run(options: Options) -> Result<()> {
    let mut signals = Signals::new()?;
    let listeners = listen::open(&options.listen).await?;
    let drain = options.drain;
    let service = Arc::new(Service::new(options));
    let serving = listen::serve(listeners, &routes::router(service.clone()));
    life::live(&service, &mut signals).await;
    let ended = life::end(&service, serving, &mut signals, drain).await;
    service.end_looks();
    ended
}

/// The error for a request that comes while the service ends.
fn ending() -> Error {
    Error::new(Code::Interrupted, "the service is ending").hint("Try again in a moment.")
}
