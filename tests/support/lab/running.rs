//! A vmprov at work, and how it ended.

use std::{os::unix::process::ExitStatusExt, process::ExitStatus, time::Duration};

use super::{Process, RUN_LIMIT, wait_until};

/// How a run of vmprov ended.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    /// The external calls that it made.
    pub(crate) calls: Vec<String>,
    /// Whether one of them was spoilt.
    pub(crate) hit: bool,
}

impl Ran {
    pub(crate) fn code(&self) -> Option<i32> {
        self.status.code()
    }

    pub(crate) fn was_killed(&self) -> bool {
        self.status.signal() == Some(9)
    }

    #[track_caller]
    pub(crate) fn succeeded(self) -> Self {
        assert!(self.status.success(), "{self}");
        self
    }

    #[track_caller]
    pub(crate) fn failed_with(self, code: i32) -> Self {
        assert_eq!(self.code(), Some(code), "{self}");
        self
    }

    #[track_caller]
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("no JSON ({error}): {self}"))
    }
}

impl std::fmt::Display for Ran {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { status, stdout, stderr, calls, .. } = self;
        write!(f, "{status}\nstdout: {stdout}\nstderr: {stderr}\ncalls:\n  {}", calls.join("\n  "))
    }
}

/// A vmprov at work. It is killed when it is dropped.
pub(crate) struct Running {
    pub(super) process: Process,
    pub(super) dir: tempfile::TempDir,
}

impl Running {
    /// Whether it has looked at the host, and has not begun anything yet.
    pub(crate) fn has_looked(&self) -> bool {
        self.calls().iter().any(|call| call.contains("domcapabilities"))
    }

    /// Whether it has printed this by now.
    pub(crate) fn has_printed(&self, text: &str) -> bool {
        self.read("out").contains(text)
    }

    /// Sends it a signal. It is the process that was started: what enters the lab becomes it.
    pub(crate) fn signal(&self, signal: rustix::process::Signal) {
        self.process.signal(signal);
    }

    /// Returns the peak of its resident memory, in bytes.
    pub(crate) fn peak_memory(&self) -> u64 {
        let status = format!("/proc/{}/status", self.process.id().as_raw_nonzero());
        let status = std::fs::read_to_string(status).unwrap();
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.strip_suffix("kB"));
        peak.unwrap().trim().parse::<u64>().unwrap() << 10
    }

    /// Waits for its end.
    pub(crate) fn end(self) -> Ran {
        self.end_within(RUN_LIMIT)
    }

    /// Waits for its end, when it waits for a guest itself.
    pub(crate) fn end_within(mut self, limit: Duration) -> Ran {
        let Some(status) = self.process.wait(limit) else {
            panic!("vmprov does not end; its calls: {:?}", self.calls());
        };
        if status.signal().is_some() {
            // Nobody comes to clean up within the milliseconds that calls under way still take.
            wait_until("the calls of a killed vmprov", || !self.process.has_processes());
        }
        assert!(!self.process.has_processes(), "vmprov has ended, a call of it has not: {:?}", self.calls());
        let hit = self.dir.path().join("hit").exists();
        Ran { status, stdout: self.read("out"), stderr: self.read("err"), calls: self.calls(), hit }
    }

    /// The external calls so far, in the order in which they began.
    fn calls(&self) -> Vec<String> {
        let call = |number: usize| std::fs::read_to_string(self.dir.path().join(number.to_string())).ok();
        (1..).map_while(call).map(|call| call.trim_end().replace('\n', " ")).collect()
    }

    fn read(&self, name: &str) -> String {
        String::from_utf8_lossy(&std::fs::read(self.dir.path().join(name)).unwrap()).into_owned()
    }
}
