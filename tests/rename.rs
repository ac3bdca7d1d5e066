//! `vm rename` against a real libvirtd with QEMU: what keeps its name, what becomes free, what is refused, and faults in
//! every external call. No guest boots.
#![expect(clippy::unwrap_used, reason = "clippy knows only the functions marked as tests")]

#[path = "support/lab.rs"]
#[expect(dead_code, reason = "each test binary uses its own part")]
mod lab;

use lab::{Lab, Run, each_call};
use serde_json::{Value, json};

const INVALID: i32 = 2;
const NOT_FOUND: i32 = 3;
const CONFLICT: i32 = 4;
const BUSY: i32 = 5;

/// The lab without VMs, but with the pool, network and base image that a create makes, and the path of the image.
fn lab() -> (Lab, String) {
    let lab = Lab::qemu();
    lab.run(&["vm", "delete", "web", "www", "other", "--yes", "--ignore-missing", "--unmanaged"]).succeeded();
    lab.run(&["gc"]).succeeded();
    let image = lab.image("tiny.qcow2", "10M");
    create(&lab, "web", &image, &["--no-start"]).succeeded();
    delete(&lab, "web");
    (lab, image)
}

fn create(lab: &Lab, name: &str, image: &str, more: &[&str]) -> Run {
    let create = ["vm", "create", name, "--image", image, "--user", "debian", "--memory", "64", "--disk-size", "1"];
    lab.run(&[&create[..], &["--vcpus", "1"], more].concat())
}

#[track_caller]
fn delete(lab: &Lab, name: &str) {
    lab.run(&["vm", "delete", name, "--yes"]).succeeded();
}

#[track_caller]
fn info(lab: &Lab, name: &str) -> Value {
    lab.run(&["vm", "info", name, "-o", "json"]).succeeded().json()
}

/// Returns the volumes of a VM, without the unique part of the seed's name.
#[track_caller]
fn volumes(lab: &Lab, name: &str) -> Vec<String> {
    let info = info(lab, name);
    info["volumes"].as_array().unwrap().iter().map(|volume| volume.as_str().unwrap().to_owned()).collect()
}

/// Runs a command, which must fail with exactly this.
#[track_caller]
fn refuses(lab: &Lab, args: &[&str], code: i32, stderr: &str) {
    let ran = lab.run(args).failed_with(code);
    assert_eq!((&*ran.stdout, &*ran.stderr), ("", stderr), "{ran}");
}

#[test]
fn a_renamed_vm_keeps_its_volumes_and_its_old_name_is_free() {
    let (lab, image) = lab();
    let before = lab.snapshot();
    create(&lab, "web", &image, &["--no-start", "--autostart", "--ttl", "1h"]).succeeded();
    lab.run(&["vm", "protect", "web"]).succeeded();
    let old = info(&lab, "web");
    let ran = lab.run(&["vm", "rename", "web", "www"]).succeeded();
    assert_eq!((&*ran.stdout, &*ran.stderr), ("web: renamed to www\n", ""), "{ran}");
    let new = info(&lab, "www");
    assert_eq!(new["name"], "www");
    for member in ["uuid", "volumes", "disks", "autostart", "expires", "protected", "managed", "instanceId", "hostKeys"]
    {
        assert_eq!(new[member], old[member], "{member}");
    }
    lab.run(&["vm", "info", "web"]).failed_with(NOT_FOUND);
    let again = lab.run(&["vm", "rename", "www", "www", "-o", "json"]).succeeded().json();
    assert_eq!(again, json!({"status": "renamed", "vm": "www", "oldName": "www", "changed": false}));

    // It starts with its old volumes, and still counts as created with its specification.
    let same = ["--autostart", "--if-exists", "ok"];
    assert!(create(&lab, "www", &image, &same).succeeded().stdout.contains("changed"));
    lab.run(&["vm", "start", "www"]).succeeded();
    lab.run(&["vm", "stop", "www", "--force"]).succeeded();

    // A new VM with the old name gets volumes of its own, also if it is created again.
    create(&lab, "web", &image, &[]).succeeded();
    let all = lab.virsh(&["vol-list", "--pool", "default"]);
    for volume in volumes(&lab, "web") {
        let name = volume.strip_prefix("default/").unwrap();
        assert!(name.starts_with("web-") && all.contains(name), "{volume}\n{all}");
    }
    create(&lab, "web", &image, &["--if-exists", "replace"]).succeeded();
    assert_eq!(volumes(&lab, "www"), old["volumes"].as_array().unwrap().clone());
    lab.run(&["gc"]).succeeded();

    lab.run(&["vm", "delete", "www", "--yes"]).failed_with(CONFLICT);
    lab.run(&["vm", "unprotect", "www"]).succeeded();
    let deleted = lab.run(&["vm", "delete", "www", "--yes", "-o", "json"]).succeeded().json();
    assert!(deleted["results"][0]["deleted"].as_array().unwrap().contains(&json!("default/web.qcow2")), "{deleted}");
    lab.run(&["vm", "stop", "web", "--force"]).succeeded();
    lab.run(&["vm", "start", "web"]).succeeded();
    delete(&lab, "web");
    lab.settles(&before, "after both VMs were deleted");
}

