//! `vmprov serve`

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use clap::Args;

use super::{
    output::{Kind, say},
    progress,
    settings::{Resolved, log_filter},
};
use crate::{
    error::Result,
    http::{self, Listen, Options},
    model::limit::Limit,
};

/// The port of the service that came before.
const PORT: u16 = 8092;

#[derive(Debug, Args)]
pub(super) struct Serve {
    /// Where to listen: `ADDRESS:PORT` or `unix:/PATH` (can be repeated) [default: 127.0.0.1, at the port]
    #[arg(long, value_name = "PLACE")]
    listen: Vec<Listen>,

    /// Port to listen at on the loopback, where no place is given
    #[arg(long, value_name = "N", env = "VM_PROVISIONER_PORT", default_value_t = PORT, conflicts_with = "listen")]
    port: u16,

    /// How long what is under way may take to finish once the service is told to end; then it is undone
    #[arg(long, value_name = "TIME", default_value = "30s")]
    drain: Limit,
}

/// Serves until it is told to end.
pub(super) fn run(args: Serve, resolved: &Resolved, quiet: bool) -> Result<()> {
    let Serve { mut listen, port, drain } = args;
    if listen.is_empty() {
        listen.push(Listen::Tcp(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port)));
    }
    progress::log_json(&log_filter(if quiet { "warn" } else { "info" })?);
    if let Some(remark) = &resolved.remark {
        tracing::warn!("{remark}");
    }
    for place in listen.iter().filter(|_| !quiet) {
        say(Kind::Note, &format!("listening at {place}"));
    }
    http::serve(Options { settings: resolved.settings(), listen, drain: drain.0 })
}
