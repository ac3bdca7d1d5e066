//! Every external call of `reap`, `vm set` and `vm create --if-exists replace`, spoilt in every way, against a real
//! libvirtd with QEMU: nothing is left half done that the same command, given again, does not finish. Nothing boots.
#![expect(clippy::unwrap_used, reason = "clippy knows only the functions marked as tests")]

#[path = "support/lab.rs"]
#[expect(dead_code, reason = "each test binary uses its own part")]
mod lab;

use lab::{Lab, Ran, each_call};
use serde_json::Value;

/// Ways in which a call fails.
const FAILURES: &str = "fail|lie";

/// Ways in which vmprov is killed.
const KILLS: &str = "kill-before|kill-after";

/// Ways in which vmprov is told to end.
const SIGNALS: &str = "INT|TERM";

const VM: &str = "changed";
const INTERRUPTED: i32 = 130;

/// The lab with pool, network, base image and the verdict on KVM, and no VM.
fn warm() -> (Lab, String) {
    let lab = Lab::qemu();
    lab.run(&["vm", "delete", VM, "--yes", "--ignore-missing"]).succeeded();
    lab.run(&["gc"]).succeeded();
    let image = lab.image("tiny.qcow2", "10M");
    create(&lab, &image, "", &["--no-start"]).succeeded();
    delete(&lab);
    (lab, image)
}

fn create(lab: &Lab, image: &str, fault: &str, more: &[&str]) -> Ran {
    let create = ["vm", "create", VM, "--image", image, "--user", "debian", "--memory", "128M", "--disk-size", "1"];
    lab.spoil(fault, &[&create[..], &["--vcpus", "1"], more].concat())
}

#[track_caller]
fn delete(lab: &Lab) {
    lab.run(&["vm", "delete", VM, "--yes"]).succeeded();
}

/// The VM as the list has it.
#[track_caller]
fn listed(lab: &Lab) -> Option<Value> {
    let list = lab.run(&["vm", "list", "-o", "json"]).succeeded().json();
    list["vms"].as_array().unwrap().iter().find(|vm| vm["name"] == VM).cloned()
}

/// Whether a run that was spoilt at its `k`-th call ended as it should. A signal that comes while the last call works
/// is late: everything is done.
fn is_judged(mode: &str, k: usize, ran: &Ran) -> bool {
    match mode {
        "fail" | "lie" => ran.code().is_some_and(|code| code > 1),
        "INT" | "TERM" => ran.code() == Some(INTERRUPTED) || ran.status.success() && ran.calls.len() == k,
        "hang" => ran.code() == Some(INTERRUPTED),
        _ => ran.was_killed(),
    }
}

