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

/// The default port, which is that of the service that vmprov replaces.
const PORT: u16 = 8092;

#[derive(Debug, Args)]
pub(super) struct Serve {
    /// Listen on `ADDRESS:PORT` or `unix:/PATH` (can be repeated) [default: the sockets passed by systemd, else the
    /// port on 127.0.0.1]
    #[arg(long, value_name = "PLACE")]
    listen: Vec<Listen>,

    /// Port on 127.0.0.1, used without --listen
    #[arg(long, value_name = "N", env = "VM_PROVISIONER_PORT", default_value_t = PORT, conflicts_with = "listen")]
    port: u16,

    /// Grace period for running operations at shutdown; then they are cancelled and rolled back
    #[arg(long, value_name = "TIME", default_value = "30s")]
    drain: Limit,

    /// Bearer-token file (TOML), reloaded on SIGHUP; without one every client has full access
    #[arg(long, value_name = "FILE", env = "VMPROV_TOKENS")]
    tokens: Option<Utf8PathBuf>,

    /// Allow full access without authentication on a non-loopback address
    #[arg(long, conflicts_with = "tokens")]
    allow_unauthenticated: bool,

    /// Host name to accept in requests from the network, with any port (can be repeated); required with
    /// --allow-unauthenticated on a non-loopback address
    #[arg(long, value_name = "HOST", env = "VMPROV_ALLOWED_HOSTS", value_delimiter = ',')]
    allowed_host: Vec<AllowedHost>,

    #[command(flatten)]
    service: Service,
}

/// Serves until a signal ends the program.
pub(super) fn run(args: Serve, resolved: &Resolved, quiet: bool) -> Result<()> {
    let Serve { mut listen, port, drain, tokens, allow_unauthenticated, allowed_host, service } = args;
    let inherited = inherited_sockets()?;
    if listen.is_empty() && inherited.is_empty() {
        listen.push(Listen::Tcp(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port)));
    }
    progress::log_json(&log_filter(if quiet { "warn" } else { "info" })?);
    if let Some(notice) = &resolved.notice {
        tracing::warn!("{notice}");
    }
    let access = Access { tokens, allow_unauthenticated, allowed_hosts: allowed_host };
    http::serve(Options { service: service.options(resolved)?, listen, inherited, access, drain: drain.0 })
}

/// Returns the sockets that systemd, or a compatible service manager, has passed.
fn inherited_sockets() -> Result<Vec<Inherited>> {
    let mut passed = ListenFd::from_env();
    let count = passed.len();
    let failed = |error: std::io::Error| {
        Error::invalid("cannot listen on an inherited socket")
            .because(error)
            .hint("Pass listening TCP or Unix sockets (ListenStream= with Accept=no)")
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
