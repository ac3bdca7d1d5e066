// A process that ends with the test that started it. Several files of this folder include this file, so a test binary
// may contain it more than once.

use std::{
    collections::HashSet,
    fs,
    process::{Child, ChildStderr, ChildStdin, ChildStdout, Command, ExitStatus},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

/// How long a killed process may take to end. Far longer than needed, so that a busy machine does not fail a test.
const END_LIMIT: Duration = Duration::from_secs(30);

/// How often to check processes.
const POLL: Duration = Duration::from_millis(2);

/// Set by `tests/leave-nothing` to find leftover processes after the tests. Passed on even if the environment is
/// cleared.
const RUN: &str = "VMPROV_TEST_RUN";

/// Marks a process and its descendants in their environment.
const PROCESS: &str = "VMPROV_TEST_PROCESS";

/// A child process. Dropping it kills it and its descendants, also if the test fails.
pub(crate) struct Process {
    child: Child,
    status: Option<ExitStatus>,
    mark: String,
}

impl Process {
    /// Returns a command whose process gets SIGTERM if the test is killed, because no destructor runs then.
    pub(crate) fn command(program: &str) -> Command {
        let mut command = Command::new("/usr/bin/setpriv");
        command.args(["--pdeathsig", "TERM", "--", program]);
        command
    }

    /// Starts a process. `tests/layers.rs` checks that tests start background processes only here.
    #[track_caller]
    pub(crate) fn spawn(command: &mut Command) -> Self {
        let mark = uuid::Uuid::new_v4().to_string();
        command.env(PROCESS, &mark);
        if let Some(run) = std::env::var_os(RUN) {
            command.env(RUN, run);
        }
        let child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        Self { child, status: None, mark: format!("{PROCESS}={mark}") }
    }

    pub(crate) fn id(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    pub(crate) fn stdin(&mut self) -> ChildStdin {
        self.child.stdin.take().unwrap()
    }

    pub(crate) fn stdout(&mut self) -> ChildStdout {
        self.child.stdout.take().unwrap()
    }

    pub(crate) fn stderr(&mut self) -> ChildStderr {
        self.child.stderr.take().unwrap()
    }

    /// Sends a signal to the process.
    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(self.id(), signal).unwrap();
    }

    /// Returns the exit status, or none while the process runs.
    pub(crate) fn status(&mut self) -> Option<ExitStatus> {
        self.status = self.child.try_wait().unwrap();
        self.status
    }

    /// Waits for the process to end; returns none after `limit`.
    pub(crate) fn wait(&mut self, limit: Duration) -> Option<ExitStatus> {
        let deadline = Instant::now() + limit;
        while self.status().is_none() && Instant::now() < deadline {
            std::thread::sleep(POLL);
        }
        self.status
    }

    /// Returns whether the process or a descendant is still running.
    pub(crate) fn has_processes(&self) -> bool {
        !self.members().is_empty()
    }

    /// Kills the process and its descendants, and waits for their end.
    #[track_caller]
    pub(crate) fn kill(&mut self) {
        let deadline = Instant::now() + END_LIMIT;
        loop {
            // The next pass finds processes that were started before the signal arrived.
            let members = self.members();
            for &pid in &members {
                // The process may have ended already.
                let _ = kill_process(pid, Signal::KILL);
            }
            if self.status().is_some() && members.is_empty() {
                return;
            }
            assert!(Instant::now() < deadline || std::thread::panicking(), "these processes did not end: {members:?}");
            if Instant::now() >= deadline {
                return;
            }
            std::thread::sleep(POLL);
        }
    }

    /// Returns the process and its descendants. Orphans are found by the mark in their environment, others also by
    /// their parent.
    fn members(&self) -> HashSet<Pid> {
        let entries = fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
        let all: Vec<_> = entries.filter_map(ProcessInfo::read).collect();
        let is_marked =
            |info: &&ProcessInfo| info.environ.split(|&byte| byte == 0).any(|word| word == self.mark.as_bytes());
        let mut members: HashSet<_> = all.iter().filter(is_marked).map(|info| info.pid).collect();
        // After a wait, the PID may belong to another process.
        if self.status.is_none() {
            members.extend(all.iter().map(|info| info.pid).filter(|&pid| pid == self.id()));
        }
        loop {
            let children = all.iter().filter(|info| info.parent.is_some_and(|parent| members.contains(&parent)));
            let more: Vec<_> = children.map(|info| info.pid).filter(|pid| !members.contains(pid)).collect();
            if more.is_empty() {
                return members;
            }
            members.extend(more);
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A running process, as read from `/proc`.
struct ProcessInfo {
    pid: Pid,
    parent: Option<Pid>,
    environ: Vec<u8>,
}

impl ProcessInfo {
    fn read(pid: i32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name in parentheses may contain any character.
        let mut fields = stat.rsplit(')').next()?.split_whitespace();
        if matches!(fields.next(), Some("Z" | "X") | None) {
            return None;
        }
        let parent = fields.next().and_then(|parent| Pid::from_raw(parent.parse().ok()?));
        let environ = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        Some(Self { pid: Pid::from_raw(pid)?, parent, environ })
    }
}
