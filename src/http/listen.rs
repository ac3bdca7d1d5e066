//! Where the service listens, and how many may talk to it, how slowly.

use std::{
    fmt,
    net::SocketAddr,
    os::unix::fs::{FileTypeExt, PermissionsExt},
    path::Path,
    str::FromStr,
    sync::Arc,
    time::Duration,
};

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

use crate::error::{Code, Error, Result};

/// How many may be connected at a time; the next one waits in the kernel's queue.
const MOST_CONNECTIONS: usize = 1024;

/// How long the head of a request may take to arrive, and an idle connection is kept.
const HEAD_LIMIT: Duration = Duration::from_mins(1);

/// The most that the head of a request may have, in bytes.
const MOST_HEAD: usize = 32 << 10;

/// How long open connections are waited for when the service ends.
const FAREWELL: Duration = Duration::from_secs(5);

/// The rights on a socket in the file system: for its owner and group.
const SOCKET_MODE: u32 = 0o660;

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

/// An open socket.
pub(super) enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener, Utf8PathBuf),
}

/// Who is at the other end of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Peer {
    /// Whether it came over the loopback, so that a browser on this machine may have been led to it.
    pub(super) loopback: bool,
    /// Its address, for the logs.
    pub(super) address: String,
}

/// Opens the sockets.
pub(super) async fn open(places: &[Listen]) -> Result<Vec<Listener>> {
    let mut listeners = Vec::new();
    for place in places {
        let failed = |error: &std::io::Error| {
            let error = Error { code: Code::Conflict, ..Error::io(format!("listen at {place}"), error) };
            error.hint("Another program may be there already: choose another place with --listen.")
        };
        listeners.push(match place {
            Listen::Tcp(address) => Listener::Tcp(TcpListener::bind(address).await.map_err(|error| failed(&error))?),
            Listen::Unix(path) => Listener::Unix(bind_unix(path).map_err(|error| failed(&error))?, path.clone()),
        });
    }
    Ok(listeners)
}

/// Binds a socket of the file system. One that a killed service left is replaced; one that somebody listens at is not.
fn bind_unix(path: &Utf8PathBuf) -> std::io::Result<UnixListener> {
    let is_socket = |path: &Path| std::fs::symlink_metadata(path).is_ok_and(|file| file.file_type().is_socket());
    if is_socket(path.as_std_path()) && std::os::unix::net::UnixStream::connect(path).is_err() {
        std::fs::remove_file(path)?;
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(SOCKET_MODE))?;
    Ok(listener)
}

/// The service at work.
pub(super) struct Serving {
    stop: watch::Sender<bool>,
    tasks: Vec<JoinHandle<()>>,
    sockets: Vec<Utf8PathBuf>,
}

/// Serves at the sockets.
pub(super) fn serve(listeners: Vec<Listener>, routes: &Router) -> Serving {
    let stop = watch::Sender::new(false);
    let room = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    let mut serving = Serving { stop, tasks: Vec::new(), sockets: Vec::new() };
    for listener in listeners {
        if let Listener::Unix(_, path) = &listener {
            serving.sockets.push(path.clone());
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
        for path in self.sockets {
            if let Err(error) = std::fs::remove_file(&path) {
                tracing::warn!("cannot remove `{path}`: {error}");
            }
        }
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
    async fn accept(&self) -> std::io::Result<(Stream, Peer)> {
        match self {
            Self::Tcp(listener) => {
                let (stream, address) = listener.accept().await?;
                stream.set_nodelay(true)?;
                let loopback = stream.local_addr()?.ip().to_canonical().is_loopback();
                Ok((Box::new(stream), Peer { loopback, address: address.to_string() }))
            }
            Self::Unix(listener, _) => {
                let (stream, _) = listener.accept().await?;
                let uid = stream.peer_cred().map_or_else(|_| "unknown".to_owned(), |peer| peer.uid().to_string());
                Ok((Box::new(stream), Peer { loopback: false, address: format!("uid {uid}") }))
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
        .serve_connection(TokioIo::new(stream), service);
    let served = graceful.watch(served);
    tokio::spawn(async move {
        // A client that hangs up is no failure of the service's.
        if let Err(error) = served.await {
            tracing::debug!("a connection ended: {error}");
        }
        drop(place);
    });
}
