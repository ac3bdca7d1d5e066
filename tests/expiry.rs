//! Expiry and deletion protection: `--ttl`, `vm ttl`, `vm protect`, and `reap`, against a real libvirtd with QEMU. The
//! guests' disks are empty; nothing boots.
#![expect(clippy::unwrap_used, reason = "clippy knows only the functions marked as tests")]

#[path = "support/lab.rs"]
#[expect(dead_code, reason = "each test binary uses its own part")]
mod lab;

use jiff::{SignedDuration, Timestamp};
use lab::{Lab, wait_until};
use serde_json::{Value, json};

const CONFLICT: i32 = 4;
const TOOL_FAILED: i32 = 8;

const VMS: [&str; 5] = ["kept", "old", "older", "oldest", "guarded"];

/// The lab with a pool, a network, a base image, a cached KVM probe, and none of the VMs.
fn warm() -> (Lab, String) {
    let lab = Lab::qemu();
    for vm in VMS {
        drop(lab.run(&["vm", "unprotect", vm]));
    }
    lab.run(&[&["vm", "delete", "--yes", "--ignore-missing"][..], &VMS].concat()).succeeded();
    lab.run(&["gc"]).succeeded();
    let image = lab.image("tiny.qcow2", "10M");
    create(&lab, &image, "kept", &["--no-start"]);
    lab.run(&["vm", "delete", "kept", "--yes"]).succeeded();
    (lab, image)
}

fn create(lab: &Lab, image: &str, name: &str, more: &[&str]) -> Value {
    let create = ["vm", "create", name, "--image", image, "--user", "debian", "--memory", "64M", "--disk-size", "1"];
    lab.run(&[&create[..], more, &["-o", "json"]].concat()).succeeded().json()
}

#[track_caller]
fn info(lab: &Lab, vm: &str) -> Value {
    lab.run(&["vm", "info", vm, "-o", "json"]).succeeded().json()
}

#[track_caller]
fn timestamp(value: &Value) -> Timestamp {
    value.as_str().unwrap_or_else(|| panic!("not a timestamp: {value}")).parse().unwrap()
}

/// Sets a VM's expiry to a time in the past, so that the test need not wait.
fn expire(lab: &Lab, vm: &str) {
    lab.run(&["vm", "ttl", vm, "1m"]).succeeded();
    let running = info(lab, vm)["state"] == "running";
    for state in ["--config"].into_iter().chain(running.then_some("--live")) {
        let uri = ["metadata", "--domain", vm, "--uri", "urn:vmprov:vm:1", state];
        let xml = lab.virsh(&uri);
        let (before, rest) = xml.split_once("expires=\"").unwrap();
        let after = rest.split_once('"').unwrap().1;
        let xml = format!("{before}expires=\"2026-01-01T00:00:00Z\"{after}");
        lab.virsh(&[&uri[..], &["--key", "vmprov", "--set", &xml]].concat());
    }
}

#[test]
fn a_ttl_is_recorded_shown_and_changed() {
    let (lab, image) = warm();
    let created = create(&lab, &image, "kept", &["--no-start"]);
    assert_eq!((&created["expires"], &created["protected"]), (&Value::Null, &json!(false)), "{created}");
    let header = lab.run(&["vm", "list"]).succeeded().stdout;
    assert!(!header.contains("EXPIRES"), "{header}");

    let before = Timestamp::now();
    let created = create(&lab, &image, "old", &["--ttl", "1h30m"]);
    let expires = timestamp(&created["expires"]);
    // The expiry is recorded in whole seconds, so each bound may be half a second off.
    let least = before + SignedDuration::from_secs(90 * 60 - 1);
    assert!(least <= expires && expires <= Timestamp::now() + SignedDuration::from_secs(90 * 60 + 1), "{created}");
    assert_eq!(info(&lab, "old")["expires"], created["expires"]);
    let list = lab.run(&["vm", "list"]).succeeded().stdout;
    assert!(list.lines().next().unwrap().contains("EXPIRES") && list.contains(&expires.to_string()), "{list}");
    let listed = lab.run(&["vm", "list", "-o", "json"]).succeeded().json();
    let row = |vm: &str| listed["vms"].as_array().unwrap().iter().find(|row| row["name"] == vm).cloned().unwrap();
    assert_eq!((&row("old")["expires"], &row("kept")["expires"]), (&created["expires"], &Value::Null));

    let longer = lab.run(&["vm", "ttl", "old", "7d", "-o", "json"]).succeeded().json();
    assert_eq!((&longer["vm"], &longer["changed"]), (&json!("old"), &json!(true)), "{longer}");
    assert!(timestamp(&longer["expires"]) > expires + SignedDuration::from_hours(6 * 24), "{longer}");
    assert_eq!(info(&lab, "old")["expires"], longer["expires"]);
    let never = lab.run(&["vm", "ttl", "old", "never", "-o", "json"]).succeeded().json();
    assert_eq!(never, json!({"vm": "old", "expires": null, "changed": true}));
    let again = lab.run(&["vm", "ttl", "old", "never"]).succeeded();
    assert_eq!(again.stdout, "old: never expires\n");
    assert_eq!(info(&lab, "old")["expires"], Value::Null);
    lab.run(&["vm", "delete", "old", "kept", "--yes"]).succeeded();
}

