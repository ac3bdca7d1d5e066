//! The operations over HTTP: `vmprov serve`. It reads requests, runs operations off the async threads, and writes answers; it
//! decides nothing that another face would have to decide again.

mod answer;
mod body;
mod call;
mod docs;
mod events;
mod gate;
mod health;
mod hosts;
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

use crate::{
    error::Result,
    service::{self, Service, life::Signals},
};
use gate::Gate;
pub use hosts::AllowedHost;
pub use listen::{Inherited, Listen};
use mcp::Mcp;
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
#[derive(Debug, Clone, Default)]
pub struct Access {
    /// The file of the tokens; without one, everybody may do everything.
    pub tokens: Option<Utf8PathBuf>,
    /// Whether that may be so where others than this machine's own programs reach the service.
    pub allow_unauthenticated: bool,
    /// The hosts that requests from the network may be for. Without tokens there must be one.
    pub allowed_hosts: Vec<AllowedHost>,
}

/// Serves until SIGTERM or SIGINT, and then until what is under way is finished or undone.
pub fn serve(options: Options) -> Result<()> {
    service::life::run(run(options))
}

async fn run(options: Options) -> Result<()> {
    let Options { service, listen, inherited, access, drain } = options;
    let mut signals = Signals::new()?;
    listen::require_private(&listen, &inherited, &access)?;
    let gate = Arc::new(Gate::new(access, service.settings.pool.clone())?);
    let service = Arc::new(Service::new(service)?);
    let listeners = listen::open(&listen, inherited).await?;
    for listener in &listeners {
        tracing::info!(place = listener.place(), "listening");
    }
    let mcp = Mcp::new(service.clone());
    let serving = listen::serve(listeners, &routes::router(service.clone(), gate.clone(), mcp.clone()));
    life::live(&service, &gate, &mut signals).await;
    let ended = life::end(&service, (serving, &mcp), &mut signals, drain).await;
    service.end_looks();
    service.audit.flush().await;
    ended
}
