//! Fault injection for every external call of `image import`, `pull`, `delete`, `prune` and `vm commit`. The shim's
//! faults are divided among commands that store images in the same way. Every image that is left is complete, and `gc`
//! and `prune` remove the rest.
#![expect(clippy::unwrap_used, reason = "clippy knows only the functions marked as tests")]

#[path = "support/lab.rs"]
#[expect(dead_code, reason = "each test binary uses its own part")]
mod lab;
#[path = "support/mirror.rs"]
#[expect(dead_code, reason = "each test binary uses its own part")]
mod mirror;

use lab::{Lab, Run, Snapshot, each_call};
use mirror::Mirror;

/// A lab with a pool and without images.
fn site() -> (Lab, Snapshot) {
    let lab = Lab::qemu();
    // Leftovers of a failed test must not fail this one.
    lab.run(&["vm", "delete", "image-a", "--yes", "--ignore-missing"]).succeeded();
    let warm = lab.image("warm.qcow2", "10M");
    lab.run(&["vm", "create", "image-warm", "--image", &warm, "--user", "u", "--no-start"]).succeeded();
    lab.run(&["vm", "delete", "image-warm", "--yes"]).succeeded();
    lab.run(&["image", "prune", "--all"]).succeeded();
    lab.image("disk.qcow2", "10M");
    let before = lab.snapshot();
    (lab, before)
}

/// Checks that a command ended as the fault requires.
#[track_caller]
fn assert_expected_end(mode: &str, when: &str, ran: &Run) {
    match mode {
        // A call that only reads may have an alternative, and the signal may arrive after the last step.
        "INT" | "TERM" => assert!(matches!(ran.code(), Some(0 | 130)), "{when}: {ran}"),
        "fail" | "lie" => assert!(ran.code().is_some(), "{when}: {ran}"),
        _ => assert!(ran.was_killed(), "{when}: {ran}"),
    }
    assert!(!ran.stderr.contains("panicked"), "{when}: {ran}");
}

/// Whether the faulty call changes anything. If it only reads, leftovers are checked once, at the end.
fn changes(ran: &Run, k: usize) -> bool {
    let call = ran.calls.get(k - 1).map(String::as_str).unwrap_or_default();
    ["vol-create", "vol-upload", "vol-delete", "vol-clone"].iter().any(|verb| call.contains(verb))
}

/// Checks that every listed image is complete, and that pruning leaves nothing.
#[track_caller]
fn assert_only_complete_images(lab: &Lab, before: &Snapshot, when: &str) {
    let listed = lab.run(&["image", "list", "-o", "json"]).succeeded().json();
    for image in listed["images"].as_array().unwrap() {
        let volume = image["volume"].as_str().unwrap().rsplit('/').next().unwrap();
        let stored = std::fs::read(lab.pool_folder().join(volume)).unwrap();
        assert!(stored == std::fs::read(lab.file("disk.qcow2")).unwrap(), "{when}: {volume} is not complete");
    }
    lab.run(&["gc"]).succeeded();
    lab.run(&["image", "prune", "--all"]).succeeded();
    lab.settles(before, when);
}

#[test]
fn a_failed_import_leaves_only_complete_images() {
    let (lab, before) = site();
    let file = lab.file("disk.qcow2").to_str().unwrap().to_owned();
    for mode in ["lie", "kill-after"] {
        each_call(
            mode,
            |fault, _| {
                let ran = lab.run_with_fault(fault, &["image", "import", &file, "golden"]);
                if ran.status.success() {
                    lab.run(&["image", "delete", "golden"]).succeeded();
                }
                ran
            },
            |k, when, ran| {
                assert_expected_end(mode, when, &ran);
                if !changes(&ran, k) {
                    let deleted = lab.run(&["image", "delete", "golden"]);
                    assert!(matches!(deleted.code(), Some(0 | 3)), "{when}\n{ran}\n{deleted}");
                    return;
                }
                // In any case the name is free, or belongs to a complete image.
                let again = lab.run(&["image", "import", &file, "golden"]);
                assert!(matches!(again.code(), Some(0 | 4)), "{when}\n{ran}\n{again}");
                lab.run(&["image", "info", "golden"]).succeeded();
                assert_only_complete_images(&lab, &before, &format!("{when}\n{ran}"));
            },
        );
        assert_only_complete_images(&lab, &before, mode);
    }
}

