//! Calls whose input or output passes through while they run: a terminal that is handed over, a command that is watched,
//! lines as they come.

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

/// The first `most` bytes of what comes, and whether there was more; that is read and dropped, so that whoever writes it can
/// go on.
fn first(mut pipe: impl Read, most: usize) -> (Vec<u8>, bool) {
    let mut kept = Vec::new();
    // What cannot be read any more has ended.
    let _ = pipe.by_ref().take(most as u64).read_to_end(&mut kept);
    let dropped = std::io::copy(&mut pipe, &mut std::io::sink()).unwrap_or_default();
    (kept, dropped > 0)
}

impl Tool {
    /// Takes away its limit: for what the user watches and may end.
    #[must_use]
    pub const fn unlimited(self) -> Self {
        self.limit(Duration::MAX)
    }

    /// Hands the terminal to the program and waits for its end: for `ssh` and `virsh console`. The caller's signals
    /// reach it as they would from a shell.
    pub fn attach(&self, runner: &Runner) -> Result<ExitStatus> {
        tracing::info!("{}", self.summary());
        let watch = runner.watch(self.program);
        let output = duct::cmd(self.program, &self.args).unchecked().run();
        watch.heard(output.as_ref().is_ok_and(|output| output.status.success()));
        output.map(|output| output.status).map_err(|error| self.not_started(&error))
    }

    /// Runs it with standard input and output of ours, and its complaints too unless they are to be captured. In contrast
    /// to [`Self::attach`] it is ended at its limit and on interrupt.
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

    /// Runs it and keeps the first `most` bytes of what it prints, and of what it complains of; true where there was more.
    /// For what a guest prints, which may be anything.
    pub fn capture(&self, runner: &Runner, most: usize) -> Result<(Finished, bool)> {
        runner.cancel.check()?;
        tracing::debug!("{}", self.summary());
        let failed = |error: std::io::Error| Error::io(format!("read what `{}` prints", self.program), &error);
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

    /// Runs it and hands on each line that it prints as it comes, until `on_line` says that it has enough. A limit that is
    /// reached is no failure here: it is how long one listens.
    pub fn lines(&self, runner: &Runner, mut on_line: impl FnMut(&str) -> Result<ControlFlow<()>>) -> Result<Finished> {
        runner.cancel.check()?;
        tracing::debug!("{}", self.summary());
        let watch = runner.watch(self.program);
        let heard = self.hear(runner, &mut on_line);
        // One without an exit status was ended from here, when enough had been heard.
        watch.heard(heard.as_ref().is_ok_and(|heard| heard.status.code().is_none_or(|status| status == 0)));
        heard
    }

    fn hear(&self, runner: &Runner, on_line: &mut dyn FnMut(&str) -> Result<ControlFlow<()>>) -> Result<Finished> {
        let failed = |error: std::io::Error| Error::io(format!("read what `{}` prints", self.program), &error);
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
        let listened = self.listen(runner, &receiver, on_line);
        // What has closed its output is ending by itself, and has a status to tell.
        if !matches!(listened, Ok(true)) || !matches!(handle.wait_timeout(GRACE), Ok(Some(_))) {
            end(&handle, kill_process_group);
        }
        listened?;
        let output = handle.wait().map_err(failed)?;
        Ok(self.finished(output))
    }

    /// Hands on lines until there are no more, somebody has enough, or the limit is reached; true when there are no more.
    fn listen(
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
