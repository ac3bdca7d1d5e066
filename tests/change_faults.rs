//! Fault injection into every external call of `reap`, `vm set` and `vm create --if-exists replace`, against a real
//! libvirtd with QEMU: a second run of the same command completes the change. No guest boots.
#![expect(clippy::unwrap_used, reason = "clippy knows only the functions marked as tests")]

#[path = "support/lab.rs"]
#[expect(dead_code, reason = "each test binary uses its own part")]
mod lab;

use lab::{Lab, Run, each_call};
use serde_json::Value;

/// Faults in which a call fails.
const FAILURES: &str = "fail|lie";

/// Faults in which vmprov is killed.
const KILLS: &str = "kill-before|kill-after";

/// Faults in which vmprov gets a signal to end.
const SIGNALS: &str = "INT|TERM";

const VM: &str = "changed";

/// Returns the lab without VMs, but with the pool, network, base image and KVM probe result that a create makes, and
/// the path of the image.
fn prepared_lab() -> (Lab, String) {
    let lab = Lab::qemu();
    lab.run(&["vm", "delete", VM, "--yes", "--ignore-missing"]).succeeded();
    lab.run(&["gc"]).succeeded();
    let image = lab.image("tiny.qcow2", "10M");
    create(&lab, &image, "", &["--no-start"]).succeeded();
    delete(&lab);
    (lab, image)
}

fn create(lab: &Lab, image: &str, fault: &str, more: &[&str]) -> Run {
    let create = ["vm", "create", VM, "--image", image, "--user", "debian", "--memory", "128M", "--disk-size", "1"];
    lab.run_with_fault(fault, &[&create[..], &["--vcpus", "1"], more].concat())
}

#[track_caller]
fn delete(lab: &Lab) {
    lab.run(&["vm", "delete", VM, "--yes"]).succeeded();
}

/// Returns the VM's entry in `vm list`.
#[track_caller]
fn listed(lab: &Lab) -> Option<Value> {
    let list = lab.run(&["vm", "list", "-o", "json"]).succeeded().json();
    list["vms"].as_array().unwrap().iter().find(|vm| vm["name"] == VM).cloned()
}

fn reap_with_faults(modes: &str) {
    let (lab, image) = prepared_lab();
    let before = lab.snapshot();
    each_call(
        modes,
        |fault, k| {
            let start: &[&str] = if k % 2 == 0 { &[] } else { &["--no-start"] };
            create(&lab, &image, "", &[&["--ttl", "1h"], start].concat()).succeeded();
            expire(&lab, k % 2 == 0);
            lab.run_with_fault(fault, &["reap"])
        },
        |k, when, ran| {
            assert!(ran.ended_as_expected(when, k), "{when}\n{ran}");
            let when = &format!("{when}\n{ran}");
            if let Some(vm) = listed(&lab) {
                let is_off = vm["state"] == "shut off";
                assert!(vm["incomplete"] == false || is_off, "{when}: {vm}");
            }
            lab.run(&["gc"]).succeeded();
            let reaped = lab.run(&["reap"]).succeeded();
            assert!(!reaped.stdout.contains("skipped"), "{when}: {reaped}");
            lab.settles(&before, when);
        },
    );
    lab.settles(&before, modes);
}

/// Sets the VM's expiry to the past.
fn expire(lab: &Lab, running: bool) {
    for state in ["--config"].into_iter().chain(running.then_some("--live")) {
        let uri = ["metadata", "--domain", VM, "--uri", "urn:vmprov:vm:1", state];
        let xml = lab.virsh(&uri);
        let (head, rest) = xml.split_once("expires=\"").unwrap();
        let tail = rest.split_once('"').unwrap().1;
        let xml = format!("{head}expires=\"2026-01-01T00:00:00Z\"{tail}");
        lab.virsh(&[&uri[..], &["--key", "vmprov", "--set", &xml]].concat());
    }
}

#[test]
fn the_next_reap_completes_a_failed_one() {
    reap_with_faults(FAILURES);
}

#[test]
fn the_next_reap_completes_a_killed_one() {
    reap_with_faults(KILLS);
}

#[test]
fn the_next_reap_completes_one_stopped_by_a_signal() {
    reap_with_faults(SIGNALS);
}

const SET: [&str; 13] = [
    "vm",
    "set",
    VM,
    "--memory",
    "256M",
    "--vcpus",
    "2",
    "--disk-size",
    "2",
    "--autostart",
    "true",
    "--description",
    "new",
];

/// Returns everything that a rollback restores, which excludes the disk's size.
#[track_caller]
fn state(lab: &Lab) -> String {
    let xml = lab.virsh(&["dumpxml", VM]) + &lab.virsh(&["dumpxml", VM, "--inactive"]);
    xml + &lab.virsh(&["list", "--all", "--autostart", "--name"])
}

