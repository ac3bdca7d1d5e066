//! Real guests that boot a real cloud image. One image is fetched by name from a mirror, by a create that is killed
//! halfway and repeated. Commands run in the guests; they are stopped and started, get keys by both methods, are
//! committed to an image that others boot, and are deleted. Afterwards, everything is as it was before.
#![expect(clippy::unwrap_used, reason = "clippy knows only the functions marked as tests")]

#[path = "support/lab.rs"]
#[expect(dead_code, reason = "each test binary uses its own part")]
mod lab;
#[path = "support/mirror.rs"]
#[expect(dead_code, reason = "each test binary uses its own part")]
mod mirror;

use std::{process::Command, thread};

use lab::{Lab, Run};
use mirror::{Fault, Mirror};

/// How long a guest may take to come up or go down.
const LIMIT: &str = "12m";

/// The path of the image on the publisher's server.
const PUBLISHED: &str = "cloud/disk.qcow2";

/// The lab and the mirror, with helpers for common commands.
struct Host {
    lab: Lab,
    mirror: Mirror,
}

impl Drop for Host {
    /// A failed test leaves no guest running.
    fn drop(&mut self) {
        if thread::panicking() {
            self.run(&["vm", "delete", "agent", "plain", "twin", "clone", "warm", "--yes", "--ignore-missing"]);
        }
    }
}

impl Host {
    fn run(&self, args: &[&str]) -> Run {
        self.lab.run_with_guest(args)
    }

    #[track_caller]
    fn ok(&self, args: &[&str]) -> String {
        self.run(args).succeeded().stdout
    }

    /// Runs a command in the guest over SSH, and returns its output.
    #[track_caller]
    fn guest(&self, vm: &str, command: &str) -> String {
        self.ok(&["vm", "ssh", vm, "--", command]).trim().to_owned()
    }

    #[track_caller]
    fn info(&self, vm: &str) -> serde_json::Value {
        self.run(&["vm", "info", vm, "-o", "json"]).succeeded().json()
    }

    /// Builds a cloud image with or without a guest agent. vmprov knows the login user from the file name.
    fn image(&self, name: &str, options: &[&str]) -> String {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/lab/image");
        let built = Command::new(script).args(options).output().unwrap();
        assert!(built.status.success(), "cannot build the image: {}", String::from_utf8_lossy(&built.stderr));
        let path = self.lab.file(name);
        std::fs::copy(String::from_utf8(built.stdout).unwrap().trim(), &path).unwrap();
        path.to_str().unwrap().to_owned()
    }

    /// Serves an image and a checksum file on the lab's loopback, and adds it to the catalogue.
    fn publish(&self, image: &str) {
        let body = std::fs::read(image).unwrap();
        let sum = vmprov::model::digest::of(&body);
        self.mirror.put(PUBLISHED, body);
        self.mirror.put("cloud/SHA256SUMS", format!("{sum}  disk.qcow2\n"));
        let entry = "[[image]]\nname = 'lab:12'\ntitle = 'Debian 12'\nurl = 'https://images.example/cloud/{arch}.qcow2'\n\
                     arch = { x86_64 = 'disk', aarch64 = 'disk' }\nuser = 'debian'\n\
                     checksum = { file = 'SHA256SUMS', form = 'sha256sums' }\n";
        self.lab.write(".config/vmprov/images.d/lab.toml", entry);
        let mirrors = format!("[mirrors]\n'https://images.example' = '{}'\n", self.mirror.url);
        self.lab.write(".config/vmprov/config.toml", mirrors);
    }

    /// Kills a create when half of its image is downloaded, and returns the number of bytes.
    fn fetch_half(&self, create: &[&str]) -> u64 {
        let half = std::fs::metadata(self.lab.file("debian-12-agent.qcow2")).unwrap().len() / 2;
        self.mirror.inject_faults(PUBLISHED, [Fault::Hold(usize::try_from(half).unwrap())]);
        let running = self.lab.begin("", create);
        let downloads = camino::Utf8PathBuf::from_path_buf(self.lab.file(".cache/vmprov/downloads")).unwrap();
        let half_is_downloaded = || vmprov::store::partial_file::list(&downloads).iter().any(|(_, size)| *size == half);
        lab::wait_until("half of the image", half_is_downloaded);
        running.signal(rustix::process::Signal::KILL);
        assert!(running.end().was_killed());
        self.mirror.requests();
        self.run(&["vm", "info", "agent"]).failed_with(3);
        half
    }

