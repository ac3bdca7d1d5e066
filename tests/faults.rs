//! Every external call of `vm create`, `inject` and `vm delete`, spoilt in every way, against a real libvirtd with
//! QEMU: whatever happens, nothing is left that the next command does not clean up. The guests' disks are empty;
//! nothing boots.
#![expect(clippy::unwrap_used, reason = "clippy knows only the functions marked as tests")]

#[path = "support/lab.rs"]
#[expect(dead_code, reason = "each test binary uses its own part")]
mod lab;

use std::collections::BTreeSet;

use lab::{Lab, Ran, Snapshot, each_call};

/// Ways in which a call fails.
const FAILURES: [&str; 2] = ["fail", "lie"];

/// Ways in which vmprov is killed.
const KILLS: [&str; 3] = ["kill-before", "kill-after", "kill-during"];

/// Ways in which vmprov is told to end.
const SIGNALS: [&str; 2] = ["INT", "TERM"];

const VM: &str = "fault-vm";
const INTERRUPTED: i32 = 130;

/// The lab with everything in it that a first run makes: pool, network, the verdict on KVM, a base image, a key.
fn warm() -> (Lab, String) {
    let lab = Lab::qemu();
    // What a test that failed has left must not fail this one.
    lab.run(&["vm", "delete", VM, "--yes", "--ignore-missing"]).succeeded();
    lab.run(&["gc"]).succeeded();
    let image = lab.image("warm.qcow2", "10M");
    lab.run(&["key", "generate", "first", "--type", "ed25519"]).succeeded();
    create(&lab, &image, "", true).succeeded();
    delete(&lab);
    lab.image("cold.qcow2", "10M");
    forget_sources(&lab, &image);
    (lab, image)
}

fn create(lab: &Lab, image: &str, fault: &str, start: bool) -> Ran {
    let mut args = vec!["vm", "create", VM, "--image", image, "--user", "debian", "--ssh-key", "first"];
    args.extend(["--disk-size", "1", "--memory", "64", "--vcpus", "1"]);
    if !start {
        args.push("--no-start");
    }
    lab.spoil(fault, &args)
}

#[track_caller]
fn delete(lab: &Lab) {
    lab.run(&["vm", "delete", VM, "--yes"]).succeeded();
}

/// After a create that did not succeed nothing is there, apart from a base image that is whole. What is known of it
/// may be unreadable where the create was `killed` while it wrote that: then it is asked for anew.
#[track_caller]
fn nothing_but_whole_images(lab: &Lab, before: &Snapshot, image: &str, killed: bool, when: &str) {
    lab.settles_without(before, is_image, when);
    let stored = lab.pool_folder();
    let read = |name: &str| std::fs::read(stored.join(name)).unwrap();
    for name in images(lab).difference(&image_names(before)) {
        if name.ends_with(".qcow2") {
            assert!(read(name) == std::fs::read(image).unwrap(), "{when}: the base image {name} is not whole");
            let manifest = name.replace(".qcow2", ".json");
            assert!(stored.join(&manifest).exists(), "{when}: {name} has no manifest");
        } else if !killed {
            let json: serde_json::Value = serde_json::from_slice(&read(name)).unwrap_or_default();
            let volume = json["volume"].as_str().unwrap_or_else(|| panic!("{when}: {name} is not whole: {json}"));
            assert!(stored.join(volume).exists(), "{when}: {name} is of no image");
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

/// Removes the base images that were not there before.
fn forget_images(lab: &Lab, before: &Snapshot) {
    for name in images(lab).difference(&image_names(before)) {
        lab.virsh(&["vol-delete", "--pool", "default", "--vol", name]);
    }
}

/// Removes what led to the images of earlier tests, whose homes are gone.
fn forget_sources(lab: &Lab, image: &str) {
    for name in images(lab).iter().filter(|name| name.starts_with("source-")) {
        let manifest = std::fs::read_to_string(lab.pool_folder().join(name)).unwrap_or_default();
        if !manifest.contains(image) && manifest.contains("/warm.qcow2\"") {
            lab.virsh(&["vol-delete", "--pool", "default", "--vol", name]);
        }
    }
}

/// An image that the pool has never seen when `cold`, else always the same.
fn image_for(lab: &Lab, warm: &str, cold: bool, k: usize) -> String {
    // The size stands in the header, so the content is another one.
    if cold { lab.image("cold.qcow2", &format!("{}K", 10_240 + 64 * k)) } else { warm.to_owned() }
}

fn create_that_fails(modes: &[&str], cold: bool) {
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
                    forget_images(&lab, &before);
                }
                ran
            },
            |k, when, ran| {
                let image = if cold { lab.file("cold.qcow2").to_str().unwrap().to_owned() } else { image.clone() };
                assert!(ran.code().is_some_and(|code| code != 0), "{when}: {ran}");
                assert!(!ran.stderr.contains("Left behind"), "{when}: {ran}");
                nothing_but_whole_images(&lab, &before, &image, ran.was_killed(), &format!("{when}\n{ran}"));
                // What stayed is usable; each way of failing shows it at every other call, which saves a minute.
                if cold && k % 2 == usize::from(*mode == "fail") {
                    create(&lab, &image, "", false).succeeded();
                    delete(&lab);
                    lab.settles_without(&before, is_image, &format!("{when}, create, delete"));
                }
                forget_images(&lab, &before);
            },
        );
    }
}

