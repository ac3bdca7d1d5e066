//! Images by name and by URL, from a fake mirror on the lab's loopback interface: each is fetched once and verified as
//! far as its publisher allows, and a wrong or damaged file is refused.
#![expect(clippy::unwrap_used, reason = "clippy knows only the functions marked as tests")]

#[path = "support/gpg.rs"]
mod gpg;
#[path = "support/lab.rs"]
#[expect(dead_code, reason = "each test binary uses its own part")]
mod lab;
#[path = "support/mirror.rs"]
#[expect(dead_code, reason = "each test binary uses its own part")]
mod mirror;

#[path = "fetch/again.rs"]
mod again;
#[path = "fetch/trust.rs"]
mod trust;

use std::{
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
};

use lab::{Lab, Run, Snapshot};
use mirror::{Fault, Mirror, Served};
use sha2::{Digest, Sha512};
use vmprov::model::digest::{self, hex};

/// The stall timeout of these tests. Pauses between attempts are proportional to it.
const STALL_TIMEOUT: &str = "2s";

/// The lab, and a mirror in it.
struct Site {
    lab: Lab,
    mirror: Mirror,
}

impl Site {
    fn new() -> Self {
        let lab = Lab::qemu();
        let mirror = Mirror::inside(&lab.network());
        let site = Self { lab, mirror };
        site.configure("");
        // Creates the pool, the network and the cached KVM probe, and removes leftovers of other tests.
        let warm = site.lab.image("warm.qcow2", "10M");
        site.ok(&["vm", "create", "fetch-warm", "--image", &warm, "--user", "u", "--no-start"]);
        site.ok(&["vm", "delete", "fetch-warm", "--yes"]);
        site.ok(&["image", "prune"]);
        site
    }

    /// Writes the configuration file.
    fn configure(&self, more: &str) {
        self.lab.write(".config/vmprov/config.toml", format!("stall-timeout = '{STALL_TIMEOUT}'\n{more}"));
    }

    /// Writes the site's catalogue.
    fn catalogue(&self, text: &str) {
        self.lab.write(".config/vmprov/images.d/site.toml", text);
    }

    /// Returns a catalogue entry for one file of the mirror.
    fn entry(&self, name: &str, file: &str, more: &str) -> String {
        let url = self.mirror.url(file);
        format!(
            "[[image]]\nname = '{name}'\ntitle = 'T'\nurl = '{url}'\narch = {{ x86_64 = 'x', aarch64 = 'y' }}\n\
             user = 'admin'\n{more}\n"
        )
    }

    fn run(&self, args: &[&str]) -> Run {
        self.lab.run(args)
    }

    #[track_caller]
    fn ok(&self, args: &[&str]) -> Run {
        self.run(args).succeeded()
    }

    #[track_caller]
    fn json(&self, args: &[&str]) -> serde_json::Value {
        self.ok(&[args, &["-o", "json"]].concat()).json()
    }

    /// Checks that the command fails with this status and these texts, and changes nothing.
    #[track_caller]
    fn refuses(&self, before: &Snapshot, args: &[&str], code: i32, says: &[&str]) {
        let refused = self.run(args).failed_with(code);
        for word in says {
            assert!(refused.stderr.contains(word), "`{word}` is missing: {refused}");
        }
        self.lab.settles(before, &args.join(" "));
    }

    /// Creates a disk image that differs from every other one.
    fn disk(&self) -> Vec<u8> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let size = 10_240 + 64 * COUNT.fetch_add(1, Ordering::SeqCst);
        let path = self.lab.image("one.qcow2", &format!("{size}K"));
        let wrote = Command::new("qemu-io").args(["-f", "qcow2", "-c", "write -q -P 7 0 1M"]).arg(&path).status();
        assert!(wrote.unwrap().success());
        let bytes = std::fs::read(&path).unwrap();
        std::fs::remove_file(path).unwrap();
        bytes
    }

    /// Serves a disk, and a checksum file in the same folder.
    fn publish(&self, file: &str) -> Vec<u8> {
        let disk = self.disk();
        self.mirror.put(file, disk.clone());
        self.mirror.put(&sibling(file, "SHA256SUMS"), sums(file, &disk));
        disk
    }
}

