//! Fault injection for every external call of `vm create`, `inject` and `vm delete`, against a real libvirtd with QEMU:
//! no fault leaves anything that the next command does not clean up. The guests' disks are empty; nothing boots.
#![expect(clippy::unwrap_used, reason = "clippy knows only the functions marked as tests")]

#[path = "support/lab.rs"]
#[expect(dead_code, reason = "each test binary uses its own part")]
mod lab;

use std::collections::BTreeSet;

use lab::{Lab, Run, Snapshot, each_call};

/// Faults in which a call fails.
const FAILURES: [&str; 2] = ["fail", "lie"];

/// Faults in which vmprov is killed.
const KILLS: [&str; 3] = ["kill-before", "kill-after", "kill-during"];

/// Signals that ask vmprov to end.
const SIGNALS: [&str; 2] = ["INT", "TERM"];

const VM: &str = "fault-vm";
const INTERRUPTED: i32 = 130;

/// The lab with everything that a first run creates: a pool, a network, a cached KVM probe, a base image, a key.
fn warm() -> (Lab, String) {
    let lab = Lab::qemu();
    // Leftovers of a failed test must not fail this one.
    lab.run(&["vm", "delete", VM, "--yes", "--ignore-missing"]).succeeded();
    lab.run(&["gc"]).succeeded();
    let image = lab.image("warm.qcow2", "10M");
    lab.run(&["key", "generate", "first", "--type", "ed25519"]).succeeded();
    create(&lab, &image, "", true).succeeded();
    delete(&lab);
    lab.image("cold.qcow2", "10M");
    delete_stale_sources(&lab, &image);
    (lab, image)
}

fn create(lab: &Lab, image: &str, fault: &str, start: bool) -> Run {
    let mut args = vec!["vm", "create", VM, "--image", image, "--user", "debian", "--ssh-key", "first"];
    args.extend(["--disk-size", "1", "--memory", "64", "--vcpus", "1"]);
    if !start {
        args.push("--no-start");
    }
    lab.run_with_fault(fault, &args)
}

#[track_caller]
fn delete(lab: &Lab) {
    lab.run(&["vm", "delete", VM, "--yes"]).succeeded();
}

/// Checks that a failed create left nothing except complete base images. If the create was `killed` while it wrote an
/// image's manifest, the manifest may be unreadable: then the image is fetched again.
#[track_caller]
fn assert_only_complete_images(lab: &Lab, before: &Snapshot, image: &str, killed: bool, when: &str) {
    lab.settles_without(before, is_image, when);
    let stored = lab.pool_folder();
    let read = |name: &str| std::fs::read(stored.join(name)).unwrap();
    for name in images(lab).difference(&image_names(before)) {
        if name.ends_with(".qcow2") {
            assert!(read(name) == std::fs::read(image).unwrap(), "{when}: the base image {name} is not complete");
            let manifest = name.replace(".qcow2", ".json");
            assert!(stored.join(&manifest).exists(), "{when}: {name} has no manifest");
        } else if !killed {
            let json: serde_json::Value = serde_json::from_slice(&read(name)).unwrap_or_default();
            let volume = json["volume"].as_str().unwrap_or_else(|| panic!("{when}: {name} is not complete: {json}"));
            assert!(stored.join(volume).exists(), "{when}: {name} belongs to no image");
        }
    }
}

fn is_image(line: &str) -> bool {
    ["volume default/", "pool file "].iter().any(|kind| {
        let name = line.strip_prefix(kind).unwrap_or_default();
        name.starts_with("base-") || name.starts_with("source-")
    })
}

fn image_names(snapshot: &Snapshot) -> BTreeSet<String> {
    let names = snapshot.0.iter().filter(|line| is_image(line));
    names.map(|line| line.rsplit(['/', ' ']).next().unwrap().to_owned()).collect()
}

fn images(lab: &Lab) -> BTreeSet<String> {
    image_names(&lab.snapshot())
}

/// Removes the base images that did not exist before.
fn delete_new_images(lab: &Lab, before: &Snapshot) {
    for name in images(lab).difference(&image_names(before)) {
        lab.virsh(&["vol-delete", "--pool", "default", "--vol", name]);
    }
}

/// Removes the source manifests of earlier tests, whose home folders no longer exist.
fn delete_stale_sources(lab: &Lab, image: &str) {
    for name in images(lab).iter().filter(|name| name.starts_with("source-")) {
        let manifest = std::fs::read_to_string(lab.pool_folder().join(name)).unwrap_or_default();
        if !manifest.contains(image) && manifest.contains("/warm.qcow2\"") {
            lab.virsh(&["vol-delete", "--pool", "default", "--vol", name]);
        }
    }
}

