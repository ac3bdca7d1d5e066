//! A private libvirtd, vmprov run against it, and a look at everything that a run may leave behind.

use std::{
    collections::BTreeSet,
    fs::File,
    os::unix::{fs::symlink, process::ExitStatusExt},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

/// How long one run of vmprov may take before the test gives it up.
const RUN_LIMIT: Duration = Duration::from_mins(2);

/// The same where it waits for a guest: two at a time are emulated on few cores, perhaps shared ones.
const GUEST_LIMIT: Duration = Duration::from_mins(15);

/// How long what libvirt and the kernel do by themselves may take: a process's end, a pool's notice of a file.
const SETTLE_LIMIT: Duration = Duration::from_secs(20);

/// How often is looked.
const POLL: Duration = Duration::from_millis(5);

/// The programs that the shim stands in front of.
const PROGRAMS: [&str; 4] = ["virsh", "qemu-img", "genisoimage", "isoinfo"];

/// Where the programs of the system are.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The lab, one connection to it, and a home for vmprov. One test at a time has it.
pub(crate) struct Lab {
    uri: &'static str,
    folder: PathBuf,
    /// The process that keeps the lab's namespaces.
    holder: String,
    home: tempfile::TempDir,
    /// The shim's folder.
    shim: tempfile::TempDir,
    store: bool,
    _alone: File,
}

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

impl Lab {
    /// The lab's own QEMU driver.
    pub(crate) fn qemu() -> Self {
        Self::enter("qemu:///system", false)
    }

    /// libvirt's in-memory driver in the lab's libvirtd; what is uploaded is kept by the shim.
    pub(crate) fn in_memory() -> Self {
        Self::enter("test+unix:///default", true)
    }

    fn enter(uri: &'static str, store: bool) -> Self {
        // Three labs, so that three tests run at a time; .config/nextest.toml has the same groups. Those with guests share
        // one: a machine that emulates more of them than it has processors makes their kernels stumble.
        let (name, lock) = match env!("CARGO_CRATE_NAME") {
            "edit" | "reach" | "real" | "serve_guest" | "session" => ("", "lab.rs"),
            "bad_input" | "change_faults" | "doctor" | "existing_client" | "expiry" | "first_run" | "serve_life"
            | "serve_quota" | "serve_work" => ("-2", "mirror.rs"),
            _ => ("-3", "gpg.rs"),
        };
        let alone = File::open(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support").join(lock)).unwrap();
        alone.lock().unwrap();
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/lab/libvirtd");
        let folder = std::env::var_os("VMPROV_LAB").map_or_else(
            || PathBuf::from(format!("/var/tmp/vmprov-lab-{}", rustix::process::geteuid().as_raw())),
            PathBuf::from,
        );
        let folder = PathBuf::from(format!("{}{name}", folder.display()));
        let started = Command::new(script).arg("start").env("VMPROV_LAB", &folder).output().unwrap();
        let complaint = String::from_utf8_lossy(&started.stderr);
        assert!(started.status.success(), "these tests need the lab, and it does not start: {complaint}");
        let holder = std::fs::read_to_string(folder.join("holder")).unwrap();
        let holder = holder.split_whitespace().next().unwrap().to_owned();
        let shim = tempfile::tempdir().unwrap();
        std::fs::create_dir(shim.path().join("store")).unwrap();
        std::fs::create_dir(shim.path().join("bin")).unwrap();
        for program in PROGRAMS {
            let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/shim");
            symlink(script, shim.path().join("bin").join(program)).unwrap();
        }
        Self { uri, folder, holder, home: tempfile::tempdir().unwrap(), shim, store, _alone: alone }
    }

    /// Runs the lab's own script.
    fn script(&self, verb: &str) -> String {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/lab/libvirtd");
        let ran = Command::new(script).arg(verb).env("VMPROV_LAB", &self.folder).output().unwrap();
        assert!(ran.status.success(), "libvirtd {verb}: {}", String::from_utf8_lossy(&ran.stderr));
        String::from_utf8(ran.stdout).unwrap()
    }

    /// Ends libvirtd, and waits until it has ended. Whoever asks for the lab again starts it, too.
    pub(crate) fn stop_daemon(&self) {
        let pid = self.script("pid").trim().parse().unwrap();
        rustix::process::kill_process(rustix::process::Pid::from_raw(pid).unwrap(), rustix::process::Signal::TERM)
            .unwrap();
        wait_until("libvirtd's end", || !Path::new(&format!("/proc/{pid}")).exists());
    }

    /// Starts libvirtd again.
    pub(crate) fn start_daemon(&self) {
        self.script("start");
    }

    /// The folder of the pool `default`, as it is seen from outside.
    pub(crate) fn pool_folder(&self) -> PathBuf {
        self.folder.join("lib/images")
    }

    /// What runs a program inside the lab: to be put in front of it.
    pub(crate) fn entrance(&self) -> [&str; 6] {
        ["/usr/bin/nsenter", "-t", &self.holder, "-m", "-n", "--"]
    }

    /// The network that everything in the lab has.
    pub(crate) fn network(&self) -> String {
        format!("/proc/{}/ns/net", self.holder)
    }

    /// Puts a fake of a program in front of the real one.
    pub(crate) fn fake(&self, program: &str, script: &str) {
        use std::os::unix::fs::PermissionsExt;
        let path = self.shim.path().join("bin").join(program);
        // What is there may be a link to the shim itself.
        drop(std::fs::remove_file(&path));
        std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// Writes a file into the temporary home, and its folders; returns its path.
    pub(crate) fn write(&self, name: &str, content: impl AsRef<[u8]>) -> String {
        let path = self.file(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, content).unwrap();
        path.to_str().unwrap().to_owned()
    }

    /// A file of the temporary home.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    /// Makes a tiny qcow2 image of `size` in the home. Nothing boots from it.
    pub(crate) fn image(&self, name: &str, size: &str) -> String {
        let path = self.file(name);
        let made = Command::new("qemu-img").args(["create", "-q", "-f", "qcow2"]).arg(&path).arg(size).status();
        assert!(made.unwrap().success());
        path.to_str().unwrap().to_owned()
    }

    /// A command inside the lab, with no environment but what it needs.
    fn inside(&self, program: &str) -> Command {
        let mut command = Command::new("/usr/bin/nsenter");
        command.args(["-t", &self.holder, "-m", "-n", "--", program]);
        command.env_clear().env("PATH", PATH).env("LC_ALL", "C").stdin(Stdio::null());
        command
    }

    fn command(&self, fault: &str, dir: &Path, args: &[&str]) -> Command {
        let mut command = self.inside(env!("CARGO_BIN_EXE_vmprov"));
        command
            .args(args)
            .env("PATH", format!("{}:{PATH}", self.shim.path().join("bin").display()))
            .env("HOME", self.home.path())
            .env("LIBVIRT_URI", self.uri)
            .env("SHIM_DIR", dir)
            .env("SHIM_FAULT", fault);
        if self.store {
            command.env("SHIM_STORE", self.shim.path().join("store"));
        }
        command
    }

    /// Runs vmprov to its end.
    pub(crate) fn run(&self, args: &[&str]) -> Ran {
        self.spoil("", args)
    }

    /// Runs vmprov to its end where that waits for a guest.
    pub(crate) fn run_with_guest(&self, args: &[&str]) -> Ran {
        self.begin("", args).end_within(GUEST_LIMIT)
    }

    /// Runs vmprov with one of its external calls spoilt: `MODE:K`, as the shim has it.
    pub(crate) fn spoil(&self, fault: &str, args: &[&str]) -> Ran {
        self.begin(fault, args).end()
    }

    /// Starts vmprov.
    pub(crate) fn begin(&self, fault: &str, args: &[&str]) -> Running {
        self.begin_with(fault, args, |_| ())
    }

    /// Starts the service, which listens at [`Self::socket`] and at port 8092 of the lab's loopback, and lets images come from
    /// a mirror there.
    pub(crate) fn serve(&self, more: &[&str]) -> Running {
        let place = format!("unix:{}", self.socket().display());
        let mut args = vec!["serve", "--listen", "127.0.0.1:8092", "--listen", &place];
        if self.run(&["serve", "--help"]).stdout.contains("--allow-image-host") {
            args.extend(["--allow-image-host", "127.0.0.1"]);
        }
        args.extend(more);
        self.begin("", &args)
    }

    /// Where the service listens, whichever network one is in.
    pub(crate) fn socket(&self) -> PathBuf {
        self.file("api.sock")
    }

    fn begin_with(&self, fault: &str, args: &[&str], more: impl FnOnce(&mut Command)) -> Running {
        let dir = tempfile::tempdir_in(self.shim.path()).unwrap();
        // Files, not pipes: a killed vmprov's children would keep those open.
        let out = File::create(dir.path().join("out")).unwrap();
        let err = File::create(dir.path().join("err")).unwrap();
        let mut command = self.command(fault, dir.path(), args);
        more(&mut command);
        let child = command.stdout(out).stderr(err).spawn().unwrap();
        Running { child, dir }
    }

    /// Runs vmprov with a variable set.
    pub(crate) fn with_env(&self, name: &str, value: &str, args: &[&str]) -> Ran {
        self.begin_with("", args, |command| {
            command.env(name, value);
        })
        .end()
    }

    /// Runs vmprov with something on its standard input.
    pub(crate) fn with_stdin(&self, args: &[&str], stdin: &[u8]) -> Ran {
        let file = self.shim.path().join("given");
        std::fs::write(&file, stdin).unwrap();
        let running = self.begin_with("", args, |command| {
            command.stdin(File::open(&file).unwrap());
        });
        running.end()
    }

    /// What a run of vmprov draws on a terminal.
    pub(crate) fn drawn(&self, args: &str) -> String {
        let dir = tempfile::tempdir_in(self.shim.path()).unwrap();
        let line = format!("{} {args}", env!("CARGO_BIN_EXE_vmprov"));
        // It becomes `script`, which has a terminal made, in the place of vmprov.
        let mut command = self.inside("script");
        command.args(["-qec", &line, "/dev/null"]).env("HOME", self.home.path()).env("LIBVIRT_URI", self.uri);
        command.env("TERM", "xterm").current_dir(dir.path());
        String::from_utf8_lossy(&command.output().unwrap().stdout).into_owned()
    }

    /// One call of virsh, past the shim.
    #[track_caller]
    pub(crate) fn virsh(&self, args: &[&str]) -> String {
        let ran = self.inside("virsh").args(["-q", "-c", self.uri]).args(args).output().unwrap();
        assert!(ran.status.success(), "virsh {args:?}: {}", String::from_utf8_lossy(&ran.stderr));
        String::from_utf8(ran.stdout).unwrap()
    }

    /// The same, with standard input.
    #[track_caller]
    pub(crate) fn virsh_with(&self, args: &[&str], stdin: &str) {
        let file = self.shim.path().join("stdin");
        std::fs::write(&file, stdin).unwrap();
        let mut virsh = self.inside("virsh");
        let ran = virsh.args(["-q", "-c", self.uri]).args(args).stdin(File::open(file).unwrap()).output().unwrap();
        assert!(ran.status.success(), "virsh {args:?}: {}", String::from_utf8_lossy(&ran.stderr));
    }

    /// Starts a program inside the lab, to be ended with its owner.
    pub(crate) fn start_inside(&self, program: &str, args: &[&str]) -> Held {
        let mut command = self.inside(program);
        Held(command.args(args).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
    }

    /// Keeps a connection open, without which the in-memory driver forgets everything.
    pub(crate) fn hold(&self) -> Held {
        let out = File::create(self.shim.path().join("held")).unwrap();
        let mut virsh = self.inside("virsh");
        let child = virsh.args(["-c", self.uri, "event", "--all", "--loop"]).stdout(out).spawn().unwrap();
        let held = Held(child);
        // It is connected once a second connection finds what a third has changed.
        wait_until("the held connection", || {
            self.virsh(&["pool-define-as", "--name", "held", "--type", "dir", "--target", "/held"]);
            let names = self.virsh(&["pool-list", "--all", "--name"]);
            let there = names.lines().any(|name| name.trim() == "held");
            if there {
                self.virsh(&["pool-undefine", "--pool", "held"]);
            }
            there
        });
        held
    }

    /// Everything that a run may leave behind, a line each.
    pub(crate) fn snapshot(&self) -> Snapshot {
        let lines = |text: &str| -> Vec<String> {
            text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned).collect()
        };
        let mark = "8-8-8";
        let script = [
            "list --all --uuid --name",
            "list --uuid",
            "pool-list --all --name",
            "pool-list --name",
            "net-list --all --name",
            "net-list --name",
        ]
        .join("; echo 8-8-8; ");
        let text = self.virsh(&[&script]);
        let sections: Vec<_> = text.split(mark).map(lines).collect();
        let [domains, active, pools, active_pools, networks, active_networks] = &sections[..] else {
            panic!("virsh printed something else: {text}")
        };
        let mut seen = BTreeSet::new();
        for domain in domains {
            let state = if active.iter().any(|uuid| domain.starts_with(uuid)) { "active" } else { "inactive" };
            seen.insert(format!("domain {domain}: {state}"));
        }
        for (kind, all, active) in [("pool", pools, active_pools), ("network", networks, active_networks)] {
            for name in all {
                seen.insert(format!("{kind} {name}: {}", if active.contains(name) { "active" } else { "inactive" }));
            }
        }
        for pool in active_pools {
            for row in lines(&self.virsh(&["vol-list", "--pool", pool])) {
                seen.insert(format!("volume {pool}/{}", row.split_whitespace().next().unwrap()));
            }
        }
        let mut files = |what: &str, folder: &Path| {
            for file in walk(folder) {
                seen.insert(format!("{what} {}", file.strip_prefix(folder).unwrap().display()));
            }
        };
        files("pool file", &self.folder.join("lib/images"));
        files("home", self.home.path());
        let ours = |folder: &str| {
            let entries = std::fs::read_dir(folder).unwrap().filter_map(|entry| Some(entry.ok()?.path()));
            entries.filter(|path| path.file_name().unwrap().to_string_lossy().starts_with("vmprov")).collect::<Vec<_>>()
        };
        seen.extend(ours("/tmp").iter().map(|path| format!("temporary file {}", path.display())));
        seen.extend(
            stale(&ours(&format!("/proc/{}/root/run/lock", self.holder)))
                .map(|path| format!("lock {}", path.display())),
        );
        seen.extend(self.processes().into_iter().map(|(pid, name)| format!("process {name} ({pid})")));
        Snapshot(seen)
    }

    /// The processes in the lab: libvirt's daemons, guests, and what was started and has not ended.
    fn processes(&self) -> Vec<(String, String)> {
        let net = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/net")).ok();
        let lab = net(&self.holder);
        let pids = std::fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        let members = pids.filter(|pid| pid.bytes().all(|byte| byte.is_ascii_digit()) && net(pid) == lab);
        members
            .filter_map(|pid| {
                let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
                Some((pid, name.trim().to_owned()))
            })
            .collect()
    }

    /// Waits until everything is as it was, and shows the difference when it does not become so.
    #[track_caller]
    pub(crate) fn settles(&self, before: &Snapshot, when: &str) {
        self.settles_without(before, |_| false, when);
    }

    /// The same, where some lines may have come or gone.
    #[track_caller]
    pub(crate) fn settles_without(&self, before: &Snapshot, ignored: impl Fn(&str) -> bool, when: &str) {
        let deadline = Instant::now() + SETTLE_LIMIT;
        loop {
            let now = self.snapshot();
            // A temporary file that has gone is somebody else's: ours have no names.
            let gone = before.0.difference(&now.0).filter(|line| !ignored(line) && !line.starts_with("temporary"));
            let gone = gone.map(|line| format!("- {line}"));
            let came = now.0.difference(&before.0).filter(|line| !ignored(line)).map(|line| format!("+ {line}"));
            let difference: Vec<_> = gone.chain(came).collect();
            if difference.is_empty() {
                return;
            }
            assert!(Instant::now() < deadline, "{when}: not as before:\n{}", difference.join("\n"));
            std::thread::sleep(POLL);
        }
    }
}

/// What there was at one time.
pub(crate) struct Snapshot(pub(crate) BTreeSet<String>);

/// A vmprov at work.
pub(crate) struct Running {
    child: Child,
    dir: tempfile::TempDir,
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
        rustix::process::kill_process(rustix::process::Pid::from_child(&self.child), signal).unwrap();
    }

    /// Waits for its end.
    pub(crate) fn end(self) -> Ran {
        self.end_within(RUN_LIMIT)
    }

    /// Waits for its end, when it waits for a guest itself.
    pub(crate) fn end_within(mut self, limit: Duration) -> Ran {
        let deadline = Instant::now() + limit;
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            if Instant::now() > deadline {
                self.child.kill().unwrap();
                panic!("vmprov does not end; its calls: {:?}", self.calls());
            }
            std::thread::sleep(POLL);
        };
        if status.signal().is_some() {
            // Nobody comes to clean up within the milliseconds that calls under way still take.
            wait_until("the calls of a killed vmprov", || !self.has_processes());
        }
        assert!(!self.has_processes(), "vmprov has ended, a call of it has not: {:?}", self.calls());
        let hit = self.dir.path().join("hit").exists();
        Ran { status, stdout: self.read("out"), stderr: self.read("err"), calls: self.calls(), hit }
    }

    /// The external calls so far, in the order in which they began.
    fn calls(&self) -> Vec<String> {
        let call = |number: usize| std::fs::read_to_string(self.dir.path().join(number.to_string())).ok();
        (1..).map_while(call).map(|call| call.trim_end().replace('\n', " ")).collect()
    }

    /// Whether a process that vmprov started is there: they have the shim's folder in their environment.
    fn has_processes(&self) -> bool {
        let mark = format!("SHIM_DIR={}", self.dir.path().display());
        let pids = std::fs::read_dir("/proc").unwrap().filter_map(|entry| Some(entry.ok()?.path().join("environ")));
        let mut environments = pids.filter_map(|path| std::fs::read(path).ok());
        environments.any(|environment| environment.split(|&byte| byte == 0).any(|word| word == mark.as_bytes()))
    }

    fn read(&self, name: &str) -> String {
        String::from_utf8_lossy(&std::fs::read(self.dir.path().join(name)).unwrap()).into_owned()
    }
}

impl Drop for Running {
    /// A service would go on after a test that has failed.
    fn drop(&mut self) {
        // One that has ended is no more there to be killed.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// A process that is ended with its owner.
pub(crate) struct Held(Child);

impl Drop for Held {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

/// More calls than any of the commands makes.
const MOST_CALLS: usize = 60;

/// Runs `work` with its first call spoilt, then with its second, until there are no more; `judge` looks at each. Of several
/// modes, `fail|lie`, the calls have one by turns.
pub(crate) fn each_call(modes: &str, work: impl Fn(&str, usize) -> Ran, mut judge: impl FnMut(usize, &str, Ran)) {
    let modes: Vec<_> = modes.split('|').collect();
    for k in 1..MOST_CALLS {
        let mode = modes[k % modes.len()];
        let ran = work(&format!("{mode}:{k}"), k);
        if !ran.hit {
            ran.succeeded();
            return;
        }
        let call = ran.calls.get(k - 1).cloned().unwrap_or_default();
        let when = format!("{mode} at call {k} ({})", call.chars().take(120).collect::<String>());
        judge(k, &when, ran);
    }
    panic!("more than {MOST_CALLS} calls");
}

/// Looks again and again, within bounds.
#[track_caller]
pub(crate) fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + SETTLE_LIMIT;
    while !done() {
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        std::thread::sleep(POLL);
    }
}

/// The lock files that nobody holds. Held ones are other processes'.
fn stale(locks: &[PathBuf]) -> impl Iterator<Item = &PathBuf> {
    let held = std::fs::read_to_string("/proc/locks").unwrap();
    locks.iter().filter(move |path| {
        use std::os::unix::fs::MetadataExt;
        let Ok(metadata) = std::fs::symlink_metadata(path) else { return false };
        !held.split_whitespace().any(|word| word.ends_with(&format!(":{}", metadata.ino())))
    })
}

fn walk(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
    paths.flat_map(|path| if path.is_dir() && !path.is_symlink() { walk(&path) } else { vec![path] }).collect()
}
