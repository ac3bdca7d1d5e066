//! `doctor` against a real libvirtd: a host on which all is well, and then each fault that can be made there, one by
//! one: told by the check whose it is, with the command that mends it, and mended where that is without a risk.
#![expect(clippy::unwrap_used, reason = "a test ends where something goes wrong")]

#[path = "support/lab.rs"]
#[expect(dead_code, reason = "each test binary uses its own part")]
mod lab;
#[expect(dead_code, reason = "each test binary uses its own part")]
mod support;

#[path = "doctor/resources.rs"]
mod resources;

use std::{
    fs,
    os::unix::net::UnixListener,
    path::Path,
    process::Command,
    time::{Duration, SystemTime},
};

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
fn inside(lab: &Lab, words: &[&str]) {
    let [program, entrance @ ..] = lab.entrance();
    let ran = Command::new(program).args(entrance).args(words).output().unwrap();
    assert!(ran.status.success(), "{words:?}: {}", String::from_utf8_lossy(&ran.stderr));
}

/// A shell's line inside the lab, without what only a user needs.
#[track_caller]
fn type_inside(lab: &Lab, line: &str) {
    inside(lab, &["/bin/sh", "-c", &line.replace("sudo ", "")]);
}

/// Types a line inside the lab when a test ends, however it ends: what the lab's other tests need is put back.
struct PutBack<'l>(&'l Lab, String);