/// A command that rewrites a VM's metadata keeps its expiry and protection.
#[test]
fn other_commands_keep_expiry_and_protection() {
    let (lab, image) = warm();
    lab.run(&["key", "generate", "first", "--type", "ed25519"]).succeeded();
    create(&lab, &image, "old", &["--ttl", "2h"]);
    lab.run(&["vm", "protect", "old"]).succeeded();
    let expiry_and_protection = |lab: &Lab| {
        let info = info(lab, "old");
        (info["expires"].clone(), info["protected"].clone())
    };
    let before = expiry_and_protection(&lab);
    assert!(before.0.is_string() && before.1 == true, "{before:?}");
    // The seed that a running VM was started with is removed at its next start, which changes the metadata.
    lab.run(&["inject", "old", "first"]).succeeded();
    assert_eq!(expiry_and_protection(&lab), before);
    lab.run(&["vm", "restart", "old", "--force"]).succeeded();
    assert_eq!(info(&lab, "old")["volumes"].as_array().unwrap().len(), 3);
    assert_eq!(expiry_and_protection(&lab), before);
    lab.run(&["vm", "stop", "old", "--force"]).succeeded();
    assert_eq!(expiry_and_protection(&lab), before);
    lab.run(&["vm", "unprotect", "old"]).succeeded();
    lab.run(&["vm", "delete", "old", "--yes"]).succeeded();
}

#[test]
fn no_command_deletes_a_protected_vm() {
    let (lab, image) = warm();
    create(&lab, &image, "guarded", &["--no-start"]);
    let protected = lab.run(&["vm", "protect", "guarded", "-o", "json"]).succeeded().json();
    let report =
        |changed: bool, status: &str| json!({"results": [{"status": status, "vm": "guarded", "changed": changed}]});
    assert_eq!(protected, report(true, "protected"));
    assert_eq!(lab.run(&["vm", "protect", "guarded"]).succeeded().stdout, "guarded: already protected\n");
    expire(&lab, "guarded");
    let before = lab.snapshot();
    let uuid = info(&lab, "guarded")["uuid"].as_str().unwrap().to_owned();
    let xml = lab.virsh(&["dumpxml", "--domain", &uuid]);
    for more in [&[][..], &["--unmanaged"], &["--ignore-missing"]] {
        let refused = lab.run(&[&["vm", "delete", "guarded", "--yes"], more].concat()).failed_with(CONFLICT);
        let says =
            "VM `guarded` is protected from deletion\nhint: Remove the protection first: vmprov vm unprotect guarded\n";
        assert!(refused.stderr.ends_with(says), "{refused}");
    }
    for dry in [&[][..], &["--dry-run"]] {
        let reaped = lab.run(&[&["reap", "-o", "json"], dry].concat()).succeeded().json();
        let skipped = json!({"results": [{"vm": "guarded", "expires": "2026-01-01T00:00:00Z", "status": "skipped", "reason": "it is protected"}]});
        assert_eq!(reaped, skipped);
    }
    assert_eq!(lab.virsh(&["dumpxml", "--domain", &uuid]), xml);
    lab.settles(&before, "after commands that must not delete the VM");
    assert!(lab.run(&["vm", "info", "guarded"]).succeeded().stdout.contains("protected    yes\n"));

    let unprotected = lab.run(&["vm", "unprotect", "guarded", "-o", "json"]).succeeded().json();
    assert_eq!(unprotected, report(true, "unprotected"));
    lab.run(&["vm", "delete", "guarded", "--yes"]).succeeded();
}

