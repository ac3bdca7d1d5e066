//! `doctor` against a real libvirtd: a host without problems, and then each problem that a test can cause, one at a
//! time. The check reports the problem with the command that fixes it, and applies the fix if it is safe.
#![expect(clippy::unwrap_used, reason = "an error fails the test")]

#[path = "support/lab.rs"]
#[expect(dead_code, reason = "each test binary uses its own part")]
mod lab;
#[expect(dead_code, reason = "each test binary uses its own part")]
mod support;

#[path = "doctor/leftovers.rs"]
mod leftovers;
#[path = "doctor/resources.rs"]
mod resources;

use std::{fs, os::unix::net::UnixListener, process::Command, time::Duration};

use lab::Lab;
use serde_json::{Value, json};
use support::{TestHost, within};

const NOT_FOUND: i32 = 3;
const CONFLICT: i32 = 4;
const DENIED: i32 = 6;
const TOOL_MISSING: i32 = 7;
const UNREACHABLE: i32 = 9;
const TIMEOUT: i32 = 10;
const INTERRUPTED: i32 = 130;

/// Runs a program inside the lab; it must succeed.
#[track_caller]
fn run_inside(lab: &Lab, words: &[&str]) {
    let [program, entrance @ ..] = lab.nsenter();
    let ran = Command::new(program).args(entrance).args(words).output().unwrap();
    assert!(ran.status.success(), "{words:?}: {}", String::from_utf8_lossy(&ran.stderr));
}

/// Runs a shell command line inside the lab, without `sudo`.
#[track_caller]
fn shell_inside(lab: &Lab, line: &str) {
    run_inside(lab, &["/bin/sh", "-c", &line.replace("sudo ", "")]);
}

/// Runs a command line inside the lab when a test ends, even if it fails, to restore what other tests need.
struct RestoreOnDrop<'l>(&'l Lab, String);

impl Drop for RestoreOnDrop<'_> {
    fn drop(&mut self) {
        let [program, entrance @ ..] = self.0.nsenter();
        let ran = Command::new(program).args(entrance).args(["/bin/sh", "-c", &self.1]).status();
        assert!(ran.unwrap().success() || std::thread::panicking(), "{}", self.1);
    }
}

/// Runs one check and returns what it found; the exit status must be `code`.
#[track_caller]
fn check(lab: &Lab, code: i32, id: &str, more: &[&str]) -> Value {
    let ran = lab.run(&[&["doctor", id, "-o", "json"], more].concat()).failed_with(code);
    let mut report = ran.json();
    let checks = report["checks"].as_array_mut().unwrap();
    assert_eq!(checks.len(), 1, "{report}");
    checks.remove(0)
}

/// The result of a check that passed or was skipped, so that there is nothing to fix.
fn without_fix(id: &str, status: &str, observed: &str) -> Value {
    json!({"id": id, "status": status, "observed": observed, "code": null, "fixCommand": null, "safe": false,
        "fixed": false, "actions": []})
}

/// The result of a check that found a problem, with the command that fixes it.
fn fixable(id: &str, status: &str, observed: &str, fix: &str, safe: bool) -> Value {
    let code = match status {
        "fail" => json!("conflict"),
        _ => Value::Null,
    };
    json!({"id": id, "status": status, "observed": observed, "code": code, "fixCommand": fix, "safe": safe,
        "fixed": false, "actions": []})
}

/// The result of the same check after fixes were applied.
fn fixed(found: Value, actions: &[&str]) -> Value {
    let mut found = found;
    found["fixed"] = json!(true);
    found["actions"] = json!(actions);
    found
}

const POOL_OK: &str = "`default` (dir) in /var/lib/libvirt/images";

