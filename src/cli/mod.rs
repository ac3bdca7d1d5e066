//! The command line: parses, calls one operation, prints its report. Nothing is decided here that another face would
//! have to decide again.

mod complete;
mod key;
mod manual;
mod output;
mod progress;
mod settings;
mod vm;

use std::{error::Error as _, process::ExitCode, sync::Arc};

use clap::{ArgAction, CommandFactory, FromArgMatches, Parser, Subcommand, error::ErrorKind};
use clap_complete::CompleteEnv;

use crate::{
    cancel::Cancel,
    error::{Code, Error, Result},
    ops::{self, Host, vm::NewInjection},
};
use output::{Format, Output};
use progress::Terminal;
use settings::Flags;

/// Provisions virtual machines on libvirt/QEMU from cloud images, and gets an ssh key into them
#[derive(Debug, Parser)]
#[command(name = "vmprov", version, max_term_width = 100, args_override_self = true, disable_help_subcommand = true)]
struct Cli {
    /// Print as
    #[arg(short, long, global = true, value_enum, default_value_t, value_name = "FORMAT", help_heading = "Output")]
    output: Format,

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

    /// Make, import, list and delete ssh keys
    #[command(subcommand)]
    Key(key::Command),

    /// Get a key into a VM that exists already
    Inject(Inject),

    /// Clean up after creates and deletes that were killed
    Gc,

    /// Show each setting, and where it comes from
    Config,

    /// Write the manual pages into a folder
    #[command(hide = true)]
    Man {
        /// Folder to write into
        folder: camino::Utf8PathBuf,
    },
}

#[derive(Debug, clap::Args)]
struct Inject {
    #[command(flatten)]
    request: NewInjection,

    /// How long the restart and the login may take
    #[arg(long, value_name = "TIME", default_value = "5m")]
    timeout: crate::model::limit::Limit,
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
        Err(error) => return refuse(&error),
    };
    let mut output = Output::new(cli.output);
    let quiet = cli.quiet;
    match run(cli, &mut output) {
        Ok(code) => code,
        Err(error) => {
            let _ = quiet;
            output.error(&error);
            ExitCode::from(error.code.exit_status())
        }
    }
}

/// Reports arguments that cannot be parsed, or prints the help that was asked for.
fn refuse(error: &clap::Error) -> ExitCode {
    if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
        return output::help(error);
    }
    let json = std::env::args().skip(1).collect::<Vec<_>>().join(" ");
    let json =
        ["-o json", "-ojson", "-o=json", "--output json", "--output=json"].iter().any(|flag| json.contains(flag));
    let ours = error.source().and_then(|source| source.downcast_ref::<Error>());
    match ours {
        Some(ours) => Output::new(if json { Format::Json } else { Format::Table }).error(ours),
        None if json => {
            let text = error.render().to_string();
            let (first, rest) = text.split_once('\n').unwrap_or((&text, ""));
            let rest = rest.split_whitespace().collect::<Vec<_>>().join(" ");
            Output::new(Format::Json).error(&Error::invalid(first.trim_start_matches("error: ")).hint(rest));
        }
        None => return output::help(error),
    }
    ExitCode::from(Code::InvalidInput.exit_status())
}

fn run(cli: Cli, output: &mut Output) -> Result<ExitCode> {
    let Cli { output: _, quiet, verbose, flags, command } = cli;
    progress::log_commands(verbose);
    let resolved = settings::resolve(&flags)?;
    let cancel = Cancel::default();
    interrupt(&cancel)?;
    let terminal = Terminal::new(quiet, verbose > 0);
    let host = Host::new(resolved.settings(), cancel, Arc::new(terminal.clone()));
    let code = match command {
        Command::Vm(command) => vm::run(&host, command, output, &terminal)?,
        Command::Key(command) => key::run(&host, command, output, &terminal)?,
        Command::Inject(Inject { request, timeout }) => {
            let report = ops::vm::inject(&host, &request, timeout.0)?;
            terminal.finish();
            output.show(&report)?;
            ExitCode::SUCCESS
        }
        Command::Gc => {
            let report = ops::gc::collect(&host)?;
            terminal.finish();
            output.show(&report)?;
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
