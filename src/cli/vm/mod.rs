//! `vmprov vm …`

pub(super) mod guest;

use std::{
    fs::{File, OpenOptions},
    io::{IsTerminal, Read},
    os::unix::fs::OpenOptionsExt,
    process::ExitCode,
    sync::mpsc::{RecvTimeoutError, channel},
    time::Duration,
};

use camino::{Utf8Path, Utf8PathBuf};
use clap::{Args, Subcommand};
use rustix::fs::OFlags;

use super::{
    each,
    output::{Kind, Output, say},
    progress::Terminal,
    reports::{DryRun, Found},
};
use crate::{
    error::{Error, Hint, Result},
    model::{
        change::Change,
        vm::{Bytes, NewVm},
    },
    ops::{
        Host,
        vm::{
            self, AddressOptions, DeleteOptions, ListOptions, NewCommit, NewTtl, NewVmName, StopOptions, WaitOptions,
        },
    },
};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Create a VM and start it
    #[command(
        after_help = "The VM's disk is an overlay on the image, which is uploaded to the storage pool once for all VMs."
    )]
    Create(Box<Create>),

    /// List VMs
    #[command(visible_alias = "ls")]
    List(ListOptions),

    /// Show details of a VM
    #[command(visible_alias = "show")]
    Info {
        /// VM, by name or UUID
        vm: String,
    },

    /// Start VMs
    Start {
        /// VMs, by name or UUID
        #[arg(required = true)]
        vm: Vec<String>,
    },

    /// Shut down VMs and wait until they are off
    Stop(Stop),

    /// Restart VMs with their current configuration
    Restart(Stop),

    /// Pause VMs
    #[command(
        after_help = "Their CPUs stop, and their memory stays on the host until they are resumed or powered off."
    )]
    Pause {
        /// VMs, by name or UUID
        #[arg(required = true)]
        vm: Vec<String>,
    },

    /// Resume paused VMs
    Resume {
        /// VMs, by name or UUID
        #[arg(required = true)]
        vm: Vec<String>,
    },

    /// Reset VMs at once, which may lose unsaved data
    #[command(after_help = "Like the reset button of a computer: the guest does not shut down, and the VM keeps the \
                      configuration that it runs with. `vmprov vm restart` shuts it down and applies changes.")]
    Reset {
        /// VMs, by name or UUID
        #[arg(required = true)]
        vm: Vec<String>,
    },

    /// Delete VMs and the volumes they own
    #[command(visible_alias = "rm")]
    Delete(Delete),

    /// Log in to a VM or run a command in it
    #[command(after_help = "The VM's host keys are verified.")]
    Ssh {
        // Without an index, the completers move an argument behind the others.
        /// VM, by name or UUID
        #[arg(index = 1)]
        vm: String,
        /// Login user [default: the VM's]
        #[arg(short = 'l', long, value_name = "NAME")]
        user: Option<String>,
        /// Command to run; its exit status is passed on
        #[arg(index = 2, last = true)]
        command: Vec<String>,
    },

    /// Run a command in a VM over SSH or through its guest agent
    #[command(after_help = "Output and exit status are those of the command.")]
    Exec(guest::Exec),

    /// Copy files and folders to or from a VM
    Cp(guest::Copy),

    /// Print a running VM's address
    Ip {
        /// VM, by name or UUID
        vm: String,
        /// Print every address with its source and the expiry of its lease
        #[arg(long)]
        all: bool,
        #[command(flatten)]
        options: AddressOptions,
    },

    /// Wait for a VM to reach a state
    Wait {
        /// VM, by name or UUID
        vm: String,
        #[command(flatten)]
        options: WaitOptions,
    },

    /// Print the ssh command that logs in to a VM
    #[command(name = "ssh-command", after_help = "It checks the VM's host keys strictly.")]
    LoginLine {
        /// VM, by name or UUID
        vm: String,
    },

    /// Show a VM's serial console output since its last start
    Logs(guest::Logs),

    /// Attach to a VM's serial console (Ctrl-] detaches)
    Console {
        /// VM, by name or UUID
        vm: String,
    },

    /// Save a VM's screen as a PNG file
    Screenshot(guest::Screenshot),

    /// Show VM events as they happen
    Events(guest::Events),

    /// Change memory, vCPUs, disk size, autostart or description
    #[command(after_help = "A running VM is changed at once if possible, otherwise at its next start.")]
    Set(Change),

    /// Rename a VM that is shut off
    #[command(
        after_help = "Volumes keep their names, and are still deleted with the VM. TTL, protection and owner stay. The \
                      guest keeps its host name until you change it there; ssh finds the VM by its new name. The old \
                      name is free: a new VM with it gets volumes with other names. libvirt cannot rename a VM that \
                      has a saved state, and old versions of libvirt none that has snapshots."
    )]
    Rename(NewVmName),

    /// Change when a VM expires
    #[command(after_help = "`vmprov reap` deletes expired VMs.")]
    Ttl(NewTtl),

    /// Protect VMs from deletion
    Protect {
        /// VMs, by name or UUID
        #[arg(required = true)]
        vm: Vec<String>,
    },

    /// Remove deletion protection
    Unprotect {
        /// VMs, by name or UUID
        #[arg(required = true)]
        vm: Vec<String>,
    },

    /// Create an image from a VM's disk
    #[command(
        after_help = "The VM must be shut off. The image does not get its keys, machine-id, leases and cloud-init state."
    )]
    Commit(NewCommit),
}

