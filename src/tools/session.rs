//! [`Session`]: a program that keeps running and reads one command line after another from its standard input.
//!
//! Its standard output is a pseudo-terminal: C programs hold output to a pipe back until their buffer is full.

use std::{
    io::{ErrorKind, PipeReader, PipeWriter, Read, Write},
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

use duct::Handle;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::ioctl_fionbio,
    process::{Pid, Signal, kill_process_group},
    pty::{OpenptFlags, ioctl_tiocgptpeer, openpt, unlockpt},
    termios::{OptionalActions, tcgetattr, tcsetattr},
};

use super::{GRACE, POLL, Runner, Tool, end};
use crate::error::{Error, Result};

/// How much is read at a time.
const CHUNK: usize = 16 << 10;

/// A running program that reads commands. It is killed when this value is dropped. It also ends when this process dies,
/// because that closes its standard input.
pub(super) struct Session {
    program: &'static str,
    handle: Handle,
    input: PipeWriter,
    /// The terminal's other end. Reading it fails once the program has ended.
    output: std::fs::File,
    errors: PipeReader,
    used: Instant,
}

/// What a program printed in response to a line.
#[derive(Debug, Default)]
pub(super) struct Response {
    /// Its standard output.
    pub(super) stdout: Vec<u8>,
    /// Its standard error.
    pub(super) stderr: Vec<u8>,
    /// Whether it has closed an output, because it ended, instead of completing the response.
    pub(super) ended: bool,
}

impl Tool {
    /// Starts the program and keeps it running.
    pub(super) fn open_session(&self) -> Result<Session> {
        let failed = |error: std::io::Error| Error::io(format!("connect to `{}`", self.program), &error);
        let (output, terminal) = pseudo_terminal().map_err(|error| failed(error.into()))?;
        let ((stdin, input), (errors, stderr)) = (std::io::pipe().map_err(failed)?, std::io::pipe().map_err(failed)?);
        let expression = self.without_input().stdin_file(stdin).stdout_file(terminal).stderr_file(stderr);
        let handle = expression.start().map_err(|error| self.not_started(&error))?;
        let unblock = || {
            ioctl_fionbio(&input, true)?;
            ioctl_fionbio(&errors, true)?;
            ioctl_fionbio(&output, true)
        };
        unblock().map_err(|error| failed(error.into()))?;
        Ok(Session { program: self.program, handle, input, output: output.into(), errors, used: Instant::now() })
    }
}

/// Opens a pseudo-terminal that changes no byte. Returns this process's end and the program's end.
fn pseudo_terminal() -> rustix::io::Result<(OwnedFd, OwnedFd)> {
    // Without NOCTTY, it would become the controlling terminal of a service that leads a session.
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let ours = openpt(flags)?;
    unlockpt(&ours)?;
    let theirs = ioctl_tiocgptpeer(&ours, flags)?;
    let mut attributes = tcgetattr(&theirs)?;
    attributes.make_raw();
    tcsetattr(&theirs, OptionalActions::Now, &attributes)?;
    Ok((ours, theirs))
}

impl Session {
    /// Returns whether the program still runs, has printed no error since its last response, and was used within
    /// `max_idle`.
    pub(super) fn is_usable(&self, max_idle: Duration) -> bool {
        let mut errors = [PollFd::new(&self.errors, PollFlags::IN)];
        self.used.elapsed() < max_idle && poll(&mut errors, Some(&Timespec::default())) == Ok(0)
    }

    /// Writes a line to the program and returns what it prints until `is_complete` holds or it ends. At the time limit
    /// of `call` and on cancellation, the program is ended and this fails.
    pub(super) fn send(
        &mut self,
        call: &Tool,
        line: &str,
        runner: &Runner,
        is_complete: impl Fn(&Response) -> bool,
    ) -> Result<Response> {
        let (started, limit) = (Instant::now(), call.limit_in(runner));
        let mut unsent = line.as_bytes();
        let mut response = Response::default();
        loop {
            self.wait_until_ready(!unsent.is_empty(), limit.saturating_sub(started.elapsed()).min(POLL));
            unsent = &unsent[self.write(unsent)..];
            let is_open = self.read(&mut response);
            if is_complete(&response) {
                self.used = Instant::now();
                return Ok(response);
            }
            if is_open != [true, true] {
                self.kill(&mut response);
                return Ok(Response { ended: !is_complete(&response), ..response });
            }
            let late = || (started.elapsed() >= limit).then(|| call.is_late(limit));
            if let Some(error) = runner.cancel.check().err().or_else(late) {
                end(&self.handle, kill_process_group);
                self.kill(&mut response);
                return Err(error);
            }
        }
    }

    /// Waits until the program has printed something or, if `is_sending`, reads its standard input.
    fn wait_until_ready(&self, is_sending: bool, limit: Duration) {
        let reads = [PollFd::new(&self.output, PollFlags::IN), PollFd::new(&self.errors, PollFlags::IN)];
        let write = is_sending.then(|| PollFd::new(&self.input, PollFlags::OUT));
        let mut streams: Vec<_> = reads.into_iter().chain(write).collect();
        let limit = Timespec { tv_sec: limit.as_secs().cast_signed(), tv_nsec: limit.subsec_nanos().into() };
        // The streams do not block. So if this fails, the caller only tries them too early.
        if let Err(error) = poll(&mut streams, Some(&limit)) {
            tracing::debug!("cannot wait for `{}`: {error}", self.program);
        }
    }