#[test]
fn every_check_passes_on_a_host_without_problems() {
    let lab = Lab::warm();
    let before = lab.snapshot();
    let report = lab.run(&["doctor", "-o", "json"]).succeeded().json();
    let checks = report["checks"].as_array().unwrap();
    let ids: Vec<_> = checks.iter().map(|check| check["id"].as_str().unwrap()).collect();
    let listed = lab.run(&["doctor", "--list", "-o", "name"]).succeeded().stdout;
    assert_eq!(ids, listed.lines().collect::<Vec<_>>());
    // Checks that depend on the machine that hosts the lab may have any status except `fail`.
    let host_checks =
        ["kvm.", "iommu", "security.", "clock.synchronised", "cache.space", "pool.space", "tools.virt-sysprep"];
    for check in checks {
        let id = check["id"].as_str().unwrap();
        assert_ne!(check["status"], "fail", "{check}");
        assert!(check["status"] == "ok" || host_checks.iter().any(|prefix| id.starts_with(prefix)), "{check}");
        assert_eq!(check["fixed"], false, "{check}");
    }
    let count = |status: &str| checks.iter().filter(|check| check["status"] == status).count();
    let expected = ["ok", "warn", "fail", "skip"].map(|status| (status.to_owned(), json!(count(status))));
    let mut expected: serde_json::Map<_, _> = expected.into_iter().collect();
    expected.insert("fixed".to_owned(), json!(0));
    assert_eq!(report["summary"], Value::Object(expected));
    for (id, observed) in [
        ("pool.active", POOL_OK),
        ("pool.reachable", "QEMU's user `libvirt-qemu` has access to /var/lib/libvirt/images"),
        ("network.active", "`default` (nat) 192.168.122.1/24 on virbr0"),
        ("network.subnet", "no other interface uses 192.168.122.1/24"),
        ("network.forwarding", "the kernel forwards IPv4 packets"),
        ("network.firewall", "no chain drops packets from or to virbr0"),
        ("daemon.permission", "`root` may manage VMs"),
        ("state.incomplete", "no VM is incomplete"),
        ("state.unfinished", "no image is incomplete"),
        ("state.volumes", "every disk, seed and log in the pool `default` belongs to a VM"),
        ("state.locks", "no stale lock exists"),
        ("state.downloads", "no abandoned downloads"),
    ] {
        assert_eq!(check(&lab, 0, id, &[]), without_fix(id, "ok", observed));
    }
    // The result of the KVM probe is cached for later creates.
    let kvm = checks.iter().find(|check| check["id"] == "kvm.works").unwrap();
    let cached =
        fs::read_dir(lab.file(".cache/vmprov")).unwrap().map(|entry| fs::read_to_string(entry.unwrap().path()));
    let cached: String = cached.map(Result::unwrap).collect();
    assert_eq!(cached.contains("works"), kvm["status"] == "ok", "{cached} {kvm}");
    lab.settles_without(&before, |line| line.contains("home .cache/vmprov/kvm-"), "after a run of all checks");
}

#[test]
fn a_missing_or_old_program_is_reported_with_its_install_command() {
    let host = TestHost::new().with_only(&["virsh", "ssh"]);
    let ran = host.run("doctor tools");
    assert_eq!((ran.code(), ran.stderr.as_str()), (TOOL_MISSING, ""), "{ran:?}");
    let lines: Vec<_> = ran.stdout.lines().collect();
    assert!(lines[0].starts_with("ok    tools.virsh         virsh "), "{ran:?}");
    assert_eq!(lines[1], "fail  tools.qemu-img      the program `qemu-img` is not installed");
    assert_eq!(lines[2], "      fix: apt-get install qemu-utils");
    assert_eq!(lines[4], "      fix: apt-get install genisoimage");
    assert_eq!(lines[7], "fail  tools.gpgv          the program `gpgv` is not installed");
    assert_eq!(lines[8], "      fix: apt-get install gpgv");
    assert!(lines[9].starts_with("ok    tools.ssh           ssh OpenSSH"), "{ran:?}");
    assert_eq!(
        lines[10],
        "skip  tools.virt-sysprep  the program `virt-sysprep` is not installed; only `vm commit` needs it"
    );
    assert_eq!(lines[11], "      fix: apt-get install guestfs-tools");
    assert_eq!(lines[14], "2 ok, 0 warnings, 4 failed, 2 skipped");

    // Without virsh libvirt cannot be reached, which is reported once.
    let ran = TestHost::new().with_only(&[]).run("doctor -o json");
    assert_eq!(ran.code(), TOOL_MISSING, "{ran:?}");
    let report = ran.json();
    let by_id = |id: &str| report["checks"].as_array().unwrap().iter().find(|check| check["id"] == id).unwrap().clone();
    assert_eq!(by_id("tools.virsh")["code"], "tool_missing");
    assert_eq!(
        by_id("daemon.reachable"),
        without_fix("daemon.reachable", "skip", "depends on tools.virsh, which did not succeed")
    );
    assert_eq!(
        by_id("pool.space"),
        without_fix("pool.space", "skip", "depends on daemon.reachable, which did not succeed")
    );
    assert_eq!(by_id("clock.time")["status"], "ok");

    let host = TestHost::new().with_program("virsh", "echo 6.9.0");
    let ran = host.run("doctor tools.virsh");
    assert_eq!(ran.code(), CONFLICT, "{ran:?}");
    assert_eq!(
        ran.stdout,
        "fail  tools.virsh  virsh 6.9.0 is too old: `set-user-sshkeys` requires 6.10\n      \
         fix: apt-get install libvirt-clients\n0 ok, 0 warnings, 1 failed, 0 skipped\n"
    );
}

