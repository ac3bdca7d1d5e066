//! `vm set` against a real libvirtd with QEMU: what it changes, when a change takes effect, and what it refuses. One
//! test boots a real guest; the other guests' disks are empty.
#![expect(clippy::unwrap_used, reason = "clippy knows only the functions marked as tests")]

#[path = "support/lab.rs"]
#[expect(dead_code, reason = "each test binary uses its own part")]
mod lab;

use std::{process::Command, time::Duration};

use lab::{Lab, Run, wait_until};
use serde_json::{Value, json};

const INVALID: i32 = 2;
const NOT_FOUND: i32 = 3;
const CONFLICT: i32 = 4;
const VM: &str = "edited";

/// The lab with a pool, a network, a base image, and no VM.
fn warm() -> (Lab, String) {
    let lab = Lab::qemu();
    lab.run(&["vm", "delete", VM, "--yes", "--ignore-missing", "--unmanaged"]).succeeded();
    lab.run(&["gc"]).succeeded();
    let image = lab.image("tiny.qcow2", "10M");
    create(&lab, &image, &["--no-start"]).succeeded();
    delete(&lab);
    (lab, image)
}

fn create(lab: &Lab, image: &str, more: &[&str]) -> Run {
    let create = ["vm", "create", VM, "--image", image, "--user", "debian", "--memory", "128M", "--disk-size", "1"];
    lab.run(&[&create[..], more].concat())
}

#[track_caller]
fn delete(lab: &Lab) {
    lab.run(&["vm", "delete", VM, "--yes"]).succeeded();
}

#[track_caller]
fn set(lab: &Lab, args: &[&str]) -> Value {
    lab.run(&[&["vm", "set", VM, "-o", "json"], args].concat()).succeeded().json()
}

#[track_caller]
fn info(lab: &Lab) -> Value {
    lab.run(&["vm", "info", VM, "-o", "json"]).succeeded().json()
}

/// Returns the VM's memory, its maximum memory, its virtual CPUs and their maximum.
#[track_caller]
fn memory_and_vcpus(lab: &Lab) -> [u64; 4] {
    let info = info(lab);
    ["memory", "maxMemory", "vcpus", "maxVcpus"].map(|name| info[name].as_u64().unwrap_or_else(|| panic!("{info}")))
}

/// Returns everything that a refused change must not affect.
#[track_caller]
fn full_state(lab: &Lab) -> String {
    let xml = lab.virsh(&["dumpxml", VM]) + &lab.virsh(&["dumpxml", VM, "--inactive"]);
    xml + &lab.virsh(&["list", "--all", "--autostart", "--name"]) + &capacity(lab).to_string()
}

fn capacity(lab: &Lab) -> u64 {
    let xml = lab.virsh(&["vol-dumpxml", "--pool", "default", "--vol", "edited.qcow2"]);
    let (_, rest) = xml.split_once("<capacity unit='bytes'>").unwrap();
    rest.split_once('<').unwrap().0.parse().unwrap()
}

fn change(member: &str, from: &str, to: &str, effect: &str) -> Value {
    json!({"member": member, "from": from, "to": to, "effect": effect})
}

