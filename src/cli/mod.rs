//! The command line: parses arguments, calls one operation and prints its report. Decisions that every front end needs
//! are made in the operations, not here.

mod agents;
mod complete;
mod doctor;
mod help;
mod image;
mod key;
mod manual;
mod output;
mod progress;
mod reports;
mod serve;
mod service;
mod settings;
mod usage_error;
mod vm;

use std::{process::ExitCode, sync::Arc};

use clap::{ArgAction, CommandFactory, FromArgMatches, Parser, Subcommand};
use clap_complete::CompleteEnv;
use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGTERM},
    iterator::Signals,
};

use crate::{
    cancel::Cancel,
    error::{Code, Error, Result},
    ops::{
        self, Host,
        gc::GcOptions,
        progress::Progress,
        reap::ReapOptions,
        vm::{NewInjection, SshConfigOptions},
    },
};
use output::{Output, Show, Target, TargetParser};
use progress::Terminal;
use reports::Results;
pub use settings::Definition as SettingDefinition;
use settings::Flags;

/// Provision VMs on libvirt/QEMU from cloud images and inject SSH keys
#[derive(Debug, Parser)]
#[command(name = "vmprov", version, max_term_width = 100, args_override_self = true, disable_help_subcommand = true)]
#[command(subcommand_required = true, arg_required_else_help = true)]
struct Cli {
    /// Output format
    #[arg(short, long, global = true, value_parser = TargetParser, default_value = "table", value_name = "FORMAT", help_heading = "Output")]
    output: Target,

    /// Print errors only
    #[arg(short, long, global = true, conflicts_with = "verbose", help_heading = "Output")]
    quiet: bool,

    /// Show commands that change something (-vv: every command)
    #[arg(short, long, global = true, action = ArgAction::Count, help_heading = "Output")]
    verbose: u8,

    // Last, because its heading also applies to every argument after it.
    #[command(flatten)]
    flags: Flags,

    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Create and manage VMs
    #[command(subcommand)]
    Vm(vm::Command),

    /// Add an SSH key to an existing VM
    Inject(NewInjection),

    /// Print an ssh configuration for the VMs
    #[command(
        after_help = "With it, ssh, rsync and editors find the VMs by name and check their host keys strictly. To use \
                      it, write it to ~/.ssh/vmprov and put `Include vmprov` at the top of ~/.ssh/config. Print it \
                      again after a VM was created or its address changed."
    )]
    SshConfig(SshConfigOptions),

    /// Search and manage images
    #[command(subcommand)]
    Image(image::Command),

    /// Create and manage SSH keys
    #[command(subcommand)]
    Key(key::Command),

    /// Serve the operations over HTTP
    Serve(serve::Serve),

    /// Serve an agent over the Model Context Protocol
    #[command(
        after_help = "The client talks to it on stdin and stdout. The agent cannot delete VMs that vmprov does not \
                      manage, and can fetch images from public hosts only. Entry for the client's configuration: \
                      {\"mcpServers\": {\"vmprov\": {\"command\": \"vmprov\", \"args\": [\"mcp\"]}}}"
    )]
    Mcp(agents::Mcp),

    /// Print the definitions of the agents' tools
    Tools(agents::Tools),

    /// Check the host and fix problems
    #[command(
        after_help = "Exit status: 0 if no check fails, otherwise that of the first failure: 7 a program is missing, \
                      9 libvirt is unreachable, 6 access to libvirt or to a folder is denied, 4 the host's state does \
                      not allow it."
    )]
    Doctor(doctor::Doctor),

    /// Remove leftovers of interrupted operations
    Gc(GcOptions),

    /// Delete expired VMs, running or not
    #[command(
        after_help = "Meant for cron. A VM that is protected, incomplete or in use by another vmprov is skipped; this \
                      is not a failure. After a failure the other VMs are still deleted; the first failure determines \
                      the exit status."
    )]
    Reap(ReapOptions),

    /// Show each setting and its origin
    Config,

    /// Show the help of a command or a topic
    Help {
        /// Command or topic: environment, exit-codes, formats or references
        #[arg(value_name = "COMMAND_OR_TOPIC")]
        words: Vec<String>,
    },

    /// Write the manual pages to a folder
    #[command(hide = true)]
    Man {
        /// Folder to write to
        folder: camino::Utf8PathBuf,
    },
}

impl Command {
    const fn needs_libvirt(&self) -> bool {
        !matches!(self, Self::Key(_) | Self::Config | Self::Help { .. } | Self::Man { .. } | Self::Tools(_))
    }
}

/// Returns the grammar of the command line, to compare it with the other front ends.
pub fn grammar() -> clap::Command {
    Cli::command()
}

/// Returns the examples in the help: a command, what the example does, and the line to type.
pub fn examples() -> &'static [help::Example] {
    help::examples()
}

/// Returns the definitions of the settings, to document them.
pub const fn settings() -> &'static [SettingDefinition] {
    &settings::SETTINGS
}

/// Returns the grammar of the command line with completers for its arguments.
fn command() -> clap::Command {
    complete::add_to(Cli::command())
}

