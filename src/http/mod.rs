//! The operations over HTTP: `vmprov serve`. It reads requests, runs operations off the async threads, and writes answers; it
//! decides nothing that another face would have to decide again.

mod answer;
mod body;
mod call;
mod docs;
mod events;
mod gate;
mod health;
mod layers;
mod life;
mod listen;
mod mcp;
mod near;
mod openapi;
mod operations;
mod patience;
mod prefer;
mod problem;
mod routes;
mod scrape;
mod socket_file;
mod tokens;
mod tools;

#[cfg(test)]
mod rights_tests;

use std::{sync::Arc, time::Duration};

use camino::Utf8PathBuf;
use tokio_util::sync::CancellationToken;

use crate::{
    error::{Error, Result},
    service::{self, Service},
};
use gate::Gate;
use life::Signals;
pub use listen::{Inherited, Listen};
pub use openapi::document;

/// What decides how the service runs; the command line fills it.
#[derive(Debug)]
pub struct Options {
    /// How the operations work, and for whom.
    pub service: service::Options,
    /// Where to listen.
    pub listen: Vec<Listen>,
    /// Sockets that were opened for the service before it began.
    pub inherited: Vec<Inherited>,
    /// Who may ask.
    pub access: Access,
    /// How long what is under way may take to finish, once the service is told to end; then it is undone.
    pub drain: Duration,
}

/// Who may ask.
#[derive(Debug, Default)]
pub struct Access {
    /// The file of the tokens; without one, everybody may do everything.
    pub tokens: Option<Utf8PathBuf>,
    /// Whether that may be so where others than this machine's own programs reach the service.
    pub allow_unauthenticated: bool,
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
    let Options { service, listen, inherited, access, drain } = options;
    let mut signals = Signals::new()?;
    if access.tokens.is_none() && !access.allow_unauthenticated {
        listen::require_private(&listen, &inherited)?;
    }
    let gate = Arc::new(Gate::new(access.tokens)?);
    let service = Arc::new(Service::new(service)?);
    let listeners = listen::open(&listen, inherited).await?;
    for listener in &listeners {
        tracing::info!(place = listener.place(), "listening");
    }
    let streams = CancellationToken::new();
    let serving = listen::serve(listeners, &routes::router(service.clone(), gate.clone(), streams.clone()));
    life::live(&service, &gate, &mut signals).await;
    let ended = life::end(&service, (serving, streams), &mut signals, drain).await;
    service.end_looks();
    ended
}
