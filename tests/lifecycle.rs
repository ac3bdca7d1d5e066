//! The lifecycle of a VM with libvirt's in-memory driver, which has libvirt's own semantics, is shared between
//! processes, and needs no QEMU.
#![expect(clippy::unwrap_used, reason = "clippy knows only the functions marked as tests")]

#[path = "support/lab.rs"]
#[expect(dead_code, reason = "each test binary uses its own part")]
mod lab;

use lab::{Lab, Process, Run, wait_until};

const IMAGE: [&str; 4] = ["--user", "debian", "--disk-size", "1"];
const ALREADY_EXISTS: i32 = 4;
const CONFLICT: i32 = 4;
const BUSY: i32 = 5;
const NOT_FOUND: i32 = 3;

/// Returns a fresh in-memory driver with a key `first`, and an image.
fn lab() -> (Lab, Process, String) {
    let lab = Lab::in_memory();
    let held = lab.keep_connected();
    lab.run(&["key", "generate", "first", "--type", "ed25519"]).succeeded();
    let image = lab.image("image.qcow2", "10M");
    (lab, held, image)
}

fn create(lab: &Lab, name: &str, more: &[&str]) -> Run {
    let base: Vec<_> = ["vm", "create", name, "-o", "json"].into_iter().chain(more.iter().copied()).collect();
    lab.run(&base)
}

fn with_image<'a>(image: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    ["--image", image, "--ssh-key", "first"].into_iter().chain(IMAGE).chain(more.iter().copied()).collect()
}

#[track_caller]
fn info(lab: &Lab, vm: &str) -> serde_json::Value {
    lab.run(&["vm", "info", "-o", "json", "--", vm]).succeeded().json()
}

#[track_caller]
fn listed(lab: &Lab, vm: &str) -> Option<serde_json::Value> {
    let list = lab.run(&["vm", "list", "-o", "json"]).succeeded().json();
    list["vms"].as_array().unwrap().iter().find(|row| row["name"] == vm).cloned()
}

fn volumes(lab: &Lab) -> Vec<String> {
    let snapshot = lab.snapshot();
    let names = snapshot.0.iter().filter_map(|line| line.strip_prefix("volume default/"));
    names.map(str::to_owned).collect()
}

#[test]
fn a_vm_is_created_stopped_started_and_deleted() {
    let (lab, _held, image) = lab();
    create(&lab, "warm-up", &with_image(&image, &["--no-start"])).succeeded();
    lab.run(&["vm", "delete", "warm-up", "--yes"]).succeeded();
    let before = lab.snapshot();

    let vm = create(&lab, "web", &with_image(&image, &["--memory", "64", "--vcpus", "1"])).succeeded().json();
    assert_eq!((&vm["name"], &vm["state"]), (&"web".into(), &"running".into()), "{vm}");
    assert_eq!(vm["incomplete"], false, "{vm}");
    let row = listed(&lab, "web").unwrap();
    assert_eq!((row["memory"].as_u64(), row["vcpus"].as_u64()), (Some(64), Some(1)), "{row}");
    assert_eq!((row["autostart"].as_bool(), row["managed"].as_bool()), (Some(false), Some(true)), "{row}");
    assert_eq!((row["image"].as_str(), row["user"].as_str()), (Some(&*image), Some("debian")), "{row}");
    let known = info(&lab, "web");
    assert_eq!(known["uuid"], vm["uuid"]);
    assert_eq!(known["sshKeys"][0]["name"], "first");
    assert_eq!(known["volumes"].as_array().unwrap().len(), 3, "{known}");
    assert_eq!(known["disks"].as_array().unwrap().len(), 2, "{known}");

    lab.run(&["vm", "start", "web"]).succeeded();
    let uuid = vm["uuid"].as_str().unwrap();
    lab.run(&["vm", "stop", uuid, "--force"]).succeeded();
    assert_eq!(listed(&lab, "web").unwrap()["state"], "shut off");
    lab.run(&["vm", "stop", "web"]).succeeded();
    lab.run(&["vm", "start", uuid]).succeeded();
    assert_eq!(listed(&lab, "web").unwrap()["state"], "running");

    let deleted = lab.run(&["vm", "delete", "web", "--yes", "-o", "json"]).succeeded();
    assert!(deleted.stdout.contains("web.qcow2"), "{deleted}");
    lab.settles(&before, "after delete");
    lab.run(&["vm", "delete", "web", "--yes"]).failed_with(NOT_FOUND);
    lab.run(&["vm", "delete", "web", "--yes", "--ignore-missing"]).succeeded();
    lab.run(&["vm", "info", "web"]).failed_with(NOT_FOUND);
    lab.settles(&before, "after a second delete");
}

