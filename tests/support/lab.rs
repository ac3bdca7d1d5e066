//! A private libvirtd, runs of vmprov against it, and snapshots of everything that a run may leave behind.

#[path = "lab/leftovers.rs"]
mod leftovers;
#[path = "lab/running.rs"]
mod running;
#[expect(dead_code, reason = "each including file uses its own part")]
mod process {
    include!("process.rs");
}

use std::{
    collections::BTreeSet,
    fs::File,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

pub(crate) use process::Process;
pub(crate) use running::{Run, Running};

/// The time limit of one run of vmprov.
const RUN_LIMIT: Duration = Duration::from_mins(2);

/// The time limit of a run that waits for a guest. Two guests may be emulated at once on few, perhaps shared cores.
const GUEST_LIMIT: Duration = Duration::from_mins(15);

/// How long asynchronous work of libvirt and the kernel may take, such as ending a process or refreshing a pool.
const SETTLE_LIMIT: Duration = Duration::from_secs(20);

/// How often to check a condition.
const POLL: Duration = Duration::from_millis(5);

/// The programs that the shim wraps.
const PROGRAMS: [&str; 4] = ["virsh", "qemu-img", "genisoimage", "isoinfo"];

/// What a fake program includes, so that it also answers as a session.
const SESSION: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/session");

/// The system's program directories.
pub(crate) const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The lab: a private libvirtd with its namespaces, and a home for vmprov. One test at a time uses it.
pub(crate) struct Lab {
    uri: &'static str,
    folder: PathBuf,
    /// The process that keeps the lab's namespaces alive.
    holder: String,
    home: tempfile::TempDir,
    /// The shim's folder.
    shim: tempfile::TempDir,
    store: bool,
    _lock: File,
}

/// Everything that existed in the lab at one moment, one line each.
pub(crate) struct Snapshot(pub(crate) BTreeSet<String>);

impl Lab {
    /// Uses the QEMU driver of the lab's libvirtd.
    pub(crate) fn qemu() -> Self {
        Self::enter("qemu:///system", false)
    }

    /// Uses the QEMU driver, with the pool and network that the first create makes.
    pub(crate) fn warm() -> Self {
        let lab = Self::qemu();
        lab.run(&["vm", "delete", "warm", "--yes", "--ignore-missing"]).succeeded();
        lab.run(&["vm", "create", "warm", "--no-start"]).succeeded();
        lab.run(&["vm", "delete", "warm", "--yes"]).succeeded();
        lab.run(&["gc"]).succeeded();
        lab
    }

    /// Uses the in-memory driver of the lab's libvirtd. The shim stores uploads, which the driver cannot.
    pub(crate) fn in_memory() -> Self {
        Self::enter("test+unix:///default", true)
    }

    fn enter(uri: &'static str, store: bool) -> Self {
        // Three labs, so that three tests can run at once; .config/nextest.toml has the same groups. Tests with guests
        // share one lab, because guest kernels become unreliable if a machine emulates more guests than it has CPUs.
        let (name, lock) = match env!("CARGO_CRATE_NAME") {
            "agents" | "edit" | "reach" | "real" | "serve_guest" | "session" => ("", "lab.rs"),
            "bad_input" | "change_faults" | "doctor" | "existing_client" | "expiry" | "first_run" | "serve_life"
            | "serve_quota" | "serve_work" => ("-2", "mirror.rs"),
            _ => ("-3", "gpg.rs"),
        };
        let exclusive = File::open(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support").join(lock)).unwrap();
        exclusive.lock().unwrap();
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/lab/libvirtd");
        let folder = std::env::var_os("VMPROV_LAB").map_or_else(
            || PathBuf::from(format!("/var/tmp/vmprov-lab-{}", rustix::process::geteuid().as_raw())),
            PathBuf::from,
        );
        let folder = PathBuf::from(format!("{}{name}", folder.display()));
        let started = Command::new(script).arg("start").env("VMPROV_LAB", &folder).output().unwrap();
        let stderr = String::from_utf8_lossy(&started.stderr);
        assert!(started.status.success(), "cannot start the lab, which this test needs: {stderr}");
        let holder = std::fs::read_to_string(folder.join("holder")).unwrap();
        let holder = holder.split_whitespace().next().unwrap().to_owned();
        let shim = tempfile::tempdir().unwrap();
        std::fs::create_dir(shim.path().join("store")).unwrap();
        std::fs::create_dir(shim.path().join("bin")).unwrap();
        for program in PROGRAMS {
            let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/shim");
            symlink(script, shim.path().join("bin").join(program)).unwrap();
        }
        Self { uri, folder, holder, home: tempfile::tempdir().unwrap(), shim, store, _lock: exclusive }
    }

    /// Runs the lab's script.
    fn script(&self, verb: &str) -> String {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/lab/libvirtd");
        let ran = Command::new(script).arg(verb).env("VMPROV_LAB", &self.folder).output().unwrap();
        assert!(ran.status.success(), "libvirtd {verb}: {}", String::from_utf8_lossy(&ran.stderr));
        String::from_utf8(ran.stdout).unwrap()
    }

    /// Stops libvirtd and waits until it has ended. The next test that enters the lab starts it again.
    pub(crate) fn stop_daemon(&self) {
        let pid = self.script("pid").trim().parse().unwrap();
        rustix::process::kill_process(rustix::process::Pid::from_raw(pid).unwrap(), rustix::process::Signal::TERM)
            .unwrap();
        wait_until("libvirtd to end", || !Path::new(&format!("/proc/{pid}")).exists());
    }

    /// Starts libvirtd again.
    pub(crate) fn start_daemon(&self) {
        self.script("start");
    }

    /// Returns the folder of the pool `default`, as seen from outside the lab.
    pub(crate) fn pool_folder(&self) -> PathBuf {
        self.folder.join("lib/images")
    }

    /// Returns the command prefix that runs a program inside the lab.
    pub(crate) fn nsenter(&self) -> [&str; 6] {
        ["/usr/bin/nsenter", "-t", &self.holder, "-m", "-n", "--"]
    }

    /// Returns the path of the lab's network namespace.
    pub(crate) fn network(&self) -> String {
        format!("/proc/{}/ns/net", self.holder)
    }

    /// Listens on a port of the lab's loopback.
    pub(crate) fn listen(&self, port: u16) -> std::net::TcpListener {
        let namespace = File::open(self.network()).unwrap();
        // A socket belongs to the namespace that its thread was in when it was created.
        let bind = move || {
            let kind = Some(rustix::thread::LinkNameSpaceType::Network);
            rustix::thread::move_into_link_name_space(std::os::fd::AsFd::as_fd(&namespace), kind).unwrap();
            std::net::TcpListener::bind(("127.0.0.1", port)).unwrap()
        };
        std::thread::spawn(bind).join().unwrap()
    }

    /// Lets vmprov call the real virsh instead of the shim, which counts calls.
    pub(crate) fn use_real_virsh(&self) {
        std::fs::remove_file(self.shim.path().join("bin/virsh")).unwrap();
    }

    /// Installs a fake program that takes precedence over the real one.
    pub(crate) fn fake(&self, program: &str, script: &str) {
        use std::os::unix::fs::PermissionsExt;
        let path = self.shim.path().join("bin").join(program);
        // The path may be a link to the shim, which must not be overwritten.
        drop(std::fs::remove_file(&path));
        std::fs::write(&path, format!("#!/bin/sh\n. {SESSION}\n{script}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// Writes a file in the temporary home, creates its folders, and returns its path.
    pub(crate) fn write(&self, name: &str, content: impl AsRef<[u8]>) -> String {
        let path = self.file(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, content).unwrap();
        path.to_str().unwrap().to_owned()
    }

    /// Returns the path of a file in the temporary home.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    /// Creates an unbootable qcow2 image of virtual size `size` in the home and returns its path.
    pub(crate) fn image(&self, name: &str, size: &str) -> String {
        let path = self.file(name);
        let made = Command::new("qemu-img").args(["create", "-q", "-f", "qcow2"]).arg(&path).arg(size).status();
        assert!(made.unwrap().success());
        path.to_str().unwrap().to_owned()
    }

    /// Returns a command that runs inside the lab with a minimal environment.
    fn inside(&self, program: &str) -> Command {
        let mut command = Process::command("/usr/bin/nsenter");
        command.args(["-t", &self.holder, "-m", "-n", "--", program]);
        command.env_clear().env("PATH", PATH).env("LC_ALL", "C").stdin(Stdio::null());
        command
    }

    /// Returns the command line with which another program runs vmprov inside the lab.
    pub(crate) fn vmprov_command(&self, args: &[&str]) -> Vec<String> {
        let home = format!("HOME={}", self.home.path().display());
        let (path, uri) = (format!("PATH={PATH}"), format!("LIBVIRT_URI={}", self.uri));
        let program = ["/usr/bin/env", "-i", &home, &path, &uri, env!("CARGO_BIN_EXE_vmprov")];
        self.nsenter().iter().chain(&program).chain(args).map(|&word| word.to_owned()).collect()
    }

    fn command(&self, program: &str, fault: &str, dir: &Path, args: &[&str]) -> Command {
        let mut command = self.inside(program);
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
    pub(crate) fn run(&self, args: &[&str]) -> Run {
        self.run_with_fault("", args)
    }

    /// Runs vmprov to its end, with a time limit for runs that wait for a guest.
    pub(crate) fn run_with_guest(&self, args: &[&str]) -> Run {
        self.begin("", args).end_within(GUEST_LIMIT)
    }

    /// Runs vmprov with a fault in one of its external calls: `MODE:K`, as the shim defines it.
    pub(crate) fn run_with_fault(&self, fault: &str, args: &[&str]) -> Run {
        self.begin(fault, args).end()
    }

    /// Starts vmprov without waiting for its end.
    pub(crate) fn begin(&self, fault: &str, args: &[&str]) -> Running {
        self.begin_with(fault, args, |_| ())
    }

    /// Starts vmprov in a container with another host name and a private lock folder.
    pub(crate) fn begin_in_container(&self, name: &str, args: &[&str]) -> Running {
        let enter = format!("mount -t tmpfs -o mode=0700 locks /run/vmprov-locks && hostname {name} && exec \"$@\"");
        let unshare = ["-m", "-u", "/bin/sh", "-c", &enter, "sh", env!("CARGO_BIN_EXE_vmprov")];
        self.begin_program("/usr/bin/unshare", "", &[&unshare[..], args].concat(), |_| ())
    }

    /// Defines a lease that is held by another host; returns its secret's UUID.
    pub(crate) fn lease_elsewhere(&self, what: &str) -> String {
        let uuid = "6695eb01-f6a4-4304-89aa-97f2502e193f";
        let holder = r#"{"place":"elsewhere","host":"other","process":1,"expires":"2100-01-01T00:00:00Z"}"#;
        let xml = format!(
            "<secret ephemeral='yes' private='yes'><uuid>{uuid}</uuid><description>{holder}</description>\
             <usage type='ceph'><name>vmprov lease on {what}</name></usage></secret>"
        );
        self.virsh_with(&["secret-define", "--file", "/dev/stdin"], &xml);
        uuid.to_owned()
    }

    /// Starts the service on [`Self::socket`] and on port 8092 of the lab's loopback. It may fetch images from the
    /// loopback, where mirrors listen.
    pub(crate) fn serve(&self, more: &[&str]) -> Running {
        let address = format!("unix:{}", self.socket().display());
        let mut args = vec!["serve", "--listen", "127.0.0.1:8092", "--listen", &address];
        if self.run(&["serve", "--help"]).stdout.contains("--allow-image-host") {
            args.extend(["--allow-image-host", "127.0.0.1"]);
        }
        args.extend(more);
        self.begin("", &args)
    }

    /// Returns the service's socket, which is reachable from every network namespace.
    pub(crate) fn socket(&self) -> PathBuf {
        self.file("api.sock")
    }

    fn begin_with(&self, fault: &str, args: &[&str], more: impl FnOnce(&mut Command)) -> Running {
        self.begin_program(env!("CARGO_BIN_EXE_vmprov"), fault, args, more)
    }

    fn begin_program(&self, program: &str, fault: &str, args: &[&str], more: impl FnOnce(&mut Command)) -> Running {
        let dir = tempfile::tempdir_in(self.shim.path()).unwrap();
        // Files, not pipes: a killed vmprov's children would keep those open.
        let out = File::create(dir.path().join("out")).unwrap();
        let err = File::create(dir.path().join("err")).unwrap();
        let mut command = self.command(program, fault, dir.path(), args);
        more(&mut command);
        Running { process: Process::spawn(command.stdout(out).stderr(err)), dir }
    }

    /// Runs vmprov with an environment variable.
    pub(crate) fn with_env(&self, name: &str, value: &str, args: &[&str]) -> Run {
        self.begin_with("", args, |command| {
            command.env(name, value);
        })
        .end()
    }

    /// Runs vmprov with `stdin` on standard input.
    pub(crate) fn with_stdin(&self, args: &[&str], stdin: &[u8]) -> Run {
        let file = self.shim.path().join("given");
        std::fs::write(&file, stdin).unwrap();
        let running = self.begin_with("", args, |command| {
            command.stdin(File::open(&file).unwrap());
        });
        running.end()
    }

    /// Runs vmprov on a terminal and returns what it draws there.
    pub(crate) fn terminal_output(&self, args: &str) -> String {
        let dir = tempfile::tempdir_in(self.shim.path()).unwrap();
        let line = format!("{} {args}", env!("CARGO_BIN_EXE_vmprov"));
        // `script` creates the terminal and runs vmprov on it.
        let mut command = self.inside("script");
        command.args(["-qec", &line, "/dev/null"]).env("HOME", self.home.path()).env("LIBVIRT_URI", self.uri);
        command.env("TERM", "xterm").current_dir(dir.path());
        String::from_utf8_lossy(&command.output().unwrap().stdout).into_owned()
    }

    /// Calls virsh directly, without the shim, and returns its standard output.
    #[track_caller]
    pub(crate) fn virsh(&self, args: &[&str]) -> String {
        let ran = self.inside("virsh").args(["-q", "-c", self.uri]).args(args).output().unwrap();
        assert!(ran.status.success(), "virsh {args:?}: {}", String::from_utf8_lossy(&ran.stderr));
        String::from_utf8(ran.stdout).unwrap()
    }

    /// Calls virsh directly with `stdin` on standard input.
    #[track_caller]
    pub(crate) fn virsh_with(&self, args: &[&str], stdin: &str) {
        let file = self.shim.path().join("stdin");
        std::fs::write(&file, stdin).unwrap();
        let mut virsh = self.inside("virsh");
        let ran = virsh.args(["-q", "-c", self.uri]).args(args).stdin(File::open(file).unwrap()).output().unwrap();
        assert!(ran.status.success(), "virsh {args:?}: {}", String::from_utf8_lossy(&ran.stderr));
    }

    /// Starts a program inside the lab. Dropping the returned process ends it.
    pub(crate) fn start_inside(&self, program: &str, args: &[&str]) -> Process {
        let mut command = self.inside(program);
        Process::spawn(command.args(args).stdout(Stdio::null()).stderr(Stdio::null()))
    }

    /// Keeps a connection open, because the in-memory driver forgets its state with the last one.
    pub(crate) fn keep_connected(&self) -> Process {
        let out = File::create(self.shim.path().join("held")).unwrap();
        let mut virsh = self.inside("virsh");
        let held = Process::spawn(virsh.args(["-c", self.uri, "event", "--all", "--loop"]).stdout(out));
        // The state survives between two other connections only once this one is open.
        wait_until("the connection to open", || {
            self.virsh(&["pool-define-as", "--name", "held", "--type", "dir", "--target", "/held"]);
            let names = self.virsh(&["pool-list", "--all", "--name"]);
            let exists = names.lines().any(|name| name.trim() == "held");
            if exists {
                self.virsh(&["pool-undefine", "--pool", "held"]);
            }
            exists
        });
        held
    }
}

/// More calls than any command makes.
const MAX_CALLS: usize = 60;

/// Runs `work` with a fault in its first call, then in its second, and so on until it has no further call. `judge`
/// checks each run. Several modes, as in `fail|lie`, alternate between calls.
pub(crate) fn each_call(modes: &str, work: impl Fn(&str, usize) -> Run, mut judge: impl FnMut(usize, &str, Run)) {
    let modes: Vec<_> = modes.split('|').collect();
    for k in 1..MAX_CALLS {
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
    panic!("more than {MAX_CALLS} calls");
}

/// Polls until `done` returns true; panics after [`SETTLE_LIMIT`].
#[track_caller]
pub(crate) fn wait_until(what: &str, done: impl FnMut() -> bool) {
    wait_for(what, SETTLE_LIMIT, done);
}

/// Polls until `done` returns true; panics after `limit`.
#[track_caller]
pub(crate) fn wait_for(what: &str, limit: Duration, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + limit;
    while !done() {
        assert!(Instant::now() < deadline, "timed out waiting for {what}");
        std::thread::sleep(POLL);
    }
}