fn reap_that_is_disturbed(modes: &str) {
    let (lab, image) = warm();
    let before = lab.snapshot();
    each_call(
        modes,
        |fault, k| {
            let start: &[&str] = if k % 2 == 0 { &[] } else { &["--no-start"] };
            create(&lab, &image, "", &[&["--ttl", "1h"], start].concat()).succeeded();
            expire(&lab, k % 2 == 0);
            lab.spoil(fault, &["reap"])
        },
        |k, when, ran| {
            let (mode, when) = (when.split(' ').next().unwrap(), &format!("{when}\n{ran}"));
            assert!(is_judged(mode, k, &ran), "{when}");
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

/// Has the VM's time be over.
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
fn a_reap_whose_call_fails_is_finished_by_the_next() {
    reap_that_is_disturbed(FAILURES);
}

#[test]
fn a_reap_that_is_killed_is_finished_by_the_next() {
    reap_that_is_disturbed(KILLS);
}

#[test]
fn a_reap_that_gets_a_signal_is_finished_by_the_next() {
    reap_that_is_disturbed(SIGNALS);
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

/// Everything that is undone: all but the disk's size.
#[track_caller]
fn state(lab: &Lab) -> String {
    let xml = lab.virsh(&["dumpxml", VM]) + &lab.virsh(&["dumpxml", VM, "--inactive"]);
    xml + &lab.virsh(&["list", "--all", "--autostart", "--name"])
}

fn set_that_is_disturbed(modes: &str, start: bool) {
    let (lab, image) = warm();
    let before = lab.snapshot();
    let start: &[&str] = if start { &[] } else { &["--no-start"] };
    let was = std::cell::RefCell::new(String::new());
    each_call(
        modes,
        |fault, _| {
            create(&lab, &image, "", start).succeeded();
            *was.borrow_mut() = state(&lab);
            let ran = lab.spoil(fault, &SET);
            if !ran.hit {
                delete(&lab);
            }
            ran
        },
        |k, when, ran| {
            let (mode, when) = (when.split(' ').next().unwrap(), &format!("{when}\n{ran}"));
            assert!(is_judged(mode, k, &ran), "{when}");
            if !ran.was_killed() && !ran.status.success() {
                assert_eq!(state(&lab), *was.borrow(), "{when}: it was not undone");
                assert!(!ran.stderr.contains("could not be undone"), "{when}");
            }
            // However far it came, it can be given again.
            lab.run(&SET).succeeded();
            let again = lab.run(&SET).succeeded();
            let waits = |line: &str| line.ends_with(" at the next start") || line.starts_with("restart it");
            assert!(again.stdout.lines().all(|line| line.ends_with(" already") || waits(line)), "{when}: {again}");
            let now = ["--if-exists", "ok", "--memory", "256M", "--vcpus", "2", "--disk-size", "2", "--autostart"];
            create(&lab, &image, "", &now).succeeded();
            delete(&lab);
            lab.settles(&before, when);
        },
    );
}

#[test]
fn a_set_whose_call_fails_is_undone() {
    set_that_is_disturbed(FAILURES, false);
}

#[test]
fn a_set_of_a_running_vm_whose_call_fails_is_undone() {
    set_that_is_disturbed(FAILURES, true);
}

#[test]
fn a_set_that_is_killed_is_finished_by_the_next() {
    set_that_is_disturbed(KILLS, false);
}

#[test]
fn a_set_that_gets_a_signal_is_undone() {
    set_that_is_disturbed("INT|hang", false);
}

/// A virtual CPU that was plugged in stays, when no guest lets go of it; that is said.
#[test]
fn what_cannot_be_undone_is_told() {
    let (lab, image) = warm();
    create(&lab, &image, "", &["--vcpus", "2", "--no-start"]).succeeded();
    lab.run(&["vm", "set", VM, "--vcpus", "1"]).succeeded();
    lab.run(&["vm", "start", VM]).succeeded();
    let set = ["vm", "set", VM, "--vcpus", "2", "--disk-size", "2"];
    let calls = lab.run(&[&set[..], &["--description", ""]].concat()).succeeded().calls;
    delete(&lab);
    create(&lab, &image, "", &["--vcpus", "2", "--no-start"]).succeeded();
    lab.run(&["vm", "set", VM, "--vcpus", "1"]).succeeded();
    lab.run(&["vm", "start", VM]).succeeded();
    let failed = lab.spoil(&format!("fail:{}", calls.len()), &set).failed_with(8);
    let says = "hint: Check the VM, because some changes could not be undone (running VM's virtual CPUs (";
    assert!(failed.stderr.contains(says) && failed.stderr.ends_with("): vmprov vm info changed\n"), "{failed}");
    lab.run(&set).succeeded();
    delete(&lab);
}

fn replace_that_is_disturbed(modes: &str) {
    let (lab, image) = warm();
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
            let (mode, when) = (when.split(' ').next().unwrap(), &format!("{when}\n{ran}"));
            assert!(is_judged(mode, k, &ran), "{when}");
            let (vm, old) = (listed(&lab), old.borrow());
            let is_old = vm.as_ref().is_some_and(|vm| vm["uuid"] == old["uuid"]);
            let is_untouched = is_old && vm.as_ref().is_some_and(|vm| *vm == *old);
            if !ran.was_killed() && !ran.status.success() {
                let told = ran.stderr.contains("the old VM `changed` has already been deleted")
                    || ran.stderr.contains("the old VM, which may be incomplete");
                assert!(told || is_untouched, "{when}: {vm:?}");
                assert!(is_old || vm.is_none(), "{when}: half a new VM is left: {vm:?}");
            }
            replace("").succeeded();
            let new = listed(&lab).unwrap();
            assert!(new["incomplete"] == false && new["state"] == "running", "{when}: {new}");
            let volumes = lab.virsh(&["vol-list", "--pool", "default"]);
            let ours = volumes.lines().filter(|line| line.trim_start().starts_with(VM)).count();
            assert_eq!(ours, 3, "{when}: {volumes}");
        },
    );
    delete(&lab);
    lab.run(&["gc"]).succeeded();
    lab.settles(&before, modes);
}

#[test]
fn a_replace_whose_call_fails_leaves_the_old_vm_or_says_that_it_is_gone() {
    replace_that_is_disturbed(FAILURES);
}

#[test]
fn a_replace_that_is_killed_is_finished_by_the_next() {
    replace_that_is_disturbed(KILLS);
}

#[test]
fn a_replace_that_gets_a_signal_leaves_the_old_vm_or_says_that_it_is_gone() {
    replace_that_is_disturbed(SIGNALS);
}
