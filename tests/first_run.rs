//! The first run on a machine: a missing part is created, or reported with the command that installs it. A broken part
//! is reported as what it is.
#![expect(clippy::unwrap_used, reason = "an error fails the test")]

#[path = "support/lab.rs"]
#[expect(dead_code, reason = "each test binary uses its own part")]
mod lab;
#[expect(dead_code, reason = "each test binary uses its own part")]
mod support;

use std::{
    fs,
    os::unix::{fs::chown, net::UnixListener},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use lab::Lab;
use support::{TestHost, within};

const INVALID: i32 = 2;
const DENIED: i32 = 6;
const TOOL_MISSING: i32 = 7;
const TOOL_FAILED: i32 = 8;
const UNREACHABLE: i32 = 9;
const INTERRUPTED: i32 = 130;

/// The ID of the user and the group that run as an ordinary user.
const NOBODY_ID: u32 = 65_534;

/// A host in the lab: the lab's libvirtd and network, with a separate home folder.
fn in_lab(lab: &Lab) -> TestHost {
    TestHost::bare().via(lab.nsenter())
}

/// The command prefix that runs a program as an ordinary user with these supplementary groups.
fn as_user(groups: Option<&str>) -> Vec<String> {
    let words = ["/usr/bin/setpriv", "--no-new-privs", "--inh-caps=-all", "--bounding-set=-all"];
    let mut words: Vec<_> = words.map(str::to_owned).to_vec();
    words.extend([format!("--reuid={NOBODY_ID}"), format!("--regid={NOBODY_ID}")]);
    words.push(groups.map_or_else(|| "--clear-groups".to_owned(), |groups| format!("--groups={groups}")));
    words
}

/// The ID of the group that may use libvirtd.
fn libvirt_group() -> String {
    let groups = fs::read_to_string("/etc/group").unwrap();
    let line = groups
        .lines()
        .find(|line| line.starts_with("libvirt:"))
        .unwrap_or_else(|| panic!("the group `libvirt` does not exist: run tests/lab/install"));
    line.split(':').nth(2).unwrap().to_owned()
}

#[test]
fn a_missing_program_is_reported_with_its_package() {
    let missing = |program: &str, package: &str| {
        format!("error: the program `{program}` is not installed\nhint: Install it: apt-get install {package}\n")
    };
    let host = TestHost::new().with_only(&[]);
    for line in ["vm list", "vm info test", "vm create web", "vm delete test --yes", "gc"] {
        let ran = host.run(&format!("-q {line}"));
        ran.fails(TOOL_MISSING, &missing("virsh", "libvirt-clients"));
    }
    let error = host.run("vm list -o json").error();
    assert_eq!((&error["code"], &error["exitStatus"]), (&"tool_missing".into(), &7.into()));
    // Commands that need no program work.
    host.run("key generate dev --type ed25519").succeeds();
    host.run("config").succeeds();

    let host = TestHost::new().with_only(&["virsh"]).with_env("LIBVIRT_STORAGE_POOL", "default-pool");
    let image = host.image("debian-12.qcow2");
    host.run(&format!("-q vm create web --image {image}")).fails(TOOL_MISSING, &missing("qemu-img", "qemu-utils"));
}

#[test]
fn a_program_missing_midway_leaves_nothing() {
    let lab = Lab::qemu();
    let complete_host = in_lab(&lab);
    let image = complete_host.image("debian-12.qcow2");
    // A base image is shared by all VMs, so it is kept.
    complete_host.run(&format!("vm create first --image {image} --no-start")).succeeds();
    complete_host.run("vm delete first --yes").succeeds();
    let before = lab.snapshot();
    let host = in_lab(&lab).with_only(&["virsh", "qemu-img"]);
    let ran = host.run(&format!("vm create web --image {image}"));
    ran.fails_saying(TOOL_MISSING, &["the program `genisoimage` is not installed", "apt-get install genisoimage"]);
    lab.settles(&before, "without genisoimage");

    complete_host.run("key generate dev --type ed25519").succeeds();
    complete_host.run(&format!("vm create web --image {image} --ssh-key dev --memory 64 --vcpus 1")).succeeds();
    let path = complete_host.path("").to_str().unwrap().to_owned();
    let host = in_lab(&lab).with_only(&["virsh"]).with_env("HOME", &path);
    let ran = host.run("inject web dev --method cloud-init");
    ran.fails_saying(TOOL_MISSING, &["the program `isoinfo` is not installed", "apt-get install genisoimage"]);
    // The lease that the VM's guest would have.
    let mac =
        complete_host.run("vm info web -o json").succeeds().json()["interfaces"][0]["mac"].as_str().unwrap().to_owned();
    let leases = lab.pool_folder().with_file_name("dnsmasq").join("virbr0.status");
    let original = fs::read(&leases);
    let lease = format!(r#"[{{"ip-address": "192.168.122.77", "mac-address": "{mac}", "expiry-time": 4102444800}}]"#);
    fs::write(&leases, lease).unwrap();
    complete_host.run("vm ip web").prints("192.168.122.77\n");
    host.run("vm ssh web").fails(
        TOOL_MISSING,
        "error: the program `ssh` is not installed\nhint: Install it: apt-get install openssh-client\n",
    );
    match original {
        Ok(original) => fs::write(&leases, original).unwrap(),
        Err(_) => fs::remove_file(&leases).unwrap(),
    }
    complete_host.run("vm delete web --yes").succeeds();
    lab.settles(&before, "after the VM was deleted");
}

#[test]
fn a_stopped_daemon_is_distinguished_from_a_stale_socket() {
    // An empty folder for the socket, as on a machine whose libvirtd does not run.
    let empty = ["/usr/bin/unshare", "-m", "/bin/sh", "-c", "mount -t tmpfs none /run/libvirt && exec \"$@\"", "sh"];
    let host = TestHost::bare().via(empty);
    let ran = host.run("vm list");
    assert!(!ran.stderr.contains("mount:"), "this test needs root: {ran:?}");
    let socket = "/var/run/libvirt/libvirt-sock";
    let start = |verb: &str| match ["/run/systemd/system", "/etc/init.d/libvirtd"].map(|path| Path::new(path).exists())
    {
        [true, _] => format!("sudo systemctl {verb} libvirtd"),
        [_, true] => "sudo service libvirtd restart".to_owned(),
        _ => "sudo virtlogd -d; sudo libvirtd -d".to_owned(),
    };
    let not_running = format!(
        "hint: libvirtd is installed but not running: the socket {socket} does not exist: {}\n",
        start("enable --now")
    );
    let not_running = not_running.as_str();
    ran.fails_saying(UNREACHABLE, &["error: cannot reach libvirt at qemu:///system\n  why: ", not_running]);
    let error = host.run("vm list -o json").error();
    assert_eq!((&error["code"], &error["retryable"]), (&"unreachable".into(), &true.into()));

    let host = TestHost::bare();
    let socket = host.path("libvirt-sock");
    drop(UnixListener::bind(&socket).unwrap());
    let uri = format!("qemu+unix:///system?socket={}", socket.display());
    host.args(&["-c", &uri, "vm", "list"]).fails_saying(
        UNREACHABLE,
        &[
            "Connection refused",
            &format!("hint: libvirtd is not running but left its socket ~/libvirt-sock: {}\n", start("restart")),
        ],
    );
}

#[test]
fn a_user_outside_the_group_gets_a_hint() {
    let lab = Lab::qemu();
    let host = in_lab(&lab).via(as_user(None));
    let hint = "hint: user `nobody` is not in the group `libvirt`, as libvirt's socket requires (qemu:///session requires \
                no group); membership takes effect at the next login: sudo usermod -aG libvirt nobody\n";
    for line in ["vm list", "-q vm create web", "vm start web", "vm delete web --yes", "gc"] {
        let ran = host.run(&format!("-c qemu:///system {line}"));
        ran.fails_saying(DENIED, &["error: cannot reach libvirt at qemu:///system\n", "Permission denied", hint]);
    }
    // The user's session libvirt, which is the default here, requires a home folder that belongs to the user.
    let chosen =
        "note: using qemu:///session: qemu:///system cannot be used (/run/libvirt/libvirt-sock: Permission denied";
    host.run("vm list").fails_saying(UNREACHABLE, &[chosen, "error: cannot reach libvirt at qemu:///session\n"]);
}

#[test]
fn a_user_in_the_group_can_do_everything() {
    let lab = Lab::qemu();
    let before = lab.snapshot();
    let host = in_lab(&lab).via(as_user(Some(&libvirt_group())));
    chown(host.path(""), Some(NOBODY_ID), Some(NOBODY_ID)).unwrap();
    let image = host.image("debian-12.qcow2");
    // Only its owner can read the image, so its content is sent to libvirtd.
    chown(&image, Some(NOBODY_ID), Some(NOBODY_ID)).unwrap();
    host.tool("chmod", &["600", &image]);
    host.run("key generate dev --type ed25519").succeeds();
    host.run("key generate next --type ed25519").succeeds();
    let create = format!("vm create web --image {image} --ssh-key dev --memory 64 --vcpus 1");
    host.run(&format!("{create} --no-start")).succeeds();
    assert!(host.run("vm list -o name").succeeds().stdout.lines().any(|name| name == "web"));
    assert!(host.run("vm info web").succeeds().stdout.contains("state        shut off\n"));
    host.run("vm start web").prints("web: started (running)\n");
    host.run("vm start web").prints("web: already started (running)\n");
    let injected = host.run("inject web next -o json").succeeds().json();
    assert_eq!((&injected["method"], &injected["restartNeeded"]), (&"cloud-init".into(), &true.into()));
    host.run("vm stop web --force").prints("web: stopped by force (shut off)\n");
    host.run("vm stop web").prints("web: already stopped (shut off)\n");
    host.run("vm start web").prints("web: started (running)\n");
    let deleted = host.run("vm delete web --yes").succeeds();
    assert!(deleted.stdout.starts_with("web: deleted, including default/web-seed-"), "{deleted:?}");
    assert!(deleted.stdout.ends_with(".iso, default/web-console.log, default/web.qcow2\n"), "{deleted:?}");
    host.run("gc").prints("nothing to clean up\n");
    let is_shared = |line: &str| {
        let kinds = ["volume default/base-", "volume default/source-", "pool file base-", "pool file source-"];
        kinds.iter().any(|kind| line.starts_with(kind)) || line.starts_with("pool ") || line.starts_with("network ")
    };
    lab.settles_without(&before, |line| is_shared(line) || line.contains("dnsmasq"), "after the VM was deleted");
}

#[test]
fn a_hanging_virsh_is_ended_with_its_child_processes() {
    let mark = format!("86{}", std::process::id());
    let host = TestHost::new().with_program("virsh", &format!("echo begun >>calls; sleep {mark} & sleep {mark}; wait"));
    let sleeps = || {
        let pids = fs::read_dir("/proc").unwrap().filter_map(|entry| fs::read(entry.ok()?.path().join("cmdline")).ok());
        pids.filter(|line| *line == format!("sleep\0{mark}\0").into_bytes()).count()
    };
    let running = host.start(&["vm", "list"], "");
    assert!(within(Duration::from_mins(1), || sleeps() == 2), "the fake virsh was not started");
    running.signal(rustix::process::Signal::INT);
    let ran = running.end();
    ran.fails(INTERRUPTED, "error: interrupted\n");
    assert_eq!(sleeps(), 0, "child processes of virsh are still running");
    assert_eq!(fs::read_to_string(host.path("calls")).unwrap(), "begun\n", "virsh was called again");
}

#[test]
fn an_invalid_response_is_not_accepted() {
    let real = "exec /usr/bin/virsh \"$@\"";
    for (what, script, code, says) in [
        ("nothing", "exit 0", TOOL_FAILED, "virsh printed no error"),
        ("nonsense", "echo nonsense; echo '<x'", TOOL_FAILED, "cannot list the VMs"),
        ("no text", "printf '\\377\\376\\0'", TOOL_FAILED, "cannot list the VMs"),
        ("an unknown complaint", "echo 'error: the moon is full' >&2; exit 1", TOOL_FAILED, "why: the moon is full\n"),
        ("a crash", "kill -SEGV $$", TOOL_FAILED, "cannot list the VMs"),
        ("one list of three", "/usr/bin/virsh \"$@\" | head -n 2", TOOL_FAILED, "cannot list the VMs"),
        (
            "no names",
            "/usr/bin/virsh \"$@\" | sed 's/6695eb01/zzzzzzzz/'",
            TOOL_FAILED,
            "cannot parse libvirt's list of VMs",
        ),
        ("no XML", "/usr/bin/virsh \"$@\" | sed 's/<domain/<dorain/'", TOOL_FAILED, "cannot read libvirt's domain XML"),
        ("half of it", "/usr/bin/virsh \"$@\" | sed '/<vcpu/d'", TOOL_FAILED, "cannot read libvirt's domain XML"),
        (
            "a lost connection",
            "echo 'error: Disconnected from test:///default due to end of file' >&2; exit 1",
            UNREACHABLE,
            "Disconnected",
        ),
    ] {
        let host = TestHost::new().with_program("virsh", script);
        for line in ["vm list", "vm info test", "vm list -o name"] {
            let ran = host.run(line);
            assert_eq!((ran.code(), ran.stdout.as_str()), (code, ""), "{what}: {line}: {ran:?}");
            assert!(ran.stderr.contains(says) && !ran.stderr.contains("panicked"), "{what}: {line}: {ran:?}");
        }
        // An invalid response never leads to a deletion.
        assert_ne!(host.run("vm delete test --yes --unmanaged").code(), 0, "{what}");
    }
    let unmodified = TestHost::new().with_program("virsh", real);
    unmodified.run("vm list -o name").prints("test\n");
    // A file that is not executable.
    let host = TestHost::new().with_program("virsh", "exit 0");
    host.tool("chmod", &["644", "../bin/virsh"]);
    host.with_only(&[]).run("vm list").fails_saying(DENIED, &["cannot start `virsh`", "Permission denied"]);
    for (script, code, says) in [
        ("echo '{}'", TOOL_FAILED, "cannot parse qemu-img's JSON"),
        ("exit 1", INVALID, "debian-12.qcow2` is not a valid raw file"),
        ("kill -9 $$", TOOL_FAILED, "qemu-img info"),
    ] {
        let host = TestHost::new().with_program("qemu-img", script).with_env("LIBVIRT_STORAGE_POOL", "default-pool");
        let image = host.write("debian-12.qcow2", "QFI\u{fb}".repeat(200));
        host.run(&format!("-q vm create web --image {image}")).fails_saying(code, &[says]);
    }
}

/// The error reports the first failure, not its consequences.
#[test]
fn a_failed_start_reports_its_cause() {
    let lab = Lab::qemu();
    let before = lab.snapshot();
    // The disk is deleted right before the start.
    let script = "case $* in\n\
         *'start --domain'*) /usr/bin/virsh -q vol-delete --pool default web.qcow2 ;; esac; exec /usr/bin/virsh \"$@\"";
    let host = in_lab(&lab).with_program("virsh", script);
    let says = ["error: cannot start the VM\n  why: Failed to start domain 'web': Cannot access storage file"];
    let ran = host.run("-q vm create web --memory 64 --vcpus 1").fails_saying(3, &says);
    assert!(!ran.stderr.contains("domain is not running"), "{ran:?}");
    lab.settles_without(
        &before,
        |line| line.starts_with("pool ") || line.starts_with("network ") || line.contains("dnsmasq"),
        "after a failed start",
    );
}

#[test]
fn a_pool_that_cannot_hold_overlays_is_refused() {
    let script = "/usr/bin/virsh \"$@\" | sed \"s/<pool type='dir'/<pool type='logical'/\"";
    let host = TestHost::new().with_program("virsh", script).with_env("LIBVIRT_STORAGE_POOL", "default-pool");
    host.run("-q vm create web").fails(
        4,
        "error: the storage pool `default-pool` is of type `logical`, which cannot hold overlays\n\
         hint: Set `pool` in the settings to a pool that holds files, or to a new name for vmprov to create\n",
    );
}

/// A new lab for one test, which is stopped when the test ends.
struct FreshLab {
    folder: PathBuf,
}

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/lab/libvirtd");

impl FreshLab {
    fn start(env: &[(&str, &str)]) -> Self {
        let folder = PathBuf::from(format!("/var/tmp/vmprov-lab-first-{}", std::process::id()));
        let fresh = Self { folder };
        let started = fresh.script().arg("start").envs(env.iter().copied()).output().unwrap();
        let complaint = String::from_utf8_lossy(&started.stderr);
        assert!(started.status.success(), "cannot start the lab that this test needs: {complaint}");
        fresh
    }

    fn script(&self) -> Command {
        let mut script = Command::new(SCRIPT);
        script.env("VMPROV_LAB", &self.folder);
        script
    }

    /// A host in the lab. The file `holder` begins with the ID of the lab's process.
    fn host(&self) -> TestHost {
        let holder = fs::read_to_string(self.folder.join("holder")).unwrap();
        let pid = holder.split_whitespace().next().unwrap();
        TestHost::bare().via(["/usr/bin/nsenter", "-t", pid, "-m", "-n", "--"])
    }

    #[track_caller]
    fn exec_inside(&self, words: &[&str]) -> String {
        let ran = self.script().arg("exec").args(words).output().unwrap();
        assert!(ran.status.success(), "{words:?}: {}", String::from_utf8_lossy(&ran.stderr));
        String::from_utf8(ran.stdout).unwrap()
    }
}

impl Drop for FreshLab {
    fn drop(&mut self) {
        let stopped = self.script().arg("stop").status();
        assert!(stopped.unwrap().success() || std::thread::panicking(), "cannot stop the lab");
    }
}

#[test]
fn missing_parts_are_created_and_reported_on_a_fresh_host() {
    let lab = FreshLab::start(&[("VMPROV_LAB_KVM", "absent")]);
    let host = lab.host();
    let virsh = |words: &[&str]| lab.exec_inside(&[&["virsh", "-q", "-c", "qemu:///system"], words].concat());
    let create = "vm create web --memory 64 --vcpus 1 --no-start -o name";
    let blank = "warning: no image given: the disk is blank and not bootable\n";
    let no_kvm = "warning: this host does not offer KVM (/dev/kvm is missing, or virtualization is disabled in the firmware): \
                  VMs are emulated, which is many times slower\n";
    let run_create = |args: &str, notes: &str| {
        let ran = host.run(&format!("{create} {args}")).succeeds();
        assert_eq!((ran.stdout.as_str(), ran.stderr), ("web\n", format!("{blank}{notes}{no_kvm}")));
        host.run("vm delete web --yes").prints("web: deleted, including default/web-console.log, default/web.qcow2\n");
    };

    // Commands that only read change nothing.
    host.run("vm list -o name").prints("");
    host.run("gc").prints("nothing to clean up\n");
    let planned = host.run("vm create web --dry-run --no-start").succeeds();
    assert!(
        planned
            .stderr
            .contains("note: the storage pool `default` in /var/lib/libvirt/images is missing: it would be created\n"),
        "{planned:?}"
    );
    assert!(
        planned
            .stderr
            .contains("note: the network `default` (NAT, 192.168.122.0/24) is missing: it would be created\n"),
        "{planned:?}"
    );
    assert_eq!(virsh(&["pool-list", "--all", "--name"]).trim(), "");
    assert_eq!(virsh(&["net-list", "--all", "--name"]).trim(), "");

    // The default subnet is in use, so the next one is chosen.
    lab.exec_inside(&["ip", "link", "add", "taken0", "type", "bridge"]);
    lab.exec_inside(&["ip", "address", "add", "192.168.122.1/24", "dev", "taken0"]);
    lab.exec_inside(&["ip", "link", "set", "taken0", "up"]);
    run_create(
        "",
        "note: created the storage pool `default` in /var/lib/libvirt/images, which was missing\n\
         note: created the network `default` (NAT, 192.168.123.0/24), which was missing\n",
    );
    lab.exec_inside(&["ip", "link", "delete", "taken0"]);
    assert!(virsh(&["net-dumpxml", "default"]).contains("192.168.123.1"));
    for (list, what) in [("pool-list", "pool"), ("net-list", "network")] {
        assert_eq!(virsh(&[list, "--autostart", "--name"]).trim(), "default", "the {what} starts with the host");
    }

    // Both exist and are active: there is nothing to report.
    run_create("", "");

    // Both are inactive: they are started, which is reported.
    virsh(&["pool-destroy", "default"]);
    virsh(&["net-destroy", "default"]);
    let inactive = "note: started the storage pool `default`, which was inactive\nnote: started the network `default`, which was inactive\n";
    run_create("", inactive);

    // A create was interrupted after it defined the pool and before it created the folder.
    virsh(&["pool-destroy", "default"]);
    lab.exec_inside(&["rmdir", "/var/lib/libvirt/images"]);
    run_create("", "note: started the storage pool `default`, which was inactive\n");

    // The pool's folder is created where `--pool-path` says.
    virsh(&["pool-destroy", "default"]);
    virsh(&["pool-undefine", "default"]);
    run_create(
        "--pool-path /var/lib/libvirt/other/images",
        "note: created the storage pool `default` in /var/lib/libvirt/other/images, which was missing\n",
    );
    assert!(lab.folder.join("lib/other/images").is_dir());

    // Two concurrent creates on a fresh host: one creates the network, the other uses it.
    virsh(&["net-destroy", "default"]);
    virsh(&["net-undefine", "default"]);
    let both = ["one", "two"].map(|name| host.start(&["-q", "vm", "create", name, "--memory", "64", "--no-start"], ""));
    for running in both {
        running.end().succeeds();
    }
    host.run("vm delete one two --yes").succeeds();
    assert_eq!(virsh(&["net-list", "--name"]).trim(), "default");

    check_kvm_that_does_not_work(&lab);
}

/// A fake virsh simulates a host where libvirt offers KVM, but a guest with KVM fails to start.
fn check_kvm_that_does_not_work(lab: &FreshLab) {
    let complaint = "error: Failed to create domain from /dev/stdin\n\
                     error: internal error: QEMU unexpectedly closed the monitor (vm='x'): qemu-system-x86_64: error: failed to set MSR 0x10a";
    let script = format!(
        "case \"$*\" in\n\
         *'; create /proc/'*) echo \"$*\" >>tried; cat >&2 <<'END'\n{complaint}\nEND\nexit 1 ;;\n\
         *--virttype*) exec /usr/bin/virsh \"$@\" ;;\n\
         *domcapabilities*) /usr/bin/virsh \"$@\" | sed 's|<domain>qemu</domain>|<domain>kvm</domain>|' ;;\n\
         *) exec /usr/bin/virsh \"$@\" ;;\nesac"
    );
    let host = lab.host().with_program("virsh", &script);
    let warning = "warning: KVM exists but does not work (failed to set MSR 0x10a): VMs are emulated, which is many times slower\n";
    for name in ["one", "two"] {
        let ran = host.args(&["vm", "create", name, "--memory", "64", "--vcpus", "1"]).succeeds();
        assert!(ran.stderr.ends_with(warning) && ran.stderr.matches("KVM").count() == 1, "{ran:?}");
        let info = host.args(&["vm", "info", name, "-o", "json"]).succeeds().json();
        assert_eq!((&info["accelerator"], &info["state"]), (&"qemu".into(), &"running".into()));
    }
    let tried = fs::read_to_string(host.path("tried")).unwrap();
    assert_eq!(tried.lines().count(), 1, "KVM must be probed once: {tried}");
    host.run("vm delete one two --yes").succeeds();
}