impl Drop for PutBack<'_> {
    fn drop(&mut self) {
        let [program, entrance @ ..] = self.0.entrance();
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

/// What a check is that found nothing to mend.
fn quiet(id: &str, status: &str, saw: &str) -> Value {
    json!({"id": id, "status": status, "saw": saw, "code": null, "fix": null, "safe": false, "fixed": false, "did": []})
}

/// What a check is that found something, and what mends it.
fn mendable(id: &str, status: &str, saw: &str, fix: &str, safe: bool) -> Value {
    let code = match status {
        "fail" => json!("conflict"),
        _ => Value::Null,
    };
    json!({"id": id, "status": status, "saw": saw, "code": code, "fix": fix, "safe": safe, "fixed": false, "did": []})
}

/// The same check after it was mended.
fn mended(found: Value, did: &[&str]) -> Value {
    let mut found = found;
    found["fixed"] = json!(true);
    found["did"] = json!(did);
    found
}

const WELL: &str = "`default` (dir) in /var/lib/libvirt/images";

#[test]
fn a_host_on_which_all_is_well_says_so_of_every_check() {
    let lab = Lab::warm();
    let before = lab.snapshot();
    let report = lab.run(&["doctor", "-o", "json"]).succeeded().json();
    let checks = report["checks"].as_array().unwrap();
    let ids: Vec<_> = checks.iter().map(|check| check["id"].as_str().unwrap()).collect();
    let listed = lab.run(&["doctor", "--list", "-o", "name"]).succeeded().stdout;
    assert_eq!(ids, listed.lines().collect::<Vec<_>>());
    // What depends on the machine below the lab may be anything but a failure.
    let depends =
        ["kvm.", "iommu", "security.", "clock.synchronised", "cache.space", "pool.space", "tools.virt-sysprep"];
    for check in checks {
        let id = check["id"].as_str().unwrap();
        assert_ne!(check["status"], "fail", "{check}");
        assert!(check["status"] == "ok" || depends.iter().any(|prefix| id.starts_with(prefix)), "{check}");
        assert_eq!(check["fixed"], false, "{check}");
    }
    let count = |status: &str| checks.iter().filter(|check| check["status"] == status).count();
    let expected = ["ok", "warn", "fail", "skip"].map(|status| (status.to_owned(), json!(count(status))));
    let mut expected: serde_json::Map<_, _> = expected.into_iter().collect();
    expected.insert("fixed".to_owned(), json!(0));
    assert_eq!(report["summary"], Value::Object(expected));
    for (id, saw) in [
        ("pool.active", WELL),
        ("pool.reachable", "`libvirt-qemu`, whom QEMU runs as, gets to /var/lib/libvirt/images"),
        ("network.active", "`default` (nat) 192.168.122.1/24 on virbr0"),
        ("network.subnet", "no other interface has 192.168.122.1/24"),
        ("network.forwarding", "the kernel forwards IPv4 packets"),
        ("network.firewall", "no chain drops what virbr0 sends or is sent"),
        ("daemon.permission", "`root` may manage VMs"),
        ("state.incomplete", "every VM is whole"),
        ("state.unfinished", "every image is whole"),
        ("state.volumes", "each disk, seed and log in the pool `default` is a VM's"),
        ("state.locks", "no lock is left"),
        ("state.downloads", "no download was left alone"),
    ] {
        assert_eq!(check(&lab, 0, id, &[]), quiet(id, "ok", saw));
    }
    // What trying KVM has shown is what a create then goes by.
    let kvm = checks.iter().find(|check| check["id"] == "kvm.works").unwrap();
    let cached =
        fs::read_dir(lab.file(".cache/vmprov")).unwrap().map(|entry| fs::read_to_string(entry.unwrap().path()));
    let cached: String = cached.map(Result::unwrap).collect();
    assert_eq!(cached.contains("works"), kvm["status"] == "ok", "{cached} {kvm}");
    lab.settles_without(&before, |line| line.contains("home .cache/vmprov/kvm-"), "a look");
}

#[test]
fn a_program_that_is_missing_or_too_old_is_told_with_what_installs_it() {
    let host = TestHost::new().with_only(&["virsh", "ssh"]);
    let ran = host.run("doctor tools");
    assert_eq!((ran.code(), ran.stderr.as_str()), (TOOL_MISSING, ""), "{ran:?}");
    let lines: Vec<_> = ran.stdout.lines().collect();
    assert!(lines[0].starts_with("ok    tools.virsh         virsh "), "{ran:?}");
    assert_eq!(lines[1], "fail  tools.qemu-img      the program `qemu-img` is not installed");
    assert_eq!(lines[2], "      mend it: apt-get install qemu-utils");
    assert_eq!(lines[4], "      mend it: apt-get install genisoimage");
    assert!(lines[7].starts_with("ok    tools.ssh           ssh OpenSSH"), "{ran:?}");
    assert_eq!(
        lines[8],
        "skip  tools.virt-sysprep  the program `virt-sysprep` is not installed; only `vm commit` needs it"
    );
    assert_eq!(lines[9], "      mend it: apt-get install guestfs-tools");
    assert_eq!(lines[12], "2 ok, 0 to look at, 3 failed, 2 skipped");

    // Without virsh nobody can be asked, and that is told once.
    let ran = TestHost::new().with_only(&[]).run("doctor -o json");
    assert_eq!(ran.code(), TOOL_MISSING, "{ran:?}");
    let report = ran.json();
    let of = |id: &str| report["checks"].as_array().unwrap().iter().find(|check| check["id"] == id).unwrap().clone();
    assert_eq!(of("tools.virsh")["code"], "tool_missing");
    assert_eq!(of("daemon.reachable"), quiet("daemon.reachable", "skip", "it rests on tools.virsh"));
    assert_eq!(of("pool.space"), quiet("pool.space", "skip", "it rests on daemon.reachable"));
    assert_eq!(of("clock.time")["status"], "ok");

    let host = TestHost::new().with_program("virsh", "echo 6.9.0");
    let ran = host.run("doctor tools.virsh");
    assert_eq!(ran.code(), CONFLICT, "{ran:?}");
    assert_eq!(
        ran.stdout,
        "fail  tools.virsh  virsh 6.9.0 is too old: `set-user-sshkeys` came with 6.10\n      \
         mend it: apt-get install libvirt-clients\n0 ok, 0 to look at, 1 failed, 0 skipped\n"
    );
}

#[test]
fn what_is_asked_for_is_a_check_or_nothing_is_looked_at() {
    let host = TestHost::new();
    host.run("doctor pool.spce").fails(
        NOT_FOUND,
        "error: there is no check `pool.spce`\nhint: Did you mean `pool.space` or `pool.active` or `pool.reachable`? \
         `vmprov doctor --list` shows them.\n",
    );
    host.run("doctor --list --fix").fails_saying(2, &["cannot be used with"]);
    let ran = host.run("doctor pool -o name").succeeds();
    assert_eq!(ran.stdout, "pool.active\npool.reachable\npool.space\n");
}

/// Neither what hangs nor what is nonsense is taken for well, and nothing ends the run.
#[test]
fn a_fact_that_cannot_be_had_is_skipped_with_the_reason() {
    let lab = Lab::warm();
    for (program, script, id, saw) in [
        ("timedatectl", "sleep 1000", "clock.synchronised", "did not end within 5 s"),
        ("timedatectl", "echo maybe", "clock.synchronised", "nobody tells whether the clock is synchronised"),
        ("nft", "echo nonsense", "network.firewall", "cannot read nft's JSON"),
        ("nft", "echo 'Operation not permitted' >&2; exit 1", "network.firewall", "only root may read"),
        (
            "virsh",
            "case \"$*\" in *capabilities*) echo '<x' ;; *) exec /usr/bin/virsh \"$@\" ;; esac",
            "pool.reachable",
            "cannot read libvirt's capabilities XML",
        ),
    ] {
        let host = TestHost::bare().by(lab.entrance()).with_program(program, script);
        let report = host.run(&format!("doctor {id} -o json")).succeeds().json();
        let found = &report["checks"][0];
        assert_eq!(found["status"], "skip", "{program} {script}: {found}");
        assert!(found["saw"].as_str().unwrap().contains(saw), "{program} {script}: {found}");
    }
    for (word, status) in [("yes", "ok"), ("no", "warn")] {
        let host = TestHost::new().with_program("timedatectl", &format!("echo {word}"));
        let report = host.run("doctor clock.synchronised -o json").succeeds().json();
        assert_eq!(report["checks"][0]["status"], status, "{report}");
    }
}

#[test]
fn a_daemon_that_does_not_run_is_told_from_one_that_refuses() {
    let found = |host: &TestHost, code: i32, args: &[&str]| {
        let ran = host.args(&[args, &["doctor", "daemon", "pool", "-o", "json"]].concat());
        assert_eq!(ran.code(), code, "{ran:?}");
        let report = ran.json();
        assert_eq!(report["summary"]["fail"], 1, "{report}");
        let failed = report["checks"].as_array().unwrap().iter().find(|check| check["status"] == "fail");
        failed.unwrap().clone()
    };
    // A socket that nobody listens at.
    let host = TestHost::bare();
    let socket = host.path("libvirt-sock");
    drop(UnixListener::bind(&socket).unwrap());
    let uri = format!("qemu+unix:///system?socket={}", socket.display());
    let gone = found(&host, UNREACHABLE, &["-c", &uri]);
    assert_eq!((&gone["id"], &gone["code"]), (&"daemon.reachable".into(), &"unreachable".into()));
    assert_eq!(gone["saw"], "libvirtd is gone and left its socket ~/libvirt-sock behind");
    // Nothing at all.
    let missing = socket.with_file_name("none");
    let uri = format!("qemu+unix:///system?socket={}", missing.display());
    let none = found(&host, UNREACHABLE, &["-c", &uri]);
    let saw = "libvirtd is installed and is not running: there is no socket ~/none";
    assert_eq!((&none["id"], &none["saw"]), (&"daemon.reachable".into(), &saw.into()));
    // Another machine's, that nobody gets to.
    let far = found(&host, UNREACHABLE, &["-c", "qemu+ssh://127.0.0.1:1/system"]);
    assert!(far["saw"].as_str().unwrap().contains("Connection refused"), "{far}");
    assert_eq!(far["fix"], "virsh -c qemu+ssh://127.0.0.1:1/system version");
    // One that is stuck.
    let stuck = "case \"$1\" in --version) echo 11.3.0 ;; *) sleep 1000 ;; esac";
    let host = TestHost::bare().with_program("virsh", stuck);
    let ran = host.run("doctor daemon.reachable");
    assert_eq!(ran.code(), TIMEOUT, "{ran:?}");
    assert!(
        ran.stdout.starts_with("fail  daemon.reachable  libvirt does not answer within 30 s\n      mend it: sudo ")
    );
    // One that does not let everybody in.
    let lab = Lab::warm();
    let words = ["/usr/bin/setpriv", "--no-new-privs", "--inh-caps=-all", "--bounding-set=-all"];
    let nobody = ["--reuid=65534", "--regid=65534", "--clear-groups"];
    let host = TestHost::bare().by(lab.entrance()).by(words).by(nobody);
    let denied = found(&host, DENIED, &["-c", "qemu:///system"]);
    let saw = "libvirt's socket is for the group `libvirt`, which `nobody` is not in (`--connect qemu:///session` needs none); put into it, one has to log in anew";
    let expected = json!({"id": "daemon.permission", "status": "fail", "saw": saw, "code": "denied",
        "fix": "sudo usermod -aG libvirt nobody", "safe": false, "fixed": false, "did": []});
    assert_eq!(denied, expected);
}

#[test]
fn what_killed_commands_left_is_told_and_cleaned_up() {
    let lab = Lab::warm();
    let before = lab.snapshot();
    // The define is the first call that changes something.
    let calls = lab.run(&["vm", "create", "warm", "--no-start"]).succeeded().calls;
    lab.run(&["vm", "delete", "warm", "--yes"]).succeeded();
    let define = 1 + calls.iter().position(|call| call.contains(" define ")).unwrap();
    assert!(lab.spoil(&format!("kill-after:{define}"), &["vm", "create", "web", "--no-start"]).was_killed());
    let locks = check(&lab, 0, "state.locks", &[]);
    assert!(locks["saw"].as_str().unwrap().starts_with("killed commands left /run/vmprov-locks/vmprov-"), "{locks}");
    assert_eq!((&locks["status"], &locks["safe"]), (&json!("warn"), &json!(true)));
    let locks = check(&lab, 0, "state.locks", &["--fix"]);
    assert_eq!((&locks["saw"], &locks["fixed"]), (&json!("no lock is left"), &json!(true)));
    let incomplete = mendable("state.incomplete", "warn", "`web` (its create was cut short)", "vmprov gc", true);
    assert_eq!(check(&lab, 0, "state.incomplete", &[]), incomplete);
    // As long as somebody is at it, it is left alone.
    let lease = lab.lease_elsewhere("the VM `web`");
    let busy = "not whole, and not to be touched: `web` (another vmprov is working on the VM `web`)";
    assert_eq!(check(&lab, 0, "state.incomplete", &["--fix"])["saw"], busy);
    lab.virsh(&["secret-undefine", "--secret", &lease]);
    assert_eq!(check(&lab, 0, "state.incomplete", &[]), incomplete);

    let probe = "<metadata><v:vm xmlns:v='urn:vmprov:vm:1' phase='probe' created='' by='' host=''/></metadata>";
    let os = "<memory>65536</memory><os><type>hvm</type></os>";
    lab.virsh_with(
        &["define", "/dev/stdin"],
        &format!("<domain type='qemu'><name>vmprov-kvm-test-1</name>{os}{probe}</domain>"),
    );
    let both = "`vmprov-kvm-test-1` (a test of KVM was cut short), `web` (its create was cut short)";
    assert_eq!(check(&lab, 0, "state.incomplete", &[])["saw"], both);
    lab.virsh(&["vol-create-as", "default", "base-0123456789abcdef.qcow2", "1M"]);
    lab.virsh(&["vol-create-as", "default", "vmprov-commit-x.qcow2", "1M"]);
    let left = "default/base-0123456789abcdef.qcow2, default/vmprov-commit-x.qcow2: the upload or copy was cut short";
    let unfinished = mendable("state.unfinished", "warn", left, "vmprov gc", true);
    assert_eq!(check(&lab, 0, "state.unfinished", &[]), unfinished);
    for (name, days) in [("old", 8), ("new", 6)] {
        let part = lab.write(&format!(".cache/vmprov/downloads/{name}.part"), "x");
        let then = SystemTime::now() - Duration::from_hours(24 * days);
        fs::File::open(Path::new(&part)).unwrap().set_modified(then).unwrap();
    }
    let old = lab.file(".cache/vmprov/downloads/old.part");
    let old = old.to_str().unwrap();
    let saw = format!("1B of downloads that nobody went on with for a week: {old}");
    let downloads = mendable("state.downloads", "warn", &saw, &format!("rm {old}"), true);
    assert_eq!(check(&lab, 0, "state.downloads", &[]), downloads);

    let report = lab.run(&["doctor", "state", "--fix", "-o", "json"]).succeeded().json();
    let did = |id: &str| {
        let check = report["checks"].as_array().unwrap().iter().find(|check| check["id"] == id).unwrap();
        assert_eq!((&check["status"], &check["fixed"]), (&json!("ok"), &json!(true)), "{check}");
        check["did"][0].as_str().unwrap().to_owned()
    };
    // One clean-up does all that it knows of, and the checks behind it find nothing.
    let removed = "removed vmprov-kvm-test-1, web, default/base-0123456789abcdef.qcow2, default/vmprov-commit-x.qcow2";
    assert_eq!(did("state.incomplete"), removed);
    assert_eq!(did("state.downloads"), format!("removed {old}"));
    assert_eq!(report["summary"], json!({"ok": 5, "warn": 0, "fail": 0, "skip": 0, "fixed": 2}));
    fs::remove_file(lab.file(".cache/vmprov/downloads/new.part")).unwrap();
    lab.settles(&before, "a clean-up");
}

#[test]
fn a_disk_that_no_vm_has_is_told_and_never_deleted() {
    let lab = Lab::warm();
    let image = lab.image("orphan.qcow2", "10M");
    lab.run(&["key", "generate", "dev", "--type", "ed25519"]).succeeded();
    let create = ["vm", "create", "web", "--image", &image, "--user", "debian", "--ssh-key", "dev", "--no-start"];
    lab.run(&create).succeeded();
    check(&lab, 0, "state.volumes", &[]);
    lab.virsh(&["undefine", "web"]);
    let found = check(&lab, 0, "state.volumes", &["--fix"]);
    let saw = found["saw"].as_str().unwrap();
    assert!(
        saw.starts_with("no VM has web-console.log, web-seed-")
            && saw.ends_with(".iso, web.qcow2 of the pool `default`"),
        "{found}"
    );
    assert_eq!((&found["status"], &found["safe"], &found["fixed"]), (&json!("warn"), &json!(false), &json!(false)));
    assert_eq!(found["fix"], "virsh -c qemu:///system vol-delete --pool default --vol web-console.log", "{found}");
    // A VM that somebody else has defined has it.
    let disk = "<disk type='file'><source file='/var/lib/libvirt/images/web.qcow2'/><target dev='vda'/></disk>";
    let rest = format!("<memory>65536</memory><os><type>hvm</type></os><devices>{disk}</devices>");
    lab.virsh_with(&["define", "/dev/stdin"], &format!("<domain type='qemu'><name>theirs</name>{rest}</domain>"));
    let found = check(&lab, 0, "state.volumes", &[]);
    assert!(found["saw"].as_str().unwrap().ends_with(".iso of the pool `default`"), "{found}");
    lab.virsh(&["undefine", "theirs"]);
    for left in
        ["no VM has web-seed-", "no VM has web.qcow2 of", "each disk, seed and log in the pool `default` is a VM's"]
    {
        type_inside(&lab, check(&lab, 0, "state.volumes", &[])["fix"].as_str().unwrap());
        let found = check(&lab, 0, "state.volumes", &[]);
        assert!(found["saw"].as_str().unwrap().starts_with(left), "{found}");
    }
    lab.run(&["image", "delete", &image]).succeeded();
}

/// What is of another machine, or of a session, is not looked at here.
#[test]
fn what_cannot_be_here_is_skipped_with_the_reason() {
    let host = TestHost::new();
    let report = host.run("doctor -o json").succeeds().json();
    let of = |id: &str| report["checks"].as_array().unwrap().iter().find(|check| check["id"] == id).unwrap().clone();
    let none = "libvirt's driver `test` runs nothing on this machine";
    for id in ["kvm.device", "pool.reachable", "network.subnet", "network.firewall", "security.apparmor", "daemon.log"]
    {
        assert_eq!(of(id), quiet(id, "skip", none));
    }
    assert_eq!(of("daemon.qemu"), quiet("daemon.qemu", "ok", "TEST 0.0.2"));
    assert_eq!(of("kvm.works"), quiet("kvm.works", "skip", "libvirt's driver `test` has no KVM"));

    let session = host.args(&["-c", "qemu:///session", "doctor", "network", "iommu", "-o", "json"]).succeeds().json();
    let network = &session["checks"].as_array().unwrap()[1];
    assert_eq!(*network, quiet("network.active", "skip", "a session (qemu:///session) has none of it"));
    // Whether or not that machine can be reached.
    let far = host.args(&["-c", "qemu+ssh://127.0.0.1:1/system", "doctor", "network.dnsmasq", "-o", "json"]).succeeds();
    let reason = "libvirt is on another machine, which cannot be looked at from here";
    assert_eq!(far.json()["checks"][0], quiet("network.dnsmasq", "skip", reason));
}

/// A container that has libvirt's socket and none of its files: what is not there is not taken for gone.
#[test]
fn a_container_with_libvirts_socket_does_not_look_at_its_own_files_for_libvirts() {
    let lab = Lab::warm();
    let hidden = "hostname elsewhere && mount -t tmpfs none /var/lib/libvirt && exec \"$@\"";
    let container = ["/usr/bin/unshare", "-u", "-m", "/bin/sh", "-c", hidden, "sh"];
    let ran = TestHost::bare().by(lab.entrance()).by(container).run("doctor --fix -o json").succeeds();
    let report = ran.json();
    let of = |id: &str| report["checks"].as_array().unwrap().iter().find(|check| check["id"] == id).unwrap().clone();
    for id in ["kvm.device", "pool.reachable", "network.subnet", "network.firewall", "security.denials"] {
        let found = of(id);
        assert_eq!(found["status"], "skip", "{found}");
        assert!(
            found["saw"].as_str().unwrap().ends_with("and this is `elsewhere`: its files and devices are not these")
        );
    }
    assert_eq!(of("pool.active"), quiet("pool.active", "ok", WELL));
    assert_eq!(report["summary"]["fixed"], 0, "{report}");
}

/// The keys of this machine's user.
#[test]
fn keys_that_cannot_be_used_are_told() {
    let host = TestHost::new();
    let folder = host.path(".local/share/vmprov/keys");
    let shown = "~/.local/share/vmprov/keys";
    let run = |saw: &str, status: &str| {
        let counts = if status == "ok" { "1 ok, 0 to" } else { "0 ok, 1 to" };
        let report = format!("{status:4}  keys.folder  {saw}\n{counts} look at, 0 failed, 0 skipped\n");
        host.run("doctor keys").prints(&report);
    };
    run(&format!("{shown} is not there yet: the first key makes it"), "ok");
    host.run("key generate dev --type ed25519").succeeds();
    run(&format!("keys in {shown}: 1"), "ok");
    host.tool("chmod", &["777", folder.to_str().unwrap()]);
    run(&format!("others may replace the keys in `{shown}`\n      mend it: chmod go-w {shown}"), "warn");
    host.tool("chmod", &["700", folder.to_str().unwrap()]);
    host.tool("chmod", &["644", folder.join("dev").to_str().unwrap()]);
    let mends = format!("mend it: chmod 600 {shown}/dev");
    run(&format!("ssh does not take the key `dev`: others may use its file\n      {mends}"), "warn");
}

#[test]
fn who_interrupts_it_is_heard() {
    let script = "case \"$1\" in --version) echo 11.3.0 ;; *) : >begun; exec sleep 1000 ;; esac";
    let host = TestHost::new().with_program("virsh", script);
    let running = host.start(&["doctor", "daemon", "keys"], "");
    assert!(within(Duration::from_mins(1), || host.path("begun").exists()), "the fake virsh does not begin");
    running.signal(rustix::process::Signal::INT);
    running.end().fails(INTERRUPTED, "error: interrupted\n");
}

/// Somebody who is not root, but may use libvirt: what only root can see is not taken for well.
#[test]
fn what_only_root_can_see_is_skipped_for_others() {
    let lab = Lab::warm();
    let groups = fs::read_to_string("/etc/group").unwrap();
    let libvirt = groups.lines().find_map(|line| line.strip_prefix("libvirt:")).unwrap().split(':').nth(1).unwrap();
    let words = ["/usr/bin/setpriv", "--no-new-privs", "--inh-caps=-all", "--bounding-set=-all"];
    let user = ["--reuid=65534", "--regid=65534", &format!("--groups={libvirt}")];
    let host = TestHost::bare().by(lab.entrance()).by(words).by(user);
    let report = host.run("doctor -o json").succeeds().json();
    let of = |id: &str| report["checks"].as_array().unwrap().iter().find(|check| check["id"] == id).unwrap().clone();
    assert_eq!(of("daemon.permission"), quiet("daemon.permission", "ok", "`nobody` may manage VMs"));
    assert_eq!(of("daemon.log"), quiet("daemon.log", "skip", "only root may ask virtlogd"));
    let firewall = of("network.firewall");
    assert_eq!(firewall["status"], "skip", "{firewall}");
    assert!(
        firewall["saw"].as_str().unwrap().starts_with("only root may read the packet filter's rules: "),
        "{firewall}"
    );
    for id in ["pool.active", "pool.reachable", "network.active", "network.subnet", "state.volumes"] {
        assert_eq!(of(id)["status"], "ok", "{}", of(id));
    }
}

/// An error whose reason a check finds has its hint from there; one whose reason none finds keeps its own.
#[test]
fn an_error_is_explained_by_what_is_found_and_else_left_alone() {
    let complaint = |text: &str| format!("echo \"error: Failed to start it\nerror: {text}\" >&2; exit 1");
    let socket = "/run/libvirt/virtlogd-sock";
    let script = complaint(&format!("Failed to connect socket to '{socket}': No such file or directory"));
    let empty = ["/usr/bin/unshare", "-m", "/bin/sh", "-c", "mount -t tmpfs none /run/libvirt && exec \"$@\"", "sh"];
    let host = TestHost::bare().by(empty).with_program("virsh", &script);
    host.run("vm list").fails_saying(
        8,
        &[&format!("hint: virtlogd does not listen at {socket}: "), ": sudo systemctl enable --now virtlogd.socket\n"],
    );
    // There is room, dnsmasq is there, and the file is on another machine.
    let full = "hint: Free some space in the storage pool: virsh pool-info POOL shows what is left.\n";
    let qemu =
        "hint: The user that QEMU runs as (libvirt-qemu) must be able to read the file and to enter every folder";
    let by_hand = "hint: Try the connection by hand: virsh -c qemu+ssh://host/system version\n";
    for (args, text, says) in [
        ("", "No space left on device", full),
        ("", "Cannot find 'dnsmasq' in path", "why: Failed to start it: Cannot find 'dnsmasq' in path\n"),
        ("-c qemu+ssh://host/system ", "failed to connect to the hypervisor", by_hand),
        ("-c qemu+ssh://host/system ", "Cannot access storage file '/x' (as uid:1, gid:1): Permission denied", qemu),
    ] {
        let ran = TestHost::new().with_program("virsh", &complaint(text)).run(&format!("{args}vm list"));
        assert!(ran.stderr.contains(says) && !ran.stderr.contains("mend"), "{ran:?}");
    }
}
