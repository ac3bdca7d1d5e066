//! A user without any privileges: no groups, no access to the system's libvirt, and only a user-mode network. Real
//! guests run anyway, one behind QEMU's own user-mode network and one behind passt.
#![expect(clippy::unwrap_used, reason = "clippy knows only the functions marked as tests")]

#[path = "support/lab.rs"]
#[expect(dead_code, reason = "each test binary uses its own part")]
mod lab;
#[expect(dead_code, reason = "each test binary uses its own part")]
mod support;

use std::{
    fs,
    os::unix::fs::chown,
    path::Path,
    process::{Command, Stdio},
};

use lab::Lab;
use support::{Process, Run, TestHost};

/// The ID of the user `nobody`. libvirt requires that the user is in the system's list of users.
const NOBODY: u32 = 65_534;

/// A network namespace for this test, with only a loopback interface. The socket of the system's libvirt is the lab's.
struct Namespace {
    holder: Process,
}

impl Namespace {
    fn of(lab: &Lab) -> Self {
        let [nsenter, rest @ ..] = lab.nsenter();
        let mut holder = Process::command(nsenter);
        holder.args(rest).args(["unshare", "--net", "sleep", "infinity"]).stdin(Stdio::null());
        let namespace = Self { holder: Process::spawn(&mut holder) };
        let network_of = |process: &str| fs::read_link(format!("/proc/{process}/ns/net")).ok();
        let is_separate = || {
            let inner = network_of(&namespace.holder.id().to_string());
            inner.is_some() && inner != network_of("self") && inner != fs::read_link(lab.network()).ok()
        };
        lab::wait_until("a separate network namespace", is_separate);
        namespace.run(&["ip", "link", "set", "lo", "up"]);
        namespace
    }

    fn entrance(&self) -> Vec<String> {
        let holder = self.holder.id().to_string();
        ["/usr/bin/nsenter", "-t", &holder, "-m", "-n", "--"].map(str::to_owned).to_vec()
    }

    #[track_caller]
    fn run(&self, words: &[&str]) {
        let entrance = self.entrance();
        let ran = Command::new(&entrance[0]).args(&entrance[1..]).args(words).output().unwrap();
        assert!(ran.status.success(), "{words:?}: {ran:?}");
    }

