//! `vmprov mcp`: the protocol over standard input and output, for as long as the client lives.

use std::{sync::Arc, time::Duration};

use rmcp::{ServiceExt, transport::io::stdio_pipes};
use tokio::signal::unix::{SignalKind, signal};

use super::mcp::{Agent, Who};
use crate::{
    api::Scope,
    error::{Error, Result},
    model::ttl::Ttl,
    service::{
        self, Service,
        client::{Client, Standing},
    },
};

/// The name of whoever is at the other end, in the VMs that they make and in the audit log.
const NAME: &str = "mcp";

/// How long what is under way may take to finish once the client has gone: it closes the pipe, and ends the process soon after.
const GRACE: Duration = Duration::from_secs(1);

/// How long undoing may take.
const UNDOING: Duration = Duration::from_mins(1);

/// How long the last calls of programs may take to end, once nobody waits for them.
const LAST_CALLS: Duration = Duration::from_secs(6);

/// What bounds an agent.
#[derive(Debug)]
pub struct Options {
    /// How the operations work.
    pub service: service::Options,
    /// Whether the agent may only look.
    pub read_only: bool,
    /// How the names of all VMs and keys begin that there are for the agent.
    pub prefix: Option<String>,
    /// When a VM of the agent's expires where it does not say.
    pub ttl_default: Option<Ttl>,
    /// How long an answer may take; then it is an operation to ask for.
    pub answer_within: Duration,
}

/// Serves one agent until it goes or the process is told to end; then what is under way is undone.
pub fn serve(options: Options) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|error| Error::io("start the threads of the service", &error))?;
    let ended = runtime.block_on(run(options));
    runtime.shutdown_timeout(LAST_CALLS);
    ended
}

async fn run(options: Options) -> Result<()> {
    let Options { service, read_only, prefix, ttl_default, answer_within } = options;
    let listen = |kind| signal(kind).map_err(|error| Error::io("listen for signals", &error));
    let (mut terminate, mut interrupt) = (listen(SignalKind::terminate())?, listen(SignalKind::interrupt())?);
    let mut hangup = listen(SignalKind::hangup())?;
    let scope = if read_only { Scope::Read } else { Scope::Operate };
    let client =
        Client { name: NAME.to_owned(), scope, prefix, ttl_default, standing: Standing::Agent, ..Client::anonymous() };
    let service = Arc::new(Service::new(service)?);
    let agent = Agent { service: service.clone(), who: Who::One(Arc::new(client)), answer_within };
    let mut conversation = std::pin::pin!(converse(agent));
    loop {
        tokio::select! {
            served = &mut conversation => break served?,
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            _ = hangup.recv() => service.reload(),
        }
    }
    service.close();
    if !service.jobs.finish(GRACE).await {
        service.jobs.stop();
        let undone = tokio::select! {
            undone = service.jobs.finish(UNDOING) => undone,
            _ = terminate.recv() => false,
            _ = interrupt.recv() => false,
        };
        if !undone {
            tracing::error!("something could not be undone in time; clean up with: vmprov gc");
        }
    }
    service.end_looks();
    Ok(())
}

/// Answers the client until it goes.
async fn converse(agent: Agent) -> Result<()> {
    let failed = |error: &dyn std::fmt::Display| {
        Error::invalid("the client does not speak the Model Context Protocol")
            .because(error)
            .hint("This command is for a program: put it into the client's list of servers (mcpServers).")
    };
    let running = match agent.serve(stdio_pipes()).await {
        Ok(running) => running,
        // It has gone without a word.
        Err(rmcp::service::ServerInitializeError::ConnectionClosed(_)) => return Ok(()),
        Err(error) => return Err(failed(&error)),
    };
    running.waiting().await.map(|_| ()).map_err(|error| failed(&error))
}
