// A process that a test starts, and that ends with it. Other files of this folder include it, each for itself: a test binary
// may have several of them.

use std::{
    collections::HashSet,
    fs,
    process::{Child, ChildStderr, ChildStdin, ChildStdout, Command, ExitStatus},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

/// How long the kernel may take to end what was killed. Far more than it needs: a bound, not a measure.
const END_LIMIT: Duration = Duration::from_secs(30);

/// How often is looked.
const POLL: Duration = Duration::from_millis(2);

/// Set by `tests/leave-nothing`, which looks for it after the tests. Handed on also where the environment is cleared.
const RUN: &str = "VMPROV_TEST_RUN";

/// Names the process in the environment of everything that it starts.
const PROCESS: &str = "VMPROV_TEST_PROCESS";

/// A process that is killed when it is dropped, with everything that it has started: also when the test fails.
pub(crate) struct Process {
    child: Child,
    status: Option<ExitStatus>,
    mark: String,
}

impl Process {
    /// A command whose process is told to end when the test that started it is killed: no destructor runs then.
    pub(crate) fn command(program: &str) -> Command {
        let mut command = Command::new("/usr/bin/setpriv");
        command.args(["--pdeathsig", "TERM", "--", program]);
        command
    }

    /// Starts it. `tests/layers.rs` sees to it that nothing else in the tests starts a process and goes on.
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

    /// Sends it a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(self.id(), signal).unwrap();
    }

    /// How it ended; none while it runs.
    pub(crate) fn status(&mut self) -> Option<ExitStatus> {
        self.status = self.child.try_wait().unwrap();
        self.status
    }

    /// Waits for its end; none when the time is up.
    pub(crate) fn wait(&mut self, limit: Duration) -> Option<ExitStatus> {
        let deadline = Instant::now() + limit;
        while self.status().is_none() && Instant::now() < deadline {
            std::thread::sleep(POLL);
        }
        self.status
    }

    /// Whether something that it has started runs, or it itself.
    pub(crate) fn has_processes(&self) -> bool {
        !self.members().is_empty()
    }

    /// Kills everything that it has started, and it itself; waits until that has ended.
    #[track_caller]
    pub(crate) fn kill(&mut self) {
        let deadline = Instant::now() + END_LIMIT;
        loop {
            // What a process starts before it is hit is found the next time.
            let members = self.members();
            for &pid in &members {
                // It may have ended meanwhile.
                let _ = kill_process(pid, Signal::KILL);
            }
            if self.status().is_some() && members.is_empty() {
                return;
            }
            assert!(Instant::now() < deadline || std::thread::panicking(), "these do not end: {members:?}");
            if Instant::now() >= deadline {
                return;
            }
            std::thread::sleep(POLL);
        }
    }

    /// The process and its descendants: by parent, and by the mark in the environment, which those that have lost
    /// their parent still have.
    fn members(&self) -> HashSet<Pid> {
        let entries = fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
        let all: Vec<_> = entries.filter_map(Seen::read).collect();
        let is_marked = |seen: &&Seen| seen.environ.split(|&byte| byte == 0).any(|word| word == self.mark.as_bytes());
        let mut members: HashSet<_> = all.iter().filter(is_marked).map(|seen| seen.pid).collect();
        // The number of one that was waited for may be another's by now.
        if self.status.is_none() {
            members.extend(all.iter().map(|seen| seen.pid).filter(|&pid| pid == self.id()));
        }
        loop {
            let children = all.iter().filter(|seen| seen.parent.is_some_and(|parent| members.contains(&parent)));
            let more: Vec<_> = children.map(|seen| seen.pid).filter(|pid| !members.contains(pid)).collect();
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

/// A process that runs, as `/proc` shows it.
struct Seen {
    pid: Pid,
    parent: Option<Pid>,
    environ: Vec<u8>,
}

impl Seen {
    fn read(pid: i32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name, in brackets, may hold anything.
        let mut fields = stat.rsplit(')').next()?.split_whitespace();
        if matches!(fields.next(), Some("Z" | "X") | None) {
            return None;
        }
        let parent = fields.next().and_then(|parent| Pid::from_raw(parent.parse().ok()?));
        let environ = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        Some(Self { pid: Pid::from_raw(pid)?, parent, environ })
    }
}
