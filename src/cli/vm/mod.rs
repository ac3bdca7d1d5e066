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
    error::{Error, Result},
    model::{
        change::Change,
        vm::{Bytes, NewVm},
    },
    ops::{
        Host,
        vm::{self, AddressOptions, DeleteOptions, ListOptions, NewCommit, NewTtl, StopOptions, WaitOptions},
    },
};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Create a VM and start it
    #[command(
        after_help = "The VM's disk is an overlay on the image, which is uploaded into the storage pool once for all VMs."
    )]
    Create(Box<Create>),

    /// List every VM
    #[command(visible_alias = "ls")]
    List(ListOptions),

    /// Show everything there is to know of a VM
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

    /// Shut VMs down, and wait until they are
    Stop(Stop),

    /// Shut VMs down and start them again, with their present configuration
    Restart(Stop),

    /// Delete VMs and the volumes that they own
    #[command(visible_alias = "rm")]
    Delete(Delete),

    /// Change a VM's memory, virtual CPUs, disk size, autostart or description, at once where that is possible
    Set(Change),

    /// Change when a VM expires; `vmprov reap` deletes it then
    Ttl(NewTtl),

    /// Protect VMs from being deleted
    Protect {
        /// VMs, by name or UUID
        #[arg(required = true)]
        vm: Vec<String>,
    },

    /// Let VMs be deleted again
    Unprotect {
        /// VMs, by name or UUID
        #[arg(required = true)]
        vm: Vec<String>,
    },

    /// Make an image of a VM's disk, without what made it that one VM: its keys, machine-id, leases, cloud-init state
    Commit(NewCommit),

    /// Print a running VM's address
    Ip {
        /// VM, by name or UUID
        vm: String,
        /// Print every address, where each is known from, and when its lease ends
        #[arg(long)]
        all: bool,
        #[command(flatten)]
        options: AddressOptions,
    },

    /// Wait until a VM is so far
    Wait {
        /// VM, by name or UUID
        vm: String,
        #[command(flatten)]
        options: WaitOptions,
    },

    /// Log in to a VM, or run a command in it; its host keys are verified
    Ssh {
        // The completers put an argument behind the others unless it has its place.
        /// VM, by name or UUID
        #[arg(index = 1)]
        vm: String,
        /// User to log in as [default: the VM's]
        #[arg(short = 'l', long, value_name = "NAME")]
        user: Option<String>,
        /// Command to run; its exit status is passed on
        #[arg(index = 2, last = true)]
        command: Vec<String>,
    },

    /// Print the command that logs in to a VM, with strict host keys
    #[command(name = "ssh-command", after_help = "To use it: eval \"$(vmprov vm ssh-command web)\" uptime")]
    LoginLine {
        /// VM, by name or UUID
        vm: String,
    },

    /// Run one command in a VM, by ssh or through its guest agent; its output and exit status are passed on
    Exec(guest::Exec),

    /// Copy files and folders into a VM or out of it
    Cp(guest::Copy),

    /// Attach to a VM's serial console; Ctrl-] leaves it
    Console {
        /// VM, by name or UUID
        vm: String,
    },

    /// Show what a VM has said on its serial console since its last start
    Logs(guest::Logs),

    /// Take a picture of a VM's screen, as a PNG file
    Screenshot(guest::Screenshot),

    /// Show what happens to VMs, as it happens
    Events(guest::Events),
}

#[derive(Debug, Args)]
pub(super) struct Create {
    #[command(flatten)]
    new: NewVm,

    /// User data for cloud-init, beside what vmprov needs itself; - is standard input
    #[arg(long, value_name = "FILE")]
    user_data: Option<Utf8PathBuf>,

    /// Change nothing; print the commands that would be run
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

    /// Do not ask
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
        Command::Delete(args) => delete(host, &args, output, terminal),
        Command::Set(change) => {
            let edited = vm::set(host, &change)?;
            show(&|| output.show(&edited))
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
            let found = Found { found: vm::addresses(host, &vm, options)?, whole: all };
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
                say(Kind::Note, "Ctrl-] leaves the console");
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

/// Reads a file, standard input, or the pipe of a `<(command)`, up to what nobody would call user data.
fn read_user_data(host: &Host, file: &Utf8Path) -> Result<Bytes> {
    const MOST: u64 = 1 << 20;
    let path = file.to_owned();
    let read = move || {
        let mut data = Vec::new();
        let mut up_to_most = |input: &mut dyn Read| input.take(MOST + 1).read_to_end(&mut data).map(drop);
        match path.as_str() {
            "-" => up_to_most(&mut std::io::stdin()),
            _ => up_to_most(&mut open_pipe_or_file(&path)?),
        }?;
        Ok(data)
    };
    let data = interruptible(host, read)?;
    let data = data.map_err(|error: std::io::Error| Error::io(format!("read the user data `{file}`"), &error))?;
    if data.len() as u64 > MOST {
        return Err(Error::invalid(format!("the user data `{file}` has more than {MOST} bytes"))
            .hint("Give the guest an address to fetch the rest from, in `#include` or in a script."));
    }
    Ok(Bytes(data))
}

/// Opens a file. A pipe that nobody writes to is empty, instead of never being opened.
fn open_pipe_or_file(path: &Utf8Path) -> std::io::Result<File> {
    let flags = OFlags::NONBLOCK.bits().cast_signed();
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    // A writer that is there may take its time.
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

/// Asks on the terminal; where there is none, nobody has said yes.
fn confirm(host: &Host, vms: &[String]) -> Result<bool> {
    if !std::io::stdin().is_terminal() {
        return Err(
            Error::invalid("deleting asks first, and nobody is there to answer").hint("Say so beforehand: --yes")
        );
    }
    say(Kind::Warning, &format!("this deletes {} and the volumes owned. Type yes to go on:", vms.join(", ")));
    let answer = interruptible(host, || {
        let mut answer = String::new();
        std::io::stdin().read_line(&mut answer).map(|_| answer)
    })?;
    let answer = answer.map_err(|error| Error::io("read the answer", &error))?;
    Ok(matches!(answer.trim(), "y" | "yes"))
}

/// Reads what may never come, such as an answer. The read itself cannot be ended, so it is left behind when somebody
/// interrupts.
fn interruptible<T: Send + 'static>(host: &Host, read: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    const POLL: Duration = Duration::from_millis(50);
    let (sender, receiver) = channel();
    std::thread::spawn(move || sender.send(read()));
    loop {
        match receiver.recv_timeout(POLL) {
            Ok(read) => return Ok(read),
            Err(RecvTimeoutError::Timeout) => host.runner.cancel.check()?,
            Err(RecvTimeoutError::Disconnected) => return Err(Error::internal("reading has ended without a result")),
        }
    }
}

/// A program's exit status as ours.
fn exit_code(status: i32) -> ExitCode {
    ExitCode::from(u8::try_from(status).unwrap_or(1))
}