/// Runs the program on its arguments and returns the exit status.
pub fn main() -> ExitCode {
    CompleteEnv::with_factory(command).complete();
    let cli = match help::with_help(command()).try_get_matches().and_then(|matches| Cli::from_arg_matches(&matches)) {
        Ok(cli) => cli,
        Err(error) => return usage_error::refuse(&error),
    };
    let output = Output::new(cli.output.clone());
    match run(cli, &output) {
        Ok(code) => code,
        Err(error) => {
            output.error(&error);
            ExitCode::from(error.code.exit_status())
        }
    }
}

fn run(cli: Cli, output: &Output) -> Result<ExitCode> {
    let Cli { output: _, quiet, verbose, flags, command } = cli;
    if let Some(file) = output.file().filter(|_| !matches!(command, Command::Vm(vm::Command::Screenshot(_)))) {
        return Err(Error::invalid(format!("invalid output format `{file}`"))
            .hint("Choose one of the formats table, json, yaml and name")
            .hint("Give a file to `vm screenshot` only"));
    }
    let resolved = settings::resolve(&flags)?;
    let command = match command {
        // These two handle signals and log in their own way.
        Command::Serve(args) => return serve::run(args, &resolved, quiet).map(|()| ExitCode::SUCCESS),
        Command::Mcp(args) => return agents::mcp(args, &resolved, quiet).map(|()| ExitCode::SUCCESS),
        command => command,
    };
    progress::log_commands(verbose);
    let cancel = Cancel::default();
    handle_signals(&cancel)?;
    let terminal = Terminal::new(quiet, verbose > 0, output.is_json());
    if let Some(notice) = resolved.notice.as_ref().filter(|_| command.needs_libvirt()) {
        terminal.note(notice);
    }
    let host = Host::new(resolved.settings(), cancel, Arc::new(terminal.clone()));
    output.diagnose_errors_on(&host);
    let code = match command {
        Command::Vm(command) => vm::run(&host, command, output, &terminal)?,
        Command::Image(command) => image::run(&host, command, output, &terminal)?,
        Command::Key(command) => key::run(&host, command, output, &terminal)?,
        Command::Inject(request) => {
            let report = ops::vm::inject(&host, &request)?;
            terminal.finish();
            output.show(&report)?;
            ExitCode::SUCCESS
        }
        Command::SshConfig(options) => vm::guest::ssh_config(&host, &options, output, &terminal)?,
        Command::Gc(options) => {
            let report = ops::gc::collect(&host, options)?;
            terminal.finish();
            output.show(&report)?;
            ExitCode::SUCCESS
        }
        Command::Reap(options) => {
            let report = ops::reap::reap(&host, options)?;
            terminal.finish();
            output.show(&report)?;
            report.failures().for_each(|error| output.error(error));
            report.failures().next().map_or(ExitCode::SUCCESS, |error| ExitCode::from(error.code.exit_status()))
        }
        Command::Doctor(args) => doctor::run(&host, &args, output, &terminal)?,
        Command::Serve(_) | Command::Mcp(_) => ExitCode::SUCCESS,
        Command::Tools(args) => {
            agents::tools(&args, output)?;
            ExitCode::SUCCESS
        }
        Command::Help { words } => {
            output::line(&help::page(Cli::command(), &words)?)?;
            ExitCode::SUCCESS
        }
        Command::Config => {
            output.show(&resolved)?;
            ExitCode::SUCCESS
        }
        Command::Man { folder } => {
            manual::write(&folder)?;
            ExitCode::SUCCESS
        }
    };
    Ok(code)
}

/// Applies an operation to each name, and continues after a failure. Every failure is reported; the first one
/// determines the exit status.
fn each<N, R>(names: &[N], output: &Output, terminal: &Terminal, apply: impl Fn(&N) -> Result<R>) -> Result<ExitCode>
where
    Results<R>: Show,
{
    let (mut results, mut failures) = (Vec::new(), Vec::new());
    for name in names {
        match apply(name) {
            Ok(report) => results.push(report),
            Err(error) => failures.push(error),
        }
        if failures.last().is_some_and(|error| error.code == Code::Interrupted) {
            break;
        }
    }
    terminal.finish();
    if !results.is_empty() {
        output.show(&Results { results })?;
    }
    for error in &failures {
        output.error(error);
    }
    Ok(failures.first().map_or(ExitCode::SUCCESS, |error| ExitCode::from(error.code.exit_status())))
}

/// Makes the first SIGINT, SIGTERM or SIGHUP cancel the operation, which rolls its changes back. The third signal ends
/// the program without waiting for the rollback.
fn handle_signals(cancel: &Cancel) -> Result<()> {
    const SIGNALS_TO_ABORT: usize = 3;
    let cancel = cancel.clone();
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP])
        .map_err(|error| Error::internal("cannot handle signals").because(error))?;
    std::thread::spawn(move || {
        for (before, _) in signals.forever().enumerate() {
            cancel.raise();
            if before + 1 >= SIGNALS_TO_ABORT {
                output::abort("interrupted during the rollback; remove leftovers with: vmprov gc");
            }
        }
    });
    Ok(())
}