#[test]
fn an_unknown_check_is_refused() {
    let host = TestHost::new();
    host.run("doctor pool.spce").fails(
        NOT_FOUND,
        "error: check `pool.spce` does not exist\n\
         hint: Check the name; similar: `pool.space`, `pool.active`, `pool.reachable`\n\
         hint: List the checks: vmprov doctor --list\n",
    );
    host.run("doctor --list --fix").fails_saying(2, &["cannot be used with"]);
    let ran = host.run("doctor pool -o name").succeeds();
    assert_eq!(ran.stdout, "pool.active\npool.reachable\npool.space\n");
}

/// A program that hangs or prints nonsense is not reported as ok, and does not end the run.
#[test]
fn an_inconclusive_check_is_skipped_with_the_reason() {
    let lab = Lab::warm();
    for (program, script, id, observed) in [
        ("timedatectl", "sleep 1000", "clock.synchronised", "did not end within 5 s"),
        ("timedatectl", "echo maybe", "clock.synchronised", "cannot determine whether the clock is synchronized"),
        ("nft", "echo nonsense", "network.firewall", "cannot parse nft's JSON"),
        (
            "nft",
            "echo 'Operation not permitted' >&2; exit 1",
            "network.firewall",
            "cannot read the packet filter's rules without root",
        ),
        (
            "virsh",
            "case \"$*\" in *capabilities*) /usr/bin/virsh \"$@\" | sed 's/<capabilities/<x/' ;; *) exec /usr/bin/virsh \"$@\" ;; esac",
            "pool.reachable",
            "cannot read libvirt's capabilities XML",
        ),
    ] {
        let host = TestHost::bare().via(lab.nsenter()).with_program(program, script);
        let report = host.run(&format!("doctor {id} -o json")).succeeds().json();
        let found = &report["checks"][0];
        assert_eq!(found["status"], "skip", "{program} {script}: {found}");
        assert!(found["observed"].as_str().unwrap().contains(observed), "{program} {script}: {found}");
    }
    for (word, status) in [("yes", "ok"), ("no", "warn")] {
        let host = TestHost::new().with_program("timedatectl", &format!("echo {word}"));
        let report = host.run("doctor clock.synchronised -o json").succeeds().json();
        assert_eq!(report["checks"][0]["status"], status, "{report}");
    }
}

#[test]
fn a_stopped_daemon_is_distinguished_from_one_that_denies_access() {
    let found = |host: &TestHost, code: i32, args: &[&str]| {
        let ran = host.args(&[args, &["doctor", "daemon", "pool", "-o", "json"]].concat());
        assert_eq!(ran.code(), code, "{ran:?}");
        let report = ran.json();
        assert_eq!(report["summary"]["fail"], 1, "{report}");
        let failed = report["checks"].as_array().unwrap().iter().find(|check| check["status"] == "fail");
        failed.unwrap().clone()
    };
    // A socket that no process listens on.
    let host = TestHost::bare();
    let socket = host.path("libvirt-sock");
    drop(UnixListener::bind(&socket).unwrap());
    let uri = format!("qemu+unix:///system?socket={}", socket.display());
    let stale = found(&host, UNREACHABLE, &["-c", &uri]);
    assert_eq!((&stale["id"], &stale["code"]), (&"daemon.reachable".into(), &"unreachable".into()));
    assert_eq!(stale["observed"], "libvirtd is not running but left its socket ~/libvirt-sock");
    // No socket at all.
    let missing = socket.with_file_name("none");
    let uri = format!("qemu+unix:///system?socket={}", missing.display());
    let missing_socket = found(&host, UNREACHABLE, &["-c", &uri]);
    let observed = "libvirtd is installed but not running: the socket ~/none does not exist";
    assert_eq!((&missing_socket["id"], &missing_socket["observed"]), (&"daemon.reachable".into(), &observed.into()));
    // A libvirt on another machine, which cannot be reached.
    let remote = found(&host, UNREACHABLE, &["-c", "qemu+ssh://127.0.0.1:1/system"]);
    assert!(remote["observed"].as_str().unwrap().contains("Connection refused"), "{remote}");
    assert_eq!(remote["fixCommand"], "virsh -c qemu+ssh://127.0.0.1:1/system version");
    // A libvirt that hangs.
    let hanging = "case \"$1\" in --version) echo 11.3.0 ;; *) sleep 1000 ;; esac";
    let host = TestHost::bare().with_program("virsh", hanging);
    let ran = host.run("doctor daemon.reachable");
    assert_eq!(ran.code(), TIMEOUT, "{ran:?}");
    assert!(ran.stdout.starts_with("fail  daemon.reachable  libvirt does not answer within 30 s\n      fix: sudo "));
    // A libvirt that denies access to this user.
    let lab = Lab::warm();
    let words = ["/usr/bin/setpriv", "--no-new-privs", "--inh-caps=-all", "--bounding-set=-all"];
    let nobody = ["--reuid=65534", "--regid=65534", "--clear-groups"];
    let host = TestHost::bare().via(lab.nsenter()).via(words).via(nobody);
    let denied = found(&host, DENIED, &["-c", "qemu:///system"]);
    let observed = "user `nobody` is not in the group `libvirt`, as libvirt's socket requires (qemu:///session \
                    requires no group); membership takes effect at the next login";
    let expected = json!({"id": "daemon.permission", "status": "fail", "observed": observed, "code": "denied",
        "fixCommand": "sudo usermod -aG libvirt nobody", "safe": false, "fixed": false, "actions": []});
    assert_eq!(denied, expected);
}

