//! Running a command through the guest agent.
//!
//! The agent returns a command's output only after the command has ended. So the command writes its output to files in
//! the guest, which are read while they grow.

use std::time::{Duration, Instant};

use uuid::Uuid;

use super::{Executed, Live, MAX_CAPTURED, NewExec, Streams, Via, out_of_time, within_limit};
use crate::{
    error::{Code, Error, Hint, Result},
    ops::Host,
    tools::virsh::{Domain, GuestFiles, Virsh},
};

/// Runs `"$@"` as the user `$2`, as after a login, in a separate process group. A non-empty `$3` is its time limit in
/// seconds. Its output goes to files in the folder `$1`, which only root can enter. Its input comes from a file there,
/// if one exists, or else from the agent.
const SCRIPT: &str = r#"d=$1 w=$2 t=$3; shift 3
[ -d "$d" ] || mkdir -m 700 "$d" || exit 125
u=$(umask); umask 077; : >"$d/out" && : >"$d/err" || exit 125; umask "$u"
[ ! -e "$d/in" ] || exec <"$d/in"
HOME=$(getent passwd "$w" | cut -d : -f 6) USER=$w LOGNAME=$w; export HOME USER LOGNAME
exec >>"$d/out" 2>>"$d/err"
cd "$HOME" 2>/dev/null || cd /
exec setsid ${t:+timeout -k 5 "$t"} setpriv --reuid "$w" --regid "$(id -g "$w")" --init-groups -- "$@""#;

/// Terminates the process group `$2` if it is given, kills it after five seconds, and removes the folder `$1`.
const CLEAN_UP: &str = r#"p=$2
if [ -n "$p" ] && kill -- "-$p"; then
    n=0; while [ $n -lt 50 ] && kill -0 -- "-$p"; do n=$((n + 1)); sleep 0.1; done
    kill -9 -- "-$p"
fi
exec rm -rf -- "$1""#;

/// How long the guest may take to create its files.
const START_TIMEOUT: Duration = Duration::from_secs(20);

/// The interval between polls of a command: the shortest, and the longest when there is no output for a while.
const POLL: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

/// The maximum size of the command in bytes: it is part of one argument.
const MAX_COMMAND: usize = 64 << 10;

/// The maximum size of standard input in bytes. All of it is transferred before the command starts.
const MAX_STDIN: usize = 16 << 20;

/// The maximum size of standard input that is sent with the command in one message to the agent. Larger input goes to a
/// file.
const MAX_INLINE: usize = 48 << 10;

/// A command that runs in a guest, or is about to start.
struct Running<'a> {
    host: &'a Host,
    uuid: Uuid,
    /// Its process ID; none before it has started.
    pid: Option<i64>,
    /// Its folder in the guest, for standard output, standard error and large input.
    folder: String,
}

pub(super) fn run(host: &Host, domain: &Domain, new: &NewExec, streams: Streams) -> Result<Executed> {
    if !domain.agent_connected {
        let name = &domain.name;
        return Err(Error::conflict(format!("the guest agent of VM `{name}` is not connected"))
            .hint("Install qemu-guest-agent in the guest")
            .hint(Hint::set_to("Use SSH instead", "via", "ssh")));
    }
    if new.command.iter().map(String::len).sum::<usize>() > MAX_COMMAND {
        return Err(Error::invalid(format!(
            "command too long for the guest agent: the maximum is {MAX_COMMAND} bytes"
        ))
        .hint("Pass the rest on standard input"));
    }
    let user = new.user.as_deref().or_else(|| domain.metadata.as_ref()?.user.as_deref()).unwrap_or("root");
    let mut executed = Executed {
        vm: domain.name.clone(),
        via: Via::Agent,
        user: user.to_owned(),
        exit_status: 0,
        stdout: None,
        stderr: None,
        truncated: false,
    };
    let started = Instant::now();
    match streams {
        Streams::Live(live) => executed.exit_status = run_and_forward(host, domain, new, user, live)?,
        Streams::Captured(stdin) => {
            let mut captured = Captured { stdin, ..Captured::default() };
            executed.exit_status = run_and_forward(host, domain, new, user, &mut captured)?;
            let text = |bytes: Vec<u8>| Some(String::from_utf8_lossy(&bytes).into_owned());
            (executed.stdout, executed.stderr) = (text(captured.stdout), text(captured.stderr));
            executed.truncated = captured.truncated;
        }
    }
    within_limit(new, started, executed)
}

#[derive(Default)]
struct Captured {
    stdin: Vec<u8>,
    stdout: Vec<u8>,
    stderr: Vec<u8>,
    truncated: bool,
}

impl Captured {
    /// Appends data up to the maximum size, and records whether some was dropped.
    fn append(captured: &mut Vec<u8>, truncated: &mut bool, data: &[u8]) {
        let remaining = MAX_CAPTURED - captured.len();
        *truncated |= data.len() > remaining;
        captured.extend(&data[..data.len().min(remaining)]);
    }
}

impl Live for Captured {
    fn has_stdin(&self) -> bool {
        !self.stdin.is_empty()
    }

    fn stdin(&mut self) -> Result<Vec<u8>> {
        Ok(std::mem::take(&mut self.stdin))
    }

    fn stdout(&mut self, data: &[u8]) -> Result<()> {
        Self::append(&mut self.stdout, &mut self.truncated, data);
        Ok(())
    }

    fn stderr(&mut self, data: &[u8]) -> Result<()> {
        Self::append(&mut self.stderr, &mut self.truncated, data);
        Ok(())
    }
}

