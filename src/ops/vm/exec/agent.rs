//! A command through the guest agent.
//!
//! The agent itself hands over a command's output only once that has ended. So the output goes to files in the guest that
//! are read as they grow.

use std::time::{Duration, Instant};

use uuid::Uuid;

use super::{super::super::Host, Executed, Live, MOST_CAPTURED, NewExec, Streams, Via, out_of_time, within_limit};
use crate::{
    error::{Code, Error, Result},
    tools::virsh::{Domain, GuestFiles},
};

/// Runs `"$@"` as the user `$4`, as if that had logged in, in a process group of its own and with output to files that only
/// root can read.
const SCRIPT: &str = r#"o=$1 e=$2 i=$3 w=$4 t=$5; shift 5
u=$(umask); umask 077; : >"$o" && : >"$e" || exit 125; umask "$u"
HOME=$(getent passwd "$w" | cut -d : -f 6) USER=$w LOGNAME=$w; export HOME USER LOGNAME
cd "$HOME" 2>/dev/null || cd /
exec setsid ${t:+timeout -k 5 "$t"} setpriv --reuid "$w" --regid "$(id -g "$w")" --init-groups -- "$@" <"$i" >>"$o" 2>>"$e""#;

/// Ends the process group `$1`, where one is named, by force what has not ended within five seconds, and removes the files.
const CLEAN_UP: &str = r#"p=$1; shift
if [ -n "$p" ] && kill -- "-$p"; then
    n=0; while [ $n -lt 50 ] && kill -0 -- "-$p"; do n=$((n + 1)); sleep 0.1; done
    kill -9 -- "-$p"
fi
exec rm -f -- "$@""#;

/// How long the guest may take to begin.
const BEGIN: Duration = Duration::from_secs(20);

/// How often a command is looked at: at first, and when nothing has come for long.
const POLL: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

/// The most bytes of the command: it is part of one argument.
const MOST_COMMAND: usize = 64 << 10;

/// The most bytes of standard input, which are handed over before the command begins.
const MOST_STDIN: usize = 16 << 20;

/// A command that runs in a guest.
struct Running<'a> {
    host: &'a Host,
    uuid: Uuid,
    pid: i64,
    /// Its output, its complaints, its input.
    names: [String; 3],
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
    let running = Running::begin(host, domain, new, user, &stdin)?;
    let status = running.watch(new, &domain.name, live);
    let ended = running.clean_up(status.is_err());
    // The first failure is the one that is told.
    status.and_then(|status| ended.map(|()| status))
}

impl<'a> Running<'a> {
    fn begin(host: &'a Host, domain: &Domain, new: &NewExec, user: &str, stdin: &[u8]) -> Result<Self> {
        let unique = Uuid::new_v4().simple().to_string();
        let name = |suffix: &str| format!("/run/vmprov-exec-{}.{suffix}", &unique[..16]);
        let names = [name("out"), name("err"), name("in")];
        let input = if stdin.is_empty() { "/dev/null" } else { &names[2] };
        if !stdin.is_empty() {
            host.virsh.guest_write(domain.uuid, input, stdin)?;
        }
        let limit = new.timeout.map(|limit| limit.0.as_secs().max(1).to_string()).unwrap_or_default();
        let ours = ["-c", SCRIPT, "sh", &names[0], &names[1], input, user, &limit];
        let args: Vec<_> = ours.into_iter().map(str::to_owned).chain(new.command.iter().cloned()).collect();
        let pid = host.virsh.guest_exec(domain.uuid, "/bin/sh", &args)?;
        Ok(Self { host, uuid: domain.uuid, pid, names })
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
        let [out, err, _] = &self.names;
        let deadline = Instant::now() + BEGIN;
        loop {
            match self.host.virsh.guest_open(self.uuid, out, err) {
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
            let pid = status.is_none().then_some(self.pid);
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

    /// Removes its files, and ends it with its whole group first where it may still run.
    fn clean_up(&self, end: bool) -> Result<()> {
        let virsh = self.host.uncancellable().virsh;
        let end = if end { self.pid.to_string() } else { String::new() };
        let args = [&["-c", CLEAN_UP, "sh", &end][..], &self.names.each_ref().map(String::as_str)].concat();
        virsh.guest_exec(self.uuid, "/bin/sh", &args.into_iter().map(str::to_owned).collect::<Vec<_>>()).map(drop)
    }
}
