//! The images in the pool: the files show which images are in use, an unused image is removed completely, and an image
//! that cannot be fetched again is kept.
#![expect(clippy::unwrap_used, reason = "clippy knows only the functions marked as tests")]

#[path = "support/lab.rs"]
#[expect(dead_code, reason = "each test binary uses its own part")]
mod lab;

use std::{os::unix::fs::PermissionsExt, process::Command};

use lab::{Lab, Run, Snapshot};
use serde_json::{Value, json};

/// The lab with a pool and no images.
struct Site {
    lab: Lab,
    before: Snapshot,
}

impl Site {
    fn new() -> Self {
        let lab = Lab::qemu();
        // Leftovers of a failed test must not fail this one.
        lab.run(&["vm", "delete", "image-a", "image-b", "--yes", "--ignore-missing"]).succeeded();
        // Creates the pool, the network and the cached KVM probe, and removes leftovers of other tests.
        let warm = lab.image("warm.qcow2", "10M");
        lab.run(&["vm", "create", "image-warm", "--image", &warm, "--user", "u", "--no-start"]).succeeded();
        lab.run(&["vm", "delete", "image-warm", "--yes"]).succeeded();
        lab.run(&["image", "prune", "--all"]).succeeded();
        std::fs::remove_file(warm).unwrap();
        let before = lab.snapshot();
        Self { lab, before }
    }

    #[track_caller]
    fn ok(&self, args: &[&str]) -> Run {
        self.lab.run(args).succeeded()
    }

    #[track_caller]
    fn json(&self, args: &[&str]) -> Value {
        self.ok(&[args, &["-o", "json"]].concat()).json()
    }

    /// Imports a tiny image under a name.
    #[track_caller]
    fn import(&self, name: &str, size: &str) -> Value {
        let file = self.lab.image("import.qcow2", size);
        let imported = self.json(&["image", "import", &file, name, "--user", "u"]);
        std::fs::remove_file(file).unwrap();
        imported
    }

    #[track_caller]
    fn create(&self, vm: &str, image: &str) {
        self.ok(&["vm", "create", vm, "--image", image, "--no-start", "--disk-size", "1", "--user", "u"]);
    }

    /// Runs a program in the pool's folder; it must succeed.
    #[track_caller]
    fn in_pool(&self, program: &str, args: &[&str]) {
        let mut command = Command::new(program);
        let ran = command.args(args).current_dir(self.lab.pool_folder()).output().unwrap();
        assert!(ran.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&ran.stderr));
    }

    /// Checks that the image cannot be deleted because of these users, and is not pruned.
    #[track_caller]
    fn assert_in_use(&self, image: &str, by: &[&str]) {
        self.lab.virsh(&["pool-refresh", "--pool", "default"]);
        let before = self.lab.snapshot();
        let refused = self.lab.run(&["image", "delete", image]).failed_with(4);
        for user in by {
            assert!(refused.stderr.contains(user), "`{user}` is missing: {refused}");
        }
        let pruned = self.json(&["image", "prune", "--all"]);
        assert_eq!(pruned["images"], json!([]), "{pruned}");
        self.lab.settles(&before, "after refused deletions");
    }
}

