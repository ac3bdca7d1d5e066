//! What `vm delete` removes and what it keeps, for VMs that libvirt does not undefine easily: with snapshots, a saved
//! state, NVRAM or a shared installer.
#![expect(clippy::unwrap_used, reason = "clippy knows only the functions marked as tests")]

#[path = "support/lab.rs"]
#[expect(dead_code, reason = "each test binary uses its own part")]
mod lab;

use lab::Lab;

/// Returns the lab with the pool, network, base image and KVM probe result that a create makes, and the path of the
/// image.
fn prepared_lab() -> (Lab, String) {
    let lab = Lab::qemu();
    for vm in ["taken", "foreign"] {
        lab.run(&["vm", "delete", vm, "--yes", "--ignore-missing", "--unmanaged"]).succeeded();
    }
    let image = lab.image("tiny.qcow2", "10M");
    create(&lab, &image, &["--no-start"]);
    lab.run(&["vm", "delete", "taken", "--yes"]).succeeded();
    (lab, image)
}

fn create(lab: &Lab, image: &str, more: &[&str]) {
    let create = ["vm", "create", "taken", "--image", image, "--user", "debian", "--memory", "64M", "--disk-size", "1"];
    lab.run(&[&create[..], more].concat()).succeeded();
}

#[test]
fn snapshots_and_saved_state_are_deleted_but_a_shared_installer_is_kept() {
    let (lab, image) = prepared_lab();
    let iso = lab.pool_folder().join("shared.iso");
    std::fs::write(&iso, "an installer that others use, too").unwrap();
    lab.virsh(&["pool-refresh", "default"]);
    let before = lab.snapshot();
    create(&lab, &image, &["--iso", "/var/lib/libvirt/images/shared.iso"]);
    lab.virsh(&["snapshot-create-as", "taken", "first"]);
    lab.virsh(&["snapshot-create-as", "taken", "second"]);
    lab.virsh(&["managedsave", "taken"]);
    let saved = || lab.pool_folder().join("../qemu/save").read_dir().map_or(0, Iterator::count);
    assert_eq!(saved(), 1, "the VM's state was not saved, so this test is meaningless");

    let deleted = lab.run(&["vm", "delete", "taken", "--yes", "-o", "json"]).succeeded().json();
    let report = &deleted["results"][0];
    assert_eq!(report["kept"], serde_json::json!(["/var/lib/libvirt/images/shared.iso"]), "{deleted}");
    assert_eq!(report["deleted"].as_array().unwrap().len(), 3, "{deleted}");
    assert_eq!(saved(), 0);
    lab.settles(&before, "after a VM with snapshots and a saved state was deleted");
    lab.virsh(&["vol-delete", "--pool", "default", "--vol", "shared.iso"]);
}

#[test]
fn an_unmanaged_vm_is_deleted_with_its_nvram_but_keeps_its_disks() {
    let (lab, _) = prepared_lab();
    lab.virsh(&["vol-create-as", "default", "foreign.qcow2", "1M", "--format", "qcow2"]);
    let before = lab.snapshot();
    let xml = "<domain type='qemu'><name>foreign</name><memory unit='MiB'>64</memory><os firmware='efi'>\
               <type arch='x86_64' machine='q35'>hvm</type></os><features><acpi/></features><devices><disk type='file'>\
               <driver name='qemu' type='qcow2'/><source file='/var/lib/libvirt/images/foreign.qcow2'/>\
               <target dev='vda' bus='virtio'/></disk></devices></domain>";
    lab.virsh_with(&["define", "/dev/stdin"], xml);
    lab.virsh(&["start", "foreign"]);
    let nvram = || lab.pool_folder().join("../qemu/nvram").read_dir().map_or(0, Iterator::count);
    assert_eq!(nvram(), 1, "the VM has no NVRAM, so this test is meaningless");

    let refused = lab.run(&["vm", "delete", "foreign", "--yes"]).failed_with(4);
    assert!(refused.stderr.contains("--unmanaged"), "{refused}");
    let deleted = lab.run(&["vm", "delete", "foreign", "--yes", "--unmanaged", "-o", "json"]).succeeded().json();
    let disk = "/var/lib/libvirt/images/foreign.qcow2";
    assert_eq!(deleted["results"][0]["kept"], serde_json::json!([disk]), "{deleted}");
    assert_eq!(nvram(), 0);
    lab.settles(&before, "after an unmanaged VM was deleted");
    lab.virsh(&["vol-delete", "--pool", "default", "--vol", "foreign.qcow2"]);
}

/// Creates an overlay in the pool with qemu-img. The backing file need not exist.
fn overlay(lab: &Lab, name: &str, backing: &str) {
    let folder = lab.pool_folder();
    let path = folder.join(name);
    let made = std::process::Command::new("qemu-img")
        .args(["create", "-q", "-f", "qcow2", "-u", "-F", "qcow2", "-b"])
        .args([&format!("/var/lib/libvirt/images/{backing}"), path.to_str().unwrap(), "1G"])
        .status();
    assert!(made.unwrap().success());
    lab.virsh(&["pool-refresh", "default"]);
}

