//! Calls whose input or output is used while they run: an attached terminal, inherited or captured output, and lines of
//! output as they arrive.

use std::{
    io::{BufRead, BufReader, Read},
    ops::ControlFlow,
    process::ExitStatus,
    sync::mpsc::{Receiver, RecvTimeoutError, channel},
    time::{Duration, Instant},
};

use rustix::process::{kill_process, kill_process_group};

use super::{Finished, GRACE, POLL, Runner, Tool, end};
use crate::error::{Error, Result};

/// Returns the first `most` bytes of a pipe, and whether there were more. The rest is read and dropped, so that the
/// writer does not block.
fn first(mut pipe: impl Read, most: usize) -> (Vec<u8>, bool) {
    let mut kept = Vec::new();
    // A read error means that there is nothing more to read.
    let _ = pipe.by_ref().take(most as u64).read_to_end(&mut kept);
    let dropped = std::io::copy(&mut pipe, &mut std::io::sink()).unwrap_or_default();
    (kept, dropped > 0)
}

impl Tool {
    /// Removes the time limit, for calls that the user watches and can end.
    #[must_use]
    pub const fn unlimited(self) -> Self {
        self.limit(Duration::MAX)
    }

    /// Hands the terminal to the program and waits for its end, for `ssh` and `virsh console`. It receives the
    /// terminal's signals as it would from a shell.
    pub fn attach(&self, runner: &Runner) -> Result<ExitStatus> {
        tracing::info!("{}", self.summary());
        let watch = runner.watch(self.program);
        let output = duct::cmd(self.program, &self.args).unchecked().run();
        watch.ended_untimed(output.as_ref().is_ok_and(|output| output.status.success()));
        output.map(|output| output.status).map_err(|error| self.not_started(&error))
    }

    /// Runs it with this process's standard input and output, and standard error unless `capture_stderr`. In contrast
    /// to [`Self::attach`], it is ended at its time limit and on cancellation.
    pub fn pass_through(&self, runner: &Runner, capture_stderr: bool) -> Result<(ExitStatus, String)> {
        runner.cancel.check()?;
        tracing::info!("{}", self.summary());
        let mut expression = duct::cmd(self.program, &self.args).unchecked();
        if capture_stderr {
            expression = expression.stderr_capture();
        }
        let watch = runner.watch(self.program);
        let started = expression.start().map_err(|error| self.not_started(&error));
        let output = started.and_then(|handle| self.wait(&handle, runner, kill_process));
        watch.ended(output.as_ref().is_ok_and(|output| output.status.success()));
        let output = output?;
        Ok((output.status, String::from_utf8_lossy(&output.stderr).into_owned()))
    }

    /// Runs it and keeps the first `most` bytes of standard output and of standard error. Returns whether there were
    /// more. This is for the output of a guest, which may have any size.
    pub fn capture(&self, runner: &Runner, most: usize) -> Result<(Finished, bool)> {
        runner.cancel.check()?;
        tracing::debug!("{}", self.summary());
        let failed = |error: std::io::Error| Error::io(format!("read the output of `{}`", self.program), &error);
        let ((out, out_end), (err, err_end)) = (std::io::pipe().map_err(failed)?, std::io::pipe().map_err(failed)?);
        let watch = runner.watch(self.program);
        let started = self.expression()?.stdout_file(out_end).stderr_file(err_end).start();
        let [out, err] = [out, err].map(|pipe| std::thread::spawn(move || first(pipe, most)));
        let ended = started.map_err(|error| self.not_started(&error)).and_then(|handle| {
            let output = self.wait(&handle, runner, kill_process_group)?;
            Ok(self.finished(&output))
        });
        watch.ended(ended.as_ref().is_ok_and(|finished| finished.status.success()));
        let mut finished = ended?;
        let [(stdout, more_out), (stderr, more_err)] = [out, err].map(|reader| reader.join().unwrap_or_default());
        finished.stdout = stdout;
        finished.stderr = String::from_utf8_lossy(&stderr).into_owned();
        Ok((finished, more_out || more_err))
    }

    /// Runs it and passes on each line of its output as it arrives, until `on_line` breaks. Reaching the time limit
    /// ends the call without an error.
    pub fn lines(&self, runner: &Runner, mut on_line: impl FnMut(&str) -> Result<ControlFlow<()>>) -> Result<Finished> {
        runner.cancel.check()?;
        tracing::debug!("{}", self.summary());
        let watch = runner.watch(self.program);
        let result = self.follow(runner, &mut on_line);
        // A call without an exit status was ended by `follow`, which is no failure.
        let succeeded = |finished: &Finished| finished.status.code().is_none_or(|status| status == 0);
        watch.ended_untimed(result.as_ref().is_ok_and(succeeded));
        result
    }

    fn follow(&self, runner: &Runner, on_line: &mut dyn FnMut(&str) -> Result<ControlFlow<()>>) -> Result<Finished> {
        let failed = |error: std::io::Error| Error::io(format!("read the output of `{}`", self.program), &error);
        let (reader, writer) = std::io::pipe().map_err(failed)?;
        let handle = self
            .expression()?
            .stderr_capture()
            .stdout_file(writer)
            .start()
            .map_err(|error| self.not_started(&error))?;
        let (sender, receiver) = channel();
        std::thread::spawn(move || {
            let lines = BufReader::new(reader).lines().map_while(std::result::Result::ok);
            lines.map(|line| sender.send(line)).take_while(std::result::Result::is_ok).count();
        });
        let outcome = self.receive(runner, &receiver, on_line);
        // A program that closed its output is about to end by itself, with an exit status.
        if !matches!(outcome, Ok(true)) || !matches!(handle.wait_timeout(GRACE), Ok(Some(_))) {
            end(&handle, kill_process_group);
        }
        outcome?;
        let output = handle.wait().map_err(failed)?;
        Ok(self.finished(output))
    }

    /// Passes on lines until there are no more, `on_line` breaks, or the time limit is reached. Returns whether there
    /// are no more.
    fn receive(
        &self,
        runner: &Runner,
        lines: &Receiver<String>,
        on_line: &mut dyn FnMut(&str) -> Result<ControlFlow<()>>,
    ) -> Result<bool> {
        let deadline = Instant::now().checked_add(self.limit);
        loop {
            let left = deadline.map_or(POLL, |deadline| deadline.saturating_duration_since(Instant::now()));
            match lines.recv_timeout(left.min(POLL)) {
                Ok(line) => {
                    if on_line(&line)?.is_break() {
                        return Ok(false);
                    }
                }
                Err(RecvTimeoutError::Disconnected) => return Ok(true),
                Err(RecvTimeoutError::Timeout) if left.is_zero() => return Ok(false),
                Err(RecvTimeoutError::Timeout) => runner.cancel.check()?,
            }
        }
    }
}
