//! `vm pause`, `vm resume` and `vm reset` against a real libvirtd with QEMU: their output, what they refuse, paused VMs in
//! other operations, and faults in every external call. The VM's disk is blank, so no guest boots.
#![expect(clippy::unwrap_used, reason = "clippy knows only the functions marked as tests")]

#[path = "support/http.rs"]
#[expect(dead_code, reason = "each test binary uses its own part")]
mod http;
#[path = "support/lab.rs"]
#[expect(dead_code, reason = "each test binary uses its own part")]
mod lab;

use http::Service;
use lab::{Lab, Running, each_call, wait_until};
use serde_json::json;

const VM: &str = "power";
const NOT_FOUND: i32 = 3;
const CONFLICT: i32 = 4;
const TIMEOUT: i32 = 10;

/// Every way in which a call can fail, or vmprov can be ended.
const FAULTS: [&str; 3] = ["fail|lie", "kill-before|kill-after", "INT|hang"];

/// The lab with a running VM.
fn lab() -> Lab {
    let lab = Lab::warm();
    lab.run(&["vm", "delete", VM, "--yes", "--ignore-missing"]).succeeded();
    lab.run(&["vm", "create", VM, "--memory", "64", "--vcpus", "1", "--disk-size", "1"]).succeeded();
    lab
}

fn state(lab: &Lab) -> String {
    lab.virsh(&["domstate", VM]).trim().to_owned()
}

/// Runs a command, which must print exactly this.
#[track_caller]
fn prints(lab: &Lab, verb: &str, stdout: &str) {
    let ran = lab.run(&["vm", verb, VM]).succeeded();
    assert_eq!((&*ran.stdout, &*ran.stderr), (stdout, ""), "{ran}");
}

/// Runs a command, which must be refused with exactly this.
#[track_caller]
fn refuses(lab: &Lab, args: &[&str], stderr: &str) {
    let ran = lab.run(args).failed_with(CONFLICT);
    assert_eq!((&*ran.stdout, &*ran.stderr), ("", stderr), "{ran}");
}

#[test]
fn a_vm_is_paused_resumed_and_reset() {
    let lab = Lab::warm();
    let before = lab.snapshot();
    lab.run(&["vm", "create", VM, "--memory", "64", "--vcpus", "1", "--disk-size", "1"]).succeeded();
    let id = lab.virsh(&["domid", VM]);
    prints(&lab, "pause", "power: paused (paused)\n");
    assert_eq!(state(&lab), "paused");
    prints(&lab, "pause", "power: already paused (paused)\n");
    prints(&lab, "resume", "power: resumed (running)\n");
    prints(&lab, "resume", "power: already resumed (running)\n");
    prints(&lab, "reset", "power: reset (running)\n");
    assert_eq!(lab.virsh(&["domid", VM]), id, "a reset VM keeps its process");
    let report = lab.run(&["vm", "pause", VM, "-o", "json"]).succeeded().json();
    let expected = json!({"status": "paused", "vm": VM, "state": "paused", "changed": true, "forced": false});
    assert_eq!(report["results"], json!([expected]));

    // A failure does not prevent the rest.
    let ran = lab.run(&["vm", "resume", "nosuch", VM]).failed_with(NOT_FOUND);
    assert_eq!(ran.stdout, "power: resumed (running)\n", "{ran}");
    lab.run(&["vm", "pause", VM]).succeeded();
    lab.run(&["vm", "delete", VM, "--yes"]).succeeded();
    lab.settles(&before, "after a paused VM was deleted");
}

#[test]
fn a_vm_that_does_not_run_is_refused() {
    let lab = lab();
    lab.run(&["vm", "stop", VM, "--force"]).succeeded();
    for verb in ["pause", "resume", "reset"] {
        let done = if verb == "reset" { "reset".to_owned() } else { format!("{}d", verb.trim_end_matches('d')) };
        let says =
            format!("error: VM `power` is shut off, so it cannot be {done}\nhint: Start it: vmprov vm start power\n");
        refuses(&lab, &["vm", verb, VM], &says);
        lab.run(&["vm", verb, "nosuch"]).failed_with(NOT_FOUND);
    }
    assert_eq!(state(&lab), "shut off");
    lab.run(&["vm", "delete", VM, "--yes"]).succeeded();
}

