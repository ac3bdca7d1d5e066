//! `vmprov serve` under load: 200 concurrent readers for 30 s on loopback, with 100 domains in a private libvirtd. They
//! are compared with as many readers that each run `virsh list`, the best case of a service without shared reads.
//!
//! Fails if a response is not a success, if the service uses more than 64 MiB, or if its readers wait longer.

#[expect(dead_code, reason = "each benchmark uses its own part")]
mod support;

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    os::unix::fs::PermissionsExt,
    process::{Child, Command, ExitCode, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, ensure};
use support::{Report, ok, text};

const READERS: usize = 200;
const DOMAINS: usize = 100;
const LOAD: Duration = Duration::from_secs(30);
/// Shorter, because the rate of virsh is steady from the first second on.
const THEIR_LOAD: Duration = Duration::from_secs(10);
const MAX_MEMORY: u64 = 64 << 20;
const ADDRESS: &str = "127.0.0.1:8092";

fn main() -> Result<ExitCode> {
    support::in_lab(inside)
}

fn inside(image: &str) -> Result<ExitCode> {
    let folder = tempfile::tempdir()?;
    define(&folder, image)?;
    let mut report = Report::default();
    let service = Service::start(&folder)?;
    let calls_before = service.calls()?;
    let ours = Load::of(LOAD, || Connection::open().map(|mut connection| move || connection.list_vms()))?;
    let calls = service.calls()? - calls_before;
    let [now, peak] = ["VmRSS:", "VmHWM:"].map(|field| service.memory(field));
    drop(service);
    let theirs = Load::of(THEIR_LOAD, || Ok(|| ok(&mut virsh(&["list", "--all"]))))?;

    report.line("median", ours.quantile(50), "a virsh list each", theirs.quantile(50), 0.5);
    report.line("99th percentile", ours.quantile(99), "a virsh list each", theirs.quantile(99), 0.5);
    report.bytes("memory at the end", now?, "limit", MAX_MEMORY, 1.0);
    report.bytes("peak memory", peak?, "limit", MAX_MEMORY, 1.0);
    support::rate("responses", ours.times.len(), LOAD, "a virsh list each", theirs.times.len(), THEIR_LOAD);
    support::rate("processes started", calls, LOAD, "a virsh list each", theirs.times.len(), THEIR_LOAD);
    Ok(if report.missed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn vmprov(folder: &tempfile::TempDir, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vmprov"));
    let path = format!("{}:{}", folder.path().display(), std::env::var("PATH").unwrap_or_default());
    command.args(args).env("PATH", path).env("HOME", folder.path()).env("LIBVIRT_URI", "qemu:///system");
    command
}

fn virsh(args: &[&str]) -> Command {
    let mut command = Command::new("virsh");
    command.args(["-q", "-c", "qemu:///system"]).args(args);
    command
}

/// Creates a hundred domains of vmprov, and a wrapper of virsh that counts its calls.
fn define(folder: &tempfile::TempDir, image: &str) -> Result<()> {
    let create = ["vm", "create", "first", "--image", image, "--user", "debian", "--no-start"];
    ok(&mut vmprov(folder, &create))?;
    let xml = text(&mut virsh(&["dumpxml", "--inactive", "--domain", "first"]))?;
    let no_uuid: Vec<_> = xml.lines().filter(|line| !line.contains("<uuid>") && !line.contains("<mac ")).collect();
    let no_uuid = no_uuid.join("\n");
    let file = folder.path().join("copy.xml");
    for number in 1..DOMAINS {
        fs::write(&file, no_uuid.replace("<name>first<", &format!("<name>copy-{number}<")))?;
        ok(&mut virsh(&["define", "--file", &file.to_string_lossy()]))?;
    }
    let real = text(Command::new("sh").args(["-c", "command -v virsh"]))?;
    let counting = folder.path().join("virsh");
    let calls = folder.path().join("calls");
    fs::write(&calls, "")?;
    fs::write(&counting, format!("#!/bin/sh\nprintf x >>{}\nexec {} \"$@\"\n", calls.display(), real.trim()))?;
    Ok(fs::set_permissions(&counting, fs::Permissions::from_mode(0o755))?)
}

/// A running service, which is killed when this is dropped.
struct Service<'f> {
    child: Child,
    folder: &'f tempfile::TempDir,
}

impl<'f> Service<'f> {
    fn start(folder: &'f tempfile::TempDir) -> Result<Self> {
        let mut command = vmprov(folder, &["serve", "--listen", ADDRESS]);
        let child = command.stdin(Stdio::null()).stderr(fs::File::create(folder.path().join("log"))?).spawn()?;
        let service = Self { child, folder };
        let deadline = Instant::now() + Duration::from_secs(20);
        while TcpStream::connect(ADDRESS).is_err() {
            ensure!(Instant::now() < deadline, "the service does not listen");
            thread::sleep(Duration::from_millis(10));
        }
        Ok(service)
    }

    /// Returns how many times the service has started virsh.
    fn calls(&self) -> Result<usize> {
        Ok(usize::try_from(fs::metadata(self.folder.path().join("calls"))?.len())?)
    }

    /// Returns a memory field of the kernel's process status, in bytes.
    fn memory(&self, field: &str) -> Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find(|line| line.starts_with(field)).context("no such field")?;
        let kib: u64 = line.split_whitespace().nth(1).context("no number")?.parse()?;
        Ok(kib * 1024)
    }
}

