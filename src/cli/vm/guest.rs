//! The commands that read from a guest or act in it: `exec`, `cp`, `logs`, `screenshot`, `events`, `ssh-config`.

use std::{
    io::{IsTerminal, Read, Write},
    ops::ControlFlow,
    process::ExitCode,
};

use camino::Utf8PathBuf;
use clap::Args;

use super::{exit_code, interruptible};
use crate::{
    cli::{
        output::{Output, line},
        progress::Terminal,
    },
    error::{Code, Error, Result},
    model::limit::Limit,
    ops::{
        Host,
        vm::{self, EventFilter, Live, LogOptions, NewCopy, NewExec, SshConfigOptions, Streams},
    },
};

#[derive(Debug, Args)]
pub(in crate::cli) struct Exec {
    #[command(flatten)]
    new: NewExec,

    /// Do not pass standard input to the command
    #[arg(short, long)]
    no_stdin: bool,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct Copy {
    #[command(flatten)]
    new: NewCopy,

    // Folders are always copied. The option is accepted because scp has it.
    #[arg(short, long, hide = true)]
    recursive: bool,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct Logs {
    /// VM, by name or UUID
    vm: String,

    /// Follow the log across restarts until interrupted
    #[arg(short, long)]
    follow: bool,

    #[command(flatten)]
    options: LogOptions,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct Screenshot {
    /// VM, by name or UUID
    #[arg(index = 1)]
    vm: String,

    /// File to write, as with -o FILE.png; - writes standard output [default: VM.png, if it does not exist]
    #[arg(index = 2, value_name = "FILE")]
    file: Option<Utf8PathBuf>,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct Events {
    /// VM, by name or UUID [default: all VMs]
    vm: Option<String>,

    /// Continue until interrupted instead of ending after the first event
    #[arg(short, long)]
    follow: bool,

    /// Show every kind of libvirt event
    #[arg(long)]
    all: bool,

    /// Time limit for listening
    #[arg(long, value_name = "TIME")]
    timeout: Option<Limit>,
}

/// The standard streams of this process, for commands that do not inherit them.
struct OwnStreams<'a> {
    host: &'a Host,
    has_stdin: bool,
}

impl Live for OwnStreams<'_> {
    fn has_stdin(&self) -> bool {
        self.has_stdin
    }

    fn stdin(&mut self) -> Result<Vec<u8>> {
        // At a terminal, the command would wait for input that the user does not expect to give.
        if std::io::stdin().is_terminal() {
            return Ok(Vec::new());
        }
        let read = || {
            let mut content = Vec::new();
            std::io::stdin().read_to_end(&mut content).map(|_| content)
        };
        interruptible(self.host, read)?.map_err(|error| Error::io("read standard input", &error))
    }

    fn stdout(&mut self, data: &[u8]) -> Result<()> {
        write(&mut std::io::stdout().lock(), data, "standard output")
    }

    fn stderr(&mut self, data: &[u8]) -> Result<()> {
        write(&mut std::io::stderr().lock(), data, "standard error")
    }
}

fn write(stream: &mut dyn Write, data: &[u8], what: &str) -> Result<()> {
    let written = stream.write_all(data).and_then(|()| stream.flush());
    written.map_err(|error| Error::io(format!("write to {what}"), &error))
}

/// Runs a command in a VM and exits with its status. Its output is passed on as it arrives, except with a structured
/// format, where it is part of the report.
pub(super) fn exec(host: &Host, args: &Exec, output: &Output, terminal: &Terminal) -> Result<ExitCode> {
    let mut own = OwnStreams { host, has_stdin: !args.no_stdin };
    let executed = if output.is_table() {
        vm::exec(host, &args.new, Streams::Live(&mut own))?
    } else {
        let stdin = if args.no_stdin { Vec::new() } else { own.stdin()? };
        vm::exec(host, &args.new, Streams::Captured(stdin))?
    };
    terminal.finish();
    if !output.is_table() {
        output.show(&executed)?;
    }
    Ok(exit_code(executed.exit_status))
}

pub(super) fn copy(host: &Host, args: &Copy, output: &Output, terminal: &Terminal) -> Result<ExitCode> {
    let shows_progress = output.is_table() && !terminal.is_quiet() && std::io::stdout().is_terminal();
    let copied = vm::copy(host, &args.new, !shows_progress)?;
    terminal.finish();
    if !output.is_table() {
        output.show(&copied)?;
    }
    Ok(ExitCode::SUCCESS)
}

pub(super) fn logs(host: &Host, args: &Logs, output: &Output, terminal: &Terminal) -> Result<ExitCode> {
    terminal.finish();
    if args.follow {
        vm::follow(host, &args.vm, args.options.lines, |text| {
            output.stream_line(&serde_json::json!({ "line": text }), || text.to_owned())
        })?;
    } else {
        output.show(&vm::logs(host, &args.vm, args.options)?)?;
    }
    Ok(ExitCode::SUCCESS)
}

pub(super) fn screenshot(host: &Host, args: &Screenshot, output: &Output, terminal: &Terminal) -> Result<ExitCode> {
    let file = args.file.as_deref().or(output.file());
    if file.is_some_and(|file| file == "-") {
        let picture = vm::picture(host, &args.vm)?;
        terminal.finish();
        return write(&mut std::io::stdout().lock(), &picture.png, "standard output").map(|()| ExitCode::SUCCESS);
    }
    let taken = vm::screenshot(host, &args.vm, file)?;
    terminal.finish();
    output.show(&taken).map(|()| ExitCode::SUCCESS)
}

pub(super) fn events(host: &Host, args: &Events, output: &Output, terminal: &Terminal) -> Result<ExitCode> {
    let Events { vm, follow, all, timeout } = args;
    let filter = EventFilter { vm: vm.clone(), all: *all };
    terminal.finish();
    let mut received = false;
    vm::events(host, &filter, timeout.map(|limit| limit.0), |event| {
        received = true;
        let text = || format!("{}  {}  {}  {}", event.time, event.vm, event.kind, event.detail);
        let flow = output.stream_line(event, text)?;
        Ok(if *follow { flow } else { ControlFlow::Break(()) })
    })?;
    match timeout {
        Some(limit) if !received && !follow => Err(Error::new(Code::Timeout, format!("no event within {limit}"))),
        _ => Ok(ExitCode::SUCCESS),
    }
}

/// Prints ssh's configuration as ssh reads it.
pub(in crate::cli) fn ssh_config(
    host: &Host,
    options: &SshConfigOptions,
    output: &Output,
    terminal: &Terminal,
) -> Result<ExitCode> {
    let config = vm::ssh_config(host, options)?;
    terminal.finish();
    if output.is_table() && config.hosts.is_empty() {
        line("# No VMs with SSH access.")?;
    } else {
        output.show(&config)?;
    }
    Ok(ExitCode::SUCCESS)
}