#[test]
fn an_imported_image_is_listed_used_exported_and_deleted() {
    let site = Site::new();
    let file = site.lab.image("golden.qcow2", "10M");
    let imported = site.json(&["image", "import", &file, "golden:1", "--user", "admin"]);
    assert_eq!((&imported["name"], &imported["origin"]), (&"golden:1".into(), &"imported".into()), "{imported}");
    assert_eq!((&imported["verification"], &imported["virtualSize"]), (&"none".into(), &(10 << 20).into()));
    // A name that an image or the catalogue already uses is refused, and the existing image does not change.
    let before = site.lab.snapshot();
    for (name, says) in
        [("golden:1", "image `golden:1` already exists"), ("debian:12", "image `debian:12` is in the catalogue")]
    {
        let refused = site.lab.run(&["image", "import", &file, name]).failed_with(4);
        assert!(refused.stderr.contains(says), "{refused}");
    }
    for bad in ["Golden", "a/b", "x.qcow2", "golden:", "-x"] {
        site.lab.run(&["image", "import", &file, "--", bad]).failed_with(2);
    }
    site.lab.settles(&before, "after invalid names");

    site.create("image-a", "golden:1");
    let info = site.json(&["vm", "info", "image-a"]);
    assert_eq!((&info["image"], &info["user"]), (&"golden:1".into(), &"u".into()), "{info}");
    let listed = site.json(&["image", "list"]);
    assert_eq!(listed["images"][0]["vms"], json!(["image-a"]), "{listed}");
    assert_eq!(site.ok(&["image", "list", "-o", "name"]).stdout, "golden:1\n");
    let table = site.ok(&["image", "ls"]).stdout;
    let id = imported["id"].as_str().unwrap();
    assert!(table.contains("golden:1") && table.contains(id) && table.contains("image-a"), "{table}");
    assert!(site.ok(&["image", "info", id]).stdout.contains("used by"), "the image is not found by its ID");
    site.assert_in_use("golden:1", &["VM image-a"]);

    // An export has the content of the import.
    let out = site.lab.file("out.qcow2");
    let exported = site.json(&["image", "export", "golden:1", out.to_str().unwrap()]);
    assert_eq!(std::fs::read(&out).unwrap(), std::fs::read(&file).unwrap());
    assert_eq!(exported["sha256"], imported["sha256"]);
    let before = site.lab.snapshot();
    let again = site.lab.run(&["image", "export", "golden:1", out.to_str().unwrap()]).failed_with(4);
    assert!(again.stderr.contains(&format!("file `{}` already exists", out.display())), "{again}");
    site.lab.run(&["image", "export", "golden:1", "/nowhere/x"]).failed_with(3);
    site.lab.settles(&before, "after refused exports");

    site.ok(&["vm", "delete", "image-a", "--yes"]);
    let pruned = site.json(&["image", "prune"]);
    assert_eq!((&pruned["images"], &pruned["kept"]), (&json!([]), &json!(["golden:1"])), "{pruned}");
    let dry = site.json(&["image", "prune", "--all", "--dry-run"]);
    assert_eq!(dry["images"][0]["image"], "golden:1", "{dry}");
    let deleted = site.json(&["image", "delete", "golden:1"]);
    assert_eq!(deleted["results"][0]["volumes"].as_array().unwrap().len(), 3, "{deleted}");
    site.lab.run(&["image", "delete", "golden:1"]).failed_with(3);
    for file in [file.as_str(), out.to_str().unwrap()] {
        std::fs::remove_file(file).unwrap();
    }
    site.lab.settles(&site.before, "at the end");
}

/// The same content under several names is one image, which is deleted with its last name.
#[test]
fn two_names_for_the_same_content_are_one_image() {
    let site = Site::new();
    let file = site.lab.image("same.qcow2", "10M");
    site.ok(&["image", "import", &file, "one"]);
    site.ok(&["image", "import", &file, "two"]);
    site.create("image-a", &file);
    let listed = site.json(&["image", "list"]);
    assert_eq!(listed["images"].as_array().unwrap().len(), 1, "{listed}");
    assert_eq!(listed["images"][0]["names"], json!([file, "one", "two"]), "{listed}");
    site.ok(&["vm", "delete", "image-a", "--yes"]);
    // An imported image cannot be fetched again, so it is kept, although it is also known by a path.
    assert_eq!(site.json(&["image", "prune"])["images"], json!([]));
    // `image delete` removes the given name, and the image with its last name.
    let deleted = site.json(&["image", "delete", "two"]);
    assert_eq!(deleted["results"][0]["volumes"].as_array().unwrap().len(), 1, "{deleted}");
    site.lab.run(&["image", "info", "two"]).failed_with(3);
    assert_eq!(site.json(&["image", "info", "one"])["names"], json!([file, "one"]));
    site.ok(&["image", "delete", "one", &file]);
    std::fs::remove_file(file).unwrap();
    site.lab.settles(&site.before, "at the end");
}

