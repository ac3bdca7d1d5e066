//! `vmprov mcp`: the Model Context Protocol over standard input and output, until the client disconnects.

use std::{
    io::{ErrorKind, Read},
    sync::Arc,
    time::Duration,
};

use futures_util::stream;
use rmcp::{ServiceExt, service::ServerInitializeError};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::{io::StreamReader, sync::CancellationToken};

use super::mcp::{Agent, Clients};
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

/// The name of the client, as the owner of its VMs and in the audit log.
const NAME: &str = "mcp";

/// The grace period for running operations after the client disconnected. It closes the pipe and kills the process soon
/// after.
const GRACE: Duration = Duration::from_secs(1);

/// The size of a read from standard input.
const CHUNK: usize = 64 << 10;

/// The options of `vmprov mcp`.
#[derive(Debug)]
pub struct Options {
    /// The options of the service.
    pub service: service::Options,
    /// Whether only read-only tools are available.
    pub read_only: bool,
    /// The prefix of all names of VMs and keys that the agent sees and may use.
    pub prefix: Option<String>,
    /// The networks that the agent may attach VMs to.
    pub networks: Vec<String>,
    /// The time to live of the agent's VMs if it does not give one.
    pub ttl_default: Option<Ttl>,
    /// The time after which a call returns a running operation to poll.
    pub answer_within: Duration,
}

/// Serves one agent until it disconnects or the process is terminated. Then running operations are canceled and rolled
/// back.
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
    let (name, networks, identity) = (NAME.to_owned(), Some(networks), Identity::Agent);
    let client =
        Client { name, scope, prefix, networks, ttl_default, is_limited: true, identity, ..Client::anonymous() };
    let service = Arc::new(Service::new(service)?);
    let agent = Agent { service: service.clone(), clients: Clients::One(Arc::new(client)), answer_within };
    let disconnected = CancellationToken::new();
    let mut conversation = std::pin::pin!(converse(agent, read(input, disconnected.clone())?, output));
    let early = loop {
        tokio::select! {
            served = &mut conversation => break Some(served),
            // The last requests are still answered, although no more can arrive.
            () = disconnected.cancelled() => break None,
            signal = signals.next() => match signal {
                ShutdownSignal::End => break None,
                ShutdownSignal::Reload => service.reload(),
            },
        }
    };
    let ending = service.drain(GRACE, &mut signals);
    let (ended, served) = match early {
        Some(served) => (ending.await, served),
        None if disconnected.is_cancelled() => tokio::join!(ending, conversation),
        None => (ending.await, Ok(())),
    };
    service.cancel_reads();
    service.audit.flush().await;
    ended.and(served)
}

/// Reads on a separate thread, which the process does not wait for: a client may keep the pipe open and send nothing.
fn read(mut input: impl Read + Send + 'static, disconnected: CancellationToken) -> Result<impl AsyncRead> {
    let (sender, receiver) = tokio::sync::mpsc::channel::<std::io::Result<Vec<u8>>>(1);
    let pump = move || {
        let mut chunk = vec![0; CHUNK];
        loop {
            let read = match input.read(&mut chunk) {
                Ok(0) => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                read => read.map(|count| chunk[..count].to_vec()),
            };
            let failed = read.is_err();
            if sender.blocking_send(read).is_err() || failed {
                break;
            }
        }
        disconnected.cancel();
    };
    let spawned = std::thread::Builder::new().name("input".to_owned()).spawn(pump);
    spawned.map_err(|error| Error::io("start the thread that reads standard input", &error))?;
    let chunks = stream::unfold(receiver, |mut receiver| async {
        let chunk = receiver.recv().await?;
        Some((chunk.map(std::io::Cursor::new), receiver))
    });
    Ok(StreamReader::new(Box::pin(chunks)))
}

/// Serves the client until it disconnects.
async fn converse<O>(agent: Agent, input: impl AsyncRead + Send + Unpin + 'static, output: O) -> Result<()>
where
    O: AsyncWrite + Send + Unpin + 'static,
{
    let failed = || {
        Error::invalid("the client does not speak the Model Context Protocol")
            .because("its first message is not an initialize request")
            .hint("Start this command from an MCP client: add it to the client's servers (mcpServers)")
    };
    let running = match agent.serve((input, output)).await {
        Ok(running) => running,
        // It disconnected without a message.
        Err(ServerInitializeError::ConnectionClosed(_)) => return Ok(()),
        Err(_) => return Err(failed()),
    };
    running.waiting().await.map(drop).map_err(|error| Error::internal("the MCP session failed").because(error))
}
