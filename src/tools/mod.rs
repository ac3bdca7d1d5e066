//! The programs that vmprov calls, one file for each program. Nothing outside this folder starts a process.
//!
//! A [`Tool`] is one call. It passes arguments without a shell, fixes the locale, and keeps standard error for the
//! error message. The program runs in its own process group, which is ended at the time limit or on cancellation.

mod fault;
pub mod fence;
#[cfg(test)]
mod fixture_tests;
pub mod genisoimage;
pub mod gpgv;
pub mod guestfs;
pub mod iptables;
pub mod nft;
mod observed;
pub mod qemu_img;
pub mod scratch;
mod session;
pub mod ssh;
mod stream;
pub mod timedatectl;
pub mod version;
pub mod virsh;

use std::{
    process::{ExitStatus, Output},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use duct::Handle;
use rustix::process::{Pid, Signal, kill_process_group};

use crate::{
    cancel::Cancel,
    error::{Code, Error, Hint, Result},
    observer::Observer,
};
use fence::Fence;
use scratch::Scratch;

/// The default time limit of a call, far more than any call needs. libvirt once took 100 s for a `define` while it
/// probed QEMU again.
pub const LIMIT: Duration = Duration::from_mins(3);

/// How often a running call checks for cancellation. The end of the call itself is noticed at once.
const POLL: Duration = Duration::from_millis(50);

/// The time between SIGTERM and SIGKILL for a process group.
const GRACE: Duration = Duration::from_secs(2);

/// The settings that calls share: cancellation, limits, and whether changes are made or only planned.
#[derive(Debug, Clone, Default)]
pub struct Runner {
    /// Ends the running call and refuses further calls.
    pub cancel: Cancel,
    /// With `--dry-run`, the commands that would have been run. They are recorded instead of being run.
    pub plan: Option<Arc<Mutex<Vec<String>>>>,
    /// A time limit for every call, if it is shorter than the call's own.
    pub limit: Option<Duration>,
    /// Refuses changes after the deadline of the lease that they need.
    pub fence: Option<Fence>,
    /// Counts the calls.
    pub observer: Option<Arc<dyn Observer>>,
}

impl Runner {
    /// Returns the same runner without cancellation, for a rollback.
    #[must_use]
    pub fn uncancellable(&self) -> Self {
        Self { cancel: Cancel::default(), ..self.clone() }
    }

    /// Adds a line to the dry run's script. Returns whether this is a dry run.
    pub fn plan(&self, line: impl FnOnce() -> String) -> bool {
        let Some(plan) = &self.plan else { return false };
        plan.lock().unwrap_or_else(PoisonError::into_inner).push(line());
        true
    }

    /// Returns the lines of the dry run's script.
    pub fn planned(&self) -> Vec<String> {
        let lines = |plan: &Arc<Mutex<Vec<String>>>| plan.lock().unwrap_or_else(PoisonError::into_inner).clone();
        self.plan.as_ref().map(lines).unwrap_or_default()
    }
}

/// One call of a program.
#[derive(Debug, Clone)]
pub struct Tool {
    program: &'static str,
    args: Vec<String>,
    stdin: Option<Vec<u8>>,
    /// A description of standard input without confidential content, for logs and errors.
    about: String,
    env: Vec<(&'static str, String)>,
    limit: Duration,
    changes: bool,
}

/// The result of a call that has ended.
#[derive(Debug)]
pub struct Finished {
    /// The command line, quoted for a shell.
    pub command: String,
    /// Its exit status.
    pub status: ExitStatus,
    /// Its standard output.
    pub stdout: Vec<u8>,
    /// Its standard error.
    pub stderr: String,
}

impl Finished {
    /// Returns standard output as text, or the failure with the program's error output.
    pub fn text(self) -> Result<String> {
        if !self.status.success() {
            return Err(self.failure());
        }
        String::from_utf8(self.stdout).map_err(|error| {
            Error::new(Code::ToolFailed, format!("`{}` printed invalid UTF-8", self.command)).because(error)
        })
    }

    /// Returns the failure as an error, with the exit status and the error output.
    pub fn failure(&self) -> Error {
        let stderr = self.stderr.trim();
        let cause = if stderr.is_empty() { "it printed no error" } else { stderr };
        let error = Error::new(Code::ToolFailed, format!("`{}` failed ({})", self.command, self.status)).because(cause);
        match fault::of(stderr) {
            Some(fault) => error.fault(fault),
            None => error,
        }
    }
}

impl Tool {
    /// Returns a call that changes nothing.
    pub fn new(program: &'static str) -> Self {
        let (args, stdin, about, env) = (Vec::new(), None, String::new(), Vec::new());
        Self { program, args, stdin, about, env, limit: LIMIT, changes: false }
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<S: Into<String>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    /// Sets its standard input. Logs and errors show only the size. A dry run prints the content.
    #[must_use]
    pub fn stdin(mut self, stdin: impl Into<Vec<u8>>) -> Self {
        self.stdin = Some(stdin.into());
        self
    }

    /// Describes its standard input in logs and errors.
    #[must_use]
    pub fn about(mut self, about: impl Into<String>) -> Self {
        self.about = about.into();
        self
    }

    /// Sets an environment variable.
    #[must_use]
    pub fn env(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.env.push((name, value.into()));
        self
    }

    /// Sets its time limit.
    #[must_use]
    pub const fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// Marks it as a call that changes something. A dry run records it instead of running it.
    #[must_use]
    pub const fn changes(mut self) -> Self {
        self.changes = true;
        self
    }

    /// Returns the call as text for a shell, with its standard input as a here-document.
    pub fn command(&self) -> String {
        match &self.stdin {
            Some(stdin) => here_document(&self.command_line(), &String::from_utf8_lossy(stdin)),
            None => self.command_line(),
        }
    }

    /// Returns the call as text for a shell, without its standard input.
    fn command_line(&self) -> String {
        let words = std::iter::once(self.program).chain(self.args.iter().map(String::as_str));
        let env = self.env.iter().map(|(name, value)| format!("{name}={} ", shell_words::quote(value)));
        env.collect::<String>() + &shell_words::join(words)
    }

    /// Returns the call as text for logs and errors. Its standard input may be confidential, so only the size is shown.
    fn summary(&self) -> String {
        let command = shell_words::join(std::iter::once(self.program).chain(self.args.iter().map(String::as_str)));
        match &self.stdin {
            Some(stdin) if self.about.is_empty() => format!("{command} # with {} bytes of standard input", stdin.len()),
            Some(stdin) => format!("{command} # {} on standard input, {} bytes", self.about, stdin.len()),
            None => command,
        }
    }

    /// Runs it and waits for its end. An exit status other than 0 is not an error here. Returns `None` in a dry run.
    pub fn run(&self, runner: &Runner) -> Result<Option<Finished>> {
        let run = || self.start().and_then(|handle| self.wait(&handle, runner, kill_process_group));
        let output = self.perform(runner, run, |output| output.status.success())?;
        Ok(output.map(|output| self.finished(&output)))
    }

    /// Performs the call with `perform`, which does what [`Self::run`] would: checks whether it may run, reports it to
    /// the observer, and logs it. Returns `None` in a dry run.
    fn perform<T>(
        &self,
        runner: &Runner,
        perform: impl FnOnce() -> Result<T>,
        succeeded: impl FnOnce(&T) -> bool,
    ) -> Result<Option<T>> {
        runner.cancel.check()?;
        if self.changes && runner.plan(|| self.command()) {
            return Ok(None);
        }
        if let Some(fence) = runner.fence.as_ref().filter(|_| self.changes) {
            fence.check()?;
        }
        let watch = runner.watch(self.program);
        let result = perform();
        let took = watch.ended(result.as_ref().is_ok_and(succeeded));
        let (result, took) = (result?, took.as_millis());
        if self.changes {
            tracing::info!("{} # {took} ms", self.summary());
        } else {
            tracing::debug!("{} # {took} ms", self.summary());
        }
        Ok(Some(result))
    }

    fn finished(&self, output: &Output) -> Finished {
        Finished {
            command: shell_words::join(std::iter::once(self.program).chain(self.args.iter().map(String::as_str))),
            status: output.status,
            stdout: output.stdout.clone(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Runs a call that changes nothing.
    pub fn read(&self, runner: &Runner) -> Result<Finished> {
        debug_assert!(!self.changes, "a call that changes something must not be run as a read");
        self.run(runner)?.ok_or_else(|| Error::internal("cannot read the result of a call that was not run"))
    }

    fn start(&self) -> Result<Handle> {
        self.expression()?.stdout_capture().stderr_capture().start().map_err(|error| self.not_started(&error))
    }

    /// Returns the call for duct, without the targets of standard output and standard error.
    fn expression(&self) -> Result<duct::Expression> {
        Ok(match &self.stdin {
            Some(stdin) => self.without_input().stdin_file(Scratch::memory(stdin)?.reopened()?),
            None => self.without_input().stdin_null(),
        })
    }

    /// Returns the call for duct, without the source of standard input as well.
    fn without_input(&self) -> duct::Expression {
        let mut expression = duct::cmd(self.program, &self.args)
            .env("LC_ALL", "C")
            .env_remove("LANGUAGE")
            .env_remove("VIRSH_DEBUG")
            .unchecked()
            .before_spawn(|command| {
                std::os::unix::process::CommandExt::process_group(command, 0);
                Ok(())
            });
        for (name, value) in &self.env {
            expression = expression.env(name, value);
        }
        expression
    }

    /// Waits for its end. Ends it with `kill` at the time limit or on cancellation.
    fn wait(&self, handle: &Handle, runner: &Runner, kill: Kill) -> Result<Output> {
        let failed = |error: &std::io::Error| Error::io(format!("wait for `{}`", self.program), error);
        let limit = self.limit_in(runner);
        let deadline = Instant::now().checked_add(limit);
        loop {
            let left = deadline.map_or(POLL, |deadline| deadline.saturating_duration_since(Instant::now()));
            if let Some(output) = handle.wait_timeout(left.min(POLL)).map_err(|error| failed(&error))? {
                return Ok(output.clone());
            }
            if let Err(interrupted) = runner.cancel.check() {
                end(handle, kill);
                return Err(interrupted);
            }
            if left.is_zero() {
                end(handle, kill);
                return Err(self.is_late(limit));
            }
        }
    }

    /// Returns the call's time limit when `runner` runs it.
    fn limit_in(&self, runner: &Runner) -> Duration {
        self.limit.min(runner.limit.unwrap_or(Duration::MAX))
    }

    /// Returns the error for a call that did not end within its limit.
    fn is_late(&self, limit: Duration) -> Error {
        let message = format!("`{}` did not end within {} s", self.summary(), limit.as_secs());
        Error::new(Code::Timeout, message)
            .hint("Check whether libvirtd is stuck")
            .hint("Run the command by hand to see what it waits for")
    }

    fn not_started(&self, error: &std::io::Error) -> Error {
        if error.kind() != std::io::ErrorKind::NotFound {
            return Error::io(format!("start `{}`", self.program), error);
        }
        let package = match self.program {
            "virsh" => "libvirt-clients",
            "qemu-img" => "qemu-utils",
            "ssh" | "scp" => "openssh-client",
            "isoinfo" => "genisoimage",
            "virt-sysprep" => "guestfs-tools",
            "dnsmasq" => "dnsmasq-base",
            "nft" => "nftables",
            "timedatectl" => "systemd",
            other => other,
        };
        Error::new(Code::ToolMissing, format!("the program `{}` is not installed", self.program))
            .hint(Hint::run("Install it", format!("apt-get install {package}")))
    }
}

/// Returns a shell command with the text of its standard input, for pasting into a shell.
pub fn here_document(command: &str, text: &str) -> String {
    // A line of the text that equals the end marker would end the text, and the shell would run the rest.
    let mut end = "EOF".to_owned();
    while text.lines().any(|line| line == end) {
        end.push('_');
    }
    format!("{command} <<'{end}'\n{}\n{end}", text.trim_end())
}

/// Returns a program's exit status as a shell does: 128 plus the signal's number if a signal ended it.
pub fn exit_status(status: ExitStatus) -> i32 {
    use std::os::unix::process::ExitStatusExt;
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or_default())
}

/// Sends a signal to a process or its whole group.
type Kill = fn(Pid, Signal) -> rustix::io::Result<()>;

/// Ends the call: sends SIGTERM, and SIGKILL to the processes that still run after [`GRACE`].
fn end(handle: &Handle, kill: Kill) {
    let pids = || handle.pids().into_iter().filter_map(|pid| Pid::from_raw(pid.cast_signed()));
    for (signal, grace) in [(Signal::TERM, GRACE), (Signal::KILL, GRACE)] {
        for pid in pids() {
            if let Err(error) = kill(pid, signal) {
                tracing::debug!("cannot signal {pid:?}: {error}");
            }
        }
        if matches!(handle.wait_timeout(grace), Ok(Some(_))) {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    fn sh(script: &str) -> Tool {
        Tool::new("sh").args(["-c", script])
    }

    #[test]
    fn output_and_status_are_kept() {
        let finished = sh("echo out; echo err >&2; exit 3").read(&Runner::default()).unwrap();
        assert_eq!(finished.stdout, b"out\n");
        assert_eq!(finished.status.code(), Some(3));
        let error = finished.text().unwrap_err();
        assert_eq!(error.code, Code::ToolFailed);
        assert_eq!(error.cause.as_deref(), Some("err"));
    }

    #[test]
    fn the_error_for_a_missing_program_names_its_package() {
        let error = Tool::new("no-such-program").read(&Runner::default()).unwrap_err();
        assert_eq!(error.code, Code::ToolMissing);
        assert!(error.command().unwrap() == "apt-get install no-such-program");
    }

    #[test]
    fn the_limit_ends_the_whole_process_group() {
        let marker = format!("3{}", std::process::id());
        let error = sh(&format!("sleep {marker} & sleep {marker}"))
            .limit(Duration::from_millis(100))
            .read(&Runner::default())
            .unwrap_err();
        assert_eq!(error.code, Code::Timeout);
        let left = sh(&format!("grep -lz '^{marker}$' /proc/[0-9]*/cmdline 2>/dev/null | grep -v /self/"));
        assert_eq!(left.read(&Runner::default()).unwrap().stdout, b"", "a grandchild is still running");
    }

    #[test]
    fn an_error_shows_the_size_of_standard_input_and_not_its_content() {
        let late = sh("sleep 60").stdin("password: hidden").limit(Duration::from_millis(1));
        let error = late.read(&Runner::default()).unwrap_err();
        assert_eq!(error.message, "`sh -c 'sleep 60' # with 16 bytes of standard input` did not end within 0 s");
        let known = late.about("a password").read(&Runner::default()).unwrap_err();
        assert_eq!(known.message, "`sh -c 'sleep 60' # a password on standard input, 16 bytes` did not end within 0 s");
        let failed = sh("cat >/dev/null; exit 3").stdin("password: hidden").read(&Runner::default()).unwrap();
        assert!(!format!("{:?} {failed:?}", failed.failure()).contains("hidden"), "{failed:?}");
    }

    #[test]
    fn cancellation_ends_a_running_call_and_refuses_the_next() {
        let runner = Runner::default();
        let cancel = runner.cancel.clone();
        let started = Arc::new(AtomicBool::new(false));
        let flag = started.clone();
        let call = std::thread::spawn(move || {
            flag.store(true, Ordering::SeqCst);
            sh("sleep 60").read(&runner).map(|_| runner)
        });
        while !started.load(Ordering::SeqCst) {
            std::thread::yield_now();
        }
        cancel.raise();
        assert_eq!(call.join().unwrap().unwrap_err().code, Code::Interrupted);
    }

    #[test]
    fn large_output_on_both_pipes_does_not_block() {
        let script = "head -c 3000000 /dev/zero; head -c 3000000 /dev/zero >&2";
        assert_eq!(sh(script).read(&Runner::default()).unwrap().stdout.len(), 3_000_000);
    }

    #[test]
    fn capture_keeps_only_the_first_bytes_and_reports_that_there_was_more() {
        let script = "head -c 3000000 /dev/zero; head -c 3000000 /dev/zero >&2; exit 3";
        let (finished, more) = sh(script).capture(&Runner::default(), 1000).unwrap();
        assert_eq!((finished.stdout.len(), finished.stderr.len(), more), (1000, 1000, true));
        assert_eq!(finished.status.code(), Some(3));
        let (finished, more) = sh("cat").stdin("all").capture(&Runner::default(), 3).unwrap();
        assert_eq!((&finished.stdout[..], more), (&b"all"[..], false));
    }

    #[test]
    fn a_call_as_text_can_be_pasted_into_a_shell() {
        let cat = Tool::new("cat").stdin("a\nEOF\necho ran\n");
        assert_eq!(cat.command(), "cat <<'EOF_'\na\nEOF\necho ran\nEOF_");
        let pasted = sh(&cat.command()).read(&Runner::default()).unwrap();
        assert_eq!(pasted.text().unwrap(), "a\nEOF\necho ran\n");
        assert_eq!(sh("exit 1").env("A", "b c").command(), "A='b c' sh -c 'exit 1'");
    }

    #[test]
    fn a_dry_run_records_changes_and_runs_reads() {
        let runner = Runner { plan: Some(Arc::default()), ..Runner::default() };
        assert!(sh("exit 1").changes().stdin("<x/>\n").run(&runner).unwrap().is_none());
        assert_eq!(runner.planned(), ["sh -c 'exit 1' <<'EOF'\n<x/>\nEOF"]);
        assert!(sh("true").read(&runner).is_ok());
    }
}