#[test]
fn a_snapshot_and_its_backing_chain_keep_an_image() {
    let site = Site::new();
    site.import("golden", "10M");
    site.create("image-a", "golden");
    // An external snapshot: the disk is now an overlay on an overlay on the image.
    site.lab.virsh(&["snapshot-create-as", "image-a", "before", "--disk-only", "--diskspec", "vdb,snapshot=no"]);
    site.assert_in_use("golden", &["VM image-a", "snapshot image-a/before"]);
    // The VM now has another disk; only the snapshot still depends on the image.
    let xml = site.lab.virsh(&["dumpxml", "--domain", "image-a"]);
    let disk = xml.lines().find(|line| line.contains("image-a.before")).unwrap().trim().to_owned();
    let path = disk.split('\'').nth(1).unwrap().to_owned();
    site.in_pool("qemu-img", &["create", "-q", "-f", "qcow2", "else.qcow2", "1M"]);
    site.lab.virsh_with(&["define", "/dev/stdin"], &xml.replace(&path, "/var/lib/libvirt/images/else.qcow2"));
    site.assert_in_use("golden", &["snapshot image-a/before"]);
    site.lab.virsh(&["snapshot-delete", "image-a", "before", "--metadata"]);
    std::fs::remove_file(site.lab.pool_folder().join("else.qcow2")).unwrap();
    // Now only the two overlay files and the VM's metadata still refer to the image.
    let gone = site.lab.run(&["image", "delete", "golden"]).failed_with(4);
    assert!(gone.stderr.contains("is in use by VM image-a, volume default/image-a"), "{gone}");
    site.lab.virsh(&["undefine", "--domain", "image-a"]);
    site.assert_in_use("golden", &["volume default/image-a"]);
    let left = std::fs::read_dir(site.lab.pool_folder()).unwrap().map(|entry| entry.unwrap().path());
    for file in left.filter(|path| path.file_name().unwrap().to_string_lossy().starts_with("image-a")) {
        std::fs::remove_file(file).unwrap();
    }
    site.lab.virsh(&["pool-refresh", "--pool", "default"]);
    site.ok(&["image", "delete", "golden"]);
    site.lab.settles(&site.before, "at the end");
}

/// Overlays that libvirt does not know, with unusual backing paths, and behind a file outside of all pools.
#[test]
fn manually_created_overlays_keep_an_image() {
    let site = Site::new();
    let imported = site.import("golden", "10M");
    let base = imported["volume"].as_str().unwrap().rsplit('/').next().unwrap().to_owned();
    let make = |name: &str, backing: &str| {
        site.in_pool("qemu-img", &["create", "-q", "-f", "qcow2", "-u", "-b", backing, "-F", "qcow2", name, "20M"]);
    };
    for backing in [base.clone(), format!("./{base}"), format!("/var/lib/libvirt/images/../images/{base}")] {
        make("by hand.qcow2", &backing);
        site.assert_in_use("golden", &["volume default/by hand.qcow2"]);
        std::fs::remove_file(site.lab.pool_folder().join("by hand.qcow2")).unwrap();
        site.lab.virsh(&["pool-refresh", "--pool", "default"]);
    }
    // An unmanaged VM whose disk is in no pool, based on a file in no pool, based on the image.
    let folder = tempfile::tempdir().unwrap();
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    make(&at("middle.qcow2"), &format!("/var/lib/libvirt/images/{base}"));
    make(&at("top.qcow2"), "middle.qcow2");
    let xml = |kind: &str| {
        format!(
            "<domain type='qemu'><name>image-foreign</name><memory>65536</memory><os><type>hvm</type></os><devices>\
             <disk type='file' device='disk'><driver name='qemu' type='{kind}'/><source file='{}'/><target dev='vda'/>\
             </disk></devices></domain>",
            at("top.qcow2")
        )
    };
    site.lab.virsh_with(&["define", "/dev/stdin"], &xml("qcow2"));
    site.assert_in_use("golden", &["VM image-foreign"]);
    // An unreadable disk may depend on any image.
    std::fs::write(at("top.qcow2"), "QFI\u{fb}").unwrap();
    let refused = site.lab.run(&["image", "delete", "golden"]).failed_with(4);
    assert!(
        refused.stderr.contains("cannot determine which images are in use") && refused.stderr.contains("image-foreign"),
        "{refused}"
    );
    // So may a missing disk, which may be on an unmounted file system.
    std::fs::rename(at("top.qcow2"), at("away.qcow2")).unwrap();
    let refused = site.lab.run(&["image", "prune", "--all"]).failed_with(4);
    assert!(refused.stderr.contains("it does not exist"), "{refused}");
    // A raw disk has no backing file, even if its guest wrote a qcow2 header to it.
    site.lab.virsh(&["undefine", "--domain", "image-foreign"]);
    make(&at("top.qcow2"), "middle.qcow2");
    site.lab.virsh_with(&["define", "/dev/stdin"], &xml("raw"));
    site.ok(&["image", "delete", "golden"]);
    site.lab.virsh(&["undefine", "--domain", "image-foreign"]);
    site.lab.settles(&site.before, "at the end");
}

