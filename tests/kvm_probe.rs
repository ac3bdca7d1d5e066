//! The KVM probe: KVM works only if a guest executed code, and does not work only if QEMU or libvirt reports that.
//! A fake virsh offers KVM and emulates the probe, so these tests need no KVM.
#![expect(clippy::unwrap_used, reason = "clippy knows only the functions marked as tests")]

#[path = "support/lab.rs"]
#[expect(dead_code, reason = "each test binary uses its own part")]
mod lab;

use std::fs;

use lab::{Lab, Run, wait_until};
use serde_json::Value;

/// A sed script that turns the XML of a KVM domain into that of an emulated one.
const EMULATED: &str = r#"s/type="kvm"/type="qemu"/; /<cpu mode/d"#;

/// The same, and the domain keeps running when its guest resets itself.
const ENDLESS: &str = r#"s/type="kvm"/type="qemu"/; /<cpu mode/d; s/<on_reboot>destroy/<on_reboot>restart/"#;

/// The lab, in which libvirt offers KVM and a probe runs the script `probe`. The file `probes` records each probe.
fn lab(probe: &str) -> Lab {
    let lab = Lab::warm();
    let script = format!(
        r#"PATH={}
# with_xml EXPRESSION CALL...: applies a sed expression to the call's XML, which is in a file.
with_xml() {{
    expression=$1; shift
    file=$(printf '%s\n' "$4" | grep -o '/proc/[0-9]*/fd/[0-9]*')
    xml=$(sed "$expression" "$file")
    printf '%s\n' "$xml" >"$file"
    exec virsh "$@"
}}
case "$*" in
*"; create /proc/"*) echo probe >>{}; {probe} ;;
*"; define /proc/"*) with_xml '{EMULATED}' "$@" ;;
*--virttype*) exec virsh "$@" ;;
*domcapabilities*) virsh "$@" | sed 's|<domain>qemu</domain>|<domain>kvm</domain>|' ;;
*) exec virsh "$@" ;;
esac"#,
        lab::PATH,
        lab.file("probes").display()
    );
    lab.fake("virsh", &script);
    // Removes the cached result for the lab's real KVM.
    for file in cached(&lab) {
        fs::remove_file(file).unwrap();
    }
    lab
}

/// The files that cache the result of a probe.
fn cached(lab: &Lab) -> Vec<std::path::PathBuf> {
    let Ok(folder) = fs::read_dir(lab.file(".cache/vmprov")) else { return Vec::new() };
    let files = folder.map(|entry| entry.unwrap().path());
    files.filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with("kvm-")).collect()
}

/// The number of probes that were started.
fn probes(lab: &Lab) -> usize {
    fs::read_to_string(lab.file("probes")).map_or(0, |text| text.lines().count())
}

/// Returns the status and the observation of the `doctor` check that probes KVM.
fn checked(ran: &Run) -> (String, String) {
    let report = ran.json();
    let check = report["checks"].as_array().unwrap().iter().find(|check| check["id"] == "kvm.works").unwrap().clone();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    (text(&check["status"]), text(&check["observed"]))
}

const DOCTOR: [&str; 4] = ["doctor", "kvm.works", "-o", "json"];

/// The names of the running probes.
fn running(lab: &Lab) -> Vec<String> {
    let names = lab.virsh(&["list", "--name", "--state-running"]);
    names.lines().filter(|name| name.starts_with("vmprov-kvm-test-")).map(str::to_owned).collect()
}