#[test]
fn create_makes_what_its_options_request() {
    let (lab, _held, image) = lab();
    let blank = create(&lab, "blank", &["--disk-size", "1"]).succeeded().json();
    assert_eq!(blank["state"], "running");
    assert!(blank["warnings"][0].as_str().unwrap().contains("blank"), "{blank}");
    assert_eq!(info(&lab, "blank")["volumes"], serde_json::json!(["default/blank.qcow2", "default/blank-console.log"]));

    let iso = lab.file("installer.iso");
    std::fs::write(&iso, "an installer").unwrap();
    create(&lab, "iso", &["--disk-size", "1", "--iso", iso.to_str().unwrap()]).succeeded();
    let known = info(&lab, "iso");
    assert_eq!(
        known["volumes"],
        serde_json::json!(["default/iso.qcow2", "default/iso-console.log", "default/iso-installer.iso"])
    );
    assert!(known["disks"].as_array().unwrap().iter().any(|disk| disk["device"] == "cdrom"), "{known}");

    let stopped = create(&lab, "stopped", &with_image(&image, &["--no-start", "--autostart"])).succeeded().json();
    assert_eq!(stopped["state"], "shut off");
    let row = listed(&lab, "stopped").unwrap();
    assert_eq!((&row["state"], &row["autostart"]), (&"shut off".into(), &true.into()), "{row}");

    lab.run(&["vm", "delete", "blank", "iso", "stopped", "--yes"]).succeeded();
    assert!(volumes(&lab).iter().all(|name| name.starts_with("base-") || name.starts_with("source-")));
}

#[test]
fn a_dry_run_changes_nothing() {
    let (lab, _held, image) = lab();
    let before = lab.snapshot();
    let dry = create(&lab, "web", &with_image(&image, &["--dry-run"])).succeeded();
    for part in ["pool-define", "define /dev/stdin", "vol-create-as", "genisoimage", "vol-upload", "start"] {
        assert!(dry.stdout.contains(part), "{part} is not planned: {dry}");
    }
    assert!(!dry.stdout.contains("PRIVATE KEY"), "{dry}");
    lab.settles(&before, "a dry run with an image");
    create(&lab, "web", &["--dry-run"]).succeeded();
    lab.settles(&before, "a dry run without an image");
}

#[test]
fn creating_a_vm_with_an_existing_name_changes_nothing() {
    let (lab, _held, image) = lab();
    create(&lab, "web", &with_image(&image, &[])).succeeded();
    let uuid = info(&lab, "web")["uuid"].as_str().unwrap().to_owned();
    let xml = lab.virsh(&["dumpxml", "--domain", &uuid]);
    let before = lab.snapshot();
    create(&lab, "web", &with_image(&image, &[])).failed_with(ALREADY_EXISTS);
    create(&lab, "web", &[]).failed_with(ALREADY_EXISTS);
    lab.settles(&before, "after a second create");
    assert_eq!(lab.virsh(&["dumpxml", "--domain", &uuid]), xml);

    // A volume without a known owner must not be overwritten.
    lab.virsh(&["vol-create-as", "--pool", "default", "--name", "other.qcow2", "--capacity", "1M"]);
    let before = lab.snapshot();
    create(&lab, "other", &with_image(&image, &[])).failed_with(ALREADY_EXISTS);
    lab.settles(&before, "after a create whose volume already exists");
}

