//! `vmprov tools` and `vmprov mcp`

use std::io::IsTerminal;

use clap::Args;
use serde::Serialize;
use serde_json::Value;

use super::{
    output::{Kind, Output, Show, say},
    progress,
    service::Service,
    settings::{Resolved, log_filter},
};
use crate::{
    agents::{self, Format, Options},
    error::Result,
    model::{limit::Limit, name, ttl::Ttl, vm::DEFAULT_NETWORK},
};

#[derive(Debug, Args)]
pub(super) struct Tools {
    /// How they are defined
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

#[derive(Debug, Args)]
pub(super) struct Mcp {
    /// Let the agent only look
    #[arg(long)]
    read_only: bool,

    /// Show the agent only VMs and keys whose names begin so, and let it make no others
    #[arg(long, value_name = "NAME-", value_parser = name::prefix)]
    prefix: Option<String>,

    /// Network that the agent may attach VMs to (can be repeated)
    #[arg(long = "allow-network", value_name = "NETWORK", default_value = DEFAULT_NETWORK)]
    networks: Vec<String>,

    /// How long the agent's VMs are kept where it does not say
    #[arg(long, value_name = "TIME")]
    ttl_default: Option<Ttl>,

    /// How long an answer may take; then it is an operation that the agent asks for. Most clients give up after 60s
    #[arg(long, value_name = "TIME", default_value = "45s")]
    answer_within: Limit,

    #[command(flatten)]
    service: Service,
}

/// The definitions, as data: people are shown what programs are.
#[derive(Serialize)]
#[serde(transparent)]
struct Definitions(Value);

impl Show for Definitions {
    fn table(&self) -> String {
        format!("{:#}", self.0)
    }

    fn names(&self) -> Vec<String> {
        agents::tools().iter().map(|tool| tool.name.to_owned()).collect()
    }
}

/// Prints the definitions.
pub(super) fn tools(args: &Tools, output: &Output) -> Result<()> {
    output.show(&Definitions(agents::definitions(args.format)))
}

/// Serves the agent at the other end of standard input and output until it goes.
pub(super) fn mcp(args: Mcp, resolved: &Resolved, quiet: bool) -> Result<()> {
    let Mcp { read_only, prefix, networks, ttl_default, answer_within, service } = args;
    if std::io::stdin().is_terminal() {
        say(
            Kind::Note,
            "this waits for an agent's client to speak; put it into the client's list of servers (vmprov mcp --help)",
        );
    }
    // Clients show what is said there as trouble.
    progress::log_json(&log_filter(if quiet { "error" } else { "warn" })?);
    if let Some(remark) = &resolved.remark {
        tracing::warn!("{remark}");
    }
    let service = service.options(resolved)?;
    let options = Options { service, read_only, prefix, networks, ttl_default, answer_within: answer_within.0 };
    agents::serve(options, std::io::stdin(), tokio::io::stdout())
}
