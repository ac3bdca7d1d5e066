//! What reaches into a guest: `exec`, `cp`, `logs`, `screenshot`, `events`.

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

    /// Give it no standard input
    #[arg(short, long)]
    no_stdin: bool,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct Copy {
    #[command(flatten)]
    new: NewCopy,

    // Folders are always copied; who has typed it for scp all these years is not told off.
    #[arg(short, long, hide = true)]
    recursive: bool,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct Logs {
    /// VM, by name or UUID
    vm: String,

    /// Go on with what comes, across restarts, until interrupted
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

    /// File to write to, as -o FILE.png does, too; - is standard output [default: VM.png, unless that is there]
    #[arg(index = 2, value_name = "FILE")]
    file: Option<Utf8PathBuf>,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct Events {
    /// VM, by name or UUID; all where none is named
    vm: Option<String>,

    /// Go on until interrupted, instead of ending with the first event
    #[arg(short, long)]
    follow: bool,

    /// Every kind of event that libvirt knows
    #[arg(long)]
    all: bool,

    /// How long to listen at most
    #[arg(long, value_name = "TIME")]
    timeout: Option<Limit>,
}

/// This process's own streams, for what does not have them anyhow.
struct Own<'a> {
    host: &'a Host,
    has_stdin: bool,
}

impl Live for Own<'_> {
    fn has_stdin(&self) -> bool {
        self.has_stdin
    }

    fn stdin(&mut self) -> Result<Vec<u8>> {
        // Who sits at a terminal has not been asked for anything.
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

/// Runs the command, whose exit status is ours. Its output is passed on as it comes, or is in the report where that is
/// asked for.
pub(super) fn exec(host: &Host, args: &Exec, output: &Output, terminal: &Terminal) -> Result<ExitCode> {
    let mut own = Own { host, has_stdin: !args.no_stdin };
    let executed = if output.is_for_people() {
        vm::exec(host, &args.new, Streams::Live(&mut own))?
    } else {
        let stdin = if args.no_stdin { Vec::new() } else { own.stdin()? };
        vm::exec(host, &args.new, Streams::Captured(stdin))?
    };
    terminal.finish();
    if !output.is_for_people() {
        output.show(&executed)?;
    }
    Ok(exit_code(executed.exit_status))
}

pub(super) fn copy(host: &Host, args: &Copy, output: &Output, terminal: &Terminal) -> Result<ExitCode> {
    let shows_progress = output.is_for_people() && !terminal.is_quiet() && std::io::stdout().is_terminal();
    let copied = vm::copy(host, &args.new, !shows_progress)?;
    terminal.finish();
    if !output.is_for_people() {
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
    let mut came = false;
    vm::events(host, &filter, timeout.map(|limit| limit.0), |event| {
        came = true;
        let text = || format!("{}  {}  {}  {}", event.time, event.vm, event.kind, event.detail);
        let flow = output.stream_line(event, text)?;
        Ok(if *follow { flow } else { ControlFlow::Break(()) })
    })?;
    match timeout {
        Some(limit) if !came && !follow => Err(Error::new(Code::Timeout, format!("nothing happened within {limit}"))),
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
    if output.is_for_people() && config.hosts.is_empty() {
        line("# No VM can be logged in to.")?;
    } else {
        output.show(&config)?;
    }
    Ok(ExitCode::SUCCESS)
}