impl Drop for Service<'_> {
    fn drop(&mut self) {
        // The service has no state that a kill could corrupt.
        let _ = self.child.kill().and_then(|()| self.child.wait());
    }
}

/// The duration of every reader's requests, sorted.
struct Load {
    times: Vec<Duration>,
}

impl Load {
    /// Runs all readers for a time. `reader` creates the function that a reader calls repeatedly.
    fn of<L: FnMut() -> Result<()>>(length: Duration, reader: impl Fn() -> Result<L> + Sync) -> Result<Self> {
        let end = Instant::now() + length;
        let read = || {
            let mut request = reader()?;
            let mut times = Vec::new();
            while Instant::now() < end {
                let begin = Instant::now();
                request()?;
                times.push(begin.elapsed());
            }
            Ok(times)
        };
        let all = thread::scope(|scope| {
            let readers: Vec<_> = (0..READERS).map(|_| scope.spawn(read)).collect();
            let ended = readers.into_iter().map(|reader| reader.join().map_err(|_| anyhow!("a reader panicked"))?);
            ended.collect::<Result<Vec<_>>>()
        })?;
        let mut times = all.concat();
        times.sort();
        Ok(Self { times })
    }

    fn quantile(&self, percent: usize) -> Duration {
        let last = self.times.len().saturating_sub(1);
        self.times.get(last * percent / 100).copied().unwrap_or_default()
    }
}

/// A persistent connection.
struct Connection {
    stream: BufReader<TcpStream>,
}

impl Connection {
    fn open() -> Result<Self> {
        Ok(Self { stream: BufReader::new(TcpStream::connect(ADDRESS)?) })
    }

    /// Requests the list of VMs, which must have all the domains.
    fn list_vms(&mut self) -> Result<()> {
        self.stream.get_mut().write_all(b"GET /api/vms HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")?;
        let mut first = String::new();
        self.stream.read_line(&mut first)?;
        let mut length = 0;
        loop {
            let mut line = String::new();
            ensure!(self.stream.read_line(&mut line)? > 0, "the connection was closed");
            if line.trim().is_empty() {
                break;
            }
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse()?;
            }
        }
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body)?;
        ensure!(first.starts_with("HTTP/1.1 200 "), "{first}{}", String::from_utf8_lossy(&body));
        let domains = body.windows(7).filter(|window| window == b"\"uuid\":").count();
        ensure!(domains == DOMAINS, "the list has {domains} domains, not {DOMAINS}");
        Ok(())
    }
}