#[test]
fn a_rename_that_is_not_possible_changes_nothing() {
    let (lab, image) = lab();
    create(&lab, "web", &image, &[]).succeeded();
    create(&lab, "other", &image, &["--no-start"]).succeeded();
    let before = lab.snapshot();
    refuses(
        &lab,
        &["vm", "rename", "web", "www"],
        CONFLICT,
        "error: VM `web` is running, and only a VM that is shut off can be renamed\nhint: Shut it down first: vmprov vm \
         stop web\n",
    );
    lab.run(&["vm", "pause", "web"]).succeeded();
    lab.run(&["vm", "rename", "web", "www"]).failed_with(CONFLICT);
    lab.run(&["vm", "resume", "web"]).succeeded();
    refuses(
        &lab,
        &["vm", "rename", "other", "web"],
        CONFLICT,
        "error: VM `web` already exists\nhint: Choose another name\n",
    );
    lab.run(&["vm", "rename", "nosuch", "www"]).failed_with(NOT_FOUND);
    for name in ["Web", "a_b", "-x", ""] {
        lab.run(&["vm", "rename", "other", "--", name]).failed_with(INVALID);
    }
    lab.run(&["vm", "rename", "other"]).failed_with(INVALID);
    lab.settles(&before, "after refused renames");

    // Snapshots move along, unless libvirt is too old for that.
    lab.run(&["vm", "stop", "web", "--force"]).succeeded();
    lab.virsh(&["snapshot-create-as", "web", "kept"]);
    let renamed = lab.run(&["vm", "rename", "web", "www"]);
    if renamed.status.success() {
        assert_eq!(lab.virsh(&["snapshot-list", "www", "--name"]).trim(), "kept");
        lab.run(&["vm", "rename", "www", "web"]).succeeded();
    } else {
        let says = "cannot rename domain with snapshots\nhint: List its snapshots, and delete them first: ";
        assert!(renamed.code() == Some(CONFLICT) && renamed.stderr.contains(says), "{renamed}");
    }
    lab.virsh(&["snapshot-delete", "web", "kept"]);

    // libvirt refuses this, and its words and a hint say why.
    lab.run(&["vm", "start", "web"]).succeeded();
    lab.virsh(&["managedsave", "web"]);
    refuses(
        &lab,
        &["vm", "rename", "web", "www"],
        CONFLICT,
        "error: cannot rename the VM\n  why: Requested operation is not valid: domain with a managed saved state can't be \
         renamed\nhint: Start the VM and shut it down, which ends its saved state\n",
    );
    lab.run(&["vm", "start", "web"]).succeeded();
    lab.run(&["vm", "stop", "web", "--force"]).succeeded();
    lab.run(&["vm", "rename", "web", "www"]).succeeded();
    delete(&lab, "www");
    delete(&lab, "other");
}