#[test]
fn one_of_eight_concurrent_creates_of_a_name_succeeds() {
    let (lab, _held, image) = lab();
    let args = ["vm", "create", "web"].into_iter().chain(with_image(&image, &["--no-start"])).collect::<Vec<_>>();
    let running: Vec<_> = (0..8).map(|_| lab.begin("", &args)).collect();
    let ended: Vec<_> = running.into_iter().map(lab::Running::end).collect();
    let (succeeded, failed): (Vec<_>, Vec<_>) = ended.iter().partition(|ran| ran.status.success());
    assert_eq!(succeeded.len(), 1, "{}", ended.iter().map(Run::to_string).collect::<String>());
    for ran in failed {
        assert!([Some(ALREADY_EXISTS), Some(BUSY)].contains(&ran.code()), "{ran}");
    }
    let own: Vec<_> = volumes(&lab).into_iter().filter(|name| name.starts_with("web")).collect();
    assert_eq!(own.len(), 3, "{own:?}");
    assert_eq!(info(&lab, "web")["incomplete"], false);
    assert!(!lab.snapshot().0.iter().any(|line| line.starts_with("lock")), "a lock was left behind");
}

#[test]
fn eight_concurrent_creates_share_one_base_image() {
    let (lab, _held, image) = lab();
    let names: Vec<_> = (0..8).map(|number| format!("web-{number}")).collect();
    let begin = |name: &String| {
        let args: Vec<_> = ["vm", "create", name].into_iter().chain(with_image(&image, &["--no-start"])).collect();
        lab.begin("", &args)
    };
    let running: Vec<_> = names.iter().map(begin).collect();
    for running in running {
        running.end().succeeded();
    }
    let volumes = volumes(&lab);
    let count = |prefix: &str| volumes.iter().filter(|name| name.starts_with(prefix)).count();
    assert_eq!((count("base-"), count("source-"), count("web-")), (2, 1, 24), "{volumes:?}");
    let args: Vec<_> = ["vm", "delete", "--yes"].into_iter().chain(names.iter().map(String::as_str)).collect();
    lab.run(&args).succeeded();
}

/// Names that libvirt accepts and that are easily handled wrongly.
const HOSTILE: [&str; 11] = [
    "two words",
    "it's \"quoted\"",
    "-rf",
    "--all",
    "1",
    "42",
    "6695eb01-f6a4-8304-79aa-97f2502e193f",
    "ümläut-☃",
    "<name>&amp;]]>",
    "a; undefine test",
    "$(touch vmprov-was-here) `id` %s \\n *",
];

#[test]
fn unmanaged_vms_are_found_under_any_name() {
    let (lab, _held, _) = lab();
    lab.virsh(&["pool-define-as", "--name", "theirs", "--type", "dir", "--target", "/theirs"]);
    lab.virsh(&["pool-start", "--pool", "theirs"]);
    let mut uuids = Vec::new();
    for (number, name) in HOSTILE.iter().enumerate() {
        let uuid = format!("00000000-0000-4000-8000-0000000000{number:02x}");
        let disk = format!("{number}.qcow2");
        lab.virsh(&["vol-create-as", "--pool", "theirs", "--name", &disk, "--capacity", "1M"]);
        let escaped = name.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
        lab.virsh_with(
            &["define", "/dev/stdin"],
            &format!(
                "<domain type='test'><name>{escaped}</name><uuid>{uuid}</uuid><memory unit='MiB'>64</memory>\
                 <metadata><o:vm xmlns:o='urn:other' phase='creating'><o:volume pool='theirs' name='{disk}' role='disk'/></o:vm></metadata>\
                 <os><type>hvm</type></os><devices><disk type='file' device='disk'><source file='/theirs/{disk}'/>\
                 <target dev='vda' bus='virtio'/></disk></devices></domain>"
            ),
        );
        uuids.push(uuid);
    }
    let before = lab.snapshot();
    for (name, uuid) in HOSTILE.iter().zip(&uuids) {
        let row = listed(&lab, name).unwrap_or_else(|| panic!("`{name}` is not listed"));
        assert_eq!(
            (&row["uuid"], &row["managed"], &row["incomplete"]),
            (&uuid.as_str().into(), &false.into(), &false.into())
        );
        assert_eq!(info(&lab, name)["uuid"], uuid.as_str(), "{name}");
        lab.run(&["vm", "start", "--", name]).succeeded();
        assert_eq!(lab.virsh(&["domstate", "--domain", uuid]).trim(), "running", "{name}");
        lab.run(&["vm", "stop", "--force", "--", name]).succeeded();
        assert_eq!(lab.virsh(&["domstate", "--domain", uuid]).trim(), "shut off", "{name}");
        lab.run(&["vm", "start", uuid]).succeeded();
        lab.run(&["vm", "stop", "--force", uuid]).succeeded();
        lab.run(&["vm", "delete", "--yes", "--", name]).failed_with(CONFLICT);
    }
    lab.run(&["gc"]).succeeded();
    lab.settles(&before, "after work on unmanaged VMs");
    let count_disks = |lab: &Lab| lab.virsh(&["vol-list", "--pool", "theirs"]).lines().count();
    let disks = count_disks(&lab);
    for (name, uuid) in HOSTILE.iter().zip(&uuids) {
        let deleted = lab.run(&["vm", "delete", "--yes", "--unmanaged", "--", name]).succeeded();
        assert!(deleted.stdout.contains("/theirs/"), "the output does not name the kept disk: {deleted}");
        assert!(!lab.virsh(&["list", "--all", "--uuid"]).contains(uuid.as_str()), "{name}");
        assert!(listed(&lab, name).is_none(), "{name}");
    }
    assert!(listed(&lab, "test").is_some(), "another VM was deleted");
    assert_eq!(count_disks(&lab), disks, "a disk of an unmanaged VM was deleted");
}