#[test]
fn a_stopped_vm_starts_with_the_new_settings() {
    let (lab, image) = warm();
    create(&lab, &image, &["--no-start"]).succeeded();
    let before = lab.snapshot();
    let all = ["--memory", "256M", "--vcpus", "3", "--disk-size", "1536M", "--autostart", "true"];
    let all = [&all[..], &["--description", "it's for <tests> & \"more\""]].concat();
    let report = set(&lab, &all);
    let expected = json!({"vm": VM, "changed": true, "restartNeeded": false, "warnings": [], "changes": [
        change("memory", "128M", "256M", "nextStart"),
        change("vcpus", "2", "3", "nextStart"),
        change("diskSize", "1G", "1.5G (1610612736 bytes)", "nextStart"),
        change("autostart", "false", "true", "live"),
        change("description", "", "it's for <tests> & \"more\"", "live"),
    ]});
    assert_eq!(report, expected);
    assert_eq!((memory_and_vcpus(&lab), capacity(&lab)), ([256, 256, 3, 3], 1536 << 20));
    assert_eq!(
        (&info(&lab)["autostart"], &info(&lab)["description"]),
        (&json!(true), &json!("it's for <tests> & \"more\""))
    );
    lab.settles(&before, "after a VM was changed");

    // The same request again changes nothing and calls nothing that could.
    let old_state = full_state(&lab);
    let again = lab.run(&[&["vm", "set", VM, "-v"], &all[..]].concat()).succeeded();
    assert!(
        again.stdout.lines().all(|line| line.contains(": already ")) && again.stdout.lines().count() == 5,
        "{again}"
    );
    assert!(!again.stderr.contains("virsh"), "{again}");
    assert_eq!(full_state(&lab), old_state);

    lab.run(&["vm", "start", VM]).succeeded();
    assert_eq!(memory_and_vcpus(&lab), [256, 256, 3, 3]);
    lab.run(&["vm", "stop", VM, "--force"]).succeeded();
    let report = set(&lab, &["--memory", "100", "--vcpus", "1", "--autostart", "false", "--description", ""]);
    let effects: Vec<_> = report["changes"].as_array().unwrap().iter().map(|change| change["effect"].clone()).collect();
    assert_eq!(effects, ["nextStart", "nextStart", "live", "live"], "{report}");
    // The former values stay the maximum, so the VM can get them back without a restart.
    assert_eq!(memory_and_vcpus(&lab), [100, 256, 1, 3]);
    assert_eq!((&info(&lab)["autostart"], &info(&lab)["description"]), (&json!(false), &Value::Null));
    let text = lab.run(&["vm", "info", VM]).succeeded().stdout;
    assert!(text.contains("100M (up to 256M without a restart)") && text.contains("1 (up to 3 without"), "{text}");
    let list = lab.run(&["vm", "list", "-o", "json"]).succeeded().json();
    let row = list["vms"].as_array().unwrap().iter().find(|row| row["name"] == VM).unwrap();
    assert_eq!((&row["memory"], &row["vcpus"]), (&json!(100), &json!(1)), "{row}");
    delete(&lab);
}

#[test]
fn a_running_vm_is_changed_live_where_possible() {
    let (lab, image) = warm();
    create(&lab, &image, &["--memory", "256M", "--vcpus", "1"]).succeeded();
    let warning = "the disk has grown; cloud-init grows the guest's file system at its next boot";
    let report = set(&lab, &["--memory", "128M", "--vcpus", "2", "--disk-size", "2", "--description", "--all"]);
    let expected = json!({"vm": VM, "changed": true, "restartNeeded": true, "warnings": [warning], "changes": [
        change("memory", "256M", "128M", "live"),
        change("vcpus", "1", "2", "nextStart"),
        change("diskSize", "1G", "2G", "live"),
        change("description", "", "--all", "live"),
    ]});
    assert_eq!(report, expected);
    assert_eq!((capacity(&lab), lab.virsh(&["desc", VM]).trim()), (2 << 30, "--all"));
    let above = lab.run(&["vm", "set", VM, "--memory", "512M"]).succeeded();
    let says = "memory: 256M -> 512M at the next start\nrestart the VM to apply the rest: vmprov vm restart edited\n";
    assert_eq!(above.stdout, says);

    lab.run(&["vm", "restart", VM, "--force"]).succeeded();
    assert_eq!(memory_and_vcpus(&lab), [512, 512, 2, 2]);
    let less = set(&lab, &["--vcpus", "1"]);
    assert_eq!(
        (&less["changes"], &less["restartNeeded"]),
        (&json!([change("vcpus", "2", "1", "nextStart")]), &json!(true))
    );
    assert_eq!(memory_and_vcpus(&lab)[2..], [2, 2]);
    lab.run(&["vm", "restart", VM, "--force"]).succeeded();
    assert_eq!(memory_and_vcpus(&lab)[2..], [1, 2]);
    let more = set(&lab, &["--vcpus", "2"]);
    assert_eq!(
        (&more["changes"], &more["restartNeeded"]),
        (&json!([change("vcpus", "1", "2", "live")]), &json!(false))
    );
    let warning = "virtual CPUs were hot-plugged; if the guest does not use them, run in it: \
                   echo 1 | sudo tee /sys/devices/system/cpu/cpu*/online";
    assert_eq!(more["warnings"], json!([warning]));
    assert_eq!(memory_and_vcpus(&lab)[2..], [2, 2]);
    let text = lab.run(&["vm", "set", VM, "--description", "one\ntwo"]).succeeded();
    assert_eq!(text.stdout, "description: --all -> one\\ntwo\n");
    let text = lab.run(&["vm", "set", VM, "--description="]).succeeded();
    assert_eq!(text.stdout, "description: one\\ntwo -> none\n");
    delete(&lab);
}