fn sibling(file: &str, other: &str) -> String {
    file.rsplit_once('/').map_or_else(|| other.to_owned(), |(folder, _)| format!("{folder}/{other}"))
}

fn sha256(bytes: &[u8]) -> String {
    digest::of(bytes)
}

/// Returns a checksum file that also lists another file.
fn sums(file: &str, bytes: &[u8]) -> String {
    let name = file.rsplit('/').next().unwrap();
    format!("{} *other.img\n{} *{name}\n", "0".repeat(64), sha256(bytes))
}

#[test]
fn a_file_that_is_not_a_valid_image_is_refused() {
    let site = Site::new();
    let disk = site.disk();
    site.mirror.put("secret", "");
    site.mirror.inject_faults("secret", (0..99).map(|_| Fault::Status(401)));
    site.mirror.serve("cut.qcow2", Served { body: disk.clone(), ..Served::default() });
    site.mirror.inject_faults("cut.qcow2", (0..99).map(|_| Fault::Cut(100_000)));
    site.mirror.put("stuck.qcow2", disk.clone());
    site.mirror.inject_faults("stuck.qcow2", (0..99).map(|_| Fault::Stall(0)));
    site.mirror.put("broken.qcow2", disk.clone());
    site.mirror.inject_faults("broken.qcow2", (0..99).map(|_| Fault::Status(500)));
    site.mirror.put("page.qcow2", "<!DOCTYPE html><html>Sign in</html>");
    site.mirror.put("nothing.qcow2", "");
    site.mirror.put("short.qcow2", &disk[..disk.len() / 2]);
    site.mirror.put("chain.qcow2", overlay(&site, "/etc/passwd"));
    let before = site.lab.snapshot();
    for (file, code, word) in [
        ("missing.qcow2", 3, "HTTP status 404"),
        ("secret", 6, "HTTP status 401"),
        ("cut.qcow2", 9, "ended after 100000 of"),
        ("stuck.qcow2", 10, "stuck.qcow2` for 2 s"),
        ("broken.qcow2", 9, "HTTP status 500"),
        ("page.qcow2", 2, "web page"),
        ("nothing.qcow2", 2, "is empty"),
        ("short.qcow2", 2, "is damaged or truncated"),
        ("chain.qcow2", 2, "has a backing file (`/etc/passwd`)"),
    ] {
        let url = site.mirror.url(file);
        let create = ["vm", "create", "fetched", "--image", &url, "--user", "u", "--no-start"];
        site.refuses(&before, &create, code, &[word]);
        site.refuses(&before, &["image", "pull", &url], code, &[word]);
    }
    for (url, word) in [
        ("ftp://127.0.0.1/x", "the scheme `ftp` is not supported"),
        ("http://user:word@127.0.0.1/x", "a user name or password"),
        ("http://", "cannot be parsed"),
        ("file:///nowhere/x.qcow2", "No such file"),
    ] {
        let code = if url.starts_with("file") { 3 } else { 2 };
        site.refuses(&before, &["image", "pull", url], code, &[word]);
    }
}

fn overlay(site: &Site, backing: &str) -> Vec<u8> {
    let path = site.lab.file("overlay.qcow2");
    let mut create = Command::new("qemu-img");
    create.args(["create", "-q", "-f", "qcow2", "-u", "-b", backing, "-F", "raw"]).arg(&path).arg("10M");
    assert!(create.status().unwrap().success());
    let bytes = std::fs::read(&path).unwrap();
    std::fs::remove_file(path).unwrap();
    bytes
}

