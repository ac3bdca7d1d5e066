//! [`Conversation`]: a program that keeps running and reads one command after another from its standard input.

use std::{
    io::{BufRead, BufReader, PipeWriter, Write},
    sync::mpsc::{Receiver, RecvTimeoutError, channel},
    time::{Duration, Instant},
};

use duct::Handle;
use rustix::process::kill_process_group;

use super::{GRACE, POLL, Runner, Tool, end};
use crate::error::{Code, Error, Result};

/// A running program that reads commands. It is ended when this value is dropped. It also ends when this process dies,
/// because that closes its standard input.
pub(super) struct Conversation {
    program: &'static str,
    handle: Handle,
    /// The write end of its standard input. None once that was closed.
    commands: Option<PipeWriter>,
    /// The lines of its standard error.
    error_lines: Receiver<String>,
}

impl Tool {
    /// Starts the program and keeps it running. Its standard output is dropped. Its standard error is the response to a
    /// command.
    pub(super) fn converse(&self, runner: &Runner) -> Result<Conversation> {
        runner.cancel.check()?;
        tracing::debug!("{}", self.summary());
        let failed = |error: std::io::Error| Error::io(format!("create a pipe for `{}`", self.program), &error);
        let ((input, commands), (output, stderr)) =
            (std::io::pipe().map_err(failed)?, std::io::pipe().map_err(failed)?);
        let expression = self.without_input().stdin_file(input).stdout_null().stderr_file(stderr);
        let handle = expression.start().map_err(|error| self.not_started(&error))?;
        let (sender, receiver) = channel();
        std::thread::spawn(move || {
            let lines = BufReader::new(output).lines().map_while(std::result::Result::ok);
            lines.map(|line| sender.send(line)).take_while(std::result::Result::is_ok).count();
        });
        Ok(Conversation { program: self.program, handle, commands: Some(commands), error_lines: receiver })
    }
}

impl Conversation {
    /// Writes a line to its standard input, and returns the error output before the line `mark`. If the program ends
    /// instead, the output until then is returned.
    pub(super) fn send(&mut self, line: &str, mark: &str, limit: Duration, runner: &Runner) -> Result<Response> {
        let deadline = Instant::now() + limit;
        // Writing fails after the program has ended. Its error output, read below, says why.
        if let Some(commands) = &mut self.commands
            && let Err(error) = writeln!(commands, "{line}")
        {
            tracing::debug!("cannot write to `{}`: {error}", self.program);
        }
        let mut received = Vec::new();
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.error_lines.recv_timeout(left.min(POLL)) {
                Ok(line) if line.trim_end().trim_start_matches("error: ") == mark => {
                    return Ok(Response { text: received.join("\n"), ended: false });
                }
                Ok(line) => received.push(line),
                Err(RecvTimeoutError::Disconnected) => return Ok(Response { text: received.join("\n"), ended: true }),
                Err(RecvTimeoutError::Timeout) if left.is_zero() => {
                    let message = format!("`{}` did not respond within {} s", self.program, limit.as_secs());
                    return Err(Error::new(Code::Timeout, message).hint("Check whether libvirtd is stuck"));
                }
                Err(RecvTimeoutError::Timeout) => runner.cancel.check()?,
            }
        }
    }
}

/// A program's response to a command.
pub(super) struct Response {
    /// The error output. Empty if the command succeeded.
    pub(super) text: String,
    /// Whether the program has ended.
    pub(super) ended: bool,
}

impl Drop for Conversation {
    fn drop(&mut self) {
        self.commands = None;
        if !matches!(self.handle.wait_timeout(GRACE), Ok(Some(_))) {
            end(&self.handle, kill_process_group);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_responds_until_it_is_dropped() {
        let script = "while read -r line; do echo \"got $line\" >&2; echo mark >&2; done";
        let runner = Runner::default();
        let mut shell = Tool::new("sh").args(["-c", script]).converse(&runner).unwrap();
        for word in ["one", "two"] {
            let response = shell.send(word, "mark", Duration::from_secs(30), &runner).unwrap();
            assert_eq!((response.text, response.ended), (format!("got {word}"), false));
        }
        let handle = shell.handle.pids();
        drop(shell);
        assert!(!std::path::Path::new(&format!("/proc/{}", handle[0])).exists(), "the program is still running");
    }

    #[test]
    fn the_last_error_output_of_a_program_is_returned() {
        let runner = Runner::default();
        let mut shell = Tool::new("sh").args(["-c", "echo no >&2; exit 1"]).converse(&runner).unwrap();
        let response = shell.send("anything", "mark", Duration::from_secs(30), &runner).unwrap();
        assert_eq!((response.text.as_str(), response.ended), ("no", true));
    }

    #[test]
    fn a_program_that_does_not_respond_is_a_timeout() {
        let runner = Runner::default();
        let mut shell = Tool::new("sh").args(["-c", "cat >/dev/null"]).converse(&runner).unwrap();
        let response = shell.send("anything", "mark", Duration::from_millis(100), &runner);
        assert_eq!(response.err().unwrap().code, Code::Timeout);
    }
}
