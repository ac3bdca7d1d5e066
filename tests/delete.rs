//! What `vm delete` takes and what it leaves, with everything attached that libvirt makes an obstacle of: snapshots, a
//! saved state, NVRAM, a shared installer.
#![expect(clippy::unwrap_used, reason = "clippy knows only the functions marked as tests")]

#[path = "support/lab.rs"]
#[expect(dead_code, reason = "each test binary uses its own part")]
mod lab;

use lab::Lab;

/// The lab with pool, network, base image and the verdict on KVM.
fn warm() -> (Lab, String) {
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
fn snapshots_and_a_saved_state_go_and_a_shared_installer_stays() {
    let (lab, image) = warm();
    let iso = lab.pool_folder().join("shared.iso");
    std::fs::write(&iso, "an installer that others use, too").unwrap();
    lab.virsh(&["pool-refresh", "default"]);
    let before = lab.snapshot();
    create(&lab, &image, &["--iso", "/var/lib/libvirt/images/shared.iso"]);
    lab.virsh(&["snapshot-create-as", "taken", "first"]);
    lab.virsh(&["snapshot-create-as", "taken", "second"]);
    lab.virsh(&["managedsave", "taken"]);
    let saved = || lab.pool_folder().join("../qemu/save").read_dir().map_or(0, Iterator::count);
    assert_eq!(saved(), 1, "the VM's state was not saved, so this proves nothing");

    let deleted = lab.run(&["vm", "delete", "taken", "--yes", "-o", "json"]).succeeded().json();
    let report = &deleted["results"][0];
    assert_eq!(report["kept"], serde_json::json!(["/var/lib/libvirt/images/shared.iso"]), "{deleted}");
    assert_eq!(report["deleted"].as_array().unwrap().len(), 3, "{deleted}");
    assert_eq!(saved(), 0);
    lab.settles(&before, "after a VM with snapshots and a saved state was deleted");
    lab.virsh(&["vol-delete", "--pool", "default", "--vol", "shared.iso"]);
}

#[test]
fn a_foreign_vm_goes_with_its_nvram_and_its_disks_stay() {
    let (lab, _) = warm();
    lab.virsh(&["vol-create-as", "default", "foreign.qcow2", "1M", "--format", "qcow2"]);
    let before = lab.snapshot();
    let xml = "<domain type='qemu'><name>foreign</name><memory unit='MiB'>64</memory><os firmware='efi'>\
               <type arch='x86_64' machine='q35'>hvm</type></os><features><acpi/></features><devices><disk type='file'>\
               <driver name='qemu' type='qcow2'/><source file='/var/lib/libvirt/images/foreign.qcow2'/>\
               <target dev='vda' bus='virtio'/></disk></devices></domain>";
    lab.virsh_with(&["define", "/dev/stdin"], xml);
    lab.virsh(&["start", "foreign"]);
    let nvram = || lab.pool_folder().join("../qemu/nvram").read_dir().map_or(0, Iterator::count);
    assert_eq!(nvram(), 1, "the VM has no NVRAM, so this proves nothing");

    let refused = lab.run(&["vm", "delete", "foreign", "--yes"]).failed_with(4);
    assert!(refused.stderr.contains("--unmanaged"), "{refused}");
    let deleted = lab.run(&["vm", "delete", "foreign", "--yes", "--unmanaged", "-o", "json"]).succeeded().json();
    let disk = "/var/lib/libvirt/images/foreign.qcow2";
    assert_eq!(deleted["results"][0]["kept"], serde_json::json!([disk]), "{deleted}");
    assert_eq!(nvram(), 0);
    lab.settles(&before, "after a foreign VM was deleted");
    lab.virsh(&["vol-delete", "--pool", "default", "--vol", "foreign.qcow2"]);
}