    fn user_data(&self, name: &str, text: &str) -> String {
        let path = self.lab.file(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    }
}

#[test]
fn two_guests_go_through_their_whole_lifecycle() {
    let lab = Lab::qemu();
    let mirror = Mirror::inside(&lab.network());
    let host = Host { lab, mirror };
    host.publish(&host.image("debian-12-agent.qcow2", &[]));
    let without_agent = host.image("debian-12-plain.qcow2", &["--no-agent"]);
    host.ok(&["key", "generate", "first"]);
    host.ok(&["key", "generate", "second", "--type", "ed25519"]);
    let config =
        host.user_data("config.yaml", "#cloud-config\nwrite_files:\n- {path: /etc/asked-for, content: it is here}\n");
    let script = host.user_data("script.sh", "#!/bin/sh\necho ran >/var/tmp/script\n");
    // The pool, the network and the result of the KVM probe are kept, so they must exist before the snapshot.
    host.ok(&["vm", "create", "warm", "--image", &without_agent, "--ssh-key", "first", "--no-start"]);
    host.ok(&["vm", "delete", "warm", "--yes"]);
    host.ok(&["image", "prune", "--all"]);
    let before = host.lab.snapshot();

    thread::scope(|scope| {
        let agent = scope.spawn(|| {
            agent_lifecycle(&host, &config);
            committed_image(&host);
        });
        let plain = scope.spawn(|| cloud_init_lifecycle(&host, &without_agent, &script));
        for thread in [agent, plain] {
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        }
    });

    let deleted = host.run(&["vm", "delete", "agent", "plain", "twin", "clone", "--yes", "-o", "json"]);
    let deleted = deleted.succeeded().json();
    assert_eq!(deleted["results"][0]["kept"], serde_json::json!([]), "{deleted}");
    host.run(&["vm", "info", "agent"]).failed_with(3);
    assert_eq!(host.ok(&["gc"]), "nothing to clean up\n");
    host.ok(&["image", "delete", "golden", "lab:12"]);
    host.ok(&["image", "prune"]);
    host.lab.settles(&before, "after everything was deleted");
}

/// Creates a VM from the name of an image that is not downloaded yet. The first create is killed when half of the image
/// is downloaded, and repeated. The VM gets a key, user data, and a second key through its agent.
fn agent_lifecycle(host: &Host, user_data: &str) {
    let create = ["vm", "create", "agent", "--image", "lab:12", "--ssh-key", "first", "--user-data", user_data];
    let wait = ["--memory", "640", "--disk-size", "4", "--wait=cloud-init", "--timeout", LIMIT, "-o", "json"];
    let create = [&create[..], &wait].concat();
    let half = host.fetch_half(&create);
    let created = host.run(&create).succeeded().json();
    let requests = host.mirror.requests();
    assert_eq!(requests.last().unwrap(), &format!("GET /{PUBLISHED} {half}- 206"), "{requests:?}");
    assert_eq!(created["imageVerification"], "checksum", "{created}");
    assert_eq!((&created["state"], &created["user"]), (&"running".into(), &"debian".into()), "{created}");
    let address = created["addresses"][0].as_str().unwrap().to_owned();
    assert_eq!(host.ok(&["vm", "ip", "agent"]).trim(), address);

    // vmprov's own configuration and the operator's user data both apply.
    assert_eq!(host.guest("agent", "hostname; whoami; cat /etc/asked-for"), "agent\ndebian\nit is here");
    assert_eq!(host.guest("agent", "sudo -n id -u"), "0");
    let root_kib: u64 = host.guest("agent", "df -k --output=size / | tail -n 1").trim().parse().unwrap();
    assert!(root_kib > 3_500_000, "the root file system has not grown: {root_kib} KiB");
    let host_keys = host.info("agent")["hostKeys"].clone();
    let in_guest = host.guest("agent", "sudo cut -d ' ' -f 1,2 /etc/ssh/ssh_host_ed25519_key.pub");
    assert!(host_keys[0].as_str().unwrap().starts_with(&in_guest), "{host_keys}: {in_guest}");
    host.run(&["vm", "ssh", "agent", "--", "exit 7"]).failed_with(7);

    // Through the agent, without a restart: login works with the second key alone.
    let boot = host.guest("agent", "cat /proc/sys/kernel/random/boot_id");
    host.ok(&["vm", "wait", "agent", "--for", "agent", "--timeout", LIMIT]);
    let injected =
        host.run(&["inject", "agent", "second", "--restart", "--timeout", LIMIT, "-o", "json"]).succeeded().json();
    assert_eq!(injected["method"], "agent", "{injected}");
    assert_eq!(injected["restartNeeded"], false, "{injected}");
    assert_eq!((&injected["keptInSeed"], &injected["verified"]), (&true.into(), &true.into()), "{injected}");
    assert_eq!(host.guest("agent", "cat /proc/sys/kernel/random/boot_id"), boot, "the guest was restarted");
    host.run(&["inject", "agent", "second", "--user", "nobody-there"]).failed_with(3);

    // After a stop and a start, both keys and the host keys are unchanged, and the replaced seed is deleted.
    let stopped = host.run(&["vm", "stop", "agent", "--timeout", LIMIT, "-o", "json"]).succeeded().json();
    assert_eq!(stopped["results"][0]["state"], "shut off", "{stopped}");
    assert_eq!(stopped["results"][0]["forced"], false, "{stopped}");
    host.ok(&["vm", "start", "agent"]);
    host.ok(&["vm", "wait", "agent", "--timeout", LIMIT]);
    let info = host.info("agent");
    assert_eq!(info["hostKeys"], host_keys);
    assert_eq!(info["volumes"].as_array().unwrap().len(), 3, "{info}");
    assert_eq!(host.guest("agent", "grep -c . .ssh/authorized_keys"), "2");
}

/// A second VM of the image needs no download and no copy. A VM that boots the committed image has its own identity,
/// and the files of the committed VM.
fn committed_image(host: &Host) {
    let machine = host.guest("agent", "cat /etc/machine-id");
    host.run(&["vm", "commit", "agent", "golden"]).failed_with(4);
    host.ok(&["vm", "stop", "agent", "--timeout", LIMIT]);
    host.mirror.requests();
    let create = ["vm", "create", "twin", "--image", "lab:12", "--ssh-key", "second", "--memory", "640"];
    let twin = host.run(&create).succeeded();
    assert_eq!(host.mirror.requests(), Vec::<String>::new());
    assert!(!twin.calls.iter().any(|call| call.contains("vol-upload") && call.contains("base-")), "{twin}");

    let image = host.run(&["vm", "commit", "agent", "golden", "-o", "json"]).succeeded().json();
    assert_eq!((&image["origin"], &image["user"]), (&"committed".into(), &"debian".into()), "{image}");
    let create = ["vm", "create", "clone", "--image", "golden", "--ssh-key", "second", "--memory", "640"];
    host.ok(&[&create[..], &["--wait=cloud-init", "--timeout", LIMIT]].concat());
    host.ok(&["vm", "wait", "twin", "--for", "cloud-init", "--timeout", LIMIT]);
    assert_eq!(host.guest("clone", "hostname; whoami; cat /etc/asked-for"), "clone\ndebian\nit is here");
    let machines = [machine, host.guest("clone", "cat /etc/machine-id"), host.guest("twin", "cat /etc/machine-id")];
    let [agent, clone, twin] = &machines;
    assert!(agent != clone && clone != twin && agent != twin && clone.len() == 32, "{machines:?}");
    let in_guest = host.guest("clone", "sudo cut -d ' ' -f 1,2 /etc/ssh/ssh_host_ed25519_key.pub");
    assert!(
        host.info("clone")["hostKeys"][0].as_str().unwrap().starts_with(&in_guest),
        "the guest has another VM's host key"
    );
    assert_eq!(host.guest("clone", "ls /etc/ssh/ssh_host_*.pub | wc -l; grep -c . .ssh/authorized_keys"), "2\n1");
    assert_eq!(host.guest("clone", "sudo ls /var/lib/cloud/instances | wc -l"), "1");
    let refused = host.run(&["image", "delete", "golden"]).failed_with(4);
    assert!(refused.stderr.contains("VM clone"), "{refused}");
}

/// Creates a VM without a key, and injects one through cloud-init. Then the host key changes outside vmprov, which is
/// detected, and the next injection restores it.
fn cloud_init_lifecycle(host: &Host, image: &str, user_data: &str) {
    let create = ["vm", "create", "plain", "--image", image, "--memory", "640", "--user-data", user_data];
    host.ok(&[&create[..], &["--wait=ip", "--timeout", LIMIT]].concat());
    let injected = host.run(&["inject", "plain", "first", "-o", "json"]).succeeded().json();
    assert_eq!((&injected["method"], &injected["restartNeeded"]), (&"cloud-init".into(), &true.into()), "{injected}");
    assert_eq!(injected["verified"], false, "{injected}");
    host.ok(&["vm", "stop", "plain", "--timeout", LIMIT]);
    host.ok(&["vm", "start", "plain"]);
    host.ok(&["vm", "wait", "plain", "--for", "cloud-init", "--timeout", LIMIT]);
    assert_eq!(host.guest("plain", "hostname; cat /var/tmp/script"), "plain\nran");

    let read_host_key = "sudo cat /etc/ssh/ssh_host_ed25519_key.pub";
    let original = host.guest("plain", read_host_key);
    let change = "sudo rm /etc/ssh/ssh_host_*; sudo ssh-keygen -q -t ed25519 -N '' -f /etc/ssh/ssh_host_ed25519_key; sudo systemctl restart ssh";
    host.guest("plain", change);
    let refused = host.run(&["vm", "ssh", "plain", "--", "true"]).failed_with(255);
    assert!(refused.stderr.contains("REMOTE HOST IDENTIFICATION HAS CHANGED"), "{refused}");

    let inject = ["inject", "plain", "second", "--method", "cloud-init", "--restart", "--timeout", LIMIT, "-o", "json"];
    let injected = host.run(&inject).succeeded().json();
    assert_eq!((&injected["verified"], &injected["restartNeeded"]), (&true.into(), &false.into()), "{injected}");
    assert_eq!(host.guest("plain", read_host_key), original, "the original host keys were not restored");
    host.ok(&["vm", "wait", "plain", "--for", "cloud-init", "--timeout", LIMIT]);
    assert_eq!(host.guest("plain", "grep -c . .ssh/authorized_keys; cat /var/tmp/script"), "2\nran");
}
