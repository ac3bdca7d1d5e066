//! `vm create --if-exists`: what happens if a VM with the name exists, against a real libvirtd with QEMU. The guests'
//! disks are empty; nothing boots.
#![expect(clippy::unwrap_used, reason = "clippy knows only the functions marked as tests")]

#[path = "support/lab.rs"]
#[expect(dead_code, reason = "each test binary uses its own part")]
mod lab;

use lab::{Lab, Run};
use serde_json::{Value, json};

const CONFLICT: i32 = 4;
const VM: &str = "again";

/// The lab with a pool, a network, a base image, two keys, and no VM.
fn warm() -> (Lab, String) {
    let lab = Lab::qemu();
    drop(lab.run(&["vm", "unprotect", VM]));
    lab.run(&["vm", "delete", VM, "--yes", "--ignore-missing", "--unmanaged"]).succeeded();
    lab.run(&["gc"]).succeeded();
    for key in ["first", "second"] {
        lab.run(&["key", "generate", key, "--type", "ed25519"]).succeeded();
    }
    let image = lab.image("tiny.qcow2", "10M");
    create(&lab, &image, &["--no-start"]).succeeded();
    lab.run(&["vm", "delete", VM, "--yes"]).succeeded();
    (lab, image)
}

/// Creates a VM with 64 MiB of memory and a disk of 1 GiB that accepts both keys.
fn create(lab: &Lab, image: &str, more: &[&str]) -> Run {
    let create = ["vm", "create", VM, "--image", image, "--user", "debian", "-o", "json", "--memory", "64M"];
    let keys = ["--disk-size", "1", "--ssh-key", "first", "--ssh-key", "second"];
    lab.run(&[&create[..], &keys, more].concat())
}

#[track_caller]
fn info(lab: &Lab) -> Value {
    lab.run(&["vm", "info", VM, "-o", "json"]).succeeded().json()
}

/// Returns the VM's domain XML.
fn xml(lab: &Lab) -> String {
    lab.virsh(&["dumpxml", "--domain", VM])
}

/// Replaces vmprov's metadata element of the VM.
fn set_metadata(lab: &Lab, element: &str) {
    lab.virsh(&["metadata", VM, "--uri", "urn:vmprov:vm:1", "--key", "vmprov", "--config", "--set", element]);
}

#[test]
fn an_equivalent_specification_changes_nothing() {
    let (lab, image) = warm();
    let created = create(&lab, &image, &["--if-exists", "ok"]).succeeded().json();
    assert_eq!((&created["status"], &created["changed"]), (&json!("created"), &json!(true)), "{created}");
    let (before, old_xml) = (lab.snapshot(), xml(&lab));
    let url = format!("file://{image}");
    let plain = ["vm", "create", VM, "--user", "debian", "-o", "json", "--if-exists", "ok"];
    for args in [
        &["--image", &image, "--memory", "64", "--disk-size", "1G", "--ssh-key", "first", "--ssh-key", "second"][..],
        &[
            "--ssh-key",
            "second",
            "--ssh-key",
            "first",
            "--disk-size",
            "1024M",
            "--memory",
            "65536K",
            "--image-url",
            &url,
        ],
        // Options that are not part of the specification.
        &[
            "--image",
            &url,
            "--memory",
            "64",
            "--disk-size",
            "1",
            "--ssh-key",
            "first",
            "--ssh-key",
            "second",
            "--vcpus",
            "2",
            "--network",
            "default",
            "--ttl",
            "2h",
            "--no-start",
        ],
    ] {
        let same = lab.run(&[&plain[..], args].concat()).succeeded();
        let report = same.json();
        let expected = (&created["uuid"], &json!("unchanged"), &json!(false), &json!("running"));
        assert_eq!((&report["uuid"], &report["status"], &report["changed"], &report["state"]), expected, "{same}");
        assert_eq!(
            (&report["memory"], &report["expires"], &report["warnings"]),
            (&json!(64), &Value::Null, &json!([]))
        );
        assert_eq!(xml(&lab), old_xml);
    }
    let dry = create(&lab, &image, &["--if-exists", "ok", "--dry-run"]).succeeded().json();
    assert_eq!(dry, json!({"commands": [], "warnings": []}));
    lab.settles(&before, "after creates of a VM that exists");
    create(&lab, &image, &[]).failed_with(CONFLICT);

    let waited = create(&lab, &image, &["--if-exists", "ok", "--wait=running"]).succeeded().json();
    assert_eq!(waited["changed"], false, "{waited}");
    lab.run(&["vm", "stop", VM, "--force"]).succeeded();
    let stopped = create(&lab, &image, &["--if-exists", "ok"]).succeeded();
    let says = "VM `again` already exists and is shut off; it was not started";
    assert_eq!(
        (&stopped.json()["state"], &stopped.json()["warnings"]),
        (&json!("shut off"), &json!([says])),
        "{stopped}"
    );
    let waited = create(&lab, &image, &["--if-exists", "ok", "--wait=running"]).failed_with(CONFLICT);
    assert!(waited.stderr.contains("VM `again` is shut off, so it will not become ready"), "{waited}");
    assert_eq!(info(&lab)["state"], "shut off");
    lab.run(&["vm", "delete", VM, "--yes"]).succeeded();
}

