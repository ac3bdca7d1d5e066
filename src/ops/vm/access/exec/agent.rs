//! A command through the guest agent.
//!
//! The agent itself hands over a command's output only once that has ended. So the output goes to files in the guest that
//! are read as they grow.

use std::time::{Duration, Instant};

use uuid::Uuid;

use super::{Executed, Live, MOST_CAPTURED, NewExec, Streams, Via, out_of_time, within_limit};
use crate::{
    error::{Code, Error, Result},
    ops::Host,
    tools::virsh::{Domain, GuestFiles, Virsh},
};

/// Runs `"$@"` as the user `$2`, as if that had logged in, in a process group of its own, for up to `$3` seconds where that is
/// not empty. Its output goes to files in the folder `$1`, which only root can enter; its input comes from one there where
/// there is one, or else from the agent.
const SCRIPT: &str = r#"d=$1 w=$2 t=$3; shift 3
[ -d "$d" ] || mkdir -m 700 "$d" || exit 125
u=$(umask); umask 077; : >"$d/out" && : >"$d/err" || exit 125; umask "$u"
[ ! -e "$d/in" ] || exec <"$d/in"
HOME=$(getent passwd "$w" | cut -d : -f 6) USER=$w LOGNAME=$w; export HOME USER LOGNAME
exec >>"$d/out" 2>>"$d/err"
cd "$HOME" 2>/dev/null || cd /
exec setsid ${t:+timeout -k 5 "$t"} setpriv --reuid "$w" --regid "$(id -g "$w")" --init-groups -- "$@""#;

/// Ends the process group `$2`, where one is named, by force what has not ended within five seconds, and removes the folder
/// `$1`.
const CLEAN_UP: &str = r#"p=$2
if [ -n "$p" ] && kill -- "-$p"; then
    n=0; while [ $n -lt 50 ] && kill -0 -- "-$p"; do n=$((n + 1)); sleep 0.1; done
    kill -9 -- "-$p"
fi
exec rm -rf -- "$1""#;

/// How long the guest may take to begin.
const BEGIN: Duration = Duration::from_secs(20);

/// How often a command is looked at: at first, and when nothing has come for long.
const POLL: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

/// The most bytes of the command: it is part of one argument.
const MOST_COMMAND: usize = 64 << 10;

/// The most bytes of standard input, which are handed over before the command begins.
const MOST_STDIN: usize = 16 << 20;

/// The most bytes of it that are handed over with the command itself, in one message to the agent. More goes to a file.
const MOST_INLINE: usize = 48 << 10;

/// A command that runs in a guest, or is about to.
struct Running<'a> {
    host: &'a Host,
    uuid: Uuid,
    /// None before it runs.
    pid: Option<i64>,
    /// Its folder in the guest: its output, its complaints, and its input where that is large.
    folder: String,
}