/// A VM that cannot be committed is refused, and a commit that fails leaves nothing. The removal of the guest's
/// identity is tested with a real guest.
#[test]
fn a_commit_creates_a_complete_image_or_nothing() {
    let site = Site::new();
    site.import("golden", "10M");
    site.create("image-a", "golden");
    let before = site.lab.snapshot();
    let refuse = |args: &[&str], code: i32, says: &[&str]| {
        let refused = site.lab.run(&[&["vm", "commit"], args].concat()).failed_with(code);
        for word in says {
            assert!(refused.stderr.contains(word), "`{word}` is missing: {refused}");
        }
        site.lab.settles(&before, &args.join(" "));
    };
    refuse(&["nobody", "silver"], 3, &["VM `nobody` does not exist"]);
    refuse(&["image-a", "golden"], 4, &["image `golden` already exists"]);
    refuse(&["image-a", "debian:12"], 4, &["image `debian:12` is in the catalogue"]);
    refuse(&["image-a", "Silver"], 2, &["invalid image name `Silver`"]);
    // The disk is blank: there is no guest in it.
    refuse(&["image-a", "silver"], 8, &["virt-sysprep", "operating systems"]);
    site.lab.fake("virt-sysprep", "[ \"$1\" = --version ] || { echo 'it breaks' >&2; exit 1; }");
    refuse(&["image-a", "silver"], 8, &["it breaks", "libguestfs-test-tool"]);
    site.lab.fake("virt-sysprep", "exit 127");
    refuse(&["image-a", "silver"], 8, &["virt-sysprep"]);
    site.ok(&["vm", "start", "image-a"]);
    let running = site.lab.run(&["vm", "commit", "image-a", "silver"]).failed_with(4);
    assert!(running.stderr.contains("vmprov vm stop image-a"), "{running}");
    site.lab.virsh(&["managedsave", "--domain", "image-a"]);
    let saved = site.lab.run(&["vm", "commit", "image-a", "silver"]).failed_with(4);
    assert!(saved.stderr.contains("its disk is not consistent"), "{saved}");
    site.lab.virsh(&["managedsave-remove", "--domain", "image-a"]);

    // A VM with an external snapshot is committed to a single layer.
    site.lab.fake("virt-sysprep", "exit 0");
    site.lab.virsh(&["snapshot-create-as", "image-a", "before", "--disk-only", "--diskspec", "vdb,snapshot=no"]);
    let committed = site.json(&["vm", "commit", "image-a", "silver"]);
    assert_eq!((&committed["origin"], &committed["virtualSize"]), (&"committed".into(), &(1_u64 << 30).into()));
    assert_eq!((&committed["user"], &committed["vms"]), (&"u".into(), &json!([])), "{committed}");
    let out = site.lab.file("out.qcow2");
    site.ok(&["image", "export", "silver", out.to_str().unwrap()]);
    let info = Command::new("qemu-img").args(["info", "--output=json"]).arg(&out).output().unwrap();
    assert!(!String::from_utf8_lossy(&info.stdout).contains("backing"), "the image has a backing file");
    std::fs::remove_file(out).unwrap();
    site.create("image-b", "silver");
    site.assert_in_use("silver", &["VM image-b"]);
    site.ok(&["vm", "delete", "image-b", "--yes"]);
    site.ok(&["image", "delete", "silver"]);
    site.lab.virsh(&["snapshot-delete", "image-a", "before", "--metadata"]);
    site.ok(&["vm", "delete", "image-a", "--yes"]);
    site.ok(&["image", "delete", "golden"]);
    site.lab.settles(&site.before, "at the end");
}

