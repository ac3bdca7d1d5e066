//! The sockets of the service, and the limits of its connections.

use std::{fmt, net::SocketAddr, str::FromStr, sync::Arc, time::Duration};

use axum::{Router, body::Body, extract::Request};
use camino::Utf8PathBuf;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::GracefulShutdown,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, UnixListener},
    sync::{Semaphore, watch},
    task::JoinHandle,
};
use tower::ServiceExt;

use super::{
    Access,
    idle_timeout::IdleTimeout,
    socket_file::{self, SocketFile},
};
use crate::error::{Code, Error, Hint, Result};

/// How many connections may be open at a time. Others wait in the kernel's queue.
const MAX_CONNECTIONS: usize = 1024;

/// How long the head of a request may take to arrive, and how long an idle connection is kept open.
const HEAD_LIMIT: Duration = Duration::from_mins(1);

/// The size limit of the head of a request in bytes.
const MAX_HEAD: usize = 32 << 10;

/// How long a client may read nothing before its connection is closed. A client that reads slowly keeps it.
const IDLE_LIMIT: Duration = Duration::from_mins(1);

/// The shortest time to wait for open connections at shutdown.
const CLOSE_LIMIT: Duration = Duration::from_secs(5);

/// Where to listen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Listen {
    /// On an address and a port.
    Tcp(SocketAddr),
    /// On a Unix socket.
    Unix(Utf8PathBuf),
}

impl FromStr for Listen {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        if let Some(path) = text.strip_prefix("unix:") {
            if !path.starts_with('/') {
                let message = format!("invalid socket path `{}`: it must be absolute", path.escape_debug());
                return Err(Error::invalid(message).hint("Give unix:/run/vmprov/api.sock, for example"));
            }
            return Ok(Self::Unix(path.into()));
        }
        text.parse().map(Self::Tcp).map_err(|_| {
            let message = format!("invalid socket `{}`: it must be ADDRESS:PORT or unix:/PATH", text.escape_debug());
            Error::invalid(message).hint("Give 127.0.0.1:8092 or [::1]:8092, for example")
        })
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "http://{address}"),
            Self::Unix(path) => write!(f, "unix:{path}"),
        }
    }
}

/// A socket that the service manager opened before the start, as systemd does.
#[derive(Debug)]
pub enum Inherited {
    /// On an address and a port.
    Tcp(std::net::TcpListener),
    /// On a Unix socket, whose file stays when the service ends.
    Unix(std::os::unix::net::UnixListener),
}

/// An open socket.
pub(super) enum Listener {
    Tcp(TcpListener),
    /// With its file, if the service created it and must remove it.
    Unix(UnixListener, Option<SocketFile>),
}

/// Refuses to listen on a network without authentication, unless the operator has allowed it and named the allowed
/// hosts. A Unix socket is protected by its mode.
pub(super) fn require_protected(sockets: &[Listen], inherited: &[Inherited], access: &Access) -> Result<()> {
    if access.tokens.is_some() || access.allow_unauthenticated && !access.allowed_hosts.is_empty() {
        return Ok(());
    }
    let given = sockets.iter().filter_map(|socket| match socket {
        Listen::Tcp(address) => Some(*address),
        Listen::Unix(_) => None,
    });
    let passed = inherited.iter().filter_map(|socket| match socket {
        Inherited::Tcp(listener) => listener.local_addr().ok(),
        Inherited::Unix(_) => None,
    });
    match given.chain(passed).find(|address| !address.ip().to_canonical().is_loopback()) {
        None => Ok(()),
        Some(address) if access.allow_unauthenticated => {
            Err(Error::invalid(format!("refusing to listen on {address} without authentication and allowed hosts"))
                .because("a web page could reach the service by DNS rebinding")
                .hint(Hint::run(
                    "Name the host by which clients address the service",
                    "vmprov serve --allow-unauthenticated --allowed-host HOST",
                )))
        }
        Some(address) => Err(Error::invalid(format!("refusing to listen on {address} without authentication"))
            .because("every client on the network would have all rights")
            .hint(Hint::run("Require tokens", "vmprov serve --tokens FILE"))
            .hint(Hint::run("Or allow every client", "vmprov serve --allow-unauthenticated --allowed-host HOST"))),
    }
}

/// The network of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Network {
    /// The loopback interface, over which a browser on this machine can be attacked by DNS rebinding.
    Loopback,
    /// Another network.
    Other,
    /// None: a Unix socket.
    None,
}

/// The remote end of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Peer {
    /// The network of the connection.
    pub(super) network: Network,
    /// The address, for the logs.
    pub(super) address: String,
}

/// Opens the sockets.
pub(super) async fn open(sockets: &[Listen], inherited: Vec<Inherited>) -> Result<Vec<Listener>> {
    let mut listeners = inherited.into_iter().map(Listener::take_over).collect::<Result<Vec<_>>>()?;
    for socket in sockets {
        let failed = |error: &std::io::Error| {
            let error = Error { code: Code::Conflict, ..Error::io(format!("listen on {socket}"), error) };
            let text = "Choose another socket if another program uses this one";
            error.hint(Hint::run(text, "vmprov serve --listen ADDRESS:PORT"))
        };
        listeners.push(match socket {
            Listen::Tcp(address) => Listener::Tcp(TcpListener::bind(address).await.map_err(|error| failed(&error))?),
            Listen::Unix(path) => {
                let (listener, file) = socket_file::bind(path).map_err(|error| failed(&error))?;
                Listener::Unix(listener, Some(file))
            }
        });
    }
    Ok(listeners)
}