pub(super) fn run(host: &Host, domain: &Domain, new: &NewExec, streams: Streams) -> Result<Executed> {
    if !domain.agent_connected {
        let name = &domain.name;
        return Err(Error::conflict(format!("no guest agent answers in the VM `{name}`"))
            .hint("Install qemu-guest-agent in the guest, or use --via ssh."));
    }
    if new.command.iter().map(String::len).sum::<usize>() > MOST_COMMAND {
        return Err(Error::invalid(format!("the guest agent takes commands of up to {MOST_COMMAND} bytes"))
            .hint("Hand over the rest on standard input."));
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
    let began = Instant::now();
    match streams {
        Streams::Live(live) => executed.exit_status = watched(host, domain, new, user, live)?,
        Streams::Captured(stdin) => {
            let mut captured = Captured { stdin, ..Captured::default() };
            executed.exit_status = watched(host, domain, new, user, &mut captured)?;
            let text = |bytes: Vec<u8>| Some(String::from_utf8_lossy(&bytes).into_owned());
            (executed.stdout, executed.stderr) = (text(captured.stdout), text(captured.stderr));
            executed.truncated = captured.truncated;
        }
    }
    within_limit(new, began, executed)
}

#[derive(Default)]
struct Captured {
    stdin: Vec<u8>,
    stdout: Vec<u8>,
    stderr: Vec<u8>,
    truncated: bool,
}

impl Captured {
    /// Keeps what there is room for.
    fn keep(kept: &mut Vec<u8>, truncated: &mut bool, data: &[u8]) {
        let room = MOST_CAPTURED - kept.len();
        *truncated |= data.len() > room;
        kept.extend(&data[..data.len().min(room)]);
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
        Self::keep(&mut self.stdout, &mut self.truncated, data);
        Ok(())
    }

    fn stderr(&mut self, data: &[u8]) -> Result<()> {
        Self::keep(&mut self.stderr, &mut self.truncated, data);
        Ok(())
    }
}

/// Runs it and hands on what it prints; its exit status. Nothing of it stays in the guest, however this ends.
fn watched(host: &Host, domain: &Domain, new: &NewExec, user: &str, live: &mut dyn Live) -> Result<i32> {
    let stdin = if live.has_stdin() { live.stdin()? } else { Vec::new() };
    if stdin.len() > MOST_STDIN {
        return Err(Error::invalid(format!("the guest agent takes up to {MOST_STDIN} bytes of standard input"))
            .hint("Use --via ssh, or copy a file: vmprov vm cp."));
    }
    let unique = Uuid::new_v4().simple().to_string();
    let folder = format!("/run/vmprov-exec-{}", &unique[..16]);
    let mut running = Running { host, uuid: domain.uuid, pid: None, folder };
    let status = running.begin(new, user, stdin).and_then(|()| running.watch(new, &domain.name, live));
    let ended = running.clean_up(status.is_err());
    // The first failure is the one that is told.
    status.and_then(|status| ended.map(|()| status))
}

impl Running<'_> {
    fn begin(&mut self, new: &NewExec, user: &str, stdin: Vec<u8>) -> Result<()> {
        let inline = if stdin.len() > MOST_INLINE { self.put_stdin(&stdin).map(|()| Vec::new())? } else { stdin };
        let limit = new.timeout.map(|limit| limit.0.as_secs().max(1).to_string()).unwrap_or_default();
        let ours = [SCRIPT, "sh", &self.folder, user, &limit];
        let args: Vec<_> = ours.into_iter().chain(new.command.iter().map(String::as_str)).collect();
        self.pid = Some(self.shell(&self.host.virsh, &args, &inline)?);
        Ok(())
    }

    /// Runs a shell's script with its arguments in the guest, as root; its process id.
    fn shell(&self, virsh: &Virsh, args: &[&str], stdin: &[u8]) -> Result<i64> {
        let args: Vec<_> = std::iter::once(&"-c").chain(args).map(|&arg| arg.to_owned()).collect();
        virsh.guest_exec(self.uuid, "/bin/sh", &args, stdin)
    }

    /// Writes large input to a file in the folder. The agent makes files that everybody may read, so the folder comes first.
    fn put_stdin(&self, stdin: &[u8]) -> Result<()> {
        let virsh = &self.host.virsh;
        let maker = self.shell(virsh, &[r#"exec mkdir -m 700 "$1""#, "sh", &self.folder], &[])?;
        let deadline = Instant::now() + BEGIN;
        let status = loop {
            match virsh.guest_exit_status(self.uuid, maker)? {
                None if Instant::now() < deadline => std::thread::sleep(POLL.0),
                status => break status,
            }
        };
        if status != Some(0) {
            return Err(Error::new(Code::ToolFailed, format!("the guest made no folder `{}`", self.folder))
                .hint("The input needs one: see whether the guest's /run is full."));
        }
        virsh.guest_write(self.uuid, &format!("{}/in", self.folder), stdin)
    }

    fn watch(&self, new: &NewExec, vm: &str, live: &mut dyn Live) -> Result<i32> {
        let files = self.open()?;
        let deadline = new.timeout.map(|limit| Instant::now() + limit.0 + super::GRACE);
        let status = self.follow(files, deadline, live);
        let closed = self.host.uncancellable().virsh.guest_close(self.uuid, files);
        let status = status?.ok_or_else(|| out_of_time(new, vm))?;
        closed.map(|()| status)
    }

    /// Opens its output, which the guest has to make first.
    fn open(&self) -> Result<GuestFiles> {
        let [out, err] = ["out", "err"].map(|name| format!("{}/{name}", self.folder));
        let deadline = Instant::now() + BEGIN;
        loop {
            match self.host.virsh.guest_open(self.uuid, &out, &err) {
                Err(error) if error.code == Code::ToolFailed && Instant::now() < deadline => {
                    std::thread::sleep(POLL.0);
                }
                result => return result,
            }
        }
    }

    /// Hands on what it prints until it has ended, and all is read; none when its time is up.
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

    /// Removes its folder, and ends it with its whole group first where it may still run.
    fn clean_up(&self, end: bool) -> Result<()> {
        let pid = self.pid.filter(|_| end).map(|pid| pid.to_string()).unwrap_or_default();
        self.shell(&self.host.uncancellable().virsh, &[CLEAN_UP, "sh", &self.folder, &pid], &[]).map(drop)
    }
}
