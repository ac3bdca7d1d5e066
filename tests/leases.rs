//! Leases: only one operation at a time works on a VM, across processes, containers and spellings of the URI. Cleanup
//! never removes what has become part of another VM. These tests use a real libvirtd with QEMU; no guest boots.
#![expect(clippy::unwrap_used, reason = "clippy knows only the functions marked as tests")]

#[path = "support/lab.rs"]
#[expect(dead_code, reason = "each test binary uses its own part")]
mod lab;

use lab::{Lab, Snapshot, wait_until};

const BUSY: i32 = 5;

/// Makes virsh wait before a command that matches `pattern`, until the pause is released.
struct Pause<'l> {
    lab: &'l Lab,
}

impl<'l> Pause<'l> {
    fn before(lab: &'l Lab, pattern: &str) -> Self {
        let folder = lab.file("pause");
        std::fs::create_dir_all(&folder).unwrap();
        let folder = folder.display();
        let script = format!(
            "PATH=${{PATH#*:}}\ncase \"$*\" in {pattern})\n\
             if mkdir {folder}/reached 2>/dev/null; then while [ ! -e {folder}/go ]; do sleep 0.05; done; fi;;\nesac\n\
             exec virsh \"$@\""
        );
        lab.fake("virsh", &script);
        Self { lab }
    }

    fn wait(&self) {
        wait_until("the paused call", || self.lab.file("pause/reached").exists());
    }

    fn release(self) {
        std::fs::write(self.lab.file("pause/go"), "").unwrap();
    }
}

/// Waits until everything is as before, except for the files of a pause.
#[track_caller]
fn settles(lab: &Lab, before: &Snapshot, when: &str) {
    lab.settles_without(before, |line| line.starts_with("home pause/"), when);
}

/// Kills a create after every part of the VM exists, so that it stays incomplete.
fn kill_create(lab: &Lab, name: &str) {
    let args = ["vm", "create", name, "--no-start", "--disk-size", "1"];
    let calls = lab.run(&args).succeeded().calls.len();
    lab.run(&["vm", "delete", name, "--yes"]).succeeded();
    assert!(lab.run_with_fault(&format!("kill-before:{calls}"), &args).was_killed());
}

fn uuid(lab: &Lab, name: &str) -> String {
    lab.virsh(&["domuuid", "--domain", name]).trim().to_owned()
}

/// Returns the inode of a VM's disk. A disk that was created again has another inode.
fn disk_inode(lab: &Lab, name: &str) -> u64 {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata(lab.pool_folder().join(format!("{name}.qcow2"))).unwrap().ino()
}

/// Removes what a failed test left behind.
fn clean_up(lab: &Lab) {
    for secret in lab.virsh(&["secret-list"]).lines().filter_map(|row| row.split_whitespace().next()) {
        lab.virsh(&["secret-undefine", "--secret", secret]);
    }
    for name in ["a", "web"] {
        lab.run(&["vm", "delete", name, "--yes", "--ignore-missing"]).succeeded();
    }
    lab.run(&["gc"]).succeeded();
}

#[test]
fn gc_keeps_a_new_vm_that_has_the_name_of_leftovers() {
    let lab = Lab::warm();
    clean_up(&lab);
    let before = lab.snapshot();
    kill_create(&lab, "a");
    kill_create(&lab, "web");
    let pause = Pause::before(&lab, &format!("*destroy*{}*", uuid(&lab, "a")));
    let gc = lab.begin("", &["gc", "-o", "json"]);
    pause.wait();
    // gc has listed the leftovers and is removing the first of them.
    lab.run(&["vm", "create", "web", "--no-start", "--disk-size", "1"]).succeeded();
    let inode = disk_inode(&lab, "web");
    pause.release();
    let collected = gc.end().succeeded().json();
    assert_eq!(collected["vms"], serde_json::json!(["a"]), "{collected}");
    assert_eq!(collected["volumes"], serde_json::json!(["default/a-console.log", "default/a.qcow2"]), "{collected}");
    assert_eq!(disk_inode(&lab, "web"), inode);
    lab.run(&["vm", "delete", "web", "--yes"]).succeeded();
    settles(&lab, &before, "after gc and a concurrent create");
}

