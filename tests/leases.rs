//! One operation at a time on a VM, whoever works on it: other processes, other containers, other spellings of the URI;
//! and nothing is removed that became another VM's meanwhile. Against a real libvirtd with QEMU; nothing boots.
#![expect(clippy::unwrap_used, reason = "clippy knows only the functions marked as tests")]

#[path = "support/lab.rs"]
#[expect(dead_code, reason = "each test binary uses its own part")]
mod lab;

use lab::{Lab, Snapshot, wait_until};

const BUSY: i32 = 5;

/// Has virsh wait before it does what `pattern` matches, until it is let go.
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

    fn end(self) {
        std::fs::write(self.lab.file("pause/go"), "").unwrap();
    }
}

/// Waits until everything is as before, but for what a pause needs.
#[track_caller]
fn settles(lab: &Lab, before: &Snapshot, when: &str) {
    lab.settles_without(before, |line| line.starts_with("home pause/"), when);
}

/// A VM whose create was killed when everything of it was there.
fn cut_short(lab: &Lab, name: &str) {
    let args = ["vm", "create", name, "--no-start", "--disk-size", "1"];
    let calls = lab.run(&args).succeeded().calls.len();
    lab.run(&["vm", "delete", name, "--yes"]).succeeded();
    assert!(lab.spoil(&format!("kill-before:{calls}"), &args).was_killed());
}

fn uuid(lab: &Lab, name: &str) -> String {
    lab.virsh(&["domuuid", "--domain", name]).trim().to_owned()
}

/// The disk of a VM, by its inode: a disk that was made anew has another.
fn disk(lab: &Lab, name: &str) -> u64 {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata(lab.pool_folder().join(format!("{name}.qcow2"))).unwrap().ino()
}

/// Removes what a test that failed has left.
fn clean(lab: &Lab) {
    for secret in lab.virsh(&["secret-list"]).lines().filter_map(|row| row.split_whitespace().next()) {
        lab.virsh(&["secret-undefine", "--secret", secret]);
    }
    for name in ["a", "web"] {
        lab.run(&["vm", "delete", name, "--yes", "--ignore-missing"]).succeeded();
    }
    lab.run(&["gc"]).succeeded();
}

#[test]
fn gc_leaves_a_vm_alone_that_took_a_leftovers_name() {
    let lab = Lab::warm();
    clean(&lab);
    let before = lab.snapshot();
    cut_short(&lab, "a");
    cut_short(&lab, "web");
    let pause = Pause::before(&lab, &format!("*destroy*{}*", uuid(&lab, "a")));
    let gc = lab.begin("", &["gc", "-o", "json"]);
    pause.wait();
    // It has read what there is, and is at the first of them.
    lab.run(&["vm", "create", "web", "--no-start", "--disk-size", "1"]).succeeded();
    let made = disk(&lab, "web");
    pause.end();
    let collected = gc.end().succeeded().json();
    assert_eq!(collected["vms"], serde_json::json!(["a"]), "{collected}");
    assert_eq!(collected["volumes"], serde_json::json!(["default/a-console.log", "default/a.qcow2"]), "{collected}");
    assert_eq!(disk(&lab, "web"), made);
    lab.run(&["vm", "delete", "web", "--yes"]).succeeded();
    settles(&lab, &before, "gc beside a create");
}

#[test]
fn an_operation_excludes_others_wherever_they_are() {
    let lab = Lab::warm();
    clean(&lab);
    let before = lab.snapshot();
    let pause = Pause::before(&lab, "*vol-create-as*web.qcow2*");
    let create = lab.begin_in_container("one", &["vm", "create", "web", "--no-start", "--disk-size", "1"]);
    pause.wait();
    let delete = ["vm", "delete", "web", "--yes"];
    let says = "error: another vmprov is working on the VM `web`\n";
    for elsewhere in ["one", "two"] {
        let ran = lab.begin_in_container(elsewhere, &delete).end().failed_with(BUSY);
        assert!(ran.stderr.starts_with(says), "{elsewhere}: {ran}");
    }
    let other_uri = ["-c", "qemu+unix:///system", "vm", "delete", "web", "--yes"];
    assert!(lab.run(&other_uri).failed_with(BUSY).stderr.starts_with(says));
    let collected = lab.begin_in_container("one", &["gc", "-o", "json"]).end().succeeded().json();
    let skipped = serde_json::json!([{"vm": "web", "reason": "another vmprov is working on the VM `web`"}]);
    assert_eq!((&collected["vms"], &collected["skipped"]), (&serde_json::json!([]), &skipped));
    pause.end();
    create.end().succeeded();
    lab.run(&delete).succeeded();
    settles(&lab, &before, "an operation that others waited for");
    assert_eq!(lab.virsh(&["secret-list"]).trim(), "");
}

#[test]
fn a_lease_ends_with_its_term_and_its_holder_changes_nothing_more() {
    use rustix::process::Signal;
    let lab = Lab::warm();
    clean(&lab);
    let before = lab.snapshot();
    let pause = Pause::before(&lab, "*vol-create-as*web.qcow2*");
    let create = lab.begin_in_container("one", &["vm", "create", "web", "--no-start", "--disk-size", "1"]);
    pause.wait();
    create.signal(Signal::STOP);
    // Nobody here can see whether it lives, so its term is waited for.
    let mut collected = serde_json::Value::Null;
    lab::wait_for("the term of the lease", std::time::Duration::from_mins(2), || {
        collected = lab.run(&["gc", "-o", "json"]).succeeded().json();
        collected["vms"] == serde_json::json!(["web"])
    });
    lab.run(&["vm", "create", "web", "--no-start", "--disk-size", "1"]).succeeded();
    let made = disk(&lab, "web");
    pause.end();
    create.signal(Signal::CONT);
    let ran = create.end();
    assert_ne!(ran.code(), Some(0), "{ran}");
    assert!(ran.stderr.contains("lost the lease on the VM `web`"), "{ran}");
    assert_eq!(disk(&lab, "web"), made);
    lab.run(&["vm", "delete", "web", "--yes"]).succeeded();
    settles(&lab, &before, "an operation that had lost its lease");
}

#[test]
fn a_holder_that_died_here_is_seen_at_once() {
    let lab = Lab::warm();
    clean(&lab);
    let before = lab.snapshot();
    cut_short(&lab, "web");
    assert!(lab.virsh(&["secret-list"]).contains("vmprov lease on the VM `web`"));
    lab.run(&["vm", "create", "web", "--no-start", "--disk-size", "1"]).succeeded();
    lab.run(&["vm", "delete", "web", "--yes"]).succeeded();
    // What nobody asks for again goes with gc.
    cut_short(&lab, "a");
    lab.run(&["gc"]).succeeded();
    assert_eq!(lab.virsh(&["secret-list"]).trim(), "");
    settles(&lab, &before, "killed operations");
}