#[test]
fn a_failed_pull_leaves_only_complete_images() {
    let (lab, before) = site();
    let mirror = Mirror::inside(&lab.network());
    mirror.put("x/disk.qcow2", std::fs::read(lab.file("disk.qcow2")).unwrap());
    let url = mirror.url("x/disk.qcow2");
    for mode in ["kill-during", "TERM"] {
        each_call(
            mode,
            |fault, _| {
                let ran = lab.run_with_fault(fault, &["image", "pull", &url]);
                if ran.status.success() {
                    lab.run(&["image", "delete", &url]).succeeded();
                }
                ran
            },
            |k, when, ran| {
                assert_expected_end(mode, when, &ran);
                if !changes(&ran, k) {
                    return;
                }
                if k % 2 == 0 {
                    lab.run(&["image", "pull", &url]).succeeded();
                }
                assert_only_complete_images(&lab, &before, &format!("{when}\n{ran}"));
            },
        );
        assert_only_complete_images(&lab, &before, mode);
    }
}

/// A fake virt-sysprep does not change the disk.
#[test]
fn a_failed_commit_leaves_only_complete_images() {
    let (lab, _) = site();
    lab.fake("virt-sysprep", "exit 0");
    let file = lab.file("disk.qcow2").to_str().unwrap().to_owned();
    let create = ["vm", "create", "image-a", "--image", &file, "--user", "u", "--no-start", "--disk-size", "1"];
    lab.run(&create).succeeded();
    let before = lab.snapshot();
    for mode in ["fail", "kill-before"] {
        each_call(
            mode,
            |fault, _| {
                let ran = lab.run_with_fault(fault, &["vm", "commit", "image-a", "silver"]);
                if ran.status.success() {
                    lab.run(&["image", "delete", "silver"]).succeeded();
                }
                ran
            },
            |k, when, ran| {
                assert_expected_end(mode, when, &ran);
                if ran.was_killed() || changes(&ran, k) {
                    lab.run(&["gc"]).succeeded();
                    lab.run(&["image", "prune", "--all"]).succeeded();
                    lab.settles(&before, &format!("{when}\n{ran}"));
                } else {
                    // The commit may have succeeded in spite of the fault; then the image exists.
                    let deleted = lab.run(&["image", "delete", "silver"]);
                    assert!(matches!(deleted.code(), Some(0 | 3)), "{when}\n{ran}\n{deleted}");
                }
            },
        );
    }
    lab.run(&["vm", "delete", "image-a", "--yes"]).succeeded();
    lab.run(&["image", "prune"]).succeeded();
}

#[test]
fn a_second_delete_finishes_a_failed_one() {
    let (lab, before) = site();
    let file = lab.file("disk.qcow2").to_str().unwrap().to_owned();
    let faults =
        [(["image", "delete", "golden"], &["fail", "INT"][..]), (["image", "prune", "--all"], &["lie", "kill-after"])];
    for (command, modes) in faults {
        for mode in modes {
            each_call(
                mode,
                |fault, _| {
                    // An image that the previous command left is complete.
                    let imported = lab.run(&["image", "import", &file, "golden"]);
                    assert!(matches!(imported.code(), Some(0 | 4)), "{imported}");
                    lab.run_with_fault(fault, &command)
                },
                |k, when, ran| {
                    assert_expected_end(mode, when, &ran);
                    if !changes(&ran, k) {
                        return;
                    }
                    let when = format!("{command:?}, {when}\n{ran}");
                    if k % 2 == 0 {
                        let again = lab.run(&command);
                        assert!(matches!(again.code(), Some(0 | 3)), "{when}\n{again}");
                    }
                    assert_only_complete_images(&lab, &before, &when);
                },
            );
            assert_only_complete_images(&lab, &before, mode);
        }
    }
}
