//! Compares `vmprov key generate` with `ssh-keygen`: RSA 4096, whole processes run alternately, median of 40.
//!
//! Run with `cargo bench --bench keygen`; fails if vmprov is slower.
#![expect(clippy::print_stdout, clippy::expect_used, reason = "its output or panic is its result")]

use std::{
    path::Path,
    process::{Command, ExitCode, Stdio},
    time::{Duration, Instant},
};

/// Even, so that the median is the mean of the two middle values.
const PAIRS: usize = 40;

fn main() -> ExitCode {
    let dir = tempfile::tempdir().expect("cannot create a temporary folder");
    let (mut theirs, mut ours) = (Vec::new(), Vec::new());
    for pair in 0..PAIRS {
        theirs.push(timed(&mut ssh_keygen(&dir.path().join(format!("theirs{pair}")))));
        ours.push(timed(&mut vmprov(dir.path(), &format!("ours{pair}"))));
    }
    let (theirs, ours) = (median(theirs), median(ours));
    let ratio = ours.as_secs_f64() / theirs.as_secs_f64();
    println!("ssh-keygen           {:7.0} ms", theirs.as_secs_f64() * 1e3);
    println!("vmprov key generate  {:7.0} ms", ours.as_secs_f64() * 1e3);
    println!("ratio                {ratio:7.2}  (median of {PAIRS}, limit 1.00)");
    if ratio > 1.0 { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn ssh_keygen(file: &Path) -> Command {
    let mut command = Command::new("ssh-keygen");
    command.args(["-q", "-t", "rsa", "-b", "4096", "-N", "", "-f"]).arg(file);
    command
}

fn vmprov(dir: &Path, name: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vmprov"));
    command.arg("--key-dir").arg(dir).args(["key", "generate", name]);
    command
}

fn timed(command: &mut Command) -> Duration {
    let start = Instant::now();
    let status = command.stdout(Stdio::null()).status().expect("cannot start the program");
    assert!(status.success(), "{command:?}: {status}");
    start.elapsed()
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    (times[PAIRS / 2 - 1] + times[PAIRS / 2]) / 2
}