/// Runs a command, forwards its output and returns its exit status. Removes everything from the guest, also on failure.
fn run_and_forward(host: &Host, domain: &Domain, new: &NewExec, user: &str, live: &mut dyn Live) -> Result<i32> {
    let stdin = if live.has_stdin() { live.stdin()? } else { Vec::new() };
    if stdin.len() > MAX_STDIN {
        return Err(Error::invalid(format!(
            "standard input too large for the guest agent: the maximum is {MAX_STDIN} bytes"
        ))
        .hint(Hint::set_to("Use SSH instead", "via", "ssh"))
        .hint("Copy the input to the VM as a file"));
    }
    let unique = Uuid::new_v4().simple().to_string();
    let folder = format!("/run/vmprov-exec-{}", &unique[..16]);
    let mut running = Running { host, uuid: domain.uuid, pid: None, folder };
    let status = running.start(new, user, stdin).and_then(|()| running.wait(new, &domain.name, live));
    let cleaned_up = running.clean_up(status.is_err());
    // The first failure is the one to report.
    status.and_then(|status| cleaned_up.map(|()| status))
}

impl Running<'_> {
    fn start(&mut self, new: &NewExec, user: &str, stdin: Vec<u8>) -> Result<()> {
        let inline = if stdin.len() > MAX_INLINE { self.write_stdin(&stdin).map(|()| Vec::new())? } else { stdin };
        let limit = new.timeout.map(|limit| limit.0.as_secs().max(1).to_string()).unwrap_or_default();
        let script = [SCRIPT, "sh", &self.folder, user, &limit];
        let args: Vec<_> = script.into_iter().chain(new.command.iter().map(String::as_str)).collect();
        self.pid = Some(self.shell(&self.host.virsh, &args, &inline)?);
        Ok(())
    }

    /// Runs a shell script with its arguments in the guest, as root, and returns the process ID.
    fn shell(&self, virsh: &Virsh, args: &[&str], stdin: &[u8]) -> Result<i64> {
        let args: Vec<_> = std::iter::once(&"-c").chain(args).map(|&arg| arg.to_owned()).collect();
        virsh.guest_exec(self.uuid, "/bin/sh", &args, stdin)
    }

    /// Writes large input to a file in the folder. The agent creates world-readable files, so the folder is made first.
    fn write_stdin(&self, stdin: &[u8]) -> Result<()> {
        let virsh = &self.host.virsh;
        let mkdir = self.shell(virsh, &[r#"exec mkdir -m 700 "$1""#, "sh", &self.folder], &[])?;
        let deadline = Instant::now() + START_TIMEOUT;
        let status = loop {
            match virsh.guest_exit_status(self.uuid, mkdir)? {
                None if Instant::now() < deadline => std::thread::sleep(POLL.0),
                status => break status,
            }
        };
        if status != Some(0) {
            return Err(Error::new(
                Code::ToolFailed,
                format!("cannot create the folder `{}` in the guest", self.folder),
            )
            .hint("Check whether the guest's /run is full"));
        }
        virsh.guest_write(self.uuid, &format!("{}/in", self.folder), stdin)
    }

    fn wait(&self, new: &NewExec, vm: &str, live: &mut dyn Live) -> Result<i32> {
        let files = self.open()?;
        let deadline = new.timeout.map(|limit| Instant::now() + limit.0 + super::GRACE);
        let status = self.follow(files, deadline, live);
        let closed = self.host.uncancellable().virsh.guest_close(self.uuid, files);
        let status = status?.ok_or_else(|| out_of_time(new, vm))?;
        closed.map(|()| status)
    }

    /// Opens its output files, once the guest has created them.
    fn open(&self) -> Result<GuestFiles> {
        let [out, err] = ["out", "err"].map(|name| format!("{}/{name}", self.folder));
        let deadline = Instant::now() + START_TIMEOUT;
        loop {
            match self.host.virsh.guest_open(self.uuid, &out, &err) {
                Err(error) if error.code == Code::ToolFailed && Instant::now() < deadline => {
                    std::thread::sleep(POLL.0);
                }
                result => return result,
            }
        }
    }

    /// Forwards its output until it has ended and everything is read. Returns its exit status, or none at the deadline.
    fn follow(&self, files: GuestFiles, deadline: Option<Instant>, live: &mut dyn Live) -> Result<Option<i32>> {
        let (mut status, mut pause) = (None, POLL.0);
        loop {
            let pid = self.pid.filter(|_| status.is_none());
            let progress = self.host.virsh.guest_progress(self.uuid, pid, files)?;
            live.stdout(&progress.stdout)?;
            live.stderr(&progress.stderr)?;
            let is_silent = progress.is_silent();
            if let (Some(status), true) = (status, is_silent) {
                return Ok(Some(status));
            }
            status = status.or(progress.status);
            if deadline.is_some_and(|deadline| Instant::now() > deadline) {
                return Ok(None);
            }
            self.host.runner.cancel.check()?;
            pause = if is_silent { (pause * 2).min(POLL.1) } else { POLL.0 };
            if status.is_none() {
                std::thread::sleep(pause);
            }
        }
    }

    /// Removes its folder; with `kill`, terminates its process group first.
    fn clean_up(&self, kill: bool) -> Result<()> {
        let pid = self.pid.filter(|_| kill).map(|pid| pid.to_string()).unwrap_or_default();
        self.shell(&self.host.uncancellable().virsh, &[CLEAN_UP, "sh", &self.folder, &pid], &[]).map(drop)
    }
}