/// The next create or pull restores a base image that was deleted with virsh.
#[test]
fn a_manually_deleted_base_image_is_restored() {
    let site = Site::new();
    let file = site.lab.image("again.qcow2", "10M");
    site.create("image-a", &file);
    site.ok(&["vm", "delete", "image-a", "--yes"]);
    let volume = site.json(&["image", "info", &file])["volume"].as_str().unwrap().to_owned();
    let (pool, name) = volume.split_once('/').unwrap();
    site.lab.virsh(&["vol-delete", "--pool", pool, "--vol", name]);
    site.create("image-a", &file);
    site.assert_in_use(&file, &["VM image-a"]);
    site.ok(&["vm", "delete", "image-a", "--yes"]);
    site.lab.virsh(&["vol-delete", "--pool", pool, "--vol", name]);
    assert_eq!(site.json(&["image", "pull", &file])["status"], "fetched");
    site.ok(&["image", "delete", &file]);
    std::fs::remove_file(file).unwrap();
    site.lab.settles(&site.before, "at the end");
}

/// A prune deletes no image that a concurrent create uses, and concurrent prunes free every name.
#[test]
fn concurrent_creates_and_prunes_do_not_conflict() {
    let site = Site::new();
    let file = site.lab.image("race.qcow2", "10M");
    for _ in 0..4 {
        let create = ["vm", "create", "image-a", "--image", &file, "--user", "u", "--no-start", "--disk-size", "1"];
        let running = [
            site.lab.begin("", &create),
            site.lab.begin("", &["image", "prune"]),
            site.lab.begin("", &["image", "prune"]),
        ];
        let [created, ..] = running.map(lab::Running::end);
        created.succeeded();
        let listed = site.json(&["image", "list"]);
        assert_eq!(listed["images"][0]["vms"], json!(["image-a"]), "{listed}");
        site.assert_in_use(&file, &["VM image-a"]);
        site.ok(&["vm", "delete", "image-a", "--yes"]);
        site.ok(&["image", "prune"]);
    }
    std::fs::remove_file(file).unwrap();
    site.lab.settles(&site.before, "at the end");
}

/// The leftovers are a source manifest without an image, and an upload without its manifest.
#[test]
fn prune_removes_leftovers_of_a_killed_process() {
    let site = Site::new();
    site.import("golden", "10M");
    let pool = site.lab.pool_folder();
    let files = std::fs::read_dir(&pool).unwrap().map(|entry| entry.unwrap().path());
    let manifests = files.filter(|path| path.extension().is_some_and(|extension| extension == "json"));
    let of_base = manifests.filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with("base-"));
    of_base.for_each(|path| std::fs::remove_file(path).unwrap());
    std::fs::write(pool.join("source-0000000000000000.json"), "no JSON").unwrap();
    site.lab.virsh(&["pool-refresh", "--pool", "default"]);
    assert_eq!(site.json(&["image", "list"])["images"], json!([]));
    let dry = site.json(&["image", "prune", "--dry-run"]);
    assert_eq!(dry["volumes"].as_array().unwrap().len(), 2, "{dry}");
    let pruned = site.json(&["image", "prune"]);
    assert_eq!(pruned["volumes"].as_array().unwrap().len(), 3, "{pruned}");
    site.lab.settles(&site.before, "at the end");
}
