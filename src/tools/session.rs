//! [`Conversation`]: a program that stays, and is given one command after another on its standard input.

use std::{
    io::{BufRead, BufReader, PipeWriter, Write},
    sync::mpsc::{Receiver, RecvTimeoutError, channel},
    time::{Duration, Instant},
};

use duct::Handle;
use rustix::process::kill_process_group;

use super::{GRACE, POLL, Runner, Tool, end};
use crate::error::{Code, Error, Result};

/// A running program that reads commands. It ends when this is dropped, and by itself when this process dies, because
/// its standard input ends then.
pub(super) struct Conversation {
    program: &'static str,
    handle: Handle,
    /// None once it has been told that there is no more.
    commands: Option<PipeWriter>,
    complaints: Receiver<String>,
}

impl Tool {
    /// Starts the program and keeps it. What it prints is dropped; its complaints are the answers.
    pub(super) fn converse(&self, runner: &Runner) -> Result<Conversation> {
        runner.cancel.check()?;
        tracing::debug!("{}", self.summary());
        let failed = |error: std::io::Error| Error::io(format!("make a pipe for `{}`", self.program), &error);
        let ((input, commands), (output, complaints)) =
            (std::io::pipe().map_err(failed)?, std::io::pipe().map_err(failed)?);
        let expression = self.without_input().stdin_file(input).stdout_null().stderr_file(complaints);
        let handle = expression.start().map_err(|error| self.not_started(&error))?;
        let (sender, receiver) = channel();
        std::thread::spawn(move || {
            let lines = BufReader::new(output).lines().map_while(std::result::Result::ok);
            lines.map(|line| sender.send(line)).take_while(std::result::Result::is_ok).count();
        });
        Ok(Conversation { program: self.program, handle, commands: Some(commands), complaints: receiver })
    }
}

impl Conversation {
    /// Gives it a line, and returns what it complains of until it says `mark`, without that. When it ends instead, its last
    /// words are returned too, as an error's.
    pub(super) fn ask(&mut self, line: &str, mark: &str, limit: Duration, runner: &Runner) -> Result<Answer> {
        let deadline = Instant::now() + limit;
        // One that has ended cannot be written to; it has said why.
        if let Some(commands) = &mut self.commands
            && let Err(error) = writeln!(commands, "{line}")
        {
            tracing::debug!("`{}` takes no more commands: {error}", self.program);
        }
        let mut said = Vec::new();
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.complaints.recv_timeout(left.min(POLL)) {
                Ok(line) if line.trim_end().trim_start_matches("error: ") == mark => {
                    return Ok(Answer { text: said.join("\n"), ended: false });
                }
                Ok(line) => said.push(line),
                Err(RecvTimeoutError::Disconnected) => return Ok(Answer { text: said.join("\n"), ended: true }),
                Err(RecvTimeoutError::Timeout) if left.is_zero() => {
                    let message = format!("`{}` did not answer within {} s", self.program, limit.as_secs());
                    return Err(Error::new(Code::Timeout, message).hint("libvirtd may be stuck."));
                }
                Err(RecvTimeoutError::Timeout) => runner.cancel.check()?,
            }
        }
    }
}

/// What a program complained of.
pub(super) struct Answer {
    /// Its words; empty when it had nothing to complain of.
    pub(super) text: String,
    /// Whether it has ended.
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
    fn it_answers_until_it_is_dropped() {
        let script = "while read -r line; do echo \"got $line\" >&2; echo mark >&2; done";
        let runner = Runner::default();
        let mut shell = Tool::new("sh").args(["-c", script]).converse(&runner).unwrap();
        for word in ["one", "two"] {
            let answer = shell.ask(word, "mark", Duration::from_secs(30), &runner).unwrap();
            assert_eq!((answer.text, answer.ended), (format!("got {word}"), false));
        }
        let handle = shell.handle.pids();
        drop(shell);
        assert!(!std::path::Path::new(&format!("/proc/{}", handle[0])).exists(), "it has not ended");
    }

    #[test]
    fn one_that_ends_says_why() {
        let runner = Runner::default();
        let mut shell = Tool::new("sh").args(["-c", "echo no >&2; exit 1"]).converse(&runner).unwrap();
        let answer = shell.ask("anything", "mark", Duration::from_secs(30), &runner).unwrap();
        assert_eq!((answer.text.as_str(), answer.ended), ("no", true));
    }

    #[test]
    fn one_that_is_silent_is_not_waited_for_without_end() {
        let runner = Runner::default();
        let mut shell = Tool::new("sh").args(["-c", "cat >/dev/null"]).converse(&runner).unwrap();
        let answer = shell.ask("anything", "mark", Duration::from_millis(100), &runner);
        assert_eq!(answer.err().unwrap().code, Code::Timeout);
    }
}
