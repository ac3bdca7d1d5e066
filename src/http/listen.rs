//! Where the service listens, and how many may talk to it, how slowly.

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
use crate::error::{Code, Error, Result};

/// How many may be connected at a time; the next one waits in the kernel's queue.
const MOST_CONNECTIONS: usize = 1024;

/// How long the head of a request may take to arrive, and an idle connection is kept.
const HEAD_LIMIT: Duration = Duration::from_mins(1);

/// The most that the head of a request may have, in bytes.
const MOST_HEAD: usize = 32 << 10;

/// How long a client may take to read before it is cut off; one that reads slowly, but reads, is not.
const READ_LIMIT: Duration = Duration::from_mins(1);

/// How long open connections are waited for when the service ends.
const FAREWELL: Duration = Duration::from_secs(5);

/// Where to listen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Listen {
    /// At an address and a port.
    Tcp(SocketAddr),
    /// At a socket of the file system.
    Unix(Utf8PathBuf),
}

impl FromStr for Listen {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        if let Some(path) = text.strip_prefix("unix:") {
            if !path.starts_with('/') {
                return Err(Error::invalid(format!("`{}` is no absolute path", path.escape_debug()))
                    .hint("Give unix:/run/vmprov/api.sock, for example."));
            }
            return Ok(Self::Unix(path.into()));
        }
        text.parse().map(Self::Tcp).map_err(|_| {
            Error::invalid(format!("`{}` is no place to listen", text.escape_debug()))
                .hint("Give ADDRESS:PORT, as in 127.0.0.1:8092 or [::1]:8092, or unix:/PATH.")
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

/// A socket that was opened for the service before it began, as systemd does.
#[derive(Debug)]
pub enum Inherited {
    /// At an address and a port.
    Tcp(std::net::TcpListener),
    /// At a socket of the file system, which stays when the service ends.
    Unix(std::os::unix::net::UnixListener),
}

/// An open socket.
pub(super) enum Listener {
    Tcp(TcpListener),
    /// With the file that it is to be known by, where that is the service's own to remove.
    Unix(UnixListener, Option<SocketFile>),
}

/// Refuses to let in everybody from elsewhere, unless that is allowed for requests for named hosts. A socket of the file system
/// is guarded by its mode.
pub(super) fn require_private(places: &[Listen], inherited: &[Inherited], access: &Access) -> Result<()> {
    if access.tokens.is_some() || access.allow_unauthenticated && !access.allowed_hosts.is_empty() {
        return Ok(());
    }
    let given = places.iter().filter_map(|place| match place {
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
            Err(Error::invalid(format!("refusing to listen on {address} without authentication under any name"))
                .because("a web page could reach the service through a name of its own (DNS rebinding)")
                .hint("Name the host by which clients address the service with --allowed-host HOST."))
        }
        Some(address) => {
            Err(Error::invalid(format!("listening at {address}, anybody on the network could do everything"))
                .because("no tokens are given, and it is no address of the loopback")
                .hint("Say who may ask with --tokens FILE, or that everybody may with --allow-unauthenticated and --allowed-host HOST."))
        }
    }
}

/// What a connection came over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Network {
    /// The loopback, so that a browser on this machine may have been led to it.
    Loopback,
    /// Another network.
    Other,
    /// None: a socket of the file system.
    None,
}

/// Who is at the other end of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Peer {
    /// What it came over.
    pub(super) network: Network,
    /// Its address, for the logs.
    pub(super) address: String,
}

/// Opens the sockets.
pub(super) async fn open(places: &[Listen], inherited: Vec<Inherited>) -> Result<Vec<Listener>> {
    let mut listeners = inherited.into_iter().map(Listener::take_over).collect::<Result<Vec<_>>>()?;
    for place in places {
        let failed = |error: &std::io::Error| {
            let error = Error { code: Code::Conflict, ..Error::io(format!("listen at {place}"), error) };
            error.hint("Another program may be there already: choose another place with --listen.")
        };
        listeners.push(match place {
            Listen::Tcp(address) => Listener::Tcp(TcpListener::bind(address).await.map_err(|error| failed(&error))?),
            Listen::Unix(path) => {
                let (listener, file) = socket_file::bind(path).map_err(|error| failed(&error))?;
                Listener::Unix(listener, Some(file))
            }
        });
    }
    Ok(listeners)
}

/// The service at work.
pub(super) struct Serving {
    stop: watch::Sender<bool>,
    tasks: Vec<JoinHandle<()>>,
    sockets: Vec<SocketFile>,
}

/// Serves at the sockets.
pub(super) fn serve(listeners: Vec<Listener>, routes: &Router) -> Serving {
    let stop = watch::Sender::new(false);
    let room = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    let mut serving = Serving { stop, tasks: Vec::new(), sockets: Vec::new() };
    for mut listener in listeners {
        if let Listener::Unix(_, file) = &mut listener {
            serving.sockets.extend(file.take());
        }
        let stopped = serving.stop.subscribe();
        serving.tasks.push(tokio::spawn(accept(listener, routes.clone(), room.clone(), stopped)));
    }
    serving
}

impl Serving {
    /// Takes no further connections, and closes those on which nothing is under way.
    pub(super) fn stop(&self) {
        self.stop.send_replace(true);
    }

    /// Waits until the connections are closed, and removes the sockets of the file system. What was asked is still answered
    /// within `limit`, and in [`FAREWELL`] at least.
    pub(super) async fn finish(self, limit: Duration) {
        let all_closed = futures_util::future::join_all(self.tasks);
        if tokio::time::timeout(limit.max(FAREWELL), all_closed).await.is_err() {
            tracing::warn!("connections were still open and are closed now");
        }
        self.sockets.iter().for_each(SocketFile::remove);
    }
}

async fn accept(listener: Listener, routes: Router, room: Arc<Semaphore>, mut stopped: watch::Receiver<bool>) {
    let graceful = GracefulShutdown::new();
    loop {
        let place = tokio::select! {
            place = room.clone().acquire_owned() => place,
            _ = stopped.wait_for(|stopped| *stopped) => break,
        };
        let Ok(place) = place else { break };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stopped.wait_for(|stopped| *stopped) => break,
        };
        match accepted {
            Ok((stream, peer)) => connection(stream, peer, routes.clone(), &graceful, place),
            Err(error) => {
                // Too many open files pass; there is nobody to tell.
                tracing::warn!("cannot take a connection: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
    drop(listener);
    // As long as it takes: whoever has stopped the service bounds it.
    graceful.shutdown().await;
}

/// A connection of either kind.
type Stream = Box<dyn Duplex>;

trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

impl Listener {
    /// Where it is, as a client names it.
    pub(super) fn place(&self) -> String {
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
        let failed = |error: std::io::Error| Error::io("listen at the socket that was passed", &error);
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

/// Serves a connection in a task of its own, which has a place as long as it lives.
fn connection(
    stream: Stream,
    peer: Peer,
    routes: Router,
    graceful: &GracefulShutdown,
    place: tokio::sync::OwnedSemaphorePermit,
) {
    let service = service_fn(move |request: Request<Incoming>| {
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(peer.clone());
        routes.clone().oneshot(request)
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_LIMIT)
        .max_buf_size(MOST_HEAD)
        .serve_connection(TokioIo::new(IdleTimeout::new(stream, READ_LIMIT)), service);
    let served = graceful.watch(served);
    tokio::spawn(async move {
        // A client that hangs up is no failure of the service's.
        if let Err(error) = served.await {
            tracing::debug!("a connection ended: {error}");
        }
        drop(place);
    });
}