#[test]
fn another_specification_is_refused_with_every_difference() {
    let (lab, image) = warm();
    let data = |text: &str| lab.write("user-data", format!("#cloud-config\n{text}\n"));
    create(&lab, &image, &["--no-start", "--user-data", &data("password: secret-one")]).succeeded();
    assert!(!xml(&lab).contains("secret"), "{}", xml(&lab));
    let (before, old_xml) = (lab.snapshot(), xml(&lab));
    let other = lab.image("other.qcow2", "11M");
    let refused = |args: &[&str], causes: &[&str]| {
        let ran = create(&lab, &image, &[args, &["--if-exists", "ok"]].concat()).failed_with(CONFLICT);
        let error: Value = serde_json::from_str(ran.stderr.trim()).unwrap();
        assert_eq!(error["error"], "VM `again` already exists with another specification", "{ran}");
        assert_eq!(error["code"], "conflict", "{ran}");
        assert_eq!(error["cause"], causes.join("\n"), "{ran}");
        assert!(error["hint"].as_str().unwrap().contains("--if-exists replace"), "{ran}");
        assert_eq!(xml(&lab), old_xml);
    };
    let digest =
        |text: &str| format!("sha256:{}", vmprov::model::digest::of(format!("#cloud-config\n{text}\n").as_bytes()));
    let same = data("password: secret-one");
    let more = ["--memory", "128M", "--vcpus", "1", "--disk-size", "2", "--autostart", "--user-data", &same];
    let differences = ["memory: 64M -> 128M", "vcpus: 2 -> 1", "diskSize: 1G -> 2G", "autostart: false -> true"];
    refused(&more, &differences);
    let from = digest("password: secret-one");
    refused(&[], &[&format!("userData: {from} -> none")]);
    let second = data("password: secret-two");
    let to = digest("password: secret-two");
    refused(&["--user-data", &second], &[&format!("userData: {from} -> {to}")]);
    data("password: secret-one");
    let base = ["vm", "create", VM, "--memory", "64M", "--disk-size", "1", "--user", "debian", "--if-exists", "ok"];
    let ran = lab.run(&[&base[..], &["--image", &other, "--ssh-key", "first", "--user-data", &same]].concat());
    let ran = ran.failed_with(CONFLICT);
    let image_line = format!("  why: image: {image} -> {other}\n       sshKeys: first SHA256:");
    assert!(ran.stderr.contains(&image_line), "{ran}");

    // A key that was generated again has the same name, but is another key.
    lab.run(&["key", "delete", "second"]).succeeded();
    lab.run(&["key", "generate", "second", "--type", "ed25519"]).succeeded();
    let ran = create(&lab, &image, &["--if-exists", "ok", "--user-data", &same]).failed_with(CONFLICT);
    assert!(ran.stderr.contains("sshKeys: first SHA256:"), "{ran}");
    lab.settles_without(&before, |line| line.ends_with("other.qcow2"), "after refused creates");
    lab.run(&["vm", "delete", VM, "--yes"]).succeeded();
}

