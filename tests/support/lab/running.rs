//! A running vmprov, and a finished run.

use std::{os::unix::process::ExitStatusExt, process::ExitStatus, time::Duration};

use super::{Process, RUN_LIMIT, wait_until};

/// A finished run of vmprov.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    /// The external calls that vmprov made.
    pub(crate) calls: Vec<String>,
    /// Whether the fault was injected, because vmprov made that call.
    pub(crate) hit: bool,
}

impl Run {
    pub(crate) fn code(&self) -> Option<i32> {
        self.status.code()
    }

    pub(crate) fn was_killed(&self) -> bool {
        self.status.signal() == Some(9)
    }

    /// Returns whether a run with a fault in its `k`-th call ended as the fault requires; `when` begins with the fault's
    /// mode. A signal during the last call comes too late, so the run may succeed.
    pub(crate) fn ended_as_expected(&self, when: &str, k: usize) -> bool {
        const INTERRUPTED: Option<i32> = Some(130);
        match when.split(' ').next().unwrap() {
            "fail" | "lie" => self.code().is_some_and(|code| code > 1),
            "INT" | "TERM" => self.code() == INTERRUPTED || self.status.success() && self.calls.len() == k,
            "hang" => self.code() == INTERRUPTED,
            _ => self.was_killed(),
        }
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
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("invalid JSON ({error}): {self}"))
    }
}

impl std::fmt::Display for Run {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { status, stdout, stderr, calls, .. } = self;
        write!(f, "{status}\nstdout: {stdout}\nstderr: {stderr}\ncalls:\n  {}", calls.join("\n  "))
    }
}

/// A running vmprov. Dropping it kills vmprov.
pub(crate) struct Running {
    pub(super) process: Process,
    pub(super) dir: tempfile::TempDir,
}

impl Running {
    /// Returns whether vmprov has probed the host, which it does before it changes anything.
    pub(crate) fn has_probed_host(&self) -> bool {
        self.calls().iter().any(|call| call.contains("domcapabilities"))
    }

    /// Returns whether vmprov has printed `text` so far.
    pub(crate) fn has_printed(&self, text: &str) -> bool {
        self.read("out").contains(text)
    }

    /// Sends a signal to vmprov, which has the PID of the started process: `nsenter` replaces itself with it.
    pub(crate) fn signal(&self, signal: rustix::process::Signal) {
        self.process.signal(signal);
    }

    /// Returns vmprov's peak resident memory in bytes.
    pub(crate) fn peak_memory(&self) -> u64 {
        let status = format!("/proc/{}/status", self.process.id().as_raw_nonzero());
        let status = std::fs::read_to_string(status).unwrap();
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.strip_suffix("kB"));
        peak.unwrap().trim().parse::<u64>().unwrap() << 10
    }

    /// Waits for vmprov to end.
    pub(crate) fn end(self) -> Run {
        self.end_within(RUN_LIMIT)
    }

    /// Waits for vmprov to end within `limit`, which suits runs that wait for a guest.
    pub(crate) fn end_within(mut self, limit: Duration) -> Run {
        let Some(status) = self.process.wait(limit) else {
            panic!("vmprov did not end; its calls: {:?}", self.calls());
        };
        if status.signal().is_some() {
            // A killed vmprov cannot end its running calls, which take some more milliseconds.
            wait_until("the calls of a killed vmprov to end", || !self.process.has_processes());
        }
        assert!(!self.process.has_processes(), "vmprov left a call running: {:?}", self.calls());
        let hit = self.dir.path().join("hit").exists();
        Run { status, stdout: self.read("out"), stderr: self.read("err"), calls: self.calls(), hit }
    }

    /// Returns the external calls so far, in the order in which they were started.
    fn calls(&self) -> Vec<String> {
        let call = |number: usize| std::fs::read_to_string(self.dir.path().join(number.to_string())).ok();
        (1..).map_while(call).map(|call| call.trim_end().replace('\n', " ")).collect()
    }

    fn read(&self, name: &str) -> String {
        String::from_utf8_lossy(&std::fs::read(self.dir.path().join(name)).unwrap()).into_owned()
    }
}
