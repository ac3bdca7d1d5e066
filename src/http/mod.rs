//! The HTTP front end: `vmprov serve`.
//!
//! It reads requests, submits operations to the service, and writes responses. Everything that another front end would
//! need, too, is in the module `service`.

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

/// The configuration of the HTTP service.
#[derive(Debug)]
pub struct Options {
    /// The configuration of the service itself.
    pub service: service::Options,
    /// Where to listen.
    pub listen: Vec<Listen>,
    /// Sockets that the service manager opened before the start.
    pub inherited: Vec<Inherited>,
    /// Who has access.
    pub access: Access,
    /// How long running operations may take to finish at shutdown. After that, they are cancelled and rolled back.
    pub drain: Duration,
}

/// Who has access.
#[derive(Debug, Clone, Default)]
pub struct Access {
    /// The token file. Without one, every client has all rights.
    pub tokens: Option<Utf8PathBuf>,
    /// Whether clients on the network need no token.
    pub allow_unauthenticated: bool,
    /// The hosts that requests from the network may name. Without tokens, at least one is required.
    pub allowed_hosts: Vec<AllowedHost>,
}

/// Serves until SIGTERM or SIGINT, and then shuts down gracefully.
pub fn serve(options: Options) -> Result<()> {
    service::shutdown::run(run(options))
}

async fn run(options: Options) -> Result<()> {
    let Options { service, listen, inherited, access, drain } = options;
    let mut signals = Signals::new()?;
    listen::require_protected(&listen, &inherited, &access)?;
    let authenticator = Arc::new(Authenticator::new(access, service.settings.pool.clone())?);
    let service = Arc::new(Service::new(service)?);
    let listeners = listen::open(&listen, inherited).await?;
    for listener in &listeners {
        tracing::info!(place = listener.address(), "listening");
    }
    let mcp = Mcp::new(service.clone());
    let serving = listen::serve(listeners, &routes::router(service.clone(), authenticator.clone(), mcp.clone()));
    lifecycle::run(&service, &authenticator, &mut signals).await;
    let result = lifecycle::shut_down(&service, (serving, &mcp), &mut signals, drain).await;
    service.cancel_reads();
    service.audit.flush().await;
    result
}
