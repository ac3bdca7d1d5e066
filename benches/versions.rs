//! Compares the speed of this version with that of an earlier one. Both are run alternately, and their median times are
//! compared.
//!
//! Run with `VMPROV_BASELINE=FILE benches/run --bench versions`, where FILE is the earlier version's program. Fails if
//! a ratio is above its limit.
#![expect(clippy::print_stdout, reason = "its output is its result")]

#[expect(dead_code, reason = "each benchmark uses its own part")]
mod support;

use std::{
    collections::BTreeMap,
    path::PathBuf,
    process::{Command, ExitCode},
    time::Duration,
};

use anyhow::Result;
use support::{Report, median, ok, timed};

const ROUNDS: usize = 15;

/// The limit of the ratio: two runs of the same program differ by that much on a shared machine.
const LIMIT: f64 = 1.10;

fn main() -> Result<ExitCode> {
    let Some(baseline) = std::env::var_os("VMPROV_BASELINE") else {
        println!("skipped: VMPROV_BASELINE is not set to the program of an earlier version");
        return Ok(ExitCode::SUCCESS);
    };
    support::in_lab(|image| inside(baseline.into(), image))
}

/// One version, with its own VMs, keys and cache.
struct Side {
    program: PathBuf,
    name: &'static str,
    home: tempfile::TempDir,
    times: BTreeMap<&'static str, Vec<Duration>>,
}

impl Side {
    fn new(program: PathBuf, name: &'static str, image: &str) -> Result<Self> {
        let side = Self { program, name, home: tempfile::tempdir()?, times: BTreeMap::new() };
        for key in ["first", "second"] {
            ok(&mut side.vmprov(&["key", "generate", key, "--type", "ed25519"]))?;
        }
        // Creates the pool, the network and the base image, and probes KVM.
        ok(&mut side.vmprov(&["vm", "create", name, "--image", image, "--ssh-key", "first", "--memory", "256"]))?;
        ok(&mut side.vmprov(&["vm", "delete", name, "--yes"]))?;
        Ok(side)
    }

    fn vmprov(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(args).env("HOME", self.home.path()).env_remove("XDG_CACHE_HOME");
        command
    }

    /// Measures every operation that changes a VM, and some that read.
    fn round(&mut self, image: &str) -> Result<()> {
        let name = self.name;
        for (what, args) in [
            ("vm create", &["vm", "create", name, "--image", image, "--ssh-key", "first", "--memory", "256"][..]),
            ("vm list", &["vm", "list"]),
            ("vm info", &["vm", "info", name]),
            ("vm set, running", &["vm", "set", name, "--description", "one\ntwo"]),
            ("inject", &["inject", name, "second", "--method", "cloud-init"]),
            ("vm ttl", &["vm", "ttl", name, "2h"]),
            ("vm stop --force", &["vm", "stop", name, "--force"]),
            ("vm set, stopped", &["vm", "set", name, "--memory", "300M"]),
            ("vm start", &["vm", "start", name]),
            ("vm delete", &["vm", "delete", name, "--yes"]),
            ("vm delete, missing", &["vm", "delete", name, "--yes", "--ignore-missing"]),
            ("gc", &["gc"]),
            ("reap", &["reap"]),
            ("image list", &["image", "list"]),
        ] {
            let took = timed(&mut self.vmprov(args))?;
            self.times.entry(what).or_default().push(took);
        }
        Ok(())
    }
}

fn inside(baseline: PathBuf, image: &str) -> Result<ExitCode> {
    let ours = Side::new(env!("CARGO_BIN_EXE_vmprov").into(), "ours", image)?;
    let mut sides = [ours, Side::new(baseline, "before", image)?];
    for round in 0..ROUNDS {
        // Each version goes first equally often.
        for turn in 0..2 {
            sides[(round + turn) % 2].round(image)?;
        }
    }
    let mut report = Report::default();
    let [ours, mut before] = sides;
    for (what, times) in ours.times {
        let theirs = before.times.remove(what).unwrap_or_default();
        report.line(what, median(times), "before", median(theirs), LIMIT);
    }
    Ok(if report.missed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}