#[test]
fn all_layers_of_external_snapshots_are_deleted_with_the_vm() {
    let (lab, image) = prepared_lab();
    let before = lab.snapshot();
    let base = base_of(&lab, &image);
    let content = || std::fs::read(lab.pool_folder().join(&base)).unwrap();
    let original = content();
    create(&lab, &image, &[]);
    let disk = ["--disk-only", "--atomic", "--diskspec", "vda,snapshot=external", "--diskspec", "vdb,snapshot=no"];
    for name in ["one", "two"] {
        lab.virsh(&[&["snapshot-create-as", "taken", name][..], &disk].concat());
    }
    // The revert also creates an overlay of the seed, although the snapshot excluded it.
    lab.virsh(&["snapshot-revert", "taken", "one", "--running"]);
    lab.virsh(&["destroy", "taken"]);
    let layers = |lab: &Lab| {
        let all = std::fs::read_dir(lab.pool_folder()).unwrap().map(|entry| entry.unwrap().file_name());
        all.filter(|name| name.to_string_lossy().starts_with("taken")).count()
    };
    assert!(layers(&lab) > 4, "the snapshots have created no layers, so this test is meaningless");
    // Before a delete removes volumes, it records all of them, so a killed delete can be completed.
    assert!(lab.run_with_fault("kill-after:9", &["vm", "delete", "taken", "--yes"]).was_killed());
    lab.run(&["vm", "delete", "taken", "--yes"]).succeeded();
    assert_eq!(layers(&lab), 0);
    lab.settles(&before, "after a VM with external snapshots was deleted");
    assert!(content() == original, "the base image was written to");
    // No leftover prevents the deletion of images.
    lab.run(&["image", "prune", "--dry-run"]).succeeded();
}

/// Returns the name of the volume that holds the base image of `image`.
fn base_of(lab: &Lab, image: &str) -> String {
    let info = lab.run(&["image", "info", image, "-o", "json"]).succeeded().json();
    info["volume"].as_str().unwrap().rsplit('/').next().unwrap().to_owned()
}

#[test]
fn a_volume_that_others_use_is_not_deleted() {
    let (lab, image) = prepared_lab();
    let before = lab.snapshot();
    create(&lab, &image, &["--no-start"]);
    overlay(&lab, "clone.qcow2", "taken.qcow2");
    let with_clone = lab.snapshot();
    let refused = lab.run(&["vm", "delete", "taken", "--yes"]).failed_with(4);
    let says = "volume default/clone.qcow2 uses /var/lib/libvirt/images/taken.qcow2";
    assert!(refused.stderr.contains(says), "{refused}");
    let xml = "<domain type='qemu'><name>foreign</name><memory unit='MiB'>64</memory><os><type>hvm</type></os>\
               <devices><disk type='file'><driver name='qemu' type='qcow2'/>\
               <source file='/var/lib/libvirt/images/clone.qcow2'/><target dev='vda' bus='virtio'/></disk></devices></domain>";
    lab.virsh_with(&["define", "/dev/stdin"], xml);
    let refused = lab.run(&["vm", "delete", "taken", "--yes"]).failed_with(4);
    assert!(refused.stderr.contains("VM foreign uses /var/lib/libvirt/images/taken.qcow2"), "{refused}");
    lab.virsh(&["undefine", "foreign"]);
    lab.settles(&with_clone, "after two deletes that were refused");
    lab.virsh(&["vol-delete", "--pool", "default", "--vol", "clone.qcow2"]);
    lab.run(&["vm", "delete", "taken", "--yes"]).succeeded();
    lab.settles(&before, "after the VM was deleted");
}

#[test]
fn gc_deletes_orphaned_overlays_only_with_the_orphans_flag() {
    let (lab, _) = prepared_lab();
    let before = lab.snapshot();
    overlay(&lab, "lost.one", "gone.qcow2");
    overlay(&lab, "lost.two", "lost.one");
    lab.run(&["image", "prune", "--dry-run"]).succeeded();
    let checked = lab.run(&["doctor", "state.volumes", "-o", "json"]).json();
    let finding = &checked["checks"][0];
    assert_eq!(
        (&finding["status"], &finding["fixCommand"]),
        (&"warn".into(), &"vmprov gc --orphans".into()),
        "{checked}"
    );
    assert!(finding["observed"].as_str().unwrap().starts_with("nothing uses lost.two, lost.one of"), "{checked}");
    let orphans = serde_json::json!(["default/lost.two", "default/lost.one"]);
    let collected = lab.run(&["gc", "-o", "json"]).succeeded().json();
    assert_eq!((&collected["orphans"], &collected["volumes"]), (&orphans, &serde_json::json!([])), "{collected}");
    let collected = lab.run(&["gc", "--orphans", "-o", "json"]).succeeded().json();
    assert_eq!((&collected["orphans"], &collected["volumes"]), (&serde_json::json!([]), &orphans), "{collected}");
    lab.settles(&before, "after the orphans were removed");
}