#[test]
fn reap_deletes_only_expired_vms() {
    let (lab, image) = warm();
    let empty = lab.run(&["reap"]).succeeded();
    assert_eq!(empty.stdout, "no expired VMs\n");
    create(&lab, &image, "kept", &["--ttl", "1h", "--no-start"]);
    let before = lab.snapshot();
    create(&lab, &image, "old", &["--ttl", "1h"]);
    create(&lab, &image, "older", &["--no-start"]);
    expire(&lab, "old");
    expire(&lab, "older");
    let full = lab.snapshot();

    let dry = lab.run(&["reap", "--dry-run"]).succeeded();
    let line = |vm: &str| format!("{vm}: would be deleted (expired 2026-01-01T00:00:00Z)\n");
    assert_eq!(dry.stdout, line("old") + &line("older"));
    lab.settles(&full, "after a dry run");

    let reaped = lab.run(&["reap", "-o", "json"]).succeeded().json();
    let results = reaped["results"].as_array().unwrap();
    assert_eq!(results.len(), 2, "{reaped}");
    for (result, vm) in results.iter().zip(["old", "older"]) {
        assert_eq!((&result["vm"], &result["status"]), (&json!(vm), &json!("deleted")), "{reaped}");
        assert_eq!(result["deleted"].as_array().unwrap().len(), 3, "{reaped}");
    }
    lab.settles(&before, "after reap");
    lab.run(&["vm", "delete", "kept", "--yes"]).succeeded();
}

#[test]
fn reap_skips_incomplete_and_busy_vms() {
    let (lab, image) = warm();
    let before = lab.snapshot();
    create(&lab, &image, "old", &[]);
    expire(&lab, "old");
    // A delete that was killed after it had marked the VM.
    let killed = lab.run_with_fault("kill-before:8", &["vm", "delete", "old", "--yes"]);
    assert!(killed.was_killed(), "{killed}");
    assert_eq!(info(&lab, "old")["incomplete"], true, "{killed}");
    let skipped = lab.run(&["reap"]).succeeded();
    let says = "old: skipped: its create or delete was interrupted; `gc` removes it\n";
    assert_eq!(skipped.stdout, says);
    for verb in [&["vm", "ttl", "old", "1h"][..], &["vm", "protect", "old"]] {
        lab.run(verb).failed_with(CONFLICT);
    }
    lab.run(&["gc"]).succeeded();
    lab.settles(&before, "after gc");

    // A VM that another vmprov is working on: an inject that waits for its seed.
    create(&lab, &image, "older", &["--no-start"]);
    expire(&lab, "older");
    lab.run(&["key", "generate", "first", "--type", "ed25519"]).succeeded();
    let (begun, go) = (lab.file("begun"), lab.file("go"));
    let script =
        format!(": >{}; for _ in $(seq 400); do [ -e {} ] && break; sleep 0.05; done", begun.display(), go.display());
    lab.fake("genisoimage", &format!("{script}; exec /usr/bin/genisoimage \"$@\""));
    let injecting = lab.begin("", &["inject", "older", "first"]);
    wait_until("inject to write a seed", || begun.exists());
    for dry in [&[][..], &["--dry-run"]] {
        let skipped = lab.run(&[&["reap"], dry].concat()).succeeded();
        let says = "older: skipped: another vmprov is working on the VM `older`\n";
        assert_eq!(skipped.stdout, says);
    }
    std::fs::write(&go, "").unwrap();
    injecting.end().succeeded();
    lab.run(&["reap"]).succeeded();
    lab.run(&["vm", "info", "older"]).failed_with(3);
}