#[test]
fn other_operations_say_that_a_vm_is_paused() {
    let lab = lab();
    lab.run(&["vm", "pause", VM]).succeeded();
    let stop = "error: VM `power` is paused, so its guest cannot shut down\nhint: Resume it first: vmprov vm resume \
                power\nhint: Power it off: vmprov vm stop power --force\n";
    refuses(&lab, &["vm", "stop", VM], stop);
    refuses(&lab, &["vm", "restart", VM, "--timeout", "5m"], stop);
    let exec = "error: VM `power` is paused, so it cannot run a command\nhint: Resume it: vmprov vm resume power\n";
    refuses(&lab, &["vm", "exec", VM, "--", "true"], exec);
    assert_eq!(state(&lab), "paused");

    prints(&lab, "start", "power: started (running)\n");
    lab.run(&["vm", "pause", VM]).succeeded();
    // The guest could not use the time that it is given.
    let stopped = lab.run(&["vm", "stop", VM, "--force", "--timeout", "5m"]).succeeded();
    assert_eq!(stopped.stdout, "power: stopped by force (shut off)\n", "{stopped}");
    lab.run(&["vm", "delete", VM, "--yes"]).succeeded();
}

#[test]
fn a_reset_reboots_the_vm_and_ends_a_requested_shutdown() {
    let lab = lab();
    let events = lab.begin("", &["vm", "events", VM, "--all", "--follow"]);
    wait_until("the event of a reset", || {
        lab.run(&["vm", "reset", VM]).succeeded();
        events.has_printed("reboot")
    });
    events.signal(rustix::process::Signal::TERM);
    events.end().failed_with(130);

    // Nothing shuts down, because no guest boots.
    lab.run(&["vm", "stop", VM, "--timeout", "1s"]).failed_with(TIMEOUT);
    let is_stopping = || lab.virsh(&["dumpxml", VM]).contains("urn:vmprov:stopping:1");
    assert!(is_stopping());
    prints(&lab, "reset", "power: reset (running)\n");
    assert!(!is_stopping());
    lab.run(&["vm", "delete", VM, "--yes"]).succeeded();
}

#[test]
fn http_and_tools_pause_resume_and_reset() {
    let lab = lab();
    let service = Service::new(lab.serve(&[]), Running::signal, lab.socket());
    for (verb, status, now) in
        [("pause", "paused", "paused"), ("resume", "resumed", "running"), ("reset", "reset", "running")]
    {
        let answer = service.client.send("POST", &format!("/api/vms/{VM}/{verb}"), &[], "").is(200).value();
        assert_eq!((&answer["status"], &answer["state"]), (&json!(status), &json!(now)), "{answer}");
    }
    for (verb, now) in [("pause", "paused"), ("resume", "running"), ("reset", "running")] {
        let request = ["Content-Type: application/json"];
        let path = format!("/api/tools/vm_{verb}");
        let answer = service.client.send("POST", &path, &request, &json!({"name": VM}).to_string());
        assert!(answer.is(200).value().to_string().contains(&format!("\"state\":\"{now}\"")), "{answer}");
    }
    service.client.send("POST", "/api/vms/nosuch/reset", &[], "").is(404);
    service.end().end().succeeded();
    lab.run(&["vm", "delete", VM, "--yes"]).succeeded();
}

/// After a fault, the VM is in one of its two states, and the same command completes the change.
fn with_faults(verb: &str, before: &str, after: &str) {
    let lab = lab();
    let snapshot = lab.snapshot();
    for modes in FAULTS {
        each_call(
            modes,
            |fault, _| {
                let prepare = if before == "paused" { "pause" } else { "resume" };
                lab.run(&["vm", prepare, VM]).succeeded();
                lab.run_with_fault(fault, &["vm", verb, VM])
            },
            |k, when, ran| {
                assert!(ran.ended_as_expected(when, k), "{when}\n{ran}");
                assert!([before, after].contains(&&*state(&lab)), "{when}: {}", state(&lab));
                lab.run(&["vm", verb, VM]).succeeded();
                assert_eq!(state(&lab), after, "{when}");
            },
        );
    }
    assert_eq!(lab.run(&["gc"]).succeeded().stdout, "nothing to clean up\n");
    lab.settles(&snapshot, verb);
    lab.run(&["vm", "delete", VM, "--yes"]).succeeded();
}

#[test]
fn the_next_pause_completes_one_with_a_fault() {
    with_faults("pause", "running", "paused");
}

#[test]
fn the_next_resume_completes_one_with_a_fault() {
    with_faults("resume", "paused", "running");
}

#[test]
fn the_next_reset_completes_one_with_a_fault() {
    with_faults("reset", "running", "running");
}
