//! Somebody without any privilege: no group, no system libvirt, no network but their own. Real guests all the same, one
//! behind QEMU's own user-mode network and one behind passt.
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
use support::{Process, Ran, TestHost};

/// Somebody who is nobody. libvirt wants them to be in the list of users.
const NOBODY: u32 = 65_534;

/// A network namespace of this test's own; in it is nothing but a loopback. The system's socket is the lab's.
struct Namespace {
    holder: Process,
}

impl Namespace {
    fn of(lab: &Lab) -> Self {
        let [nsenter, rest @ ..] = lab.entrance();
        let mut holder = Process::command(nsenter);
        holder.args(rest).args(["unshare", "--net", "sleep", "infinity"]).stdin(Stdio::null());
        let namespace = Self { holder: Process::spawn(&mut holder) };
        let own = |process: &str| fs::read_link(format!("/proc/{process}/ns/net")).ok();
        let there = || {
            let ours = own(&namespace.holder.id().to_string());
            ours.is_some() && ours != own("self") && ours != fs::read_link(lab.network()).ok()
        };
        lab::wait_until("a network of this test's own", there);
        namespace.does(&["ip", "link", "set", "lo", "up"]);
        namespace
    }

    fn entrance(&self) -> Vec<String> {
        let holder = self.holder.id().to_string();
        ["/usr/bin/nsenter", "-t", &holder, "-m", "-n", "--"].map(str::to_owned).to_vec()
    }

    #[track_caller]
    fn does(&self, words: &[&str]) {
        let entrance = self.entrance();
        let ran = Command::new(&entrance[0]).args(&entrance[1..]).args(words).output().unwrap();
        assert!(ran.status.success(), "{words:?}: {ran:?}");
    }

