//! A private libvirtd, vmprov run against it, and a look at everything that a run may leave behind.

#[path = "lab/leftovers.rs"]
mod leftovers;
#[path = "lab/running.rs"]
mod running;
#[expect(dead_code, reason = "each user of it has its own part")]
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
pub(crate) use running::{Ran, Running};

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
pub(crate) const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

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

/// What there was at one time.
pub(crate) struct Snapshot(pub(crate) BTreeSet<String>);

impl Lab {
    /// The lab's own QEMU driver.
    pub(crate) fn qemu() -> Self {
        Self::enter("qemu:///system", false)
    }

    /// The same with a pool and a network, as the first create leaves it.
    pub(crate) fn warm() -> Self {
        let lab = Self::qemu();
        lab.run(&["vm", "delete", "warm", "--yes", "--ignore-missing"]).succeeded();
        lab.run(&["vm", "create", "warm", "--no-start"]).succeeded();
        lab.run(&["vm", "delete", "warm", "--yes"]).succeeded();
        lab.run(&["gc"]).succeeded();
        lab
    }

    /// libvirt's in-memory driver in the lab's libvirtd; what is uploaded is kept by the shim.
    pub(crate) fn in_memory() -> Self {
        Self::enter("test+unix:///default", true)
    }

    fn enter(uri: &'static str, store: bool) -> Self {
        // Three labs, so that three tests run at a time; .config/nextest.toml has the same groups. Those with guests share
        // one: a machine that emulates more of them than it has processors makes their kernels stumble.
        let (name, lock) = match env!("CARGO_CRATE_NAME") {
            "agents" | "edit" | "reach" | "real" | "serve_guest" | "session" => ("", "lab.rs"),
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

    /// Takes a port of the lab's loopback.
    pub(crate) fn listen(&self, port: u16) -> std::net::TcpListener {
        let namespace = File::open(self.network()).unwrap();
        // A socket belongs to the namespace in which its thread was when it was made.
        let bind = move || {
            let kind = Some(rustix::thread::LinkNameSpaceType::Network);
            rustix::thread::move_into_link_name_space(std::os::fd::AsFd::as_fd(&namespace), kind).unwrap();
            std::net::TcpListener::bind(("127.0.0.1", port)).unwrap()
        };
        std::thread::spawn(bind).join().unwrap()
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
        let mut command = Process::command("/usr/bin/nsenter");
        command.args(["-t", &self.holder, "-m", "-n", "--", program]);
        command.env_clear().env("PATH", PATH).env("LC_ALL", "C").stdin(Stdio::null());
        command
    }

    /// The words by which another program runs vmprov inside the lab.
    pub(crate) fn words(&self, args: &[&str]) -> Vec<String> {
        let home = format!("HOME={}", self.home.path().display());
        let (path, uri) = (format!("PATH={PATH}"), format!("LIBVIRT_URI={}", self.uri));
        let program = ["/usr/bin/env", "-i", &home, &path, &uri, env!("CARGO_BIN_EXE_vmprov")];
        self.entrance().iter().chain(&program).chain(args).map(|&word| word.to_owned()).collect()
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

    /// Starts vmprov in a container of its own: with another name, and a folder of locks that nobody shares.
    pub(crate) fn begin_in_container(&self, name: &str, args: &[&str]) -> Running {
        let enter = format!("mount -t tmpfs -o mode=0700 locks /run/vmprov-locks && hostname {name} && exec \"$@\"");
        let unshare = ["-m", "-u", "/bin/sh", "-c", &enter, "sh", env!("CARGO_BIN_EXE_vmprov")];
        self.begin_program("/usr/bin/unshare", "", &[&unshare[..], args].concat(), |_| ())
    }

    /// Has a machine that cannot be seen hold a lease; returns its secret's UUID.
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
    pub(crate) fn start_inside(&self, program: &str, args: &[&str]) -> Process {
        let mut command = self.inside(program);
        Process::spawn(command.args(args).stdout(Stdio::null()).stderr(Stdio::null()))
    }

    /// Keeps a connection open, without which the in-memory driver forgets everything.
    pub(crate) fn hold(&self) -> Process {
        let out = File::create(self.shim.path().join("held")).unwrap();
        let mut virsh = self.inside("virsh");
        let held = Process::spawn(virsh.args(["-c", self.uri, "event", "--all", "--loop"]).stdout(out));
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
pub(crate) fn wait_until(what: &str, done: impl FnMut() -> bool) {
    wait_for(what, SETTLE_LIMIT, done);
}

/// The same, within a bound of its own.
#[track_caller]
pub(crate) fn wait_for(what: &str, limit: Duration, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + limit;
    while !done() {
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        std::thread::sleep(POLL);
    }
}