/// Returns an image that is new to the pool if `cold`, otherwise always the same one.
fn image_for(lab: &Lab, warm: &str, cold: bool, k: usize) -> String {
    // The header contains the size, so the content differs.
    if cold { lab.image("cold.qcow2", &format!("{}K", 10_240 + 64 * k)) } else { warm.to_owned() }
}

fn check_failing_create(modes: &[&str], cold: bool) {
    let (lab, image) = warm();
    for mode in modes {
        let before = lab.snapshot();
        each_call(
            mode,
            |fault, k| {
                let image = image_for(&lab, &image, cold, k);
                let ran = create(&lab, &image, fault, !cold);
                if !ran.hit {
                    delete(&lab);
                    delete_new_images(&lab, &before);
                }
                ran
            },
            |k, when, ran| {
                let image = if cold { lab.file("cold.qcow2").to_str().unwrap().to_owned() } else { image.clone() };
                assert!(ran.code().is_some_and(|code| code != 0), "{when}: {ran}");
                assert!(!ran.stderr.contains("Remove the leftovers ("), "{when}: {ran}");
                assert_only_complete_images(&lab, &before, &image, ran.was_killed(), &format!("{when}\n{ran}"));
                // The images that were kept are usable. Each mode checks every other call only, which saves a minute.
                if cold && k % 2 == usize::from(*mode == "fail") {
                    create(&lab, &image, "", false).succeeded();
                    delete(&lab);
                    lab.settles_without(&before, is_image, &format!("{when}, create, delete"));
                }
                delete_new_images(&lab, &before);
            },
        );
    }
}

#[test]
fn a_create_leaves_nothing_if_a_call_fails() {
    check_failing_create(&FAILURES, false);
}

#[test]
fn a_create_with_a_new_image_leaves_only_complete_images_if_a_call_fails() {
    check_failing_create(&FAILURES, true);
}

fn check_signaled_create(modes: &[&str], cold: bool) {
    let (lab, image) = warm();
    for mode in modes {
        let before = lab.snapshot();
        each_call(
            mode,
            |fault, k| {
                let image = image_for(&lab, &image, cold, k);
                let ran = create(&lab, &image, fault, !cold);
                if !ran.hit {
                    delete(&lab);
                    delete_new_images(&lab, &before);
                }
                ran
            },
            |_, when, ran| {
                let image = if cold { lab.file("cold.qcow2").to_str().unwrap().to_owned() } else { image.clone() };
                let is_last = ran.calls.last().is_some_and(|call| call.contains("phase=\"ready\""));
                if is_last && ran.status.success() {
                    delete(&lab); // the signal arrived after the last step
                } else {
                    assert_eq!(ran.code(), Some(INTERRUPTED), "{when}: {ran}");
                }
                assert_only_complete_images(&lab, &before, &image, ran.was_killed(), &format!("{when}\n{ran}"));
                delete_new_images(&lab, &before);
            },
        );
    }
}

#[test]
fn a_create_that_receives_a_signal_leaves_nothing() {
    check_signaled_create(&SIGNALS, false);
}

#[test]
fn a_create_with_a_new_image_leaves_only_complete_images_after_a_signal() {
    check_signaled_create(&["INT"], true);
}

#[test]
fn a_signal_ends_a_create_and_its_hanging_call() {
    check_signaled_create(&["hang"], false);
}

#[test]
fn a_call_that_ignores_signals_is_killed() {
    let (lab, image) = warm();
    let before = lab.snapshot();
    create(&lab, &image, "stuck:5", true).failed_with(INTERRUPTED);
    lab.settles(&before, "after a call that ignores signals");
}

/// Checks that a killed create left nothing, an incomplete VM that is listed as such, or a complete VM, and that it can
/// be cleaned up.
fn check_killed_create(modes: &[&str], cold: bool) {
    let (lab, image) = warm();
    for mode in modes {
        let before = lab.snapshot();
        each_call(
            mode,
            |fault, k| {
                let image = image_for(&lab, &image, cold, k);
                let ran = create(&lab, &image, fault, !cold);
                if !ran.hit {
                    delete(&lab);
                    delete_new_images(&lab, &before);
                }
                ran
            },
            |k, when, ran| {
                assert!(ran.was_killed(), "{when}: {ran}");
                let image = if cold { lab.file("cold.qcow2").to_str().unwrap().to_owned() } else { image.clone() };
                let is_last = ran.calls[k - 1].contains("phase=\"ready\"");
                let listed = lab.run(&["vm", "list", "-o", "json"]).succeeded().json();
                let vm = listed["vms"].as_array().unwrap().iter().find(|vm| vm["name"] == VM);
                if let Some(vm) = vm {
                    assert!(vm["incomplete"] == true || is_last, "{when}: {vm}");
                }
                let is_complete = vm.is_some_and(|vm| vm["incomplete"] == false);
                if k % 3 == 0 && !is_complete {
                    create(&lab, &image, "", false).succeeded();
                    delete(&lab);
                } else if k % 3 == 1 || is_last {
                    lab.run(&["vm", "delete", VM, "--yes", "--ignore-missing"]).succeeded();
                }
                // For every third call `gc` alone removes everything; otherwise it removes the remaining lock files.
                lab.run(&["gc"]).succeeded();
                assert_only_complete_images(&lab, &before, &image, ran.was_killed(), &format!("{when}\n{ran}"));
                delete_new_images(&lab, &before);
            },
        );
    }
}