    /// The processes in it beside the one that holds it.
    fn processes(&self) -> Vec<(i32, String)> {
        let net = |pid: i32| fs::read_link(format!("/proc/{pid}/ns/net")).ok();
        let holder = self.holder.id().as_raw_nonzero().get();
        let ours = net(holder);
        let pids = fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
        let members = pids.filter(|&pid| pid != holder && net(pid) == ours);
        let name = |pid| Some((pid, fs::read_to_string(format!("/proc/{pid}/comm")).ok()?.trim().to_owned()));
        members.filter_map(name).collect()
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // The session's daemons and, of a test that failed, its guests: nobody else is in here.
        for (pid, _) in self.processes() {
            let pid = rustix::process::Pid::from_raw(pid).unwrap();
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
    }
}

/// The user's home, in which the image is.
fn home(namespace: &Namespace) -> TestHost {
    let mut host = TestHost::bare().by(namespace.entrance());
    let words = ["/usr/bin/setpriv", "--no-new-privs", "--inh-caps=-all", "--bounding-set=-all", "--clear-groups"];
    host = host.by(words).by([format!("--reuid={NOBODY}"), format!("--regid={NOBODY}")]);
    let run = host.path("run");
    fs::create_dir(&run).unwrap();
    fs::set_permissions(&run, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    let built = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/lab/image")).output().unwrap();
    assert!(built.status.success(), "no image: {}", String::from_utf8_lossy(&built.stderr));
    fs::copy(String::from_utf8(built.stdout).unwrap().trim(), host.path("debian-12.qcow2")).unwrap();
    for path in [&host.path(""), &run, &host.path("debian-12.qcow2")] {
        chown(path, Some(NOBODY), Some(NOBODY)).unwrap();
    }
    let run = run.to_str().unwrap().to_owned();
    host.with_env("XDG_RUNTIME_DIR", &run)
}

/// Waits for a guest that is emulated on few cores, perhaps shared ones.
#[track_caller]
fn waits(host: &TestHost, vm: &str, goal: &str) {
    let wait = || host.run(&format!("-q vm wait {vm} --for {goal} --timeout 100s"));
    let last = std::iter::repeat_with(wait).take(8).find(|ran| ran.code() == 0);
    assert!(last.is_some(), "{vm} does not come up: {:?}", wait());
}

#[track_caller]
fn prints(ran: &Ran) -> &str {
    assert_eq!(ran.code(), 0, "{ran:?}");
    &ran.stdout
}

#[test]
fn somebody_without_privileges_has_vms_too() {
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
        prints(&host.run(&format!("key generate {key} --type ed25519")));
    }
    // Chosen by itself, and said.
    let said =
        "note: using qemu:///session: qemu:///system cannot be used (/run/libvirt/libvirt-sock: Permission denied";
    let ran = create("slirp");
    assert!(prints(&ran).contains("running") && ran.stderr.contains(said), "{ran:?}");
    assert!(ran.stderr.contains("`slirp` uses user-mode networking; SSH is at 127.0.0.1 port "), "{ran:?}");
    // The port takes connections before anybody in the guest does.
    let ran = host.run("-q vm wait slirp --timeout 3s -o json");
    assert!(ran.code() == 10 && ran.stderr.contains("\"stage\": \"port-closed\""), "{ran:?}");
    let ran = host.run("config -o json");
    assert!(prints(&ran).contains("default: qemu:///system cannot be used") && ran.stderr.is_empty(), "{ran:?}");
    // Who asks for the system's is told how to get it, and given no other.
    let refused = host.run("-c qemu:///system vm list");
    assert_eq!(refused.code(), 6, "{refused:?}");
    assert!(
        refused.stderr.contains("usermod -aG libvirt") && refused.stderr.contains("qemu:///session"),
        "{refused:?}"
    );

    // With a way out of the machine there is something for passt to stand in for. Nothing is at its other end.
    namespace.does(&["ip", "link", "add", "out", "type", "bridge"]);
    namespace.does(&["ip", "addr", "add", "10.99.0.2/24", "dev", "out"]);
    namespace.does(&["ip", "link", "set", "out", "up"]);
    namespace.does(&["ip", "route", "add", "default", "via", "10.99.0.1"]);
    prints(&create("passt"));
    let has_passt = || namespace.processes().iter().any(|(_, name)| name.starts_with("passt"));
    assert!(has_passt(), "{:?}", namespace.processes());

    reached(&host, "slirp");
    reached(&host, "passt");
    injected(&host);
    ends(&host, &namespace);
}

/// Everything that reaches a guest reaches this one, at a port of the loopback.
fn reached(host: &TestHost, vm: &str) {
    waits(host, vm, "cloud-init");
    let ip = host.run(&format!("-q vm ip {vm}"));
    let port = prints(&ip).trim().strip_prefix("127.0.0.1:").unwrap().to_owned();
    let info: serde_json::Value = serde_json::from_str(prints(&host.run(&format!("-q vm info {vm} -o json")))).unwrap();
    assert_eq!((info["sshPort"].to_string(), &info["addresses"][0]), (port.clone(), &"127.0.0.1".into()));
    assert_eq!(info["interfaces"][0]["type"], "user", "{info}");
    assert_eq!(prints(&host.run(&format!("-q vm ssh {vm} -- hostname"))), format!("{vm}\n"));
    let ran = host.args(&["-q", "vm", "exec", vm, "--", "sh", "-c", "cat; exit 9"]);
    assert_eq!(ran.code(), 9, "{ran:?}");
    let file = host.write("file", format!("for {vm}\n"));
    prints(&host.args(&["-q", "vm", "cp", &file, &format!("{vm}:")]));
    prints(&host.args(&["-q", "vm", "cp", &format!("{vm}:file"), &host.path("run/back").display().to_string()]));
    assert_eq!(fs::read_to_string(host.path("run/back")).unwrap(), format!("for {vm}\n"));
    let config = host.run(&format!("-q ssh-config {vm}"));
    assert!(prints(&config).contains(&format!("Host {vm}\n  HostName 127.0.0.1\n  Port {port}\n")), "{config:?}");
    assert!(prints(&host.run(&format!("-q vm logs {vm}"))).contains("Cloud-init v."));
}

/// A second key, by the agent and through a restart with a new seed.
fn injected(host: &TestHost) {
    let ran = host.run("-q inject slirp second --restart -o json");
    assert!(prints(&ran).contains("\"method\": \"agent\"") && ran.stdout.contains("\"verified\": true"), "{ran:?}");
    prints(&host.run("-q inject passt second --method cloud-init"));
    prints(&host.run("-q vm restart passt --timeout 100s"));
    waits(host, "passt", "cloud-init");
    assert_eq!(
        prints(&host.args(&["-q", "vm", "exec", "passt", "--", "grep", "-c", ".", ".ssh/authorized_keys"])),
        "2\n"
    );
}

/// Deleted, nothing of the VMs is left, neither a file nor a process.
fn ends(host: &TestHost, namespace: &Namespace) {
    prints(&host.run("-q vm delete slirp passt --yes"));
    prints(&host.run("-q image prune --all"));
    assert_eq!(prints(&host.run("-q gc")), "nothing to clean up\n");
    let pool = host.path(".local/share/libvirt/images");
    let left =
        |folder: &Path| fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name()).collect::<Vec<_>>();
    assert_eq!(left(&pool), Vec::<std::ffi::OsString>::new());
    // A session's daemons end by themselves when nobody has asked them anything for two minutes.
    let guests =
        || namespace.processes().into_iter().filter(|(_, name)| !name.starts_with("libvirtd") && name != "virtlogd");
    lab::wait_until("the end of the guests' processes", || guests().next().is_none());
}
