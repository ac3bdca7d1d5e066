//! The operations over HTTP: `vmprov serve`. It reads requests, runs operations off the async threads, and writes answers; it
//! decides nothing that another face would have to decide again.

mod answer;
mod body;
mod call;
mod client;
mod health;
mod job;
mod jobs;
mod layers;
mod listen;
pub mod metrics;
mod near;
mod operations;
mod pool;
mod prefer;
mod problem;
mod reads;
mod routes;
mod service;
mod turns;

use std::{sync::Arc, time::Duration};

use tokio::signal::unix::{SignalKind, signal};

use crate::{
    error::{Code, Error, Result},
    ops::Settings,
};
pub use listen::Listen;
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

/// Serves until SIGTERM or SIGINT, and then until what is under way is finished or undone.
pub fn serve(options: Options) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .enable_all()
        .build()
        .map_err(|error| Error::io("start the threads of the service", &error))?;
    runtime.block_on(run(options))
}

async fn run(options: Options) -> Result<()> {
    let mut signals = Vec::new();
    for kind in [SignalKind::terminate(), SignalKind::interrupt()] {
        signals.push(signal(kind).map_err(|error| Error::io("listen for signals", &error))?);
    }
    let [mut terminate, mut interrupt] =
        <[_; 2]>::try_from(signals).map_err(|_| Error::internal("another number of signals is listened for"))?;
    let listeners = listen::open(&options.listen).await?;
    let drain = options.drain;
    let service = Arc::new(Service::new(options));
    let serving = listen::serve(listeners, &routes::router(service.clone()));
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::info!("ending: no further requests are taken");
    service.close();
    serving.stop();
    service.jobs.drain(drain).await;
    serving.finish().await;
    Ok(())
}

/// The error for a request that comes while the service ends.
fn ending() -> Error {
    Error::new(Code::Interrupted, "the service is ending").hint("Try again in a moment.")
}