/// `vm set` updates the recorded specification, which a repeated create is compared with.
#[test]
fn the_recorded_specification_is_updated() {
    let (lab, image) = warm();
    create(&lab, &image, &["--no-start", "--ttl", "2h"]).succeeded();
    let expires = info(&lab)["expires"].clone();
    set(&lab, &["--memory", "256M", "--vcpus", "1", "--disk-size", "2", "--autostart", "true", "--description", "x"]);
    let refused = create(&lab, &image, &["--if-exists", "ok"]).failed_with(CONFLICT);
    let differences = "  why: memory: 256M -> 128M\n       vcpus: 1 -> 2\n       diskSize: 2G -> 1G\n       autostart: true -> false\nhint";
    assert!(refused.stderr.contains(differences), "{refused}");
    let now = ["--memory", "256", "--vcpus", "1", "--disk-size", "2", "--autostart", "--if-exists", "ok"];
    let create_now = ["vm", "create", VM, "--image", &image, "--user", "debian"];
    lab.run(&[&create_now[..], &now].concat()).succeeded();
    assert_eq!(info(&lab)["expires"], expires);

    // A value that another client has already changed is recorded, too.
    lab.virsh(&["setvcpus", VM, "2", "--config", "--maximum"]);
    lab.virsh(&["setvcpus", VM, "2", "--config"]);
    let report = set(&lab, &["--vcpus", "2"]);
    assert_eq!(
        (&report["changes"], &report["changed"]),
        (&json!([change("vcpus", "2", "2", "unchanged")]), &json!(true))
    );
    lab.run(&[&create_now[..], &now].concat()).failed_with(CONFLICT);
    delete(&lab);
}

#[test]
fn an_impossible_change_is_refused_and_changes_nothing() {
    let (lab, image) = warm();
    create(&lab, &image, &[]).succeeded();
    let refuses = |args: &[&str], code: i32, says: &str| {
        let (before, old_state) = (lab.snapshot(), full_state(&lab));
        // Alone, and together with changes that are possible.
        for more in [&[][..], &["--description", "new", "--memory", "64M", "--autostart", "true"]] {
            if args.is_empty() && !more.is_empty() || args.contains(&"--memory") && more.contains(&"--memory") {
                continue;
            }
            let ran = lab.run(&[&["vm", "set", VM], args, more].concat()).failed_with(code);
            assert!(ran.stderr.contains(says) && ran.stdout.is_empty(), "{args:?}: `{says}` is missing: {ran}");
            assert_eq!(full_state(&lab), old_state, "{args:?}");
        }
        lab.settles(&before, &format!("{args:?}"));
    };
    refuses(&[], INVALID, "no changes requested\nhint: Request a change: --memory");
    let smaller = "cannot shrink the disk of VM `edited` from 1G to 512M\n  why: shrinking would cut off the data";
    refuses(&["--disk-size", "512M"], INVALID, smaller);
    refuses(&["--vcpus", "100000"], INVALID, "100000 virtual CPUs exceed this host's maximum of ");
    refuses(&["--vcpus", "0"], INVALID, "invalid number of virtual CPUs `0`");
    refuses(&["--memory", "63M"], INVALID, "the minimum is 64M");
    refuses(&["--description", "a\u{1b}b"], INVALID, "invalid description\n  why: it contains `\\u{1b}`");
    lab.run(&["vm", "set", "nosuch", "--vcpus", "1"]).failed_with(NOT_FOUND);

    // A VM that writes to a snapshot's overlay: its own disk, which is now the backing file, must not change.
    lab.virsh(&["snapshot-create-as", VM, "s", "--disk-only", "--diskspec", "vdb,snapshot=no"]);
    refuses(&["--disk-size", "2"], CONFLICT, "does not currently write to its own disk `default/edited.qcow2`");
    lab.run(&["vm", "stop", VM, "--force"]).succeeded();
    refuses(&["--disk-size", "2"], CONFLICT, "does not currently write to its own disk `default/edited.qcow2`");
    // The overlay is deleted with the VM.
    delete(&lab);

    // A saved VM resumes with the disk that it was saved with.
    create(&lab, &image, &[]).succeeded();
    lab.virsh(&["managedsave", VM]);
    refuses(&["--disk-size", "2"], CONFLICT, "has a saved state, which depends on the size of its disk");
    let warned = set(&lab, &["--memory", "64M"]);
    let warning = warned["warnings"][0].as_str().unwrap();
    assert!(warning.contains("has a saved state and resumes with its old memory and virtual CPUs"), "{warned}");
    delete(&lab);

    // A killed create leaves an incomplete VM.
    let args = ["vm", "create", VM, "--image", &image, "--user", "debian", "--disk-size", "1", "--no-start"];
    let calls = lab.run(&args).succeeded().calls.len();
    delete(&lab);
    assert!(lab.run_with_fault(&format!("kill-before:{calls}"), &args).was_killed());
    let old_state = full_state(&lab);
    let ran = lab.run(&["vm", "set", VM, "--vcpus", "1"]).failed_with(CONFLICT);
    assert!(ran.stderr.contains("VM `edited` is incomplete"), "{ran}");
    assert_eq!(full_state(&lab), old_state);
    delete(&lab);
}

