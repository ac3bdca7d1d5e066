//! Every external call of `image import`, `pull`, `delete`, `prune` and `vm commit`, spoilt in the ways that the shim has, shared
//! out among those that store alike: what is left is whole, or goes with the next `gc` and `prune`.
#![expect(clippy::unwrap_used, reason = "clippy knows only the functions marked as tests")]

#[path = "support/lab.rs"]
#[expect(dead_code, reason = "each test binary uses its own part")]
mod lab;
#[path = "support/mirror.rs"]
#[expect(dead_code, reason = "each test binary uses its own part")]
mod mirror;

use lab::{Lab, Ran, Snapshot, each_call};
use mirror::Mirror;

/// A lab with a pool and without images.
fn site() -> (Lab, Snapshot) {
    let lab = Lab::qemu();
    // What a test that failed has left must not fail this one.
    lab.run(&["vm", "delete", "image-a", "--yes", "--ignore-missing"]).succeeded();
    let warm = lab.image("warm.qcow2", "10M");
    lab.run(&["vm", "create", "image-warm", "--image", &warm, "--user", "u", "--no-start"]).succeeded();
    lab.run(&["vm", "delete", "image-warm", "--yes"]).succeeded();
    lab.run(&["image", "prune", "--all"]).succeeded();
    lab.image("disk.qcow2", "10M");
    let before = lab.snapshot();
    (lab, before)
}

/// A command that was not to succeed has failed as it should.
#[track_caller]
fn failed(mode: &str, when: &str, ran: &Ran) {
    match mode {
        // What was begun only to read may be tried another way, and the signal may come when everything is done.
        "INT" | "TERM" => assert!(matches!(ran.code(), Some(0 | 130)), "{when}: {ran}"),
        "fail" | "lie" => assert!(ran.code().is_some(), "{when}: {ran}"),
        _ => assert!(ran.was_killed(), "{when}: {ran}"),
    }
    assert!(!ran.stderr.contains("panicked"), "{when}: {ran}");
}

/// Whether the call that was spoilt changes something. Where it only reads, what it leaves is looked at once, at the end.
fn changes(ran: &Ran, k: usize) -> bool {
    let call = ran.calls.get(k - 1).map(String::as_str).unwrap_or_default();
    ["vol-create", "vol-upload", "vol-delete", "vol-clone"].iter().any(|verb| call.contains(verb))
}

/// After anything that went wrong, what is listed is whole and usable, and pruning leaves nothing.
#[track_caller]
fn nothing_but_whole_images(lab: &Lab, before: &Snapshot, when: &str) {
    let listed = lab.run(&["image", "list", "-o", "json"]).succeeded().json();
    for image in listed["images"].as_array().unwrap() {
        let volume = image["volume"].as_str().unwrap().rsplit('/').next().unwrap();
        let stored = std::fs::read(lab.pool_folder().join(volume)).unwrap();
        assert!(stored == std::fs::read(lab.file("disk.qcow2")).unwrap(), "{when}: {volume} is not whole");
    }
    lab.run(&["gc"]).succeeded();
    lab.run(&["image", "prune", "--all"]).succeeded();
    lab.settles(before, when);
}

#[test]
fn an_import_that_goes_wrong_leaves_nothing_but_whole_images() {
    let (lab, before) = site();
    let file = lab.file("disk.qcow2").to_str().unwrap().to_owned();
    for mode in ["lie", "kill-after"] {
        each_call(
            mode,
            |fault, _| {
                let ran = lab.spoil(fault, &["image", "import", &file, "golden"]);
                if ran.status.success() {
                    lab.run(&["image", "delete", "golden"]).succeeded();
                }
                ran
            },
            |k, when, ran| {
                failed(mode, when, &ran);
                if !changes(&ran, k) {
                    let deleted = lab.run(&["image", "delete", "golden"]);
                    assert!(matches!(deleted.code(), Some(0 | 3)), "{when}\n{ran}\n{deleted}");
                    return;
                }
                // Whatever happened, the name is there and whole, or free.
                let again = lab.run(&["image", "import", &file, "golden"]);
                assert!(matches!(again.code(), Some(0 | 4)), "{when}\n{ran}\n{again}");
                lab.run(&["image", "info", "golden"]).succeeded();
                nothing_but_whole_images(&lab, &before, &format!("{when}\n{ran}"));
            },
        );
        nothing_but_whole_images(&lab, &before, mode);
    }
}

#[test]
fn a_pull_that_goes_wrong_leaves_nothing_but_whole_images() {
    let (lab, before) = site();
    let mirror = Mirror::inside(&lab.network());
    mirror.put("x/disk.qcow2", std::fs::read(lab.file("disk.qcow2")).unwrap());
    let url = mirror.url("x/disk.qcow2");
    for mode in ["kill-during", "TERM"] {
        each_call(
            mode,
            |fault, _| {
                let ran = lab.spoil(fault, &["image", "pull", &url]);
                if ran.status.success() {
                    lab.run(&["image", "delete", &url]).succeeded();
                }
                ran
            },
            |k, when, ran| {
                failed(mode, when, &ran);
                if !changes(&ran, k) {
                    return;
                }
                if k % 2 == 0 {
                    lab.run(&["image", "pull", &url]).succeeded();
                }
                nothing_but_whole_images(&lab, &before, &format!("{when}\n{ran}"));
            },
        );
        nothing_but_whole_images(&lab, &before, mode);
    }
}

/// Taking the identity out is left to a fake here, which leaves the disk as it is.
#[test]
fn a_commit_that_goes_wrong_leaves_nothing_but_whole_images() {
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
                let ran = lab.spoil(fault, &["vm", "commit", "image-a", "silver"]);
                if ran.status.success() {
                    lab.run(&["image", "delete", "silver"]).succeeded();
                }
                ran
            },
            |k, when, ran| {
                failed(mode, when, &ran);
                if ran.was_killed() || changes(&ran, k) {
                    lab.run(&["gc"]).succeeded();
                    lab.run(&["image", "prune", "--all"]).succeeded();
                    lab.settles(&before, &format!("{when}\n{ran}"));
                } else {
                    // Of what was done nothing can be told; where all of it was, the image is there.
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
fn a_delete_that_goes_wrong_is_finished_by_another() {
    let (lab, before) = site();
    let file = lab.file("disk.qcow2").to_str().unwrap().to_owned();
    let spoilt =
        [(["image", "delete", "golden"], &["fail", "INT"][..]), (["image", "prune", "--all"], &["lie", "kill-after"])];
    for (command, modes) in spoilt {
        for mode in modes {
            each_call(
                mode,
                |fault, _| {
                    // What is left of the last one is whole.
                    let there = lab.run(&["image", "import", &file, "golden"]);
                    assert!(matches!(there.code(), Some(0 | 4)), "{there}");
                    lab.spoil(fault, &command)
                },
                |k, when, ran| {
                    failed(mode, when, &ran);
                    if !changes(&ran, k) {
                        return;
                    }
                    let when = format!("{command:?}, {when}\n{ran}");
                    if k % 2 == 0 {
                        let again = lab.run(&command);
                        assert!(matches!(again.code(), Some(0 | 3)), "{when}\n{again}");
                    }
                    nothing_but_whole_images(&lab, &before, &when);
                },
            );
            nothing_but_whole_images(&lab, &before, mode);
        }
    }
}
