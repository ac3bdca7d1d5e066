//! Image verification, and what a mirror can and cannot do.

use sha2::{Digest, Sha512};
use vmprov::model::digest::hex;

use super::{Site, gpg::Signer, sha256, sums};

/// A publisher's files that are correct, tampered with, missing, or signed by another party.
#[test]
fn a_published_signature_is_required_and_verified() {
    let site = Site::new();
    let (publisher, stranger) = (Signer::new("rsa3072"), Signer::new("ed25519"));
    let signed = |name: &str, signs: &str, file: &str| {
        let list = if signs == "image" { "" } else { "checksum = { file = 'SUMS', form = 'sha256sums' }\n" };
        let more = format!("{list}signature = {{ file = '{file}', signs = '{signs}', keys = ['publisher'] }}");
        site.entry(name, &format!("{signs}/disk.qcow2"), &more)
    };
    site.catalogue(&format!(
        "{}{}{}[keys]\npublisher = '''\n{}'''\n",
        signed("detached:1", "checksum", "SUMS.gpg"),
        signed("inline:1", "inline", "SUMS"),
        signed("image:1", "image", "{file}.sig"),
        publisher.public()
    ));
    let disk = site.disk();
    let list = sums("disk.qcow2", &disk);
    let restore = || {
        for folder in ["checksum", "inline", "image"] {
            site.mirror.put(&format!("{folder}/disk.qcow2"), disk.clone());
        }
        site.mirror.put("checksum/SUMS", list.clone());
        site.mirror.put("checksum/SUMS.gpg", publisher.detached(list.as_bytes()));
        site.mirror.put("inline/SUMS", publisher.inline(list.as_bytes()));
        site.mirror.put("image/disk.qcow2.sig", publisher.armoured(&disk));
    };
    let before = site.lab.snapshot();
    for name in ["detached:1", "inline:1", "image:1"] {
        restore();
        let pulled = site.json(&["image", "pull", name, "--require-verified"]);
        assert_eq!(pulled["image"]["verification"], "signature", "{pulled}");
        assert_eq!(pulled["image"]["signedBy"].as_str().map(str::len), Some(40), "{pulled}");
        assert_eq!(pulled["warnings"], serde_json::json!([]), "{pulled}");
        site.ok(&["vm", "create", "fetched", "--image", name, "--no-start"]);
        let info = site.json(&["vm", "info", "fetched"]);
        assert_eq!((&info["imageVerification"], &info["user"]), (&"signature".into(), &"admin".into()), "{info}");
        site.ok(&["vm", "delete", "fetched", "--yes"]);
        site.ok(&["image", "delete", name]);
    }
    let evil = site.disk();
    let evil_list = sums("disk.qcow2", &evil);
    let all: [(&str, &dyn Fn(), i32, &str); 13] = [
        ("detached:1", &|| site.mirror.put("checksum/disk.qcow2", evil.clone()), 2, "got sha256:"),
        ("detached:1", &|| site.mirror.put("checksum/SUMS", evil_list.clone()), 2, "does not match"),
        (
            "detached:1",
            &|| {
                site.mirror.put("checksum/SUMS", evil_list.clone());
                site.mirror.put("checksum/SUMS.gpg", stranger.detached(evil_list.as_bytes()));
            },
            2,
            "another key",
        ),
        ("detached:1", &|| site.mirror.remove("checksum/SUMS.gpg"), 3, "signature `"),
        ("detached:1", &|| site.mirror.remove("checksum/SUMS"), 3, "checksum file `"),
        ("detached:1", &|| site.mirror.put("checksum/SUMS.gpg", "<html>"), 2, "not an OpenPGP signature"),
        ("inline:1", &|| site.mirror.put("inline/SUMS", list.clone()), 2, "not a signed text"),
        ("inline:1", &|| site.mirror.put("inline/SUMS", stranger.inline(list.as_bytes())), 2, "another key"),
        (
            "inline:1",
            &|| site.mirror.put("inline/SUMS", publisher.inline(sums("another.qcow2", &disk).as_bytes())),
            2,
            "has no checksum of `disk.qcow2`",
        ),
        ("inline:1", &|| site.mirror.put("inline/disk.qcow2", evil.clone()), 2, "got sha256:"),
        ("image:1", &|| site.mirror.put("image/disk.qcow2", evil.clone()), 2, "does not match"),
        ("image:1", &|| site.mirror.remove("image/disk.qcow2.sig"), 3, "signature `"),
        ("image:1", &|| site.mirror.put("image/disk.qcow2.sig", stranger.detached(&disk)), 2, "another key"),
    ];
    for (name, tamper, code, says) in all {
        restore();
        tamper();
        site.refuses(&before, &["image", "pull", name], code, &[says]);
        site.refuses(&before, &["vm", "create", "fetched", "--image", name, "--no-start"], code, &[says]);
    }
}