#[test]
fn a_guest_that_resets_itself_proves_that_kvm_works() {
    let lab = lab(&format!("with_xml '{EMULATED}' \"$@\""));
    let before = lab.snapshot();
    let observed = checked(&lab.run(&DOCTOR));
    // On a host whose KVM is PVM, it is not enough that firmware runs.
    let has = |module: &str| std::path::Path::new("/sys/module").join(module).exists();
    let expected = if has("kvm_pvm") && !has("kvm_intel") && !has("kvm_amd") {
        let pvm = "KVM exists but does not work (it is PVM, which runs only kernels that are built for it): guests are \
                   emulated, which is many times slower";
        ("warn".to_owned(), pvm.to_owned())
    } else {
        ("ok".to_owned(), "KVM executed guest code".to_owned())
    };
    assert_eq!(observed, expected);
    assert_eq!((probes(&lab), cached(&lab).len()), (1, 1));
    for uri in ["qemu:///system", "qemu+unix:///system"] {
        let create = ["-c", uri, "vm", "create", "web", "--memory", "64", "--vcpus", "1", "--no-start"];
        lab.run(&create).succeeded();
        lab.run(&["vm", "delete", "web", "--yes"]).succeeded();
    }
    assert_eq!(probes(&lab), 1, "the cached result must not depend on how the URI is spelled");
    lab.settles_without(
        &before,
        |line| line.contains("home .cache/vmprov/kvm-") || line.contains("home probes"),
        "after a probe",
    );
}

#[test]
fn gc_keeps_a_running_probe() {
    let lab = lab(&format!("with_xml '{ENDLESS}' \"$@\""));
    let doctor = lab.begin("", &DOCTOR);
    wait_until("the probe to run", || !running(&lab).is_empty());
    let collected = lab.run(&["gc", "-o", "json"]).succeeded().json();
    assert_eq!((&collected["vms"], collected["skipped"].as_array().unwrap().len()), (&serde_json::json!([]), 1));
    let (status, observed) = checked(&doctor.end());
    assert_eq!(status, "warn", "{observed}");
    assert!(observed.contains("a guest starts but its CPU never executes"), "{observed}");
    assert_eq!(probes(&lab), 1);
    // A probe whose vmprov was killed is removed.
    let doctor = lab.begin("", &DOCTOR);
    wait_until("the probe to run", || !running(&lab).is_empty());
    doctor.signal(rustix::process::Signal::KILL);
    assert!(doctor.end().was_killed());
    let left = running(&lab);
    assert_eq!(lab.run(&["gc", "-o", "json"]).succeeded().json()["vms"], serde_json::json!(left));
    assert_eq!((left.len(), running(&lab).len()), (1, 0));
}

#[test]
fn a_probe_that_another_client_ends_is_inconclusive() {
    let lab = lab(&format!("with_xml '{ENDLESS}' \"$@\""));
    let doctor = lab.begin("", &DOCTOR);
    let mut ended = Vec::new();
    wait_until("three probes", || {
        let new: Vec<_> = running(&lab).into_iter().filter(|name| !ended.contains(name)).collect();
        for name in new {
            lab.virsh(&["destroy", &name]);
            ended.push(name);
        }
        ended.len() == 3
    });
    let (status, observed) = checked(&doctor.end());
    assert!(status == "skip" && observed.starts_with("cannot tell whether KVM works: "), "{status}: {observed}");
    assert_eq!((probes(&lab), cached(&lab).len()), (3, 0));
}

#[test]
fn a_probe_that_fails_for_another_reason_is_inconclusive() {
    let memory = "qemu-system-x86_64: cannot set up guest memory 'pc.ram': Cannot allocate memory";
    let complaint = format!(
        "error: Failed to create domain from /dev/stdin\n\
         error: internal error: QEMU unexpectedly closed the monitor (vm='vmprov-kvm-test-x'): {memory}"
    );
    let lab = lab(&format!("echo \"{complaint}\" >&2; exit 1"));
    let reason = "cannot set up guest memory 'pc.ram'";
    let observed = checked(&lab.run(&DOCTOR));
    assert_eq!(observed, ("skip".to_owned(), format!("cannot tell whether KVM works: {reason}")));
    for name in ["one", "two"] {
        let create = ["vm", "create", name, "--memory", "64", "--vcpus", "1", "--no-start", "-o", "json"];
        let created = lab.run(&create).succeeded().json();
        let warning = format!("cannot tell whether KVM works ({reason}): using it, and probing it again next time");
        assert!(created["warnings"].as_array().unwrap().contains(&warning.into()), "{created}");
    }
    assert_eq!((probes(&lab), cached(&lab).len()), (3, 0));
    lab.run(&["vm", "delete", "one", "two", "--yes"]).succeeded();
}