#[test]
fn a_create_whose_call_fails_leaves_nothing() {
    create_that_fails(&FAILURES, false);
}

#[test]
fn a_create_with_a_new_image_whose_call_fails_leaves_nothing_but_whole_images() {
    create_that_fails(&FAILURES, true);
}

fn create_that_is_told_to_end(modes: &[&str], cold: bool) {
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
                    forget_images(&lab, &before);
                }
                ran
            },
            |_, when, ran| {
                let image = if cold { lab.file("cold.qcow2").to_str().unwrap().to_owned() } else { image.clone() };
                let is_last = ran.calls.last().is_some_and(|call| call.contains("phase=\"ready\""));
                if is_last && ran.status.success() {
                    delete(&lab); // the signal came when everything was done
                } else {
                    assert_eq!(ran.code(), Some(INTERRUPTED), "{when}: {ran}");
                }
                nothing_but_whole_images(&lab, &before, &image, ran.was_killed(), &format!("{when}\n{ran}"));
                forget_images(&lab, &before);
            },
        );
    }
}

#[test]
fn a_create_that_gets_a_signal_leaves_nothing() {
    create_that_is_told_to_end(&SIGNALS, false);
}

#[test]
fn a_create_with_a_new_image_that_gets_a_signal_leaves_nothing_but_whole_images() {
    create_that_is_told_to_end(&["INT"], true);
}

#[test]
fn a_create_whose_call_hangs_ends_at_a_signal_and_ends_the_call() {
    create_that_is_told_to_end(&["hang"], false);
}

#[test]
fn a_call_that_heeds_no_signal_is_killed() {
    let (lab, image) = warm();
    let before = lab.snapshot();
    create(&lab, &image, "stuck:5", true).failed_with(INTERRUPTED);
    lab.settles(&before, "a stuck call");
}

/// What a killed create left is shown as incomplete, or is whole, or there is nothing; and it is cleaned up.
fn create_that_is_killed(modes: &[&str], cold: bool) {
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
                    forget_images(&lab, &before);
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
                let is_whole = vm.is_some_and(|vm| vm["incomplete"] == false);
                if k % 3 == 0 && !is_whole {
                    create(&lab, &image, "", false).succeeded();
                    delete(&lab);
                } else if k % 3 == 1 || is_last {
                    lab.run(&["vm", "delete", VM, "--yes", "--ignore-missing"]).succeeded();
                }
                // Alone it removes everything, after the others it removes the lock files that are left.
                lab.run(&["gc"]).succeeded();
                nothing_but_whole_images(&lab, &before, &image, ran.was_killed(), &format!("{when}\n{ran}"));
                forget_images(&lab, &before);
            },
        );
    }
}

