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
    /// Format of the definitions
    #[arg(long, value_enum, default_value_t)]
    format: Format,
}

#[derive(Debug, Args)]
pub(super) struct Mcp {
    /// Expose read-only tools only
    #[arg(long)]
    read_only: bool,

    /// Restrict the agent to VMs and keys with this name prefix
    #[arg(long, value_name = "NAME-", value_parser = name::prefix)]
    prefix: Option<String>,

    /// Network that the agent may attach VMs to (can be repeated)
    #[arg(long = "allow-network", value_name = "NETWORK", default_value = DEFAULT_NETWORK)]
    networks: Vec<String>,

    /// Default lifetime of the agent's VMs
    #[arg(long, value_name = "TIME")]
    ttl_default: Option<Ttl>,

    /// Time limit of a response; longer calls continue as background operations (most clients give up after 60s)
    #[arg(long, value_name = "TIME", default_value = "45s")]
    answer_within: Limit,

    #[command(flatten)]
    service: Service,
}

/// The tool definitions. The table format prints them as JSON, too.
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

/// Serves an agent on standard input and output until it closes the connection.
pub(super) fn mcp(args: Mcp, resolved: &Resolved, quiet: bool) -> Result<()> {
    let Mcp { read_only, prefix, networks, ttl_default, answer_within, service } = args;
    if std::io::stdin().is_terminal() {
        say(
            Kind::Note,
            "waiting for an MCP client on stdin; configure the client to run this command (see vmprov mcp --help)",
        );
    }
    // Clients show everything on standard error as a problem.
    progress::log_json(&log_filter(if quiet { "error" } else { "warn" })?);
    if let Some(notice) = &resolved.notice {
        tracing::warn!("{notice}");
    }
    let service = service.options(resolved)?;
    let options = Options { service, read_only, prefix, networks, ttl_default, answer_within: answer_within.0 };
    agents::serve(options, std::io::stdin(), tokio::io::stdout())
}