    /// Writes as much as the program can take, and returns the number of bytes.
    fn write(&mut self, bytes: &[u8]) -> usize {
        match self.input.write(bytes) {
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => 0,
            // The program has ended. Its output, which is read next, says why.
            written => written.unwrap_or(bytes.len()),
        }
    }

    /// Reads what the program has printed. Returns whether each of its outputs is still open.
    fn read(&mut self, response: &mut Response) -> [bool; 2] {
        [read_available(&mut self.output, &mut response.stdout), read_available(&mut self.errors, &mut response.stderr)]
    }

    /// Kills the program and its child processes, and reads their last output.
    fn kill(&mut self, response: &mut Response) {
        if matches!(self.handle.try_wait(), Ok(None)) {
            for pid in self.handle.pids().into_iter().filter_map(|pid| Pid::from_raw(pid.cast_signed())) {
                // This fails only if the group has just ended.
                let _ = kill_process_group(pid, Signal::KILL);
            }
            if let Err(error) = self.handle.wait() {
                tracing::debug!("cannot wait for `{}`: {error}", self.program);
            }
        }
        // Its children have ended when nothing holds the other ends of the streams any more.
        let deadline = Instant::now() + GRACE;
        while self.read(response) != [false, false] && Instant::now() < deadline {
            self.wait_until_ready(false, POLL);
        }
    }
}

/// Reads until a read would block. Returns whether the other end is still open.
fn read_available(stream: &mut impl Read, into: &mut Vec<u8>) -> bool {
    let mut chunk = [0; CHUNK];
    loop {
        match stream.read(&mut chunk) {
            Ok(0) => return false,
            Ok(count) => into.extend_from_slice(&chunk[..count]),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return error.kind() == ErrorKind::WouldBlock,
        }
    }
}

impl Drop for Session {
    /// It is idle, so nothing is lost. Closing its standard input would let it end by itself, but later.
    fn drop(&mut self) {
        self.kill(&mut Response::default());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Code;

    fn sh(script: &str) -> Tool {
        Tool::new("sh").args(["-c", script]).limit(Duration::from_secs(30))
    }

    fn has(mark: &'static str) -> impl Fn(&Response) -> bool {
        move |response| response.stdout.ends_with(mark.as_bytes())
    }

    fn is_running(session: &Session) -> bool {
        let pids = session.handle.pids();
        std::path::Path::new(&format!("/proc/{}", pids[0])).exists()
    }

    #[test]
    fn a_program_responds_until_it_is_dropped() {
        let call = sh("while read -r line; do echo \"$line?\" >&2; printf '%s\\n' \"$line\" end; done");
        let mut session = call.open_session().unwrap();
        for word in ["one", "two"] {
            let response = session.send(&call, &format!("{word}\n"), &Runner::default(), has("end\n")).unwrap();
            assert_eq!(response.stdout, format!("{word}\nend\n").as_bytes());
            assert_eq!(response.stderr, format!("{word}?\n").as_bytes());
            assert!(!response.ended && session.is_usable(Duration::from_mins(1)));
        }
        assert!(!session.is_usable(Duration::ZERO), "it was idle for too long");
        let pid = session.handle.pids()[0];
        drop(session);
        assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists(), "the program is still running");
    }

    #[test]
    fn long_lines_and_outputs_do_not_block_each_other() {
        let call = sh("while read -r line; do echo \"$line$line$line\"; echo end; done");
        let mut session = call.open_session().unwrap();
        let line = "x".repeat(300_000);
        let response = session.send(&call, &format!("{line}\n"), &Runner::default(), has("end\n")).unwrap();
        assert_eq!(response.stdout.len(), 3 * line.len() + "\nend\n".len());
    }

    #[test]
    fn the_last_output_of_a_program_is_returned() {
        let call = sh("echo out; echo no >&2; exit 1");
        let mut session = call.open_session().unwrap();
        let response = session.send(&call, "anything\n", &Runner::default(), has("end")).unwrap();
        assert!(response.ended);
        assert_eq!((&response.stdout[..], &response.stderr[..]), (&b"out\n"[..], &b"no\n"[..]));
        assert!(!session.is_usable(Duration::from_mins(1)) && !is_running(&session));
    }

    #[test]
    fn an_error_between_two_responses_makes_it_unusable() {
        let call = sh("read -r line; echo end; read -r line; echo disconnected >&2; read -r line");
        let mut session = call.open_session().unwrap();
        session.send(&call, "one\n", &Runner::default(), has("end\n")).unwrap();
        assert!(session.is_usable(Duration::from_mins(1)));
        session.input.write_all(b"two\n").unwrap();
        while session.is_usable(Duration::from_mins(1)) {
            std::thread::yield_now();
        }
    }

    #[test]
    fn a_program_that_does_not_respond_is_ended() {
        let call = sh("cat >/dev/null").limit(Duration::from_millis(100));
        let mut session = call.open_session().unwrap();
        let late = session.send(&call, "anything\n", &Runner::default(), has("end")).unwrap_err();
        assert_eq!(late.code, Code::Timeout);
        assert!(!is_running(&session));
        let cancelled = Runner::default();
        cancelled.cancel.raise();
        let mut session = sh("cat >/dev/null").open_session().unwrap();
        let error = session.send(&sh(""), "anything\n", &cancelled, has("end")).unwrap_err();
        assert_eq!(error.code, Code::Interrupted);
        assert!(!is_running(&session));
    }
}