#[test]
fn an_unmanaged_vm_or_one_of_another_version_is_refused() {
    let (lab, image) = warm();
    let unmanaged_xml = "<domain type='qemu'><name>again</name><memory>65536</memory><vcpu>1</vcpu>\
                         <os><type arch='x86_64'>hvm</type></os></domain>";
    lab.virsh_with(&["define", "/dev/stdin"], unmanaged_xml);
    let old_xml = xml(&lab);
    for what in ["ok", "replace"] {
        let refused = create(&lab, &image, &["--if-exists", what]).failed_with(CONFLICT);
        assert!(refused.stderr.contains("VM `again` already exists and is not managed by vmprov"), "{refused}");
    }
    assert_eq!(xml(&lab), old_xml);
    lab.virsh(&["undefine", VM]);

    create(&lab, &image, &["--no-start"]).succeeded();
    let element = lab.virsh(&["metadata", VM, "--uri", "urn:vmprov:vm:1", "--config"]);
    let (before, rest) = element.split_once("<specification").unwrap();
    let after = rest.split_once("</specification>").unwrap().1;
    set_metadata(&lab, &format!("{before}{after}"));
    let refused = create(&lab, &image, &["--if-exists", "ok"]).failed_with(CONFLICT);
    assert!(
        refused.stderr.contains("was created by a version of vmprov that did not record its specification"),
        "{refused}"
    );
    set_metadata(&lab, &format!("{before}<specification sha256='ab'>{{}}</specification>{after}"));
    let refused = create(&lab, &image, &["--if-exists", "ok"]).failed_with(CONFLICT);
    assert!(
        refused.stderr.contains("was created by another version of vmprov, with another specification"),
        "{refused}"
    );
    create(&lab, &image, &["--if-exists", "replace", "--no-start"]).succeeded();
    create(&lab, &image, &["--if-exists", "ok", "--no-start"]).succeeded();
    lab.run(&["vm", "delete", VM, "--yes"]).succeeded();
}

#[test]
fn replace_deletes_the_old_vm_and_creates_a_new_one() {
    let (lab, image) = warm();
    let first = create(&lab, &image, &["--if-exists", "replace"]).succeeded().json();
    assert_eq!((&first["status"], &first["changed"]), (&json!("created"), &json!(true)), "{first}");
    let before = lab.snapshot();
    let old_xml = xml(&lab);
    let dry = create(&lab, &image, &["--if-exists", "replace", "--dry-run"]).succeeded();
    let commands = dry.json()["commands"].as_array().unwrap().iter().map(ToString::to_string).collect::<Vec<_>>();
    let position =
        |text: &str| commands.iter().position(|command| command.contains(text)).unwrap_or_else(|| panic!("{dry}"));
    assert!(
        position(" destroy ") < position(" undefine ") && position(" undefine ") < position(" define /dev/stdin"),
        "{dry}"
    );
    assert_eq!(xml(&lab), old_xml);
    lab.settles(&before, "after a dry run");

    // A VM with the same specification is replaced, too.
    let second = create(&lab, &image, &["--if-exists", "replace", "--ttl", "2h"]).succeeded().json();
    assert_eq!((&second["status"], &second["changed"]), (&json!("replaced"), &json!(true)), "{second}");
    assert_ne!(second["uuid"], first["uuid"]);
    assert_eq!((&info(&lab)["uuid"], &info(&lab)["expires"]), (&second["uuid"], &second["expires"]));
    // UUID, seed and QEMU's process are new; nothing of the old VM is left.
    let is_of_vm = |line: &str| {
        line.contains(" again: active") || line.contains("again-seed-") || line.starts_with("process qemu")
    };
    lab.settles_without(&before, is_of_vm, "after the VM was replaced");
    let lines = |snapshot: &lab::Snapshot| snapshot.0.iter().filter(|line| is_of_vm(line)).count();
    assert_eq!(lines(&lab.snapshot()), lines(&before));
    lab.run(&["vm", "delete", VM, "--yes"]).succeeded();
}