#[test]
fn a_killed_create_is_cleaned_up() {
    check_killed_create(&KILLS, false);
}

#[test]
fn a_killed_create_with_a_new_image_is_cleaned_up() {
    check_killed_create(&KILLS[..2], true);
}

/// Returns the keys in the seed of the VM's next start, as cloud-init will read them.
#[track_caller]
fn seeded_keys(lab: &Lab, when: &str) -> Vec<String> {
    let xml = lab.virsh(&["dumpxml", "--domain", VM, "--inactive"]);
    let folder = "/var/lib/libvirt/images/";
    let seed = xml.split('\'').find_map(|word| word.strip_prefix(folder).filter(|name| name.contains("-seed-")));
    let seed = lab.pool_folder().join(seed.unwrap_or_else(|| panic!("{when}: no seed is attached:\n{xml}")));
    let read = std::process::Command::new("isoinfo").arg("-i").arg(&seed).args(["-R", "-x", "/vmprov.json"]).output();
    let json: serde_json::Value = serde_json::from_slice(&read.unwrap().stdout)
        .unwrap_or_else(|error| panic!("{when}: the seed {} is not complete: {error}", seed.display()));
    let user_data =
        std::process::Command::new("isoinfo").arg("-i").arg(&seed).args(["-R", "-x", "/user-data"]).output();
    let user_data = String::from_utf8(user_data.unwrap().stdout).unwrap();
    let keys = json["authorizedKeys"].as_array().unwrap_or_else(|| panic!("{when}: the seed has no keys: {json}"));
    let keys: Vec<_> = keys.iter().map(|key| key.as_str().unwrap().to_owned()).collect();
    for key in &keys {
        assert!(user_data.contains(key.split(' ').nth(1).unwrap()), "{when}: the user data does not contain {key}");
    }
    keys
}

#[track_caller]
fn volumes_of_vm(lab: &Lab) -> usize {
    let volumes = lab.virsh(&["vol-list", "--pool", "default"]);
    volumes.lines().filter(|line| line.trim_start().starts_with(VM)).count()
}

fn check_inject_with_faults(modes: &[&str], ended_as_expected: impl Fn(&Run) -> bool) {
    let (lab, image) = warm();
    create(&lab, &image, "", false).succeeded();
    let key = |name: &str| lab.run(&["key", "show", name, "-o", "json"]).succeeded().json()["publicKey"].clone();
    for mode in modes {
        each_call(
            mode,
            |fault, k| {
                let name = format!("{}-{k}", mode.to_lowercase());
                lab.run(&["key", "generate", &name, "--type", "ed25519"]).succeeded();
                lab.run_with_fault(fault, &["inject", VM, &name, "--method", "cloud-init"])
            },
            |k, when, ran| {
                let when = &format!("{when}\n{ran}");
                assert!(ended_as_expected(&ran), "{when}");
                let name = format!("{}-{k}", mode.to_lowercase());
                let mut keys = seeded_keys(&lab, when);
                let new = key(&name);
                keys.retain(|key| *key != new);
                assert!(!keys.is_empty(), "{when}: the old keys are missing");
                let info = lab.run(&["vm", "info", VM, "-o", "json"]).succeeded().json();
                assert_eq!(info["incomplete"], false, "{when}");
                // Every third VM is deleted at once; the others get the key from a second inject.
                if k % 3 == 0 {
                    delete(&lab);
                    assert_eq!(volumes_of_vm(&lab), 0, "{when}: delete left a volume");
                    create(&lab, &image, "", false).succeeded();
                } else {
                    lab.run(&["inject", VM, &name, "--method", "cloud-init"]).succeeded();
                    keys.push(new.as_str().unwrap().to_owned());
                    assert_eq!(seeded_keys(&lab, when), keys, "{when}");
                    assert_eq!(volumes_of_vm(&lab), 3, "{when}: there is an extra or missing volume");
                    let updated = lab.run(&["vm", "info", VM, "-o", "json"]).succeeded().json();
                    assert_eq!(updated["volumes"].as_array().unwrap().len(), 3, "{when}: {updated}");
                    assert_eq!(updated["sshKeys"].as_array().unwrap().len(), keys.len(), "{when}: {updated}");
                }
            },
        );
    }
    delete(&lab);
    assert_eq!(volumes_of_vm(&lab), 0);
}

