//! Shared by the benchmarks: the lab, timing and reporting.
#![expect(clippy::print_stdout, reason = "its output is its result")]

use std::{
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};

/// Runs a benchmark in a private lab, with the path of the real test image. The same program is started again inside
/// the lab, so that entering the namespaces is not measured.
pub(crate) fn in_lab(inside: impl FnOnce(&str) -> Result<ExitCode>) -> Result<ExitCode> {
    if let Ok(image) = std::env::var("VMPROV_BENCH_INSIDE") {
        return inside(&image);
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let image = text(&mut Command::new(root.join("tests/lab/image")))?;
    let state = PathBuf::from(format!("/var/tmp/vmprov-bench-{}", std::process::id()));
    let lab = |args: &[&str]| {
        let mut command = Command::new(root.join("tests/lab/libvirtd"));
        command.args(args).env("VMPROV_LAB", &state);
        command
    };
    let status = ok(&mut lab(&["start"])).and_then(|()| {
        let itself = std::env::current_exe()?;
        let mut command = lab(&["exec"]);
        Ok(command.arg(itself).env("VMPROV_BENCH_INSIDE", image.trim()).env("VMPROV_BENCH_LAB", &state).status()?)
    });
    ok(&mut lab(&["stop"]))?;
    Ok(if status?.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Prints each measurement beside its reference, and records whether a limit was exceeded.
#[derive(Default)]
pub(crate) struct Report {
    pub(crate) missed: bool,
}

impl Report {
    /// Reports a time compared with another.
    pub(crate) fn line(&mut self, what: &str, ours: Duration, against: &str, theirs: Duration, limit: f64) {
        let ratio = ours.as_secs_f64() / theirs.as_secs_f64();
        let met = ratio <= limit;
        self.missed |= !met;
        let [ours, theirs] = [ours, theirs].map(|time| time.as_secs_f64() * 1e3);
        let word = if met { "" } else { "  MISSED" };
        println!("{what:20} {ours:7.1} ms  {against:32} {theirs:7.1} ms  {ratio:5.2}x (limit {limit:.2}x){word}");
    }

    /// Reports two counts that must be the same.
    pub(crate) fn equal(&mut self, what: &str, first: usize, against: &str, second: usize) {
        self.missed |= first != second;
        let word = if first == second { "" } else { "  MISSED" };
        println!("{what:20} {first:7}     {against}: {second}{word}");
    }

    /// Reports a number of bytes compared with another.
    pub(crate) fn bytes(&mut self, what: &str, ours: u64, against: &str, theirs: u64, limit: f64) {
        #[expect(clippy::cast_precision_loss, reason = "a ratio is rounded anyway")]
        let ratio = ours as f64 / theirs as f64;
        let met = ratio <= limit;
        self.missed |= !met;
        let word = if met { "" } else { "  MISSED" };
        let kib = |bytes: u64| bytes.div_ceil(1024);
        let (ours, theirs) = (kib(ours), kib(theirs));
        println!("{what:20} {ours:7} KiB {against:32} {theirs:7} KiB {ratio:5.3}x (limit {limit:.3}x){word}");
    }
}

/// Prints a rate compared with another, without a limit.
#[expect(clippy::cast_precision_loss, reason = "a rate is rounded anyway")]
pub(crate) fn rate(what: &str, ours: usize, within: Duration, against: &str, theirs: usize, their_time: Duration) {
    let [ours, theirs] = [(ours, within), (theirs, their_time)].map(|(count, time)| count as f64 / time.as_secs_f64());
    println!("{what:20} {ours:7.1} /s  {against:32} {theirs:7.1} /s");
}

pub(crate) const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

pub(crate) fn timed(command: &mut Command) -> Result<Duration> {
    let start = Instant::now();
    ok(command)?;
    Ok(start.elapsed())
}

pub(crate) fn ok(command: &mut Command) -> Result<()> {
    text(command).map(drop)
}

pub(crate) fn text(command: &mut Command) -> Result<String> {
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("{command:?}"))?;
    ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?)
}

pub(crate) fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    let middle = times.len() / 2;
    if times.len().is_multiple_of(2) { (times[middle - 1] + times[middle]) / 2 } else { times[middle] }
}