#[test]
fn a_key_is_injected_into_a_stopped_vm() {
    let (lab, _held, image) = lab();
    create(&lab, "web", &with_image(&image, &["--no-start"])).succeeded();
    let other_element = ["metadata", "--domain", "web", "--uri", "urn:other", "--key", "other", "--config"];
    lab.virsh(&[&other_element[..], &["--set", "<vm phase='deleting'/>"]].concat());
    let before = info(&lab, "web");
    let old = volumes(&lab);
    lab.run(&["key", "generate", "second", "--type", "ed25519"]).succeeded();
    lab.run(&["inject", "web", "nosuch"]).failed_with(NOT_FOUND);
    lab.run(&["inject", "web", "second", "--method", "agent"]).failed_with(CONFLICT);
    assert_eq!(volumes(&lab), old);

    let report = lab.run(&["inject", "web", "second", "--method", "cloud-init", "-o", "json"]).succeeded().json();
    assert_eq!((&report["method"], &report["restartNeeded"]), (&"cloud-init".into(), &false.into()), "{report}");
    let after = info(&lab, "web");
    let names: Vec<_> = after["sshKeys"].as_array().unwrap().iter().map(|key| key["name"].clone()).collect();
    assert_eq!(names, ["first", "second"]);
    assert_ne!(after["instanceId"], before["instanceId"], "cloud-init would ignore the new seed");
    assert_eq!(after["hostKeys"], before["hostKeys"]);
    let new = volumes(&lab);
    assert_eq!(new.len(), old.len(), "the old seed still exists: {new:?}");
    assert_ne!(new, old, "the seed was not replaced");
    let seed = after["disks"][1]["source"].as_str().unwrap().rsplit('/').next().unwrap().to_owned();
    assert!(new.contains(&seed) && !old.contains(&seed), "{seed} is attached; the volumes are {new:?}");
    let other = lab.virsh(&["metadata", "--domain", "web", "--uri", "urn:other", "--config"]);
    assert!(other.contains("phase=\"deleting\"") || other.contains("phase='deleting'"), "{other}");
    assert_eq!(after["incomplete"], false);

    lab.run(&["vm", "start", "web"]).succeeded();
    lab.run(&["vm", "delete", "web", "--yes"]).succeeded();
    assert!(!volumes(&lab).iter().any(|name| name.starts_with("web")));
}