/// A mirror serves the same paths as the publisher's host, and its files are verified in the same way.
#[test]
fn a_mirror_replaces_a_publisher_but_cannot_forge_signatures() {
    let site = Site::new();
    let before = site.lab.snapshot();
    let disk = site.disk();
    let folder = "images/cloud/bookworm/latest";
    let file = format!("{folder}/debian-12-genericcloud-amd64.qcow2");
    site.mirror.put(&file, disk.clone());
    site.mirror.put(
        &format!("{folder}/SHA512SUMS"),
        format!("{}  debian-12-genericcloud-amd64.qcow2\n", hex(&Sha512::digest(&disk))),
    );
    let mirror = format!("cloud.debian.org={}", site.mirror.url);
    let pulled = site.json(&["image", "pull", "debian:bookworm", "--mirror", &mirror]);
    assert_eq!(pulled["image"]["name"], "debian:12", "{pulled}");
    assert_eq!(pulled["image"]["verification"], "checksum", "{pulled}");
    site.ok(&["image", "delete", "debian:12"]);

    // Ubuntu signs its checksum file with a key that no mirror has.
    let ubuntu = "ubuntu/releases/noble/release";
    let name = "ubuntu-24.04-server-cloudimg-amd64.img";
    site.mirror.put(&format!("{ubuntu}/{name}"), disk.clone());
    let list = format!("{} *{name}\n", sha256(&disk));
    site.mirror.put(&format!("{ubuntu}/SHA256SUMS"), list.clone());
    site.mirror.put(&format!("{ubuntu}/SHA256SUMS.gpg"), Signer::new("rsa3072").detached(list.as_bytes()));
    site.configure(&format!("[mirrors]\n'https://cloud-images.ubuntu.com/' = '{}/ubuntu/'\n", site.mirror.url));
    site.refuses(&before, &["image", "pull", "ubuntu:24.04"], 2, &["signature", "another key"]);

    // A mirror may be a local folder, and may replace the host of a URL that is not in the catalogue.
    let local = site.lab.write("mirror/x/disk.qcow2", &disk);
    site.lab.write("mirror/x/SHA256SUMS", sums("disk.qcow2", &disk));
    let root = local.trim_end_matches("/x/disk.qcow2");
    site.configure(&format!("[mirrors]\n'images.example' = 'file://{root}'\n"));
    let before = site.lab.snapshot();
    let pulled = site.json(&["image", "pull", "https://images.example/x/disk.qcow2"]);
    assert_eq!(pulled["image"]["verification"], "checksum", "{pulled}");
    site.ok(&["image", "prune"]);
    let missing = "https://images.example/y/disk.qcow2";
    site.refuses(&before, &["image", "pull", missing], 3, &["No such file"]);
    site.refuses(&before, &["image", "pull", missing, "--mirror", "x=ftp://y"], 2, &["invalid mirror `x=ftp://y`"]);
}