#[derive(Debug, Args)]
pub(super) struct Create {
    #[command(flatten)]
    new: NewVm,

    /// cloud-init user data, merged with vmprov's own; - reads standard input
    #[arg(long, value_name = "FILE")]
    user_data: Option<Utf8PathBuf>,

    /// Print the commands that would be run, and change nothing
    #[arg(long)]
    dry_run: bool,
}

#[derive(Debug, Args)]
pub(super) struct Stop {
    /// VMs, by name or UUID
    #[arg(required = true)]
    vm: Vec<String>,

    #[command(flatten)]
    options: StopOptions,
}

#[derive(Debug, Args)]
pub(super) struct Delete {
    /// VMs, by name or UUID
    #[arg(required = true)]
    vm: Vec<String>,

    /// Skip the confirmation
    #[arg(short, long)]
    yes: bool,

    #[command(flatten)]
    options: DeleteOptions,
}

/// Runs one of the commands.
pub(super) fn run(host: &Host, command: Command, output: &Output, terminal: &Terminal) -> Result<ExitCode> {
    let show = |report: &dyn Fn() -> Result<()>| {
        terminal.finish();
        report().map(|()| ExitCode::SUCCESS)
    };
    match command {
        Command::Create(args) => create(host, *args, output, terminal),
        Command::List(options) => {
            let vms = vm::list(host, options)?;
            show(&|| output.show(&vms))
        }
        Command::Info { vm } => {
            let info = vm::info(host, &vm)?;
            show(&|| output.show(&info))
        }
        Command::Start { vm } => each(&vm, output, terminal, |vm| vm::start(host, vm)),
        Command::Stop(Stop { vm, options }) => each(&vm, output, terminal, |vm| vm::stop(host, vm, options)),
        Command::Restart(Stop { vm, options }) => each(&vm, output, terminal, |vm| vm::restart(host, vm, options)),
        Command::Pause { vm } => each(&vm, output, terminal, |vm| vm::pause(host, vm)),
        Command::Resume { vm } => each(&vm, output, terminal, |vm| vm::resume(host, vm)),
        Command::Reset { vm } => each(&vm, output, terminal, |vm| vm::reset(host, vm)),
        Command::Delete(args) => delete(host, &args, output, terminal),
        Command::Set(change) => {
            let edited = vm::set(host, &change)?;
            show(&|| output.show(&edited))
        }
        Command::Rename(new) => {
            let renamed = vm::rename(host, &new)?;
            show(&|| output.show(&renamed))
        }
        Command::Ttl(request) => {
            let expiry = vm::set_ttl(host, &request)?;
            show(&|| output.show(&expiry))
        }
        Command::Protect { vm } => each(&vm, output, terminal, |vm| vm::protect(host, vm, true)),
        Command::Unprotect { vm } => each(&vm, output, terminal, |vm| vm::protect(host, vm, false)),
        Command::Commit(new) => {
            let image = vm::commit(host, &new)?;
            show(&|| output.show(&image))
        }
        Command::Ip { vm, all, options } => {
            let found = Found { found: vm::addresses(host, &vm, options)?, all };
            show(&|| output.show(&found))
        }
        Command::Wait { vm, options } => {
            let reached = vm::wait(host, &vm, options)?;
            show(&|| output.show(&reached))
        }
        Command::Ssh { vm, user, command } => Ok(exit_code(vm::ssh(host, &vm, user.as_deref(), &command)?)),
        Command::LoginLine { vm } => {
            let found = vm::ssh_command(host, &vm)?;
            show(&|| output.show(&found))
        }
        Command::Exec(args) => guest::exec(host, &args, output, terminal),
        Command::Cp(args) => guest::copy(host, &args, output, terminal),
        Command::Logs(args) => guest::logs(host, &args, output, terminal),
        Command::Screenshot(args) => guest::screenshot(host, &args, output, terminal),
        Command::Events(args) => guest::events(host, &args, output, terminal),
        Command::Console { vm } => {
            if std::io::stdin().is_terminal() {
                say(Kind::Note, "Ctrl-] detaches from the console");
            }
            Ok(exit_code(vm::console(host, &vm, std::io::stdin().is_terminal())?))
        }
    }
}