#[test]
fn incomplete_unmanaged_and_busy_vms() {
    let (lab, image) = lab();
    let create_web = ["vm", "create", "web", "--image", &image, "--user", "debian", "--no-start", "--disk-size", "1"];
    let calls = lab.run(&create_web).succeeded().calls.len();
    delete(&lab, "web");
    assert!(lab.run_with_fault(&format!("kill-before:{calls}"), &create_web).was_killed());
    let incomplete = lab.run(&["vm", "rename", "web", "www"]).failed_with(CONFLICT);
    assert!(incomplete.stderr.contains("VM `web` is incomplete"), "{incomplete}");
    lab.run(&["gc"]).succeeded();

    let xml =
        "<domain type='qemu'><name>two words</name><memory unit='MiB'>64</memory><os><type>hvm</type></os></domain>";
    lab.virsh_with(&["define", "/dev/stdin"], xml);
    let renamed = lab.run(&["vm", "rename", "two words", "web"]).succeeded();
    assert_eq!(renamed.stdout, "two words: renamed to web\n", "{renamed}");
    assert_eq!(info(&lab, "web")["managed"], false);

    // Another host works on a VM of the new name, or of the old one.
    for name in ["web", "www"] {
        let lease = lab.lease_elsewhere(&format!("the VM `{name}`"));
        let busy = lab.run(&["vm", "rename", "web", "www"]).failed_with(BUSY);
        assert!(busy.stderr.contains(&format!("another vmprov is working on the VM `{name}`")), "{busy}");
        lab.virsh(&["secret-undefine", &lease]);
    }
    // Opposite renames do not wait for each other forever, and of two new names one wins.
    create(&lab, "other", &image, &["--no-start"]).succeeded();
    let opposite =
        [["web", "other"], ["other", "web"]].map(|names| lab.begin("", &[&["vm", "rename"], &names[..]].concat()));
    for running in opposite {
        running.end().failed_with(CONFLICT);
    }
    delete(&lab, "other");
    let both = ["www", "other"].map(|name| lab.begin("", &["vm", "rename", "web", name])).map(lab::Running::end);
    let succeeded = both.iter().filter(|ran| ran.status.success()).count();
    assert_eq!(succeeded, 1, "{}\n{}", both[0], both[1]);
    assert!(
        both.iter().all(|ran| [Some(0), Some(NOT_FOUND), Some(BUSY)].contains(&ran.code())),
        "{}\n{}",
        both[0],
        both[1]
    );
    lab.run(&["vm", "delete", "www", "other", "--yes", "--ignore-missing", "--unmanaged"]).succeeded();
}

/// After a fault, the VM has one of the two names, its volumes are its own, and a second rename completes the first.
#[test]
fn a_rename_with_a_fault_is_completed_or_not_begun() {
    let (lab, image) = lab();
    create(&lab, "web", &image, &["--no-start"]).succeeded();
    let (old, before) = (volumes(&lab, "web"), lab.snapshot());
    for modes in ["fail|lie", "kill-before|kill-after", "INT|hang"] {
        each_call(
            modes,
            |fault, _| {
                if lab.virsh(&["list", "--all", "--name"]).lines().any(|name| name == "www") {
                    lab.run(&["vm", "rename", "www", "web"]).succeeded();
                }
                lab.run_with_fault(fault, &["vm", "rename", "web", "www"])
            },
            |k, when, ran| {
                assert!(ran.ended_as_expected(when, k), "{when}\n{ran}");
                let again = lab.run(&["vm", "rename", "web", "www"]);
                assert!([Some(0), Some(NOT_FOUND)].contains(&again.code()), "{when}: {again}");
                assert_eq!(volumes(&lab, "www"), old, "{when}");
                lab.run(&["vm", "info", "web"]).failed_with(NOT_FOUND);
            },
        );
    }
    lab.run(&["vm", "rename", "www", "web"]).succeeded();
    assert_eq!(lab.run(&["gc"]).succeeded().stdout, "nothing to clean up\n");
    lab.settles(&before, "after renames with faults");
    delete(&lab, "web");
}
