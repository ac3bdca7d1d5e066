//! The operations over HTTP: `vmprov serve`. It reads requests, runs operations off the async threads, and writes answers; it
//! decides nothing that another face would have to decide again.

mod allowed_hosts;
mod authentication;
mod body;
mod docs;
mod events;
mod health;
mod idle_timeout;
mod lifecycle;
mod listen;
mod mcp_transport;
mod middleware;
mod openapi;
mod operations;
mod prefer;
mod problem;
mod response;
mod routes;
mod scrape;
mod socket_file;
mod submit;
mod suggest;
mod tokens;
mod tools;

#[cfg(test)]
mod rights_tests;

use std::{sync::Arc, time::Duration};

use camino::Utf8PathBuf;

use crate::{
    error::Result,
    service::{self, Service, shutdown::Signals},
};
pub use allowed_hosts::AllowedHost;
use authentication::Authenticator;
pub use listen::{Inherited, Listen};
use mcp_transport::Mcp;
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
    service::shutdown::run(run(options))
}

async fn run(options: Options) -> Result<()> {
    let Options { service, listen, inherited, access, drain } = options;
    let mut signals = Signals::new()?;
    listen::require_private(&listen, &inherited, &access)?;
    let gate = Arc::new(Authenticator::new(access, service.settings.pool.clone())?);
    let service = Arc::new(Service::new(service)?);
    let listeners = listen::open(&listen, inherited).await?;
    for listener in &listeners {
        tracing::info!(place = listener.place(), "listening");
    }
    let mcp = Mcp::new(service.clone());
    let serving = listen::serve(listeners, &routes::router(service.clone(), gate.clone(), mcp.clone()));
    lifecycle::live(&service, &gate, &mut signals).await;
    let ended = lifecycle::end(&service, (serving, &mcp), &mut signals, drain).await;
    service.end_looks();
    service.audit.flush().await;
    ended
}