/// Checks that do not apply to a libvirt on another machine, or to a session, are skipped.
#[test]
fn a_check_that_does_not_apply_is_skipped_with_the_reason() {
    let host = TestHost::new();
    let report = host.run("doctor -o json").succeeds().json();
    let by_id = |id: &str| report["checks"].as_array().unwrap().iter().find(|check| check["id"] == id).unwrap().clone();
    let none = "libvirt's driver `test` runs no guests on this machine";
    for id in ["kvm.device", "pool.reachable", "network.subnet", "network.firewall", "security.apparmor", "daemon.log"]
    {
        assert_eq!(by_id(id), without_fix(id, "skip", none));
    }
    assert_eq!(by_id("daemon.qemu"), without_fix("daemon.qemu", "ok", "TEST 0.0.2"));
    assert_eq!(by_id("kvm.works"), without_fix("kvm.works", "skip", "libvirt's driver `test` has no KVM"));

    let session = host.args(&["-c", "qemu:///session", "doctor", "network", "iommu", "-o", "json"]).succeeds().json();
    let network = &session["checks"].as_array().unwrap()[1];
    assert_eq!(*network, without_fix("network.active", "skip", "does not apply to a session (qemu:///session)"));
    // The remote machine need not be reachable for this.
    let remote =
        host.args(&["-c", "qemu+ssh://127.0.0.1:1/system", "doctor", "network.dnsmasq", "-o", "json"]).succeeds();
    let reason = "libvirt is on another machine, which cannot be checked from here";
    assert_eq!(remote.json()["checks"][0], without_fix("network.dnsmasq", "skip", reason));
}

/// A container that has libvirt's socket but not its files must not report these files as missing.
#[test]
fn a_container_with_libvirts_socket_does_not_check_its_own_files() {
    let lab = Lab::warm();
    let hidden = "hostname elsewhere && mount -t tmpfs none /var/lib/libvirt && exec \"$@\"";
    let container = ["/usr/bin/unshare", "-u", "-m", "/bin/sh", "-c", hidden, "sh"];
    let ran = TestHost::bare().via(lab.nsenter()).via(container).run("doctor --fix -o json").succeeds();
    let report = ran.json();
    let by_id = |id: &str| report["checks"].as_array().unwrap().iter().find(|check| check["id"] == id).unwrap().clone();
    for id in ["kvm.device", "pool.reachable", "network.subnet", "network.firewall", "security.denials"] {
        let found = by_id(id);
        assert_eq!(found["status"], "skip", "{found}");
        assert!(
            found["observed"]
                .as_str()
                .unwrap()
                .ends_with("whose files and devices are not visible on this one, `elsewhere`")
        );
    }
    assert_eq!(by_id("pool.active"), without_fix("pool.active", "ok", POOL_OK));
    assert_eq!(report["summary"]["fixed"], 0, "{report}");
}

/// The keys of the current user on this machine.
#[test]
fn unusable_keys_are_reported() {
    let host = TestHost::new();
    let folder = host.path(".local/share/vmprov/keys");
    let shown = "~/.local/share/vmprov/keys";
    let run = |observed: &str, status: &str| {
        let counts = if status == "ok" { "1 ok, 0 warnings" } else { "0 ok, 1 warning" };
        let report = format!("{status:4}  keys.folder  {observed}\n{counts}, 0 failed, 0 skipped\n");
        host.run("doctor keys").prints(&report);
    };
    run(&format!("{shown} does not exist yet; generating the first key creates it"), "ok");
    host.run("key generate dev --type ed25519").succeeds();
    run(&format!("keys in {shown}: 1"), "ok");
    host.tool("chmod", &["777", folder.to_str().unwrap()]);
    run(&format!("other users can replace the keys in `{shown}`\n      fix: chmod go-w {shown}"), "warn");
    host.tool("chmod", &["700", folder.to_str().unwrap()]);
    host.tool("chmod", &["644", folder.join("dev").to_str().unwrap()]);
    let fix = format!("fix: chmod 600 {shown}/dev");
    run(&format!("ssh rejects the key `dev`: other users have access to its file\n      {fix}"), "warn");
}