#[test]
fn an_image_from_a_url_is_fetched_once() {
    let site = Site::new();
    site.mirror.put("real.qcow2", site.disk());
    site.mirror.put("moved.qcow2", "");
    site.mirror.inject_faults("moved.qcow2", [Fault::Redirect(site.mirror.url("real.qcow2"))]);
    let url = site.mirror.url("moved.qcow2");
    let create = ["vm", "create", "fetched", "--image", &url, "--user", "u", "--no-start", "-o", "json"];
    let before = site.lab.snapshot();
    let plan = site.ok(&[&create[..], &["--dry-run"]].concat());
    assert!(plan.stdout.contains(&format!("# fetch {url}")), "{plan}");
    site.lab.settles(&before, "after a dry run");
    site.mirror.requests();

    let created = site.ok(&create).json();
    assert!(created["warnings"].to_string().contains("is not protected by TLS"), "{created}");
    assert_eq!(created["imageVerification"], "none", "{created}");
    site.ok(&["vm", "delete", "fetched", "--yes"]);
    site.mirror.requests();
    // The second create needs neither the server nor a copy: its source manifest refers to the same base image.
    let created = site.ok(&create);
    assert!(created.stderr.contains("no SSH key given") && !created.stderr.contains("TLS"), "{created}");
    assert!(!created.calls.iter().any(|call| call.contains("vol-upload") && call.contains("base-")), "{created}");
    assert_eq!(site.mirror.requests(), Vec::<String>::new());
    let info = site.json(&["vm", "info", "fetched"]);
    assert_eq!((&info["image"], &info["user"]), (&url.into(), &"u".into()), "{info}");
    site.ok(&["vm", "delete", "fetched", "--yes"]);
    site.ok(&["image", "prune"]);
    site.lab.settles(&before, "at the end");
}

#[test]
fn a_published_checksum_is_found_and_enforced() {
    let site = Site::new();
    let before = site.lab.snapshot();
    let disk = site.disk();
    let (right, wrong) = (sha256(&disk), "0".repeat(64));
    for (number, (name, text)) in [
        ("SHA256SUMS", format!("{right}  disk.qcow2\n{wrong}  other\n")),
        ("SHA512SUMS", format!("{}  disk.qcow2\n", hex(&Sha512::digest(&disk)))),
        ("disk.qcow2.sha256", format!("{right}\n")),
        ("CHECKSUM", format!("# disk.qcow2: 1 bytes\nSHA256 (disk.qcow2) = {right}\nSHA256 (other) = {wrong}\n")),
    ]
    .into_iter()
    .enumerate()
    {
        let file = format!("{number}/disk.qcow2");
        site.mirror.put(&file, disk.clone());
        site.mirror.put(&sibling(&file, name), text.clone());
        let pulled = site.json(&["image", "pull", &site.mirror.url(&file)]);
        assert_eq!(pulled["image"]["verification"], "checksum", "{name}: {pulled}");
        assert!(pulled["warnings"].to_string().contains("was fetched without TLS or a signature"), "{pulled}");
        site.ok(&["image", "prune"]);
        // Another file with the same published checksum.
        site.mirror.put(&file, site.disk());
        let says = ["expected sha", &format!("({})", site.mirror.url(&sibling(&file, name))), ", got sha"];
        site.refuses(&before, &["image", "pull", &site.mirror.url(&file)], 2, &says);
    }
    // A checksum that the user gives.
    let url = site.mirror.url("plain.qcow2");
    site.mirror.put("plain.qcow2", disk.clone());
    let sum = format!("sha256:{right}");
    site.refuses(&before, &["image", "pull", &url, "--require-verified"], 2, &["is not verified", "--checksum"]);
    let other = format!("sha256:{wrong}");
    let says = [&*format!("expected {other} (requested), got {sum}"), "checksum mismatch for"];
    site.refuses(&before, &["image", "pull", &url, "--checksum", &other], 2, &says);
    site.refuses(&before, &["image", "pull", &url, "--checksum", "md5:00"], 2, &["unknown algorithm `md5`"]);
    let pulled = site.json(&["image", "pull", &url, "--checksum", &sum, "--require-verified"]);
    assert_eq!((&pulled["status"], &pulled["image"]["verification"]), (&"fetched".into(), &"checksum".into()));
    assert_eq!(pulled["warnings"], serde_json::json!([]), "{pulled}");
    // A stored image is compared with the checksum, too, without a request.
    site.mirror.requests();
    let create = ["vm", "create", "fetched", "--image", &url, "--user", "u", "--no-start"];
    let created = site.json(&[&create[..], &["--checksum", &sum, "--require-verified"]].concat());
    assert_eq!(created["imageVerification"], "checksum");
    assert_eq!(site.mirror.requests(), Vec::<String>::new());
    site.ok(&["vm", "delete", "fetched", "--yes"]);
    site.run(&[&create[..], &["--checksum", &other]].concat()).failed_with(2);
    site.ok(&["image", "prune"]);
    // A web page instead of the image is reported as such.
    site.mirror.put("page.qcow2", "<html>Sign in</html>");
    let page = site.mirror.url("page.qcow2");
    site.refuses(&before, &["image", "pull", &page, "--checksum", &sum], 2, &["the file is a web page"]);
    site.lab.settles(&before, "at the end");
}