fn create(host: &Host, args: Create, output: &Output, terminal: &Terminal) -> Result<ExitCode> {
    let Create { mut new, user_data, dry_run } = args;
    new.user_data = user_data.as_deref().map(|file| read_user_data(host, file)).transpose()?;
    if dry_run {
        let host = host.dry_run();
        let created = vm::create(&host, &new)?;
        terminal.finish();
        output.show(&DryRun { commands: host.planned(), warnings: created.warnings })?;
    } else {
        let created = vm::create(host, &new)?;
        terminal.finish();
        output.show(&created)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Reads user data from a file, standard input or the pipe of a `<(command)`, up to a size that no user data has.
fn read_user_data(host: &Host, file: &Utf8Path) -> Result<Bytes> {
    const MAX_BYTES: u64 = 1 << 20;
    let path = file.to_owned();
    let read = move || {
        let mut data = Vec::new();
        let mut read_limited = |input: &mut dyn Read| input.take(MAX_BYTES + 1).read_to_end(&mut data).map(drop);
        match path.as_str() {
            "-" => read_limited(&mut std::io::stdin()),
            _ => read_limited(&mut open_pipe_or_file(&path)?),
        }?;
        Ok(data)
    };
    let data = interruptible(host, read)?;
    let data = data.map_err(|error: std::io::Error| Error::io(format!("read the user data `{file}`"), &error))?;
    if data.len() as u64 > MAX_BYTES {
        return Err(Error::invalid(format!("invalid user data `{file}`: must have at most {MAX_BYTES} bytes"))
            .hint("Let the guest fetch the rest from a URL, with `#include` or a script"));
    }
    Ok(Bytes(data))
}

/// Opens a file. A named pipe without a writer counts as empty, because opening it would block forever.
fn open_pipe_or_file(path: &Utf8Path) -> std::io::Result<File> {
    let flags = OFlags::NONBLOCK.bits().cast_signed();
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    // Reads block again, to wait for the data of a slow writer.
    rustix::fs::fcntl_setfl(&file, OFlags::empty())?;
    Ok(file)
}

fn delete(host: &Host, args: &Delete, output: &Output, terminal: &Terminal) -> Result<ExitCode> {
    let Delete { vm, yes, options } = args;
    if !yes && !confirm(host, vm)? {
        say(Kind::Note, "nothing was deleted");
        return Ok(ExitCode::SUCCESS);
    }
    each(vm, output, terminal, |vm| vm::delete(host, vm, *options))
}

/// Asks for confirmation on the terminal. Fails if standard input is not a terminal.
fn confirm(host: &Host, vms: &[String]) -> Result<bool> {
    if !std::io::stdin().is_terminal() {
        let hint = Hint::set_to("Confirm the deletion", "yes", true);
        return Err(Error::invalid("confirmation required but stdin is not a terminal").hint(hint));
    }
    say(Kind::Warning, &format!("this deletes {} and all owned volumes. Type yes to continue:", vms.join(", ")));
    let answer = interruptible(host, || {
        let mut answer = String::new();
        std::io::stdin().read_line(&mut answer).map(|_| answer)
    })?;
    let answer = answer.map_err(|error| Error::io("read the answer", &error))?;
    Ok(matches!(answer.trim(), "y" | "yes"))
}

/// Runs a read that may block forever, such as one from a terminal. The read itself cannot be ended, so its thread is
/// abandoned on an interrupt.
fn interruptible<T: Send + 'static>(host: &Host, read: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    const POLL: Duration = Duration::from_millis(50);
    let (sender, receiver) = channel();
    std::thread::spawn(move || sender.send(read()));
    loop {
        match receiver.recv_timeout(POLL) {
            Ok(read) => return Ok(read),
            Err(RecvTimeoutError::Timeout) => host.runner.cancel.check()?,
            Err(RecvTimeoutError::Disconnected) => return Err(Error::internal("the reading thread has no result")),
        }
    }
}

/// Converts a program's exit status to vmprov's own.
fn exit_code(status: i32) -> ExitCode {
    ExitCode::from(u8::try_from(status).unwrap_or(1))
}