#[test]
fn an_unmanaged_vm_can_be_changed() {
    let (lab, _) = warm();
    lab.virsh(&["vol-create-as", "default", "edited.qcow2", "64M", "--format", "qcow2"]);
    let disk = |file: &str, target: &str| {
        format!(
            "<disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='{file}'/><target dev='{target}' bus='virtio'/></disk>"
        )
    };
    let define = |disks: &str| {
        let xml = format!(
            "<domain type='qemu'><name>{VM}</name><memory unit='MiB'>128</memory><vcpu>1</vcpu>\
             <os><type arch='x86_64'>hvm</type></os><devices>{disks}<memballoon model='none'/></devices></domain>"
        );
        lab.virsh_with(&["define", "/dev/stdin"], &xml);
    };
    define(&disk("/var/lib/libvirt/images/edited.qcow2", "vda"));
    let before = lab.snapshot();
    let report = set(
        &lab,
        &["--memory", "192M", "--vcpus", "2", "--disk-size", "128M", "--autostart", "true", "--description", "x"],
    );
    let effects: Vec<_> = report["changes"].as_array().unwrap().iter().map(|change| change["effect"].clone()).collect();
    assert_eq!(effects, ["nextStart", "nextStart", "nextStart", "live", "live"], "{report}");
    assert_eq!((memory_and_vcpus(&lab), capacity(&lab)), ([192, 192, 2, 2], 128 << 20));
    assert!(!lab.virsh(&["dumpxml", VM]).contains("vmprov"));
    lab.run(&["vm", "start", VM]).succeeded();
    // This VM has no balloon, so its memory cannot change while it runs.
    let report = set(&lab, &["--memory", "64M", "--disk-size", "256M"]);
    let changes = json!([change("memory", "192M", "64M", "nextStart"), change("diskSize", "128M", "256M", "live")]);
    assert_eq!((&report["changes"], capacity(&lab)), (&changes, 256 << 20));
    lab.run(&["vm", "stop", VM, "--force"]).succeeded();
    lab.settles(&before, "after an unmanaged VM was changed");
    lab.virsh(&["undefine", VM]);

    // With several disks vmprov cannot choose one, and a disk outside of all pools is not a volume.
    let first = disk("/var/lib/libvirt/images/edited.qcow2", "vda");
    define(&format!("{first}{}", disk("/nowhere/b.qcow2", "vdb")));
    let several = lab.run(&["vm", "set", VM, "--disk-size", "1"]).failed_with(CONFLICT);
    assert!(several.stderr.contains("VM `edited` is not managed by vmprov and has several disks"), "{several}");
    lab.virsh(&["undefine", VM]);
    define(&disk("/nowhere/b.qcow2", "vda"));
    let nowhere = lab.run(&["vm", "set", VM, "--disk-size", "1"]).failed_with(CONFLICT);
    assert!(nowhere.stderr.contains("is not in an active storage pool: /nowhere/b.qcow2"), "{nowhere}");
    lab.virsh(&["undefine", VM]);
    define("");
    let none = lab.run(&["vm", "set", VM, "--disk-size", "1"]).failed_with(CONFLICT);
    assert!(none.stderr.contains("VM `edited` has no disk"), "{none}");
    lab.virsh(&["undefine", VM]);
    lab.virsh(&["vol-delete", "--pool", "default", "--vol", "edited.qcow2"]);
}

/// The time limit for a guest to boot or shut down.
const LIMIT: &str = "12m";