#[test]
fn an_invalid_replacement_is_refused_before_the_old_vm_is_deleted() {
    let (lab, image) = warm();
    create(&lab, &image, &[]).succeeded();
    let page = lab.write("page.qcow2", "<!DOCTYPE html>\n<html>");
    let (before, old_xml) = (lab.snapshot(), xml(&lab));
    let base = ["vm", "create", VM, "--user", "debian", "--disk-size", "1", "--if-exists", "replace"];
    for (args, code) in [
        (&["--image", &page][..], 2),
        (&["--image", "http://127.0.0.1:1/x.qcow2"], 9),
        (&["--image", &image, "--ssh-key", "nosuch"], 3),
        (&["--image", &image, "--network", "nosuch"], 3),
        (&["--image", &image, "--vcpus", "100000"], 2),
        (&["--image", &image, "--disk-size", "5M"], 2),
        (&["--image", &image, "--require-verified"], 2),
        (&["--image", &image, "--no-start", "--wait=running"], 2),
    ] {
        lab.run(&[&base[..], args].concat()).failed_with(code);
        assert_eq!(xml(&lab), old_xml, "{args:?}");
    }
    lab.settles(&before, "after refused creates");

    lab.run(&["vm", "protect", VM]).succeeded();
    let refused = create(&lab, &image, &["--if-exists", "replace"]).failed_with(CONFLICT);
    assert!(refused.stderr.contains("is protected from deletion"), "{refused}");
    create(&lab, &image, &["--if-exists", "ok"]).succeeded();
    assert_eq!(info(&lab)["state"], "running");
    lab.settles(&before, "after a refused replacement of a protected VM");
    lab.run(&["vm", "unprotect", VM]).succeeded();
    lab.run(&["vm", "delete", VM, "--yes"]).succeeded();
}

#[test]
fn a_vm_of_an_interrupted_create_is_created_again() {
    let (lab, image) = warm();
    let args = ["vm", "create", VM, "--image", &image, "--user", "debian", "--disk-size", "1", "--no-start"];
    let calls = lab.run(&args).succeeded().calls.len();
    for what in ["ok", "replace"] {
        lab.run(&["vm", "delete", VM, "--yes"]).succeeded();
        assert!(lab.run_with_fault(&format!("kill-before:{calls}"), &args).was_killed());
        assert_eq!(info(&lab)["incomplete"], true);
        let created = lab.run(&[&args[..], &["--if-exists", what, "-o", "json"]].concat()).succeeded().json();
        assert_eq!((&created["status"], &created["incomplete"]), (&json!("created"), &json!(false)), "{created}");

        // A delete that was killed after it had marked the VM.
        assert!(lab.run_with_fault("kill-before:8", &["vm", "delete", VM, "--yes"]).was_killed());
        assert_eq!(info(&lab)["incomplete"], true);
        lab.run(&args).failed_with(CONFLICT);
        lab.run(&[&args[..], &["--if-exists", what]].concat()).succeeded();
        assert_eq!(info(&lab)["incomplete"], false);
    }
    lab.run(&["vm", "delete", VM, "--yes"]).succeeded();
    // The killed commands left nothing.
    assert_eq!(lab.run(&["gc"]).succeeded().stdout, "nothing to clean up\n");
}

#[test]
fn concurrent_creates_leave_one_complete_vm() {
    let (lab, image) = warm();
    let args =
        ["vm", "create", VM, "--image", &image, "--user", "debian", "--disk-size", "1", "--no-start", "-o", "json"];
    for (what, least) in [("ok", 4), ("replace", 1)] {
        let args = [&args[..], &["--if-exists", what]].concat();
        let running: Vec<_> = (0..4).map(|_| lab.begin("", &args)).collect();
        let ended: Vec<_> = running.into_iter().map(lab::Running::end).collect();
        let reports: Vec<_> = ended.iter().filter(|ran| ran.status.success()).map(Run::json).collect();
        assert!(reports.len() >= least, "{}", ended.iter().map(Run::to_string).collect::<String>());
        // A create that waits too long for the others fails with a retryable error.
        assert!(ended.iter().all(|ran| matches!(ran.code(), Some(0 | 5))), "{ended:?}");
        if what == "ok" {
            assert_eq!(reports.iter().filter(|report| report["changed"] == true).count(), 1, "{reports:?}");
        } else {
            assert!(reports.iter().all(|report| report["status"] == "replaced"), "{reports:?}");
        }
        let vm = info(&lab);
        assert!(reports.iter().any(|report| report["uuid"] == vm["uuid"]), "{reports:?}: {vm}");
        assert_eq!((&vm["incomplete"], vm["volumes"].as_array().unwrap().len()), (&json!(false), 3), "{vm}");
        let volumes = lab.virsh(&["vol-list", "default"]);
        assert_eq!(volumes.lines().filter(|line| line.trim_start().starts_with(VM)).count(), 3, "{volumes}");
    }
    lab.run(&["vm", "delete", VM, "--yes"]).succeeded();
}