fn set_with_faults(modes: &str, start: bool) {
    let (lab, image) = prepared_lab();
    let before = lab.snapshot();
    let start: &[&str] = if start { &[] } else { &["--no-start"] };
    let original = std::cell::RefCell::new(String::new());
    each_call(
        modes,
        |fault, _| {
            create(&lab, &image, "", start).succeeded();
            *original.borrow_mut() = state(&lab);
            let ran = lab.run_with_fault(fault, &SET);
            if !ran.hit {
                delete(&lab);
            }
            ran
        },
        |k, when, ran| {
            assert!(ran.ended_as_expected(when, k), "{when}\n{ran}");
            let when = &format!("{when}\n{ran}");
            if !ran.was_killed() && !ran.status.success() {
                assert_eq!(state(&lab), *original.borrow(), "{when}: the changes were not rolled back");
                assert!(!ran.stderr.contains("could not be undone"), "{when}");
            }
            // The same command completes the change, and then has nothing left to do.
            lab.run(&SET).succeeded();
            let again = lab.run(&SET).succeeded();
            let is_pending = |line: &str| line.ends_with(" at the next start") || line.starts_with("restart the VM");
            assert!(
                again.stdout.lines().all(|line| line.contains(": already ") || is_pending(line)),
                "{when}: {again}"
            );
            let expected = ["--if-exists", "ok", "--memory", "256M", "--vcpus", "2", "--disk-size", "2", "--autostart"];
            create(&lab, &image, "", &expected).succeeded();
            delete(&lab);
            lab.settles(&before, when);
        },
    );
}

#[test]
fn a_failed_set_is_rolled_back() {
    set_with_faults(FAILURES, false);
}

#[test]
fn a_failed_set_of_a_running_vm_is_rolled_back() {
    set_with_faults(FAILURES, true);
}

#[test]
fn the_next_set_completes_a_killed_one() {
    set_with_faults(KILLS, false);
}

#[test]
fn a_set_stopped_by_a_signal_is_rolled_back() {
    set_with_faults("INT|hang", false);
}

/// A hot-plugged virtual CPU remains if the guest does not release it. The error says so.
#[test]
fn an_incomplete_rollback_is_reported() {
    let (lab, image) = prepared_lab();
    create(&lab, &image, "", &["--vcpus", "2", "--no-start"]).succeeded();
    lab.run(&["vm", "set", VM, "--vcpus", "1"]).succeeded();
    lab.run(&["vm", "start", VM]).succeeded();
    let set = ["vm", "set", VM, "--vcpus", "2", "--disk-size", "2"];
    let calls = lab.run(&[&set[..], &["--description", ""]].concat()).succeeded().calls;
    delete(&lab);
    create(&lab, &image, "", &["--vcpus", "2", "--no-start"]).succeeded();
    lab.run(&["vm", "set", VM, "--vcpus", "1"]).succeeded();
    lab.run(&["vm", "start", VM]).succeeded();
    let failed = lab.run_with_fault(&format!("fail:{}", calls.len()), &set).failed_with(8);
    let says = "hint: Check the VM, because some changes could not be undone (running VM's virtual CPUs (";
    assert!(failed.stderr.contains(says) && failed.stderr.ends_with("): vmprov vm info changed\n"), "{failed}");
    lab.run(&set).succeeded();
    delete(&lab);
}

fn replace_with_faults(modes: &str) {
    let (lab, image) = prepared_lab();
    let before = lab.snapshot();
    create(&lab, &image, "", &[]).succeeded();
    let old = std::cell::RefCell::new(Value::Null);
    let replace = |fault: &str| create(&lab, &image, fault, &["--if-exists", "replace"]);
    each_call(
        modes,
        |fault, _| {
            *old.borrow_mut() = listed(&lab).unwrap();
            replace(fault)
        },
        |k, when, ran| {
            assert!(ran.ended_as_expected(when, k), "{when}\n{ran}");
            let when = &format!("{when}\n{ran}");
            let (vm, old) = (listed(&lab), old.borrow());
            let is_old = vm.as_ref().is_some_and(|vm| vm["uuid"] == old["uuid"]);
            let is_untouched = is_old && vm.as_ref().is_some_and(|vm| *vm == *old);
            if !ran.was_killed() && !ran.status.success() {
                let is_reported = ran.stderr.contains("the old VM `changed` has already been deleted")
                    || ran.stderr.contains("the old VM, which may be incomplete");
                assert!(is_reported || is_untouched, "{when}: {vm:?}");
                assert!(is_old || vm.is_none(), "{when}: an incomplete new VM is left: {vm:?}");
            }
            replace("").succeeded();
            let new = listed(&lab).unwrap();
            assert!(new["incomplete"] == false && new["state"] == "running", "{when}: {new}");
            let volumes = lab.virsh(&["vol-list", "--pool", "default"]);
            let count = volumes.lines().filter(|line| line.trim_start().starts_with(VM)).count();
            assert_eq!(count, 3, "{when}: {volumes}");
        },
    );
    delete(&lab);
    lab.run(&["gc"]).succeeded();
    lab.settles(&before, modes);
}

#[test]
fn a_failed_replace_keeps_the_old_vm_or_reports_its_deletion() {
    replace_with_faults(FAILURES);
}

#[test]
fn the_next_replace_completes_a_killed_one() {
    replace_with_faults(KILLS);
}

#[test]
fn an_interrupted_replace_keeps_the_old_vm_or_reports_its_deletion() {
    replace_with_faults(SIGNALS);
}