/// Every supported disk format and compression results in the same base image.
#[test]
fn images_in_other_formats_or_compressed_become_qcow2() {
    let site = Site::new();
    let before = site.lab.snapshot();
    let folder = site.lab.file("formats");
    std::fs::create_dir(&folder).unwrap();
    let script = r"
        set -e
        truncate -s 12M disk.raw
        printf 'start=2048, size=2048, type=83\n' | sfdisk -q disk.raw
        qemu-io -f raw -c 'write -q -P 9 1M 2M' disk.raw
        qemu-img convert -f raw -O qcow2 disk.raw disk.qcow2
        qemu-img convert -f raw -O vmdk disk.raw sparse.vmdk
        qemu-img convert -f raw -O vmdk -o subformat=streamOptimized disk.raw stream.vmdk
        qemu-img convert -f raw -O vhdx disk.raw disk.vhdx
        qemu-img convert -f raw -O vdi disk.raw disk.vdi
        qemu-img convert -f raw -O vpc -o force_size=on disk.raw disk.vhd
        xz -k disk.raw; gzip -k disk.raw; bzip2 -k disk.raw; zstd -q disk.raw -o disk.raw.zst
        xz -k disk.qcow2; gzip -k disk.vmdk 2>/dev/null || gzip -k stream.vmdk
    ";
    let made = Command::new("bash").args(["-c", script]).current_dir(&folder).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let mut names: Vec<_> =
        std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    assert_eq!(names.len(), 13, "{names:?}");
    for name in &names {
        site.mirror.put(&format!("f/{name}"), std::fs::read(folder.join(name)).unwrap());
        let url = site.mirror.url(&format!("f/{name}"));
        site.ok(&["image", "import", &url, "foreign"]);
        let flat = site.lab.file("flat.qcow2");
        site.ok(&["image", "export", "foreign", flat.to_str().unwrap()]);
        let mut compare = Command::new("qemu-img");
        compare.args(["compare", "-f", "qcow2", "-F", "raw"]).arg(&flat).arg(folder.join("disk.raw"));
        let compared = compare.output().unwrap();
        assert!(compared.status.success(), "{name}: {}", String::from_utf8_lossy(&compared.stdout));
        site.ok(&["vm", "create", "fetched", "--image", "foreign", "--user", "u", "--no-start", "--disk-size", "1"]);
        site.ok(&["vm", "delete", "fetched", "--yes"]);
        site.ok(&["image", "delete", "foreign"]);
        std::fs::remove_file(flat).unwrap();
    }
    // Files that are truncated, compressed twice, or contain something else.
    let packed = std::fs::read(folder.join("disk.raw.xz")).unwrap();
    let text = site.lab.write("formats/text", "# Disk DescriptorFile\nRW 20480 FLAT \"/etc/passwd\" 0\n");
    for (name, content, says) in [
        ("cut.xz", packed[..packed.len() / 2].to_vec(), "the file is damaged or truncated"),
        ("twice.xz.gz", gzip(&folder, "disk.raw.xz"), "is compressed twice"),
        ("text.gz", gzip(&folder, "text"), "is a VMDK descriptor without the content"),
    ] {
        site.mirror.put(&format!("f/{name}"), content);
        let url = site.mirror.url(&format!("f/{name}"));
        let refused = site.run(&["image", "import", &url, "foreign"]).failed_with(2);
        assert!(refused.stderr.contains(says), "{name}: {refused}");
    }
    drop(text);
    std::fs::remove_dir_all(folder).unwrap();
    site.lab.settles(&before, "at the end");
}