#[test]
fn an_operation_excludes_others_from_any_process_or_container() {
    let lab = Lab::warm();
    clean_up(&lab);
    let before = lab.snapshot();
    let pause = Pause::before(&lab, "*vol-create-as*web.qcow2*");
    let create = lab.begin_in_container("one", &["vm", "create", "web", "--no-start", "--disk-size", "1"]);
    pause.wait();
    let delete = ["vm", "delete", "web", "--yes"];
    let message = "error: another vmprov is working on the VM `web`\n";
    for container in ["one", "two"] {
        let ran = lab.begin_in_container(container, &delete).end().failed_with(BUSY);
        assert!(ran.stderr.starts_with(message), "{container}: {ran}");
    }
    let other_uri = ["-c", "qemu+unix:///system", "vm", "delete", "web", "--yes"];
    assert!(lab.run(&other_uri).failed_with(BUSY).stderr.starts_with(message));
    let collected = lab.begin_in_container("one", &["gc", "-o", "json"]).end().succeeded().json();
    let skipped = serde_json::json!([{"vm": "web", "reason": "another vmprov is working on the VM `web`"}]);
    assert_eq!((&collected["vms"], &collected["skipped"]), (&serde_json::json!([]), &skipped));
    pause.release();
    create.end().succeeded();
    lab.run(&delete).succeeded();
    settles(&lab, &before, "after an operation that excluded others");
    assert_eq!(lab.virsh(&["secret-list"]).trim(), "");
}

#[test]
fn a_lease_expires_and_its_former_holder_makes_no_more_changes() {
    use rustix::process::Signal;
    let lab = Lab::warm();
    clean_up(&lab);
    let before = lab.snapshot();
    let pause = Pause::before(&lab, "*vol-create-as*web.qcow2*");
    let create = lab.begin_in_container("one", &["vm", "create", "web", "--no-start", "--disk-size", "1"]);
    pause.wait();
    create.signal(Signal::STOP);
    // gc cannot see whether the holder still runs in its container, so it keeps the VM until the lease expires.
    let mut collected = serde_json::Value::Null;
    lab::wait_for("the lease to expire", std::time::Duration::from_mins(2), || {
        collected = lab.run(&["gc", "-o", "json"]).succeeded().json();
        collected["vms"] == serde_json::json!(["web"])
    });
    lab.run(&["vm", "create", "web", "--no-start", "--disk-size", "1"]).succeeded();
    let inode = disk_inode(&lab, "web");
    pause.release();
    create.signal(Signal::CONT);
    let ran = create.end();
    assert_ne!(ran.code(), Some(0), "{ran}");
    assert!(ran.stderr.contains("lost the lease on the VM `web`"), "{ran}");
    assert_eq!(disk_inode(&lab, "web"), inode);
    lab.run(&["vm", "delete", "web", "--yes"]).succeeded();
    settles(&lab, &before, "after an operation that lost its lease");
}

#[test]
fn a_lease_of_a_dead_local_process_is_taken_over_at_once() {
    let lab = Lab::warm();
    clean_up(&lab);
    let before = lab.snapshot();
    kill_create(&lab, "web");
    assert!(lab.virsh(&["secret-list"]).contains("vmprov lease on the VM `web`"));
    lab.run(&["vm", "create", "web", "--no-start", "--disk-size", "1"]).succeeded();
    lab.run(&["vm", "delete", "web", "--yes"]).succeeded();
    // gc removes leftovers that no new create replaces.
    kill_create(&lab, "a");
    lab.run(&["gc"]).succeeded();
    assert_eq!(lab.virsh(&["secret-list"]).trim(), "");
    settles(&lab, &before, "after killed operations");
}
