//! The cost of the second VM of an image compared with the first: it downloads nothing and copies nothing.
//!
//! Run with `benches/run`, or as root with `cargo bench --bench images`. The image is the real test image, served over
//! loopback; each round downloads it again. Fails if a ratio is above its limit.

#[path = "../tests/support/mirror.rs"]
#[expect(dead_code, clippy::unwrap_used, reason = "shared with the tests; this uses a part of it")]
mod mirror;
#[expect(dead_code, reason = "each benchmark uses its own part")]
mod support;

use std::{
    fs,
    process::{Command, ExitCode},
    time::Duration,
};

use anyhow::{Context, Result};
use mirror::Mirror;
use support::{Report, median, ok, text, timed};

const ROUNDS: usize = 5;

const FILE: &str = "debian-12.qcow2";

fn main() -> Result<ExitCode> {
    support::in_lab(inside)
}

/// The cost of one create.
struct Cost {
    time: Duration,
    /// The bytes that the server sent.
    fetched: u64,
    /// The bytes that vmprov, the programs it calls, and libvirtd wrote to disks.
    written: u64,
}

fn inside(image: &str) -> Result<ExitCode> {
    let home = tempfile::tempdir()?;
    let mirror = Mirror::new();
    let body = fs::read(image)?;
    let size = body.len() as u64;
    mirror.put(FILE, body);
    let vmprov = |args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_vmprov"));
        command.args(args).env("HOME", home.path());
        command
    };
    ok(&mut vmprov(&["key", "generate", "bench", "--type", "ed25519"]))?;
    // Creating the pool and the network and probing KVM are not measured.
    let warm = home.path().join("warm.qcow2");
    ok(Command::new("qemu-img").args(["create", "-q", "-f", "qcow2"]).arg(&warm).arg("10M"))?;
    let warm = warm.to_string_lossy();
    ok(&mut vmprov(&["vm", "create", "warm", "--image", &warm, "--user", "u", "--no-start"]))?;
    ok(&mut vmprov(&["vm", "delete", "warm", "--yes"]))?;

    let url = mirror.url(FILE);
    let create = |vm: &str| -> Result<Cost> {
        let args = ["vm", "create", vm, "--image", &url, "--ssh-key", "bench", "--memory", "256"];
        let before = (mirror.sent(), written()?);
        let time = timed(&mut vmprov(&args))?;
        Ok(Cost { time, fetched: mirror.sent() - before.0, written: written()? - before.1 })
    };
    let (mut first, mut second) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        first.push(create("first")?);
        second.push(create("second")?);
        ok(&mut vmprov(&["vm", "delete", "first", "second", "--yes"]))?;
        ok(&mut vmprov(&["image", "delete", &url]))?;
    }
    let mut report = Report::default();
    let max = |costs: &[Cost], of: fn(&Cost) -> u64| costs.iter().map(of).max().unwrap_or_default();
    let min = |costs: &[Cost], of: fn(&Cost) -> u64| costs.iter().map(of).min().unwrap_or_default();
    let times = |costs: &[Cost]| median(costs.iter().map(|cost| cost.time).collect());
    report.bytes(
        "second VM: fetched",
        max(&second, |cost| cost.fetched),
        "first VM",
        min(&first, |cost| cost.fetched),
        0.0,
    );
    report.bytes(
        "second VM: written",
        max(&second, |cost| cost.written),
        "first VM",
        min(&first, |cost| cost.written),
        0.02,
    );
    report.bytes("first VM: fetched", max(&first, |cost| cost.fetched), "the image's own size", size, 1.0);
    report.bytes("first VM: written", max(&first, |cost| cost.written), "the image's own size", size, 2.1);
    // Most of the time is the start of QEMU, which is the same for both. A real network is slower than loopback.
    report.line("second VM", times(&second), "first VM", times(&first), 0.7);
    Ok(if report.missed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Returns the bytes that this process, its awaited children and libvirtd have written to disks.
fn written() -> Result<u64> {
    let lab = std::env::var("VMPROV_BENCH_LAB")?;
    let libvirtd = text(
        Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/lab/libvirtd")).arg("pid").env("VMPROV_LAB", lab),
    )?;
    let mut sum = 0;
    for process in ["self", libvirtd.trim()] {
        let io = fs::read_to_string(format!("/proc/{process}/io"))?;
        let line = io.lines().find_map(|line| line.strip_prefix("write_bytes: "));
        sum += line.context("no write_bytes")?.parse::<u64>()?;
    }
    Ok(sum)
}
