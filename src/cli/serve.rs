//! `vmprov serve`

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use camino::Utf8PathBuf;
use clap::Args;
use listenfd::ListenFd;

use super::{
    progress,
    service::Service,
    settings::{Resolved, log_filter},
};
use crate::{
    error::{Error, Result},
    http::{self, Access, AllowedHost, Inherited, Listen, Options},
    model::limit::Limit,
};

/// The port of the service that came before.
const PORT: u16 = 8092;

#[derive(Debug, Args)]
pub(super) struct Serve {
    /// Where to listen: `ADDRESS:PORT` or `unix:/PATH` (can be repeated) [default: the sockets that systemd passes, else
    /// 127.0.0.1, at the port]
    #[arg(long, value_name = "PLACE")]
    listen: Vec<Listen>,

    /// Port to listen at on the loopback, where no place is given
    #[arg(long, value_name = "N", env = "VM_PROVISIONER_PORT", default_value_t = PORT, conflicts_with = "listen")]
    port: u16,

    /// How long what is under way may take to finish once the service is told to end; then it is undone
    #[arg(long, value_name = "TIME", default_value = "30s")]
    drain: Limit,

    /// Who may ask: a TOML file of bearer tokens, read again on SIGHUP. Without one, whoever reaches the service may do
    /// everything
    #[arg(long, value_name = "FILE", env = "VMPROV_TOKENS")]
    tokens: Option<Utf8PathBuf>,

    /// Let everybody do everything although the service listens at another address than the loopback's
    #[arg(long, conflicts_with = "tokens")]
    allow_unauthenticated: bool,

    /// Host that requests from the network may be for, at any port (can be repeated); required with
    /// --allow-unauthenticated unless only the loopback is listened on
    #[arg(long, value_name = "HOST", env = "VMPROV_ALLOWED_HOSTS", value_delimiter = ',')]
    allowed_host: Vec<AllowedHost>,

    #[command(flatten)]
    service: Service,
}

/// Serves until it is told to end.
pub(super) fn run(args: Serve, resolved: &Resolved, quiet: bool) -> Result<()> {
    let Serve { mut listen, port, drain, tokens, allow_unauthenticated, allowed_host, service } = args;
    let inherited = inherited()?;
    if listen.is_empty() && inherited.is_empty() {
        listen.push(Listen::Tcp(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port)));
    }
    progress::log_json(&log_filter(if quiet { "warn" } else { "info" })?);
    if let Some(remark) = &resolved.remark {
        tracing::warn!("{remark}");
    }
    let access = Access { tokens, allow_unauthenticated, allowed_hosts: allowed_host };
    http::serve(Options { service: service.options(resolved)?, listen, inherited, access, drain: drain.0 })
}

/// The sockets that systemd passes, or whoever does as it does.
fn inherited() -> Result<Vec<Inherited>> {
    let mut passed = ListenFd::from_env();
    let count = passed.len();
    let failed = |error: std::io::Error| {
        Error::invalid("a socket that was passed cannot be listened at")
            .because(error)
            .hint("Pass sockets of TCP or of the file system that accept connections: ListenStream= and Accept=no.")
    };
    let take = |number| {
        if let Ok(Some(listener)) = passed.take_tcp_listener(number) {
            return Ok(Some(Inherited::Tcp(listener)));
        }
        Ok(passed.take_unix_listener(number).map_err(failed)?.map(Inherited::Unix))
    };
    let taken = (0..count).map(take).collect::<Result<Vec<_>>>()?;
    Ok(taken.into_iter().flatten().collect())
}