#[test]
fn an_interrupt_ends_doctor() {
    let script = "case \"$1\" in --version) echo 11.3.0 ;; *) : >begun; exec sleep 1000 ;; esac";
    let host = TestHost::new().with_program("virsh", script);
    let running = host.start(&["doctor", "daemon", "keys"], "");
    assert!(within(Duration::from_mins(1), || host.path("begun").exists()), "the fake virsh was not started");
    running.signal(rustix::process::Signal::INT);
    running.end().fails(INTERRUPTED, "error: interrupted\n");
}

/// A user who is not root but may use libvirt: a check of something that only root can read does not pass.
#[test]
fn checks_that_require_root_are_skipped_for_other_users() {
    let lab = Lab::warm();
    let groups = fs::read_to_string("/etc/group").unwrap();
    let libvirt = groups.lines().find_map(|line| line.strip_prefix("libvirt:")).unwrap().split(':').nth(1).unwrap();
    let words = ["/usr/bin/setpriv", "--no-new-privs", "--inh-caps=-all", "--bounding-set=-all"];
    let user = ["--reuid=65534", "--regid=65534", &format!("--groups={libvirt}")];
    let host = TestHost::bare().via(lab.nsenter()).via(words).via(user);
    let report = host.run("doctor -o json").succeeds().json();
    let by_id = |id: &str| report["checks"].as_array().unwrap().iter().find(|check| check["id"] == id).unwrap().clone();
    assert_eq!(by_id("daemon.permission"), without_fix("daemon.permission", "ok", "`nobody` may manage VMs"));
    assert_eq!(by_id("daemon.log"), without_fix("daemon.log", "skip", "only root may connect to virtlogd"));
    let firewall = by_id("network.firewall");
    assert_eq!(firewall["status"], "skip", "{firewall}");
    assert!(
        firewall["observed"].as_str().unwrap().starts_with("cannot read the packet filter's rules without root: "),
        "{firewall}"
    );
    for id in ["pool.active", "pool.reachable", "network.active", "network.subnet", "state.volumes"] {
        assert_eq!(by_id(id)["status"], "ok", "{}", by_id(id));
    }
}

/// An error gets its hint from the check that finds its cause; if no check finds it, the error keeps its own hint.
#[test]
fn an_error_gets_its_hint_from_a_failed_check() {
    let complaint = |text: &str| format!("echo \"error: Failed to start it\nerror: {text}\" >&2; exit 1");
    let socket = "/run/libvirt/virtlogd-sock";
    let script = complaint(&format!("Failed to connect socket to '{socket}': No such file or directory"));
    let empty = ["/usr/bin/unshare", "-m", "/bin/sh", "-c", "mount -t tmpfs none /run/libvirt && exec \"$@\"", "sh"];
    let host = TestHost::bare().via(empty).with_program("virsh", &script);
    host.run("vm list").fails_saying(
        8,
        &[&format!("hint: virtlogd does not listen on {socket}: "), ": sudo systemctl enable --now virtlogd.socket\n"],
    );
    // There is enough space, dnsmasq is installed, and the file is on another machine.
    let full = "hint: Check the free space of the storage pool: virsh pool-info POOL\n";
    let qemu = "hint: Check that the user of QEMU (libvirt-qemu) can read the file and enter every folder above it\n";
    let by_hand = "hint: Try the connection by hand: virsh -c qemu+ssh://host/system version\n";
    for (args, text, says) in [
        ("", "No space left on device", full),
        ("", "Cannot find 'dnsmasq' in path", "why: Failed to start it: Cannot find 'dnsmasq' in path\n"),
        ("-c qemu+ssh://host/system ", "failed to connect to the hypervisor", by_hand),
        ("-c qemu+ssh://host/system ", "Cannot access storage file '/x' (as uid:1, gid:1): Permission denied", qemu),
    ] {
        let ran = TestHost::new().with_program("virsh", &complaint(text)).run(&format!("{args}vm list"));
        assert!(ran.stderr.contains(says) && !ran.stderr.contains("fix:"), "{ran:?}");
    }
}