#[test]
fn a_create_that_is_killed_is_cleaned_up() {
    create_that_is_killed(&KILLS, false);
}

#[test]
fn a_create_with_a_new_image_that_is_killed_is_cleaned_up() {
    create_that_is_killed(&KILLS[..2], true);
}

/// The keys in the seed that the VM will start with next, as cloud-init will read it.
#[track_caller]
fn seeded_keys(lab: &Lab, when: &str) -> Vec<String> {
    let xml = lab.virsh(&["dumpxml", "--domain", VM, "--inactive"]);
    let folder = "/var/lib/libvirt/images/";
    let seed = xml.split('\'').find_map(|word| word.strip_prefix(folder).filter(|name| name.contains("-seed-")));
    let seed = lab.pool_folder().join(seed.unwrap_or_else(|| panic!("{when}: no seed is attached:\n{xml}")));
    let read = std::process::Command::new("isoinfo").arg("-i").arg(&seed).args(["-R", "-x", "/vmprov.json"]).output();
    let json: serde_json::Value = serde_json::from_slice(&read.unwrap().stdout)
        .unwrap_or_else(|error| panic!("{when}: the seed {} is not whole: {error}", seed.display()));
    let user_data =
        std::process::Command::new("isoinfo").arg("-i").arg(&seed).args(["-R", "-x", "/user-data"]).output();
    let user_data = String::from_utf8(user_data.unwrap().stdout).unwrap();
    let keys = json["authorizedKeys"].as_array().unwrap_or_else(|| panic!("{when}: another form of seed: {json}"));
    let keys: Vec<_> = keys.iter().map(|key| key.as_str().unwrap().to_owned()).collect();
    for key in &keys {
        assert!(user_data.contains(key.split(' ').nth(1).unwrap()), "{when}: cloud-init is not told of {key}");
    }
    keys
}

#[track_caller]
fn volumes_of_vm(lab: &Lab) -> usize {
    let volumes = lab.virsh(&["vol-list", "--pool", "default"]);
    volumes.lines().filter(|line| line.trim_start().starts_with(VM)).count()
}

fn inject_that_is_disturbed(modes: &[&str], judge_end: impl Fn(&Ran) -> bool) {
    let (lab, image) = warm();
    create(&lab, &image, "", false).succeeded();
    let key = |name: &str| lab.run(&["key", "show", name, "-o", "json"]).succeeded().json()["publicKey"].clone();
    for mode in modes {
        each_call(
            mode,
            |fault, k| {
                let name = format!("{}-{k}", mode.to_lowercase());
                lab.run(&["key", "generate", &name, "--type", "ed25519"]).succeeded();
                lab.spoil(fault, &["inject", VM, &name, "--method", "cloud-init"])
            },
            |k, when, ran| {
                let when = &format!("{when}\n{ran}");
                assert!(judge_end(&ran), "{when}");
                let name = format!("{}-{k}", mode.to_lowercase());
                let mut keys = seeded_keys(&lab, when);
                let new = key(&name);
                keys.retain(|key| *key != new);
                assert!(!keys.is_empty(), "{when}: the old keys are gone");
                let info = lab.run(&["vm", "info", VM, "-o", "json"]).succeeded().json();
                assert_eq!(info["incomplete"], false, "{when}");
                // Every third VM goes at once, the others take the key after all.
                if k % 3 == 0 {
                    delete(&lab);
                    assert_eq!(volumes_of_vm(&lab), 0, "{when}: delete left a volume");
                    create(&lab, &image, "", false).succeeded();
                } else {
                    lab.run(&["inject", VM, &name, "--method", "cloud-init"]).succeeded();
                    keys.push(new.as_str().unwrap().to_owned());
                    assert_eq!(seeded_keys(&lab, when), keys, "{when}");
                    assert_eq!(volumes_of_vm(&lab), 3, "{when}: a volume is left over");
                    let noted = lab.run(&["vm", "info", VM, "-o", "json"]).succeeded().json();
                    assert_eq!(noted["volumes"].as_array().unwrap().len(), 3, "{when}: {noted}");
                    assert_eq!(noted["sshKeys"].as_array().unwrap().len(), keys.len(), "{when}: {noted}");
                }
            },
        );
    }
    delete(&lab);
    assert_eq!(volumes_of_vm(&lab), 0);
}