#[test]
fn a_failed_deletion_does_not_stop_the_others() {
    let (lab, image) = warm();
    let before = lab.snapshot();
    for vm in ["old", "older", "oldest"] {
        create(&lab, &image, vm, &["--no-start"]);
        expire(&lab, vm);
    }
    let calls = lab.run(&["reap", "--dry-run"]).succeeded().calls.len();
    assert_eq!(calls, 2 + 3, "reap makes another number of calls than this test expects");
    // First all metadata is read. Then for each VM: read its metadata, destroy, mark, delete volumes, undefine.
    let failed = lab.run_with_fault("fail:5", &["reap", "-o", "json"]).failed_with(TOOL_FAILED);
    let results = failed.json()["results"].clone();
    let statuses: Vec<_> =
        results.as_array().unwrap().iter().map(|vm| vm["status"].as_str().unwrap().to_owned()).collect();
    assert_eq!(statuses, ["failed", "deleted", "deleted"], "{failed}");
    let error = "expired VM `old` was not deleted: cannot ";
    assert!(results[0]["error"].as_str().unwrap().starts_with(error), "{failed}");
    let error_report: Value = serde_json::from_str(&failed.stderr).unwrap();
    assert_eq!(
        (&error_report["error"], &error_report["exitStatus"]),
        (&results[0]["error"], &json!(TOOL_FAILED)),
        "{failed}"
    );
    lab.run(&["gc"]).succeeded();
    lab.run(&["reap"]).succeeded();
    lab.settles(&before, "after reap was run again");
}

#[test]
fn four_concurrent_reaps_delete_each_vm_once() {
    let (lab, image) = warm();
    let before = lab.snapshot();
    for vm in ["old", "older", "oldest"] {
        create(&lab, &image, vm, &[]);
        expire(&lab, vm);
    }
    let running: Vec<_> = (0..4).map(|_| lab.begin("", &["reap", "-o", "json"])).collect();
    let reports: Vec<_> = running.into_iter().map(|running| running.end().succeeded().json()).collect();
    for vm in ["old", "older", "oldest"] {
        let results = reports.iter().flat_map(|report| report["results"].as_array().unwrap());
        let deleted = results.filter(|result| result["vm"] == vm && result["status"] == "deleted").count();
        assert_eq!(deleted, 1, "{vm}: {reports:?}");
    }
    lab.settles(&before, "after four concurrent reaps");
}

/// A TTL is extended while `reap` runs: either the VM is kept, or the extension fails.
#[test]
fn a_vm_whose_ttl_was_extended_meanwhile_is_kept() {
    let (lab, image) = warm();
    create(&lab, &image, "old", &["--no-start"]);
    for _ in 0..6 {
        expire(&lab, "old");
        let reaping = lab.begin("", &["reap", "-o", "json"]);
        let longer = lab.run(&["vm", "ttl", "old", "1h"]);
        let reaped = reaping.end().succeeded().json();
        let exists = lab.run(&["vm", "info", "old"]).status.success();
        let is_deleted = reaped["results"][0]["status"] == "deleted";
        assert_eq!(exists, !is_deleted, "{reaped}: {longer}");
        // A VM whose TTL was extended successfully is kept.
        assert!(exists || !longer.status.success(), "{reaped}: {longer}");
        if !exists {
            create(&lab, &image, "old", &["--no-start"]);
        }
    }
    lab.run(&["vm", "delete", "old", "--yes"]).succeeded();
}

#[test]
fn an_unmanaged_vm_has_no_ttl_and_no_protection() {
    let (lab, _) = warm();
    let xml = "<domain type='qemu'><name>others</name><memory>65536</memory><vcpu>1</vcpu>\
               <os><type arch='x86_64'>hvm</type></os></domain>";
    lab.virsh_with(&["define", "/dev/stdin"], xml);
    let before = lab.virsh(&["dumpxml", "others"]);
    for verb in [&["vm", "ttl", "others", "1h"][..], &["vm", "protect", "others"], &["vm", "unprotect", "others"]] {
        let refused = lab.run(verb).failed_with(CONFLICT);
        assert!(refused.stderr.contains("VM `others` is not managed by vmprov"), "{refused}");
    }
    assert_eq!(lab.virsh(&["dumpxml", "others"]), before);
    lab.virsh(&["undefine", "others"]);
}
