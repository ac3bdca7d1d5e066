//! The overhead of vmprov over the programs that it calls. Whole processes are run alternately, and their median times
//! are compared.
//!
//! Run with `benches/run`, or as root with `cargo bench --bench host`: it starts a private libvirtd (`tests/lab`),
//! creates its domains there, and stops it. Fails if a ratio is above its limit.

#[expect(dead_code, reason = "each benchmark uses its own part")]
mod support;

use std::{
    fmt::Write,
    fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

use anyhow::{Context, Result};
use support::{Report, median, ms, ok, text, timed};

const LIST_ROUNDS: usize = 25;
const CREATE_ROUNDS: usize = 9;
const VERSION_ROUNDS: usize = 51;
const DOMAINS: usize = 100;

fn main() -> Result<ExitCode> {
    support::in_lab(inside)
}

fn inside(image: &str) -> Result<ExitCode> {
    let bench = Bench::new(image)?;
    let mut report = Report::default();
    version(&bench, &mut report)?;
    create(&bench, &mut report)?;
    list(&bench, &mut report)?;
    Ok(if report.missed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// The folder of one run and the image.
struct Bench {
    folder: tempfile::TempDir,
    image: String,
}

impl Bench {
    /// Creates one VM first, so that pool, network and base image exist and KVM has been probed.
    fn new(image: &str) -> Result<Self> {
        let bench = Self { folder: tempfile::tempdir()?, image: image.to_owned() };
        ok(&mut bench.vmprov(&["key", "generate", "bench", "--type", "ed25519"]))?;
        ok(&mut bench.create("first"))?;
        ok(&mut bench.vmprov(&["vm", "stop", "first", "--force"]))?;
        Ok(bench)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn vmprov(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_vmprov"));
        command.args(args).env("SSH_KEY_DIR", self.path("keys")).env("XDG_CACHE_HOME", self.path("cache"));
        command
    }

    fn create(&self, name: &str) -> Command {
        self.vmprov(&["vm", "create", name, "--image", &self.image, "--ssh-key", "bench", "--memory", "256"])
    }
}

fn virsh(args: &[&str]) -> Command {
    let mut command = Command::new("virsh");
    command.args(["-q", "-c", "qemu:///system"]).args(args);
    command
}

fn version(bench: &Bench, report: &mut Report) -> Result<()> {
    let mut times = Vec::new();
    for _ in 0..VERSION_ROUNDS {
        times.push(timed(&mut bench.vmprov(&["--version"]))?);
    }
    report.line("vmprov --version", median(times), "5 ms", ms(5), 1.0);
    Ok(())
}

/// Measures the time from an existing base image to a running VM: with vmprov, with a script of the same commands, and
/// with virt-install, with and without a cloud-init seed. Deletion is not measured.
fn create(bench: &Bench, report: &mut Report) -> Result<()> {
    let script = bench.path("script");
    fs::write(&script, SCRIPT)?;
    fs::write(bench.path("domain.xml"), template(&text(&mut virsh(&["dumpxml", "--inactive", "--domain", "first"]))?))?;
    let volumes = text(&mut virsh(&["vol-list", "--pool", "default"]))?;
    let is_image = |word: &&str| Path::new(word).extension().is_some_and(|extension| extension == "qcow2");
    let image = volumes.split_whitespace().filter(|word| word.starts_with("base-")).find(is_image);
    let image = image.context("no base image")?;
    let backing = format!("size=20,pool=default,backing_store=/var/lib/libvirt/images/{image},backing_format=qcow2");

    let (mut ours, mut bare, mut theirs, mut seedless) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for round in 0..CREATE_ROUNDS {
        // Each candidate goes first equally often.
        for side in 0..4 {
            match (round + side) % 4 {
                0 => {
                    ours.push(timed(&mut bench.create("ours"))?);
                    ok(&mut bench.vmprov(&["vm", "delete", "ours", "--yes"]))?;
                }
                1 => {
                    let mut command = Command::new("bash");
                    bare.push(timed(command.arg(&script).arg(image).current_dir(bench.folder.path()))?);
                    remove("bare", &["bare.qcow2", "bare-seed.iso"])?;
                }
                2 => {
                    let seed = ["--cloud-init", "user-data=user-data,meta-data=meta-data"];
                    theirs.push(timed(virt_install(&backing).args(seed).current_dir(bench.folder.path()))?);
                    remove("theirs", &["theirs.qcow2"])?;
                }
                _ => {
                    seedless.push(timed(&mut virt_install(&backing))?);
                    remove("theirs", &["theirs.qcow2"])?;
                }
            }
        }
    }
    let ours = median(ours);
    report.line("vm create", ours, "script of virsh and genisoimage", median(bare), 1.0);
    report.line("vm create", ours, "virt-install --cloud-init", median(theirs), 0.5);
    // It does less: most of its time is its own start.
    report.line("vm create", ours, "virt-install without a seed", median(seedless), 1.0);
    Ok(())
}

fn virt_install(backing: &str) -> Command {
    let mut command = Command::new("virt-install");
    command.args(["-q", "--connect", "qemu:///system", "--name", "theirs", "--memory", "256"]);
    command.args(["--vcpus", "2", "--import", "--disk", backing, "--network", "network=default"]);
    command.args(["--virt-type", "qemu", "--graphics", "none", "--noautoconsole"]);
    command.args(["--osinfo", "detect=off,require=off"]);
    command
}

/// The commands that one would type, without rollback and checks. Its seed has the same content as vmprov's.
const SCRIPT: &str = r#"set -e
v="virsh -q -c qemu:///system"
printf '#cloud-config\nusers:\n- name: debian\n  ssh_authorized_keys: [ "%s" ]\n' "$(cat keys/bench.pub)" >user-data
printf 'instance-id: bare\nlocal-hostname: bare\n' >meta-data
printf 'version: 2\nethernets:\n  e: { match: { name: "e*" }, dhcp4: true }\n' >network-config
genisoimage -quiet -joliet -rational-rock -volid cidata -output seed.iso user-data meta-data network-config
$v vol-create-as default bare.qcow2 20G --format qcow2 --backing-vol "$1" --backing-vol-format qcow2
$v vol-create-as default bare-seed.iso "$(stat -c %s seed.iso)" --format raw
$v vol-upload --pool default bare-seed.iso seed.iso
$v define domain.xml
$v start bare
"#;

/// Converts the XML of vmprov's VM to that of the script's: the same devices with other names.
fn template(xml: &str) -> String {
    let mut kept = String::new();
    let mut in_metadata = false;
    for line in xml.lines() {
        in_metadata |= line.contains("<metadata>");
        if !in_metadata && !line.contains("<uuid>") && !line.contains("<mac ") {
            let line = match line.find("first-seed-") {
                Some(at) => format!("{}bare-seed.iso'/>", &line[..at]),
                None => line.replace("first.qcow2", "bare.qcow2").replace("<name>first<", "<name>bare<"),
            };
            let _ = writeln!(kept, "{line}");
        }
        in_metadata &= !line.contains("</metadata>");
    }
    kept
}

fn remove(domain: &str, volumes: &[&str]) -> Result<()> {
    ok(&mut virsh(&["destroy", "--domain", domain]))?;
    ok(&mut virsh(&["undefine", "--domain", domain]))?;
    volumes.iter().try_for_each(|volume| ok(&mut virsh(&["vol-delete", "--pool", "default", "--vol", volume])))
}

/// Measures the list with a hundred domains of vmprov.
fn list(bench: &Bench, report: &mut Report) -> Result<()> {
    let few = [processes(bench, &["vm", "list"])?, processes(bench, &["vm", "info", "first"])?];
    let xml = text(&mut virsh(&["dumpxml", "--inactive", "--domain", "first"]))?;
    let no_uuid: Vec<_> = xml.lines().filter(|line| !line.contains("<uuid>") && !line.contains("<mac ")).collect();
    let no_uuid = no_uuid.join("\n");
    for i in 1..DOMAINS {
        let file = bench.path("copy.xml");
        fs::write(&file, no_uuid.replace("<name>first<", &format!("<name>copy-{i}<")))?;
        ok(&mut virsh(&["define", "--file", &file.to_string_lossy()]))?;
    }
    let many = [processes(bench, &["vm", "list"])?, processes(bench, &["vm", "info", "first"])?];
    for (what, few, many) in [("list", few[0], many[0]), ("info", few[1], many[1])] {
        report.equal(&format!("processes of vm {what}"), few, &format!("with {DOMAINS} domains"), many);
    }

    let (mut brief, mut whole, mut theirs) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..LIST_ROUNDS {
        brief.push(timed(&mut bench.vmprov(&["vm", "list", "--brief"]))?);
        theirs.push(timed(&mut virsh(&["list", "--all"]))?);
        whole.push(timed(&mut bench.vmprov(&["vm", "list"]))?);
        theirs.push(timed(&mut virsh(&["list", "--all"]))?);
    }
    let theirs = median(theirs);
    report.line("vm list --brief", median(brief), "virsh list --all", theirs, 1.3);
    report.line("vm list", median(whole), "virsh list --all", theirs, 3.0);
    Ok(())
}

/// Counts the programs that a call starts, including itself.
fn processes(bench: &Bench, args: &[&str]) -> Result<usize> {
    let trace = bench.path("trace");
    let ours = bench.vmprov(args);
    let mut command = Command::new("strace");
    command.args(["-f", "-qq", "-e", "trace=execve", "-o"]).arg(&trace);
    command.arg(ours.get_program()).args(ours.get_args());
    command.envs(ours.get_envs().filter_map(|(name, value)| Some((name, value?))));
    ok(&mut command)?;
    Ok(fs::read_to_string(trace)?.lines().filter(|line| line.contains("execve(") && line.ends_with(" = 0")).count())
}