fn gzip(folder: &std::path::Path, name: &str) -> Vec<u8> {
    Command::new("gzip").args(["-c", name]).current_dir(folder).output().unwrap().stdout
}

/// No option accepts an untrusted certificate; only the system's certificate store decides.
#[test]
fn tls_certificates_are_verified() {
    let site = Site::new();
    let before = site.lab.snapshot();
    let folder = site.lab.file("tls");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("disk.qcow2"), site.disk()).unwrap();
    let script = "openssl req -x509 -newkey rsa:2048 -nodes -keyout key.pem -out cert.pem -days 2 -subj /CN=127.0.0.1 \
                  -addext subjectAltName=IP:127.0.0.1 -addext basicConstraints=critical,CA:FALSE";
    let made = Command::new("bash").args(["-c", script]).current_dir(&folder).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let path = folder.to_str().unwrap();
    let server = "import http.server,ssl,sys,os\nos.chdir(sys.argv[1])\n\
                  s=http.server.ThreadingHTTPServer(('127.0.0.1',8793),http.server.SimpleHTTPRequestHandler)\n\
                  c=ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)\nc.load_cert_chain('cert.pem','key.pem')\n\
                  s.socket=c.wrap_socket(s.socket,server_side=True)\nopen('ready','w')\ns.serve_forever()\n";
    let held = site.lab.start_inside("python3", &["-c", server, path]);
    lab::wait_until("the server", || folder.join("ready").exists());
    let url = "https://127.0.0.1:8793/disk.qcow2";
    let refused = site.run(&["image", "pull", url]).failed_with(9);
    assert!(refused.stderr.contains("certificate") && !refused.stderr.contains("retrying"), "{refused}");
    let trusted = |args: &[&str]| site.lab.with_env("SSL_CERT_FILE", &format!("{path}/cert.pem"), args);
    trusted(&["image", "pull", url, "--require-verified"]).failed_with(2);
    let pulled = trusted(&["image", "pull", url, "-o", "json"]).succeeded().json();
    assert_eq!(pulled["image"]["verification"], "tls", "{pulled}");
    assert!(pulled["warnings"].to_string().contains("is verified by TLS only"), "{pulled}");
    site.ok(&["image", "prune"]);
    drop(held);
    std::fs::remove_dir_all(folder).unwrap();
    site.lab.settles(&before, "at the end");
}

#[test]
fn an_unknown_image_name_suggests_similar_ones() {
    let site = Site::new();
    let before = site.lab.snapshot();
    for (name, says) in [
        ("ubunut:24.04", "similar: `ubuntu:24.04`"),
        ("debain:12", "`debian:12`"),
        ("fedora", "`fedora:4"),
        ("golden", "List the known images: vmprov image search"),
    ] {
        site.refuses(&before, &["vm", "create", "fetched", "--image", name, "--user", "u", "--no-start"], 3, &[says]);
        site.refuses(&before, &["image", "pull", name], 3, &[says]);
        site.refuses(&before, &["image", "info", name], 3, &[]);
        site.refuses(&before, &["image", "delete", name], 3, &[]);
    }
    site.refuses(&before, &["image", "info", "debian:12"], 3, &["vmprov image pull debian:12"]);
    site.refuses(&before, &["image", "pull", "arch", "--arch", "aarch64"], 3, &["not published for aarch64"]);
    site.catalogue("[[image]]\nname = 'x'\n");
    let before = site.lab.snapshot();
    site.refuses(&before, &["image", "search"], 2, &["site.toml", "missing field `title`"]);
}