    /// Returns the processes in the namespace, except the one that keeps it.
    fn processes(&self) -> Vec<(i32, String)> {
        let net = |pid: i32| fs::read_link(format!("/proc/{pid}/ns/net")).ok();
        let holder = self.holder.id().as_raw_nonzero().get();
        let own = net(holder);
        let pids = fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
        let members = pids.filter(|&pid| pid != holder && net(pid) == own);
        let name = |pid| Some((pid, fs::read_to_string(format!("/proc/{pid}/comm")).ok()?.trim().to_owned()));
        members.filter_map(name).collect()
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // The session's daemons and, after a failed test, its guests. Nothing else runs in the namespace.
        for (pid, _) in self.processes() {
            let pid = rustix::process::Pid::from_raw(pid).unwrap();
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
    }
}

/// Returns the home of the unprivileged user, with the image in it.
fn home(namespace: &Namespace) -> TestHost {
    let mut host = TestHost::bare().via(namespace.entrance());
    let words = ["/usr/bin/setpriv", "--no-new-privs", "--inh-caps=-all", "--bounding-set=-all", "--clear-groups"];
    host = host.via(words).via([format!("--reuid={NOBODY}"), format!("--regid={NOBODY}")]);
    let run = host.path("run");
    fs::create_dir(&run).unwrap();
    fs::set_permissions(&run, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    let built = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/lab/image")).output().unwrap();
    assert!(built.status.success(), "cannot build the image: {}", String::from_utf8_lossy(&built.stderr));
    fs::copy(String::from_utf8(built.stdout).unwrap().trim(), host.path("debian-12.qcow2")).unwrap();
    for path in [&host.path(""), &run, &host.path("debian-12.qcow2")] {
        chown(path, Some(NOBODY), Some(NOBODY)).unwrap();
    }
    let run = run.to_str().unwrap().to_owned();
    host.with_env("XDG_RUNTIME_DIR", &run)
}

/// Waits for an emulated guest, which may be slow.
#[track_caller]
fn wait_for(host: &TestHost, vm: &str, goal: &str) {
    let wait = || host.run(&format!("-q vm wait {vm} --for {goal} --timeout 100s"));
    let last = std::iter::repeat_with(wait).take(8).find(|ran| ran.code() == 0);
    assert!(last.is_some(), "{vm} did not reach {goal}: {:?}", wait());
}

#[track_caller]
fn stdout_of(ran: &Run) -> &str {
    assert_eq!(ran.code(), 0, "{ran:?}");
    &ran.stdout
}

#[test]
fn a_user_without_privileges_can_run_vms() {
    let lab = Lab::qemu();
    let namespace = Namespace::of(&lab);
    let host = home(&namespace);
    let image = host.path("debian-12.qcow2");
    let create = |vm: &str| {
        let image = image.to_str().unwrap();
        let create = ["vm", "create", vm, "--image", image, "--ssh-key", "first", "--user", "debian"];
        host.args(&[&create[..], &["--memory", "640", "--vcpus", "1"]].concat())
    };
    for key in ["first", "second"] {
        stdout_of(&host.run(&format!("key generate {key} --type ed25519")));
    }
    // The session is chosen automatically, and a note says so.
    let note =
        "note: using qemu:///session: qemu:///system cannot be used (/run/libvirt/libvirt-sock: Permission denied";
    let ran = create("slirp");
    assert!(stdout_of(&ran).contains("running") && ran.stderr.contains(note), "{ran:?}");
    assert!(ran.stderr.contains("`slirp` uses user-mode networking; SSH is at 127.0.0.1 port "), "{ran:?}");
    // QEMU accepts connections to the port before anything in the guest listens.
    let ran = host.run("-q vm wait slirp --timeout 3s -o json");
    assert!(ran.code() == 10 && ran.stderr.contains("\"stage\": \"port-closed\""), "{ran:?}");
    let ran = host.run("config -o json");
    assert!(stdout_of(&ran).contains("default: qemu:///system cannot be used") && ran.stderr.is_empty(), "{ran:?}");
    // An explicit request for the system's libvirt fails with a hint how to get access, and does not fall back.
    let refused = host.run("-c qemu:///system vm list");
    assert_eq!(refused.code(), 6, "{refused:?}");
    assert!(
        refused.stderr.contains("usermod -aG libvirt") && refused.stderr.contains("qemu:///session"),
        "{refused:?}"
    );

    // passt needs a default route, because it maps the guest to an interface of the host. This route leads nowhere.
    namespace.run(&["ip", "link", "add", "out", "type", "bridge"]);
    namespace.run(&["ip", "addr", "add", "10.99.0.2/24", "dev", "out"]);
    namespace.run(&["ip", "link", "set", "out", "up"]);
    namespace.run(&["ip", "route", "add", "default", "via", "10.99.0.1"]);
    stdout_of(&create("passt"));
    let has_passt = || namespace.processes().iter().any(|(_, name)| name.starts_with("passt"));
    assert!(has_passt(), "{:?}", namespace.processes());

    check_access(&host, "slirp");
    check_access(&host, "passt");
    inject_keys(&host);
    delete_everything(&host, &namespace);
}

/// Accesses a guest in every way, through a port on the loopback interface.
fn check_access(host: &TestHost, vm: &str) {
    wait_for(host, vm, "cloud-init");
    let ip = host.run(&format!("-q vm ip {vm}"));
    let port = stdout_of(&ip).trim().strip_prefix("127.0.0.1:").unwrap().to_owned();
    let info: serde_json::Value =
        serde_json::from_str(stdout_of(&host.run(&format!("-q vm info {vm} -o json")))).unwrap();
    assert_eq!((info["sshPort"].to_string(), &info["addresses"][0]), (port.clone(), &"127.0.0.1".into()));
    assert_eq!(info["interfaces"][0]["type"], "user", "{info}");
    assert_eq!(stdout_of(&host.run(&format!("-q vm ssh {vm} -- hostname"))), format!("{vm}\n"));
    let ran = host.args(&["-q", "vm", "exec", vm, "--", "sh", "-c", "cat; exit 9"]);
    assert_eq!(ran.code(), 9, "{ran:?}");
    let file = host.write("file", format!("for {vm}\n"));
    stdout_of(&host.args(&["-q", "vm", "cp", &file, &format!("{vm}:")]));
    stdout_of(&host.args(&["-q", "vm", "cp", &format!("{vm}:file"), &host.path("run/back").display().to_string()]));
    assert_eq!(fs::read_to_string(host.path("run/back")).unwrap(), format!("for {vm}\n"));
    let config = host.run(&format!("-q ssh-config {vm}"));
    assert!(stdout_of(&config).contains(&format!("Host {vm}\n  HostName 127.0.0.1\n  Port {port}\n")), "{config:?}");
    assert!(stdout_of(&host.run(&format!("-q vm logs {vm}"))).contains("Cloud-init v."));
}

/// Injects a second key: into one guest through its agent, and into the other through a new seed and a restart.
fn inject_keys(host: &TestHost) {
    let ran = host.run("-q inject slirp second --restart -o json");
    assert!(stdout_of(&ran).contains("\"method\": \"agent\"") && ran.stdout.contains("\"verified\": true"), "{ran:?}");
    stdout_of(&host.run("-q inject passt second --method cloud-init"));
    stdout_of(&host.run("-q vm restart passt --timeout 100s"));
    wait_for(host, "passt", "cloud-init");
    assert_eq!(
        stdout_of(&host.args(&["-q", "vm", "exec", "passt", "--", "grep", "-c", ".", ".ssh/authorized_keys"])),
        "2\n"
    );
}

/// Deletes the VMs, and checks that no files and no processes of them are left.
fn delete_everything(host: &TestHost, namespace: &Namespace) {
    stdout_of(&host.run("-q vm delete slirp passt --yes"));
    stdout_of(&host.run("-q image prune --all"));
    assert_eq!(stdout_of(&host.run("-q gc")), "nothing to clean up\n");
    let pool = host.path(".local/share/libvirt/images");
    let left =
        |folder: &Path| fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name()).collect::<Vec<_>>();
    assert_eq!(left(&pool), Vec::<std::ffi::OsString>::new());
    // The session's daemons end by themselves after two minutes without requests.
    let guests =
        || namespace.processes().into_iter().filter(|(_, name)| !name.starts_with("libvirtd") && name != "virtlogd");
    lab::wait_until("the end of the guests' processes", || guests().next().is_none());
}