#[test]
fn an_inject_whose_call_fails_leaves_the_vm_whole() {
    inject_that_is_disturbed(&FAILURES, |ran| ran.code().is_some_and(|code| code != 0));
}

#[test]
fn an_inject_that_is_killed_leaves_the_vm_whole() {
    inject_that_is_disturbed(&KILLS[..2], Ran::was_killed);
}

#[test]
fn an_inject_that_gets_a_signal_leaves_the_vm_whole() {
    let late = |ran: &Ran| ran.status.success() && ran.calls.last().is_some_and(|call| call.contains("--set"));
    inject_that_is_disturbed(&["INT"], |ran| ran.code() == Some(INTERRUPTED) || late(ran));
}

fn delete_that_is_disturbed(modes: &[&str], judge_end: impl Fn(&Ran) -> bool) {
    let (lab, image) = warm();
    let before = lab.snapshot();
    for mode in modes {
        each_call(
            mode,
            |fault, k| {
                create(&lab, &image, "", k % 2 == 0).succeeded();
                lab.spoil(fault, &["vm", "delete", VM, "--yes"])
            },
            |_, when, ran| {
                let when = &format!("{when}\n{ran}");
                assert!(judge_end(&ran), "{when}");
                lab.run(&["vm", "delete", VM, "--yes", "--ignore-missing"]).succeeded();
                lab.run(&["gc"]).succeeded();
                lab.settles(&before, when);
            },
        );
    }
}

/// `virsh undefine` of a running VM leaves one that is gone as soon as it is powered off.
#[test]
fn a_delete_of_a_vm_that_somebody_undefined_removes_its_volumes() {
    let (lab, image) = warm();
    let before = lab.snapshot();
    create(&lab, &image, "", true).succeeded();
    lab.virsh(&["undefine", "--domain", VM]);
    delete(&lab);
    lab.settles(&before, "delete of a transient VM");
}

#[test]
fn a_delete_whose_call_fails_is_finished_by_a_second_one() {
    delete_that_is_disturbed(&FAILURES, |ran| ran.code().is_some_and(|code| code != 0));
}

#[test]
fn a_delete_that_is_killed_is_finished_by_a_second_one() {
    delete_that_is_disturbed(&KILLS[..2], Ran::was_killed);
}

#[test]
fn a_delete_that_gets_a_signal_is_finished_by_a_second_one() {
    let late = |ran: &Ran| ran.status.success() && ran.calls.last().is_some_and(|call| call.contains("undefine"));
    delete_that_is_disturbed(&SIGNALS, |ran| ran.code() == Some(INTERRUPTED) || late(ran));
}

/// A first run, in which the pool is missing: a failure leaves none, or one that the next create can use.
#[test]
fn making_the_pool_is_undone_or_finished() {
    const POOL: &str = "fault-pool";
    let (lab, _) = warm();
    let before = lab.snapshot();
    let folder = lab.pool_folder().with_file_name(POOL);
    let path = format!("/var/lib/libvirt/{POOL}");
    let create = |fault: &str| {
        let args = ["vm", "create", VM, "--disk-size", "1", "--no-start", "--pool", POOL, "--pool-path", &path];
        lab.spoil(fault, &args)
    };
    let remove = || {
        lab.run(&["vm", "delete", VM, "--yes", "--ignore-missing"]).succeeded();
        lab.run(&["gc"]).succeeded();
        lab.virsh(&["pool-destroy", "--pool", POOL]);
        lab.virsh(&["pool-undefine", "--pool", POOL]);
        std::fs::remove_dir(&folder).unwrap();
        lab.settles(&before, "without the pool");
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
                // One that was killed after its last call has made a VM.
                lab.run(&["vm", "delete", VM, "--yes", "--ignore-missing"]).succeeded();
                create("").succeeded();
                remove();
            },
        );
    }
}