#[test]
fn an_inject_leaves_the_vm_intact_if_a_call_fails() {
    check_inject_with_faults(&FAILURES, |ran| ran.code().is_some_and(|code| code != 0));
}

#[test]
fn a_killed_inject_leaves_the_vm_intact() {
    check_inject_with_faults(&KILLS[..2], Run::was_killed);
}

#[test]
fn an_inject_that_receives_a_signal_leaves_the_vm_intact() {
    let is_complete = |ran: &Run| ran.status.success() && ran.calls.last().is_some_and(|call| call.contains("--set"));
    check_inject_with_faults(&["INT"], |ran| ran.code() == Some(INTERRUPTED) || is_complete(ran));
}

fn check_delete_with_faults(modes: &[&str], ended_as_expected: impl Fn(&Run) -> bool) {
    let (lab, image) = warm();
    let before = lab.snapshot();
    for mode in modes {
        each_call(
            mode,
            |fault, k| {
                create(&lab, &image, "", k % 2 == 0).succeeded();
                lab.run_with_fault(fault, &["vm", "delete", VM, "--yes"])
            },
            |_, when, ran| {
                let when = &format!("{when}\n{ran}");
                assert!(ended_as_expected(&ran), "{when}");
                lab.run(&["vm", "delete", VM, "--yes", "--ignore-missing"]).succeeded();
                lab.run(&["gc"]).succeeded();
                lab.settles(&before, when);
            },
        );
    }
}

/// `virsh undefine` turns a running VM into a transient one, which disappears when it is powered off.
#[test]
fn deleting_a_transient_vm_removes_its_volumes() {
    let (lab, image) = warm();
    let before = lab.snapshot();
    create(&lab, &image, "", true).succeeded();
    lab.virsh(&["undefine", "--domain", VM]);
    delete(&lab);
    lab.settles(&before, "after a transient VM was deleted");
}

#[test]
fn a_second_delete_finishes_one_whose_call_failed() {
    check_delete_with_faults(&FAILURES, |ran| ran.code().is_some_and(|code| code != 0));
}

#[test]
fn a_second_delete_finishes_a_killed_one() {
    check_delete_with_faults(&KILLS[..2], Run::was_killed);
}

#[test]
fn a_second_delete_finishes_one_that_received_a_signal() {
    let is_complete =
        |ran: &Run| ran.status.success() && ran.calls.last().is_some_and(|call| call.contains("undefine"));
    check_delete_with_faults(&SIGNALS, |ran| ran.code() == Some(INTERRUPTED) || is_complete(ran));
}

/// A first run, in which the pool is missing: a failure leaves no pool, or one that the next create can use.
#[test]
fn a_failed_pool_creation_is_undone_or_finished() {
    const POOL: &str = "fault-pool";
    let (lab, _) = warm();
    let before = lab.snapshot();
    let folder = lab.pool_folder().with_file_name(POOL);
    let path = format!("/var/lib/libvirt/{POOL}");
    let create = |fault: &str| {
        let args = ["vm", "create", VM, "--disk-size", "1", "--no-start", "--pool", POOL, "--pool-path", &path];
        lab.run_with_fault(fault, &args)
    };
    let remove = || {
        lab.run(&["vm", "delete", VM, "--yes", "--ignore-missing"]).succeeded();
        lab.run(&["gc"]).succeeded();
        lab.virsh(&["pool-destroy", "--pool", POOL]);
        lab.virsh(&["pool-undefine", "--pool", POOL]);
        std::fs::remove_dir(&folder).unwrap();
        lab.settles(&before, "after the pool was removed");
    };
    for mode in ["fail", "lie", "kill-before", "kill-after"] {
        each_call(
            mode,
            |fault, _| {
                let ran = create(fault);
                if !ran.hit {
                    remove();
                }
                ran
            },
            |_, when, ran| {
                let when = &format!("{when}\n{ran}");
                assert!(ran.was_killed() || ran.code().is_some_and(|code| code != 0), "{when}");
                if !ran.was_killed() {
                    let made = format!("pool {POOL}: active");
                    lab.settles_without(&before, |line| line == made, when);
                }
                // A create that was killed after its last call has created a VM.
                lab.run(&["vm", "delete", VM, "--yes", "--ignore-missing"]).succeeded();
                create("").succeeded();
                remove();
            },
        );
    }
}