/// A real guest: its balloon returns memory and takes it back, a virtual CPU is hot-plugged, and its disk grows while
/// it runs. Its file system grows at the next boot. When its TTL ends, it is deleted while it runs.
#[test]
fn a_guest_sees_the_changes() {
    let (lab, _) = warm();
    let before = lab.snapshot();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/lab/image");
    let built = Command::new(script).output().unwrap();
    assert!(built.status.success(), "cannot build the image: {}", String::from_utf8_lossy(&built.stderr));
    let image = String::from_utf8(built.stdout).unwrap().trim().to_owned();
    lab.run(&["key", "generate", "first", "--type", "ed25519"]).succeeded();
    let run = |args: &[&str]| lab.run_with_guest(args).succeeded();
    let guest = |command: &str| run(&["vm", "ssh", VM, "--", command]).stdout.trim().to_owned();
    let number = |command: &str| guest(command).parse::<u64>().unwrap();
    let base = ["vm", "create", VM, "--image", &image, "--user", "debian", "--ssh-key", "first", "--disk-size", "4"];
    run(&[&base[..], &["--memory", "1G", "--vcpus", "2", "--no-start"]].concat());
    // The guest boots with one virtual CPU of two, so that the other can be hot-plugged.
    set(&lab, &["--vcpus", "1"]);
    run(&["vm", "start", VM]);
    run(&["vm", "wait", VM, "--for", "cloud-init", "--timeout", LIMIT]);

    let total = "awk '/MemTotal/ {print int($2 / 1024)}' /proc/meminfo";
    let initial = number(total);
    assert!(initial > 800, "{initial} MiB");
    let report = set(&lab, &["--memory", "700M"]);
    assert_eq!(report["changes"], json!([change("memory", "1G", "700M", "live")]));
    // Linux subtracts the balloon's memory from the total.
    wait_until("the balloon to be filled", || info(&lab)["memory"] == 700);
    let less = number(total);
    assert!(less < initial - 200, "{less} of {initial} MiB");
    let report = set(&lab, &["--memory", "1G"]);
    assert_eq!(report["changes"], json!([change("memory", "700M", "1G", "live")]));
    wait_until("the balloon to be emptied", || info(&lab)["memory"] == 1024);
    assert_eq!(number(total), initial);

    assert_eq!(number("nproc"), 1);
    assert_eq!(set(&lab, &["--vcpus", "2"])["changes"], json!([change("vcpus", "1", "2", "live")]));
    wait_until("the second virtual CPU", || number("ls -d /sys/devices/system/cpu/cpu[0-9]* | wc -l") == 2);
    // This guest has no udev rule that does this.
    guest("echo 1 | sudo tee /sys/devices/system/cpu/cpu1/online");
    assert_eq!(number("nproc"), 2);

    let bytes = "lsblk --bytes --nodeps --noheadings --output SIZE /dev/vda";
    assert_eq!(number(bytes), 4 << 30);
    assert_eq!(set(&lab, &["--disk-size", "6"])["changes"], json!([change("diskSize", "4G", "6G", "live")]));
    wait_until("the disk to have grown", || number(bytes) == 6 << 30);
    let root = "df --block-size=1M --output=size / | tail -n 1";
    assert!(number(root) < 4096, "the file system has grown before the next boot: {}", number(root));
    run(&["vm", "restart", VM, "--timeout", LIMIT]);
    run(&["vm", "wait", VM, "--for", "cloud-init", "--timeout", LIMIT]);
    assert!(number(root) > 5500, "the file system has not grown: {} MiB", number(root));

    // A create with all of these values succeeds without a change. Then the TTL ends.
    let same =
        ["--memory", "1G", "--vcpus", "2", "--disk-size", "6", "--if-exists", "ok", "--wait", "--timeout", LIMIT];
    let base = ["vm", "create", VM, "--image", &image, "--user", "debian", "--ssh-key", "first", "-o", "json"];
    let same = run(&[&base[..], &same].concat()).json();
    assert_eq!((&same["changed"], same["addresses"].as_array().unwrap().len()), (&json!(false), 1), "{same}");
    run(&["vm", "ttl", VM, "1m"]);
    assert_eq!(run(&["reap"]).stdout, "no expired VMs\n");
    let deadline = std::time::Instant::now() + Duration::from_mins(3);
    while run(&["reap"]).stdout == "no expired VMs\n" {
        assert!(std::time::Instant::now() < deadline, "the VM does not expire");
        std::thread::sleep(Duration::from_secs(2));
    }
    lab.run(&["vm", "info", VM]).failed_with(NOT_FOUND);
    let ours = |line: &str| line.contains("base-") || line.contains("source-") || line.starts_with("home ");
    lab.settles_without(&before, ours, "after a real guest expired");
}