#[test]
fn gc_removes_only_what_interrupted_operations_left() {
    let (lab, _held, image) = lab();
    create(&lab, "whole", &with_image(&image, &[])).succeeded();
    // Leftovers of other tests are removed before this one begins.
    lab.run(&["gc"]).succeeded();
    let before = lab.snapshot();
    // The create is killed before the last call, which would mark the VM as complete.
    let args: Vec<_> = ["vm", "create", "cut"].into_iter().chain(with_image(&image, &["--no-start"])).collect();
    let calls = lab.run(&args).succeeded().calls.len();
    lab.run(&["vm", "delete", "cut", "--yes"]).succeeded();
    assert!(lab.run_with_fault(&format!("kill-before:{calls}"), &args).was_killed());
    assert_eq!(listed(&lab, "cut").unwrap()["incomplete"], true);
    for args in [&["vm", "start", "cut"][..], &["inject", "cut", "first"]] {
        lab.run(args).failed_with(CONFLICT);
    }
    let collected = lab.run(&["gc", "-o", "json"]).succeeded().json();
    assert_eq!(collected["vms"], serde_json::json!(["cut"]), "{collected}");
    assert_eq!(collected["volumes"].as_array().unwrap().len(), 3, "{collected}");
    lab.settles(&before, "after gc");

    // The host where the create began does not matter: a recreated container has another host name.
    lab.run(&args).succeeded();
    let uri = ["metadata", "--domain", "cut", "--uri", "urn:vmprov:vm:1", "--config"];
    let elsewhere = "<vm phase='creating' created='2026-01-01T00:00:00Z' by='0.1.0' host='elsewhere'>\
                     <volume pool='default' name='cut.qcow2' role='disk'/></vm>";
    lab.virsh(&[&uri[..], &["--key", "vmprov", "--set", elsewhere]].concat());
    let collected = lab.run(&["gc", "-o", "json"]).succeeded().json();
    assert_eq!(collected["vms"], serde_json::json!(["cut"]), "{collected}");
    wait_until("the VM to be removed", || listed(&lab, "cut").is_none());
}

/// Another program takes the port after it was chosen and before QEMU starts.
#[test]
fn a_port_that_is_taken_before_the_start_is_replaced() {
    let lab = Lab::warm();
    let [requested, bound] = ["requested", "bound"].map(|name| lab.file(name));
    // The first start waits until its port is taken.
    let script = format!(
        r#"PATH={{path}}
case $* in
*"start --domain"*)
    if [ ! -e {requested} ]; then
        virsh -q -c qemu:///system dumpxml web >{requested}.new
        mv {requested}.new {requested}
        tries=0
        until [ -e {bound} ] || [ "$tries" -gt 600 ]; do sleep 0.05; tries=$((tries + 1)); done
    fi
    ;;
esac
exec virsh "$@""#,
        requested = requested.display(),
        bound = bound.display(),
    );
    lab.fake("virsh", &script.replace("{path}", lab::PATH));
    let create = ["vm", "create", "web", "--network", "user", "--memory", "64", "--vcpus", "1", "-o", "json"];
    let running = lab.begin("", &create);
    wait_until("the first start", || requested.exists());
    let xml = std::fs::read_to_string(&requested).unwrap();
    let port: u16 = xml.split("hostfwd=tcp:127.0.0.1:").nth(1).unwrap().split('-').next().unwrap().parse().unwrap();
    let listener = lab.listen(port);
    std::fs::write(&bound, "").unwrap();
    let ran = running.end().succeeded();
    drop(listener);
    let other = ran.json()["sshPort"].as_u64().unwrap();
    assert_ne!(other, u64::from(port));
    // The port in vmprov's record is the port in QEMU's arguments.
    let info = lab.run(&["vm", "info", "web", "-o", "json"]).succeeded().json();
    assert_eq!(info["sshPort"], other);
    assert!(lab.virsh(&["dumpxml", "web"]).contains(&format!("hostfwd=tcp:127.0.0.1:{other}-:22")));
    lab.run(&["vm", "delete", "web", "--yes"]).succeeded();
    assert_eq!(lab.run(&["gc"]).succeeded().stdout, "nothing to clean up\n");
}
