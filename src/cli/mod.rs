//! The command line: parses, calls one operation, prints its report. Nothing is decided here that another face would
//! have to decide again.

mod agents;
mod complete;
mod doctor;
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
use settings::Flags;

/// Provisions virtual machines on libvirt/QEMU from cloud images, and gets an ssh key into them
#[derive(Debug, Parser)]
#[command(name = "vmprov", version, max_term_width = 100, args_override_self = true, disable_help_subcommand = true)]
#[command(subcommand_required = true, arg_required_else_help = true)]
struct Cli {
    /// Print as
    #[arg(short, long, global = true, value_parser = TargetParser, default_value = "table", value_name = "FORMAT", help_heading = "Output")]
    output: Target,

    /// Say nothing but errors
    #[arg(short, long, global = true, conflicts_with = "verbose", help_heading = "Output")]
    quiet: bool,

    /// Show the commands that change something; twice: every command
    #[arg(short, long, global = true, action = ArgAction::Count, help_heading = "Output")]
    verbose: u8,

    // Last, because its heading holds for all that follows.
    #[command(flatten)]
    flags: Flags,

    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Create, start, stop, delete and look at VMs
    #[command(subcommand)]
    Vm(vm::Command),

    /// Search, fetch, list, import, export and delete images
    #[command(subcommand)]
    Image(image::Command),

    /// Make, import, list and delete ssh keys
    #[command(subcommand)]
    Key(key::Command),

    /// Get a key into a VM that exists already
    Inject(NewInjection),

    /// Print what ~/.ssh/config needs, so that ssh, rsync and editors find the VMs by name, with strict host keys
    #[command(
        after_help = "To use it: vmprov ssh-config >~/.ssh/vmprov, and at the top of ~/.ssh/config: Include vmprov. \
                            Addresses are those of now; print it again after a VM has been created or has moved."
    )]
    SshConfig(SshConfigOptions),

    /// Clean up after creates and deletes that were killed
    Gc(GcOptions),

    /// Delete the VMs that have expired, running or not; for cron
    #[command(
        after_help = "A VM that is protected, incomplete, or worked on by another vmprov is skipped, which is no failure. One failure does not keep the others; the first gives the exit status."
    )]
    Reap(ReapOptions),

    /// Look for what is wrong with the host, and mend it
    #[command(
        after_help = "Exit status: 0 when no check fails, else that of the first failure's kind: 7 a program is missing, \
                      9 libvirt does not answer, 6 it or a folder is closed to you, 4 the host's state is in the way."
    )]
    Doctor(doctor::Doctor),

    /// Offer the same operations over HTTP, for programs and agents
    Serve(serve::Serve),

    /// Offer the same operations to an agent, by the Model Context Protocol on standard input and output
    #[command(
        after_help = "It is for a client's list of servers: {\"mcpServers\": {\"vmprov\": {\"command\": \"vmprov\", \"args\": [\"mcp\"]}}}. \
                      The agent may not delete VMs that vmprov did not make, and images come from public hosts alone."
    )]
    Mcp(agents::Mcp),

    /// Print the definitions of the tools that agents have
    Tools(agents::Tools),

    /// Show each setting, and where it comes from
    Config,

    /// Write the manual pages into a folder
    #[command(hide = true)]
    Man {
        /// Folder to write into
        folder: camino::Utf8PathBuf,
    },
}

impl Command {
    const fn needs_libvirt(&self) -> bool {
        !matches!(self, Self::Key(_) | Self::Config | Self::Man { .. } | Self::Tools(_))
    }
}

/// The command line's grammar, for whoever compares it with what other faces offer.
pub fn grammar() -> clap::Command {
    Cli::command()
}

/// The command line's grammar, with what completes each word.
fn command() -> clap::Command {
    complete::add_to(Cli::command())
}

/// Runs the program: arguments in, exit status out.
pub fn main() -> ExitCode {
    CompleteEnv::with_factory(command).complete();
    let cli = match command().try_get_matches().and_then(|matches| Cli::from_arg_matches(&matches)) {
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
        let message = format!("`{file}` is no format to print as");
        return Err(
            Error::invalid(message).hint("Formats are table, json, yaml and name; only vm screenshot takes a file.")
        );
    }
    let resolved = settings::resolve(&flags)?;
    let command = match command {
        // They have signals and a log of their own.
        Command::Serve(args) => return serve::run(args, &resolved, quiet).map(|()| ExitCode::SUCCESS),
        Command::Mcp(args) => return agents::mcp(args, &resolved, quiet).map(|()| ExitCode::SUCCESS),
        command => command,
    };
    progress::log_commands(verbose);
    let cancel = Cancel::default();
    interrupt(&cancel)?;
    let terminal = Terminal::new(quiet, verbose > 0, output.is_json());
    if let Some(remark) = resolved.remark.as_ref().filter(|_| command.needs_libvirt()) {
        terminal.note(remark);
    }
    let host = Host::new(resolved.settings(), cancel, Arc::new(terminal.clone()));
    output.explain_errors_of(&host);
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

/// Does something to each of several things and goes on after a failure. Every failure is reported, and the first one
/// gives the exit status.
fn each<N, R>(names: &[N], output: &Output, terminal: &Terminal, work: impl Fn(&N) -> Result<R>) -> Result<ExitCode>
where
    Results<R>: Show,
{
    let (mut results, mut failures) = (Vec::new(), Vec::new());
    for name in names {
        match work(name) {
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

/// Lets the first SIGINT, SIGTERM or SIGHUP undo what was begun. Whoever asks a third time does not want to wait.
fn interrupt(cancel: &Cancel) -> Result<()> {
    const PATIENCE: usize = 3;
    let cancel = cancel.clone();
    let asked = std::sync::atomic::AtomicUsize::new(0);
    ctrlc::set_handler(move || {
        cancel.raise();
        if asked.fetch_add(1, std::sync::atomic::Ordering::SeqCst) + 1 >= PATIENCE {
            output::last_words("interrupted before everything was undone; clean up with: vmprov gc");
        }
    })
    .map_err(|error| Error::internal("cannot listen for signals").because(error))
}