/// The running server.
pub(super) struct Serving {
    stop: watch::Sender<bool>,
    tasks: Vec<JoinHandle<()>>,
    sockets: Vec<SocketFile>,
}

/// Serves on the sockets.
pub(super) fn serve(listeners: Vec<Listener>, routes: &Router) -> Serving {
    let stop = watch::Sender::new(false);
    let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut serving = Serving { stop, tasks: Vec::new(), sockets: Vec::new() };
    for mut listener in listeners {
        if let Listener::Unix(_, file) = &mut listener {
            serving.sockets.extend(file.take());
        }
        let stopped = serving.stop.subscribe();
        serving.tasks.push(tokio::spawn(accept(listener, routes.clone(), permits.clone(), stopped)));
    }
    serving
}

impl Serving {
    /// Stops accepting connections, and closes the idle ones.
    pub(super) fn stop(&self) {
        self.stop.send_replace(true);
    }

    /// Waits until the connections are closed, at most for the longer one of `limit` and [`CLOSE_LIMIT`]. Then removes
    /// the files of the Unix sockets.
    pub(super) async fn finish(self, limit: Duration) {
        let all_closed = futures_util::future::join_all(self.tasks);
        if tokio::time::timeout(limit.max(CLOSE_LIMIT), all_closed).await.is_err() {
            tracing::warn!("closing connections that are still open");
        }
        self.sockets.iter().for_each(SocketFile::remove);
    }
}

async fn accept(listener: Listener, routes: Router, permits: Arc<Semaphore>, mut stopped: watch::Receiver<bool>) {
    let graceful = GracefulShutdown::new();
    loop {
        let permit = tokio::select! {
            permit = permits.clone().acquire_owned() => permit,
            _ = stopped.wait_for(|stopped| *stopped) => break,
        };
        let Ok(permit) = permit else { break };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stopped.wait_for(|stopped| *stopped) => break,
        };
        match accepted {
            Ok((stream, peer)) => serve_connection(stream, peer, routes.clone(), &graceful, permit),
            Err(error) => {
                // Errors such as too many open files are temporary, so the loop continues.
                tracing::warn!("cannot accept a connection: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
    drop(listener);
    // Without a limit here: the caller of `finish` limits the wait.
    graceful.shutdown().await;
}

/// A connection of either kind.
type Stream = Box<dyn Duplex>;

trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

impl Listener {
    /// Returns the address, as a client writes it.
    pub(super) fn address(&self) -> String {
        let tcp = |listener: &TcpListener| Some(Listen::Tcp(listener.local_addr().ok()?).to_string());
        let unix =
            |listener: &UnixListener| Some(format!("unix:{}", listener.local_addr().ok()?.as_pathname()?.display()));
        match self {
            Self::Tcp(listener) => tcp(listener),
            Self::Unix(listener, _) => unix(listener),
        }
        .unwrap_or_default()
    }

    fn take_over(inherited: Inherited) -> Result<Self> {
        let failed = |error: std::io::Error| Error::io("listen on the inherited socket", &error);
        match inherited {
            Inherited::Tcp(listener) => {
                listener.set_nonblocking(true).map_err(failed)?;
                TcpListener::from_std(listener).map(Self::Tcp).map_err(failed)
            }
            Inherited::Unix(listener) => {
                listener.set_nonblocking(true).map_err(failed)?;
                UnixListener::from_std(listener).map(|listener| Self::Unix(listener, None)).map_err(failed)
            }
        }
    }

    async fn accept(&self) -> std::io::Result<(Stream, Peer)> {
        match self {
            Self::Tcp(listener) => {
                let (stream, address) = listener.accept().await?;
                stream.set_nodelay(true)?;
                let loopback = stream.local_addr()?.ip().to_canonical().is_loopback();
                let network = if loopback { Network::Loopback } else { Network::Other };
                Ok((Box::new(stream), Peer { network, address: address.to_string() }))
            }
            Self::Unix(listener, _) => {
                let (stream, _) = listener.accept().await?;
                let uid = stream.peer_cred().map_or_else(|_| "unknown".to_owned(), |peer| peer.uid().to_string());
                Ok((Box::new(stream), Peer { network: Network::None, address: format!("uid {uid}") }))
            }
        }
    }
}

/// Serves a connection in its own task, which holds the permit until the connection is closed.
fn serve_connection(
    stream: Stream,
    peer: Peer,
    routes: Router,
    graceful: &GracefulShutdown,
    permit: tokio::sync::OwnedSemaphorePermit,
) {
    let service = service_fn(move |request: Request<Incoming>| {
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(peer.clone());
        routes.clone().oneshot(request)
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_LIMIT)
        .max_buf_size(MAX_HEAD)
        .serve_connection(TokioIo::new(IdleTimeout::new(stream, IDLE_LIMIT)), service);
    let served = graceful.watch(served);
    tokio::spawn(async move {
        // A client that disconnects is not a failure of the service.
        if let Err(error) = served.await {
            tracing::debug!("connection ended: {error}");
        }
        drop(permit);
    });
}
