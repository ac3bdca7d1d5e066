//! The operations over HTTP: `vmprov serve`. It reads requests, runs operations off the async threads, and writes answers; it
//! decides nothing that another face would have to decide again.

mod answer;
mod audit;
mod body;
mod call;
mod client;
mod docs;
mod events;
mod feed;
mod gate;
mod glance;
mod health;
mod hearing;
mod job;
mod jobs;
mod layers;
mod life;
mod listen;
pub mod metrics;
mod near;
mod openapi;
mod operations;
mod patience;
mod permit;
mod pool;
mod prefer;
mod problem;
mod quota;
mod reads;
mod routes;
mod scrape;
mod service;
mod socket_file;
mod tokens;
mod turns;

#[cfg(test)]
mod rights_tests;

use std::{sync::Arc, time::Duration};

use camino::Utf8PathBuf;

use crate::{
    error::{Code, Error, Result},
    model::sources::Limits,
    ops::Settings,
};
use life::Signals;
pub use listen::{Inherited, Listen};
pub use openapi::document;
use service::Service;

/// What decides how the service runs; the command line fills it.
#[derive(Debug)]
pub struct Options {
    /// Where the operations work.
    pub settings: Settings,
    /// Where to listen.
    pub listen: Vec<Listen>,
    /// Sockets that were opened for the service before it began.
    pub inherited: Vec<Inherited>,
    /// Who may ask, and for what.
    pub access: Access,
    /// How long what is under way may take to finish, once the service is told to end; then it is undone.
    pub drain: Duration,
}

/// Who may ask, and for what.
#[derive(Debug, Default)]
pub struct Access {
    /// The file of the tokens; without one, everybody may do everything.
    pub tokens: Option<Utf8PathBuf>,
    /// Whether that may be so where others than this machine's own programs reach the service.
    pub allow_unauthenticated: bool,
    /// What may be named as an image or as an installer beside what is public.
    pub images: Limits,
    /// Where it is noted who has asked for what.
    pub audit_log: Option<Utf8PathBuf>,
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

async fn run(mut options: Options) -> Result<()> {
    let mut signals = Signals::new()?;
    if options.access.tokens.is_none() && !options.access.allow_unauthenticated {
        listen::require_private(&options.listen, &options.inherited)?;
    }
    let (listen, inherited) = (std::mem::take(&mut options.listen), std::mem::take(&mut options.inherited));
    let drain = options.drain;
    let service = Arc::new(Service::new(options)?);
    let listeners = listen::open(&listen, inherited).await?;
    for listener in &listeners {
        tracing::info!(place = listener.place(), "listening");
    }
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
