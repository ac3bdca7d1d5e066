//! What interrupted commands and deleted VMs leave behind.

use std::{
    fs,
    path::Path,
    time::{Duration, SystemTime},
};

use serde_json::json;

use super::{check, fixable, lab::Lab, shell_inside};

#[test]
fn leftovers_of_killed_commands_are_reported_and_removed() {
    let lab = Lab::warm();
    let before = lab.snapshot();
    // The define is the first call that changes anything.
    let calls = lab.run(&["vm", "create", "warm", "--no-start"]).succeeded().calls;
    lab.run(&["vm", "delete", "warm", "--yes"]).succeeded();
    let define = 1 + calls.iter().position(|call| call.contains(" define ")).unwrap();
    assert!(lab.run_with_fault(&format!("kill-after:{define}"), &["vm", "create", "web", "--no-start"]).was_killed());
    let locks = check(&lab, 0, "state.locks", &[]);
    assert!(
        locks["observed"].as_str().unwrap().starts_with("interrupted commands left /run/vmprov-locks/vmprov-"),
        "{locks}"
    );
    assert_eq!((&locks["status"], &locks["safe"]), (&json!("warn"), &json!(true)));
    let locks = check(&lab, 0, "state.locks", &["--fix"]);
    assert_eq!((&locks["observed"], &locks["fixed"]), (&json!("no stale lock exists"), &json!(true)));
    let incomplete = fixable("state.incomplete", "warn", "incomplete: `web` (create interrupted)", "vmprov gc", true);
    assert_eq!(check(&lab, 0, "state.incomplete", &[]), incomplete);
    // The VM is not touched while another operation is working on it.
    let lease = lab.lease_elsewhere("the VM `web`");
    let busy = "incomplete, but in use: `web` (another vmprov is working on the VM `web`)";
    assert_eq!(check(&lab, 0, "state.incomplete", &["--fix"])["observed"], busy);
    lab.virsh(&["secret-undefine", "--secret", &lease]);
    assert_eq!(check(&lab, 0, "state.incomplete", &[]), incomplete);

    let probe = "<metadata><v:vm xmlns:v='urn:vmprov:vm:1' phase='probe' created='' by='' host=''/></metadata>";
    let os = "<memory>65536</memory><os><type>hvm</type></os>";
    lab.virsh_with(
        &["define", "/dev/stdin"],
        &format!("<domain type='qemu'><name>vmprov-kvm-test-1</name>{os}{probe}</domain>"),
    );
    let both = "incomplete: `vmprov-kvm-test-1` (KVM probe interrupted), `web` (create interrupted)";
    assert_eq!(check(&lab, 0, "state.incomplete", &[])["observed"], both);
    lab.virsh(&["vol-create-as", "default", "base-0123456789abcdef.qcow2", "1M"]);
    lab.virsh(&["vol-create-as", "default", "vmprov-commit-x.qcow2", "1M"]);
    let left = "upload or copy interrupted: default/base-0123456789abcdef.qcow2, default/vmprov-commit-x.qcow2";
    let unfinished = fixable("state.unfinished", "warn", left, "vmprov gc", true);
    assert_eq!(check(&lab, 0, "state.unfinished", &[]), unfinished);
    for (name, days) in [("old", 8), ("new", 6)] {
        let part = lab.write(&format!(".cache/vmprov/downloads/{name}.part"), "x");
        let then = SystemTime::now() - Duration::from_hours(24 * days);
        fs::File::open(Path::new(&part)).unwrap().set_modified(then).unwrap();
    }
    let old = lab.file(".cache/vmprov/downloads/old.part");
    let old = old.to_str().unwrap();
    let observed = format!("1B of partial downloads older than a week: {old}");
    let downloads = fixable("state.downloads", "warn", &observed, &format!("rm {old}"), true);
    assert_eq!(check(&lab, 0, "state.downloads", &[]), downloads);

    let report = lab.run(&["doctor", "state", "--fix", "-o", "json"]).succeeded().json();
    let first_action = |id: &str| {
        let check = report["checks"].as_array().unwrap().iter().find(|check| check["id"] == id).unwrap();
        assert_eq!((&check["status"], &check["fixed"]), (&json!("ok"), &json!(true)), "{check}");
        check["actions"][0].as_str().unwrap().to_owned()
    };
    // One fix removes all leftovers, and the checks after it find nothing.
    let removed = "removed vmprov-kvm-test-1, web, default/base-0123456789abcdef.qcow2, default/vmprov-commit-x.qcow2";
    assert_eq!(first_action("state.incomplete"), removed);
    assert_eq!(first_action("state.downloads"), format!("removed {old}"));
    assert_eq!(report["summary"], json!({"ok": 5, "warn": 0, "fail": 0, "skip": 0, "fixed": 2}));
    fs::remove_file(lab.file(".cache/vmprov/downloads/new.part")).unwrap();
    lab.settles(&before, "after the cleanup");
}

#[test]
fn a_disk_without_a_vm_is_reported_and_never_deleted() {
    let lab = Lab::warm();
    let image = lab.image("orphan.qcow2", "10M");
    lab.run(&["key", "generate", "dev", "--type", "ed25519"]).succeeded();
    let create = ["vm", "create", "web", "--image", &image, "--user", "debian", "--ssh-key", "dev", "--no-start"];
    lab.run(&create).succeeded();
    check(&lab, 0, "state.volumes", &[]);
    lab.virsh(&["undefine", "web"]);
    let found = check(&lab, 0, "state.volumes", &["--fix"]);
    let observed = found["observed"].as_str().unwrap();
    assert!(
        observed.starts_with("no VM owns web-console.log, web-seed-")
            && observed.ends_with(".iso, web.qcow2 of the pool `default`"),
        "{found}"
    );
    assert_eq!((&found["status"], &found["safe"], &found["fixed"]), (&json!("warn"), &json!(false), &json!(false)));
    assert_eq!(
        found["fixCommand"], "virsh -c qemu:///system vol-delete --pool default --vol web-console.log",
        "{found}"
    );
    // A VM that vmprov did not create uses the disk.
    let disk = "<disk type='file'><source file='/var/lib/libvirt/images/web.qcow2'/><target dev='vda'/></disk>";
    let rest = format!("<memory>65536</memory><os><type>hvm</type></os><devices>{disk}</devices>");
    lab.virsh_with(&["define", "/dev/stdin"], &format!("<domain type='qemu'><name>theirs</name>{rest}</domain>"));
    let found = check(&lab, 0, "state.volumes", &[]);
    assert!(found["observed"].as_str().unwrap().ends_with(".iso of the pool `default`"), "{found}");
    lab.virsh(&["undefine", "theirs"]);
    for expected in [
        "no VM owns web-seed-",
        "no VM owns web.qcow2 of",
        "every disk, seed and log in the pool `default` belongs to a VM",
    ] {
        shell_inside(&lab, check(&lab, 0, "state.volumes", &[])["fixCommand"].as_str().unwrap());
        let found = check(&lab, 0, "state.volumes", &[]);
        assert!(found["observed"].as_str().unwrap().starts_with(expected), "{found}");
    }
    lab.run(&["image", "delete", &image]).succeeded();
}
