//! `vmprov mcp`: the protocol over standard input and output, for as long as the client lives.

use std::{
    io::{ErrorKind, Read},
    sync::Arc,
    time::Duration,
};

use futures_util::stream;
use rmcp::{ServiceExt, service::ServerInitializeError};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::{io::StreamReader, sync::CancellationToken};

use super::mcp::{Agent, Who};
use crate::{
    api::Scope,
    error::{Error, Result},
    model::ttl::Ttl,
    service::{
        self, Service,
        client::{Client, Identity},
        shutdown::{ShutdownSignal, Signals},
    },
};

/// The name of whoever is at the other end, in the VMs that they make and in the audit log.
const NAME: &str = "mcp";

/// How long what is under way may take to finish once the client has gone: it closes the pipe, and ends the process soon after.
const GRACE: Duration = Duration::from_secs(1);

/// How much is read at a time.
const CHUNK: usize = 64 << 10;

/// What bounds an agent.
#[derive(Debug)]
pub struct Options {
    /// How the operations work.
    pub service: service::Options,
    /// Whether the agent may only look.
    pub read_only: bool,
    /// How the names of all VMs and keys begin that there are for the agent.
    pub prefix: Option<String>,
    /// The networks that the agent may attach VMs to.
    pub networks: Vec<String>,
    /// When a VM of the agent's expires where it does not say.
    pub ttl_default: Option<Ttl>,
    /// How long an answer may take; then it is an operation to ask for.
    pub answer_within: Duration,
}

/// Serves one agent until it goes or the process is told to end; then what is under way is undone.
pub fn serve<O>(options: Options, input: impl Read + Send + 'static, output: O) -> Result<()>
where
    O: AsyncWrite + Send + Unpin + 'static,
{
    service::shutdown::run(run(options, input, output))
}

async fn run<O>(options: Options, input: impl Read + Send + 'static, output: O) -> Result<()>
where
    O: AsyncWrite + Send + Unpin + 'static,
{
    let Options { service, read_only, prefix, networks, ttl_default, answer_within } = options;
    let mut signals = Signals::new()?;
    let scope = if read_only { Scope::Read } else { Scope::Operate };
    let (name, networks, standing) = (NAME.to_owned(), Some(networks), Identity::Agent);
    let client =
        Client { name, scope, prefix, networks, ttl_default, is_limited: true, standing, ..Client::anonymous() };
    let service = Arc::new(Service::new(service)?);
    let agent = Agent { service: service.clone(), who: Who::One(Arc::new(client)), answer_within };
    let gone = CancellationToken::new();
    let mut conversation = std::pin::pin!(converse(agent, read(input, gone.clone())?, output));
    let early = loop {
        tokio::select! {
            served = &mut conversation => break Some(served),
            // What was asked last is still answered, while nothing more comes.
            () = gone.cancelled() => break None,
            wish = signals.wish() => match wish {
                ShutdownSignal::End => break None,
                ShutdownSignal::Reload => service.reload(),
            },
        }
    };
    let ending = service.drain(GRACE, &mut signals);
    let (ended, served) = match early {
        Some(served) => (ending.await, served),
        None if gone.is_cancelled() => tokio::join!(ending, conversation),
        None => (ending.await, Ok(())),
    };
    service.end_looks();
    service.audit.flush().await;
    ended.and(served)
}

/// Reads on a thread of its own, which the process does not wait for: a client may keep the pipe open and say nothing.
fn read(mut input: impl Read + Send + 'static, gone: CancellationToken) -> Result<impl AsyncRead> {
    let (sender, receiver) = tokio::sync::mpsc::channel::<std::io::Result<Vec<u8>>>(1);
    let pump = move || {
        let mut chunk = vec![0; CHUNK];
        loop {
            let read = match input.read(&mut chunk) {
                Ok(0) => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                read => read.map(|count| chunk[..count].to_vec()),
            };
            let is_over = read.is_err();
            if sender.blocking_send(read).is_err() || is_over {
                break;
            }
        }
        gone.cancel();
    };
    let spawned = std::thread::Builder::new().name("input".to_owned()).spawn(pump);
    spawned.map_err(|error| Error::io("start the thread that reads", &error))?;
    let chunks = stream::unfold(receiver, |mut receiver| async {
        let chunk = receiver.recv().await?;
        Some((chunk.map(std::io::Cursor::new), receiver))
    });
    Ok(StreamReader::new(Box::pin(chunks)))
}

/// Answers the client until it goes.
async fn converse<O>(agent: Agent, input: impl AsyncRead + Send + Unpin + 'static, output: O) -> Result<()>
where
    O: AsyncWrite + Send + Unpin + 'static,
{
    let failed = || {
        Error::invalid("the client does not speak the Model Context Protocol")
            .because("its first message is none that begins a conversation")
            .hint("This command is for a program: put it into the client's list of servers (mcpServers).")
    };
    let running = match agent.serve((input, output)).await {
        Ok(running) => running,
        // It has gone without a word.
        Err(ServerInitializeError::ConnectionClosed(_)) => return Ok(()),
        Err(_) => return Err(failed()),
    };
    running.waiting().await.map(drop).map_err(|error| Error::internal("the conversation has broken off").because(error))
}
