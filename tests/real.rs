//! Real guests: two of them boot a real cloud image, are logged in to, stopped, started, given keys by both methods,
//! and deleted; afterwards everything is as it was before.
#![expect(clippy::unwrap_used, reason = "clippy knows only the functions marked as tests")]

#[path = "support/lab.rs"]
#[expect(dead_code, reason = "each test binary uses its own part")]
mod lab;

use std::{process::Command, thread, time::Duration};

use lab::{Lab, Ran};

/// How long a guest may take to come up or go down. Two at a time are emulated on few cores, perhaps shared ones.
const GUEST: Duration = Duration::from_mins(15);
const LIMIT: &str = "12m";

/// vmprov, and what is asked of it again and again.
struct Host {
    lab: Lab,
}

impl Drop for Host {
    /// A failed test leaves no guest running.
    fn drop(&mut self) {
        if thread::panicking() {
            self.run(&["vm", "delete", "agent", "plain", "warm", "--yes", "--ignore-missing"]);
        }
    }
}

impl Host {
    fn run(&self, args: &[&str]) -> Ran {
        self.lab.begin("", args).end_within(GUEST)
    }

    #[track_caller]
    fn ok(&self, args: &[&str]) -> String {
        self.run(args).succeeded().stdout
    }

    /// What a command in the guest prints.
    #[track_caller]
    fn guest(&self, vm: &str, command: &str) -> String {
        self.ok(&["vm", "ssh", vm, "--", command]).trim().to_owned()
    }

    #[track_caller]
    fn info(&self, vm: &str) -> serde_json::Value {
        self.run(&["vm", "info", vm, "-o", "json"]).succeeded().json()
    }

    /// Makes a cloud image with or without a guest agent, under a name that tells its user.
    fn image(&self, name: &str, options: &[&str]) -> String {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/lab/image");
        let built = Command::new(script).args(options).output().unwrap();
        assert!(built.status.success(), "no image: {}", String::from_utf8_lossy(&built.stderr));
        let path = self.lab.file(name);
        std::fs::copy(String::from_utf8(built.stdout).unwrap().trim(), &path).unwrap();
        path.to_str().unwrap().to_owned()
    }

    fn user_data(&self, name: &str, text: &str) -> String {
        let path = self.lab.file(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    }
}

#[test]
fn two_guests_from_an_image_to_a_login_and_back_to_nothing() {
    let host = Host { lab: Lab::qemu() };
    let with_agent = host.image("debian-12-agent.qcow2", &[]);
    let without_agent = host.image("debian-12-plain.qcow2", &["--no-agent"]);
    host.ok(&["key", "generate", "first"]);
    host.ok(&["key", "generate", "second", "--type", "ed25519"]);
    let config =
        host.user_data("config.yaml", "#cloud-config\nwrite_files:\n- {path: /etc/asked-for, content: it is here}\n");
    let script = host.user_data("script.sh", "#!/bin/sh\necho ran >/var/tmp/script\n");
    // The pool, the network, both base images and what was found out of KVM stay; they are there from here on.
    for image in [&with_agent, &without_agent] {
        host.ok(&["vm", "create", "warm", "--image", image, "--ssh-key", "first", "--no-start"]);
        host.ok(&["vm", "delete", "warm", "--yes"]);
    }
    let before = host.lab.snapshot();

    thread::scope(|scope| {
        let agent = scope.spawn(|| agent_story(&host, &with_agent, &config));
        let plain = scope.spawn(|| plain_story(&host, &without_agent, &script));
        for story in [agent, plain] {
            story.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        }
    });

    let deleted = host.run(&["vm", "delete", "agent", "plain", "--yes", "-o", "json"]).succeeded().json();
    assert_eq!(deleted["results"][0]["kept"], serde_json::json!([]), "{deleted}");
    host.run(&["vm", "info", "agent"]).failed_with(3);
    assert_eq!(host.ok(&["gc"]), "nothing to clean up\n");
    host.lab.settles(&before, "after everything was deleted");
}

/// Created with a key and user data, waited for, and given a second key through its agent.
fn agent_story(host: &Host, image: &str, user_data: &str) {
    let create = ["vm", "create", "agent", "--image", image, "--ssh-key", "first", "--user-data", user_data];
    let wait = ["--memory", "640", "--disk-size", "4", "--wait=cloud-init", "--timeout", LIMIT, "-o", "json"];
    let created = host.run(&[&create[..], &wait].concat()).succeeded().json();
    assert_eq!((&created["state"], &created["user"]), (&"running".into(), &"debian".into()), "{created}");
    let address = created["addresses"][0].as_str().unwrap().to_owned();
    assert_eq!(host.ok(&["vm", "ip", "agent"]).trim(), address);

    // What vmprov needs and what the operator wants, side by side.
    assert_eq!(host.guest("agent", "hostname; whoami; cat /etc/asked-for"), "agent\ndebian\nit is here");
    assert_eq!(host.guest("agent", "sudo -n id -u"), "0");
    let root_kib: u64 = host.guest("agent", "df -k --output=size / | tail -n 1").trim().parse().unwrap();
    assert!(root_kib > 3_500_000, "the root file system has not grown: {root_kib} KiB");
    let host_keys = host.info("agent")["hostKeys"].clone();
    let in_guest = host.guest("agent", "sudo cut -d ' ' -f 1,2 /etc/ssh/ssh_host_ed25519_key.pub");
    assert!(host_keys[0].as_str().unwrap().starts_with(&in_guest), "{host_keys}: {in_guest}");
    host.run(&["vm", "ssh", "agent", "--", "exit 7"]).failed_with(7);

    // Live, through the agent: the second key alone lets in, without a restart.
    let boot = host.guest("agent", "cat /proc/sys/kernel/random/boot_id");
    host.ok(&["vm", "wait", "agent", "--for", "agent", "--timeout", LIMIT]);
    let injected =
        host.run(&["inject", "agent", "second", "--restart", "--timeout", LIMIT, "-o", "json"]).succeeded().json();
    assert_eq!(injected["method"], "agent", "{injected}");
    assert_eq!(injected["restartNeeded"], false, "{injected}");
    assert_eq!((&injected["keptInSeed"], &injected["verified"]), (&true.into(), &true.into()), "{injected}");
    assert_eq!(host.guest("agent", "cat /proc/sys/kernel/random/boot_id"), boot, "it was restarted");
    host.run(&["inject", "agent", "second", "--user", "nobody-there"]).failed_with(3);

    // Down and up again: both keys and the host keys are still what they were, and the replaced seed is gone.
    let stopped = host.run(&["vm", "stop", "agent", "--timeout", LIMIT, "-o", "json"]).succeeded().json();
    assert_eq!(stopped["results"][0]["state"], "shut off", "{stopped}");
    assert_eq!(stopped["results"][0]["forced"], false, "{stopped}");
    host.ok(&["vm", "start", "agent"]);
    host.ok(&["vm", "wait", "agent", "--timeout", LIMIT]);
    let info = host.info("agent");
    assert_eq!(info["hostKeys"], host_keys);
    assert_eq!(info["volumes"].as_array().unwrap().len(), 2, "{info}");
    assert_eq!(host.guest("agent", "grep -c . .ssh/authorized_keys"), "2");
}

/// The workflow of the service's document: created without a key, which is injected through cloud-init; then the
/// host key changes behind vmprov's back, which is noticed, and mended by the next inject.
fn plain_story(host: &Host, image: &str, user_data: &str) {
    let create = ["vm", "create", "plain", "--image", image, "--memory", "640", "--user-data", user_data];
    host.ok(&[&create[..], &["--wait=ip", "--timeout", LIMIT]].concat());
    let injected = host.run(&["inject", "plain", "first", "-o", "json"]).succeeded().json();
    assert_eq!((&injected["method"], &injected["restartNeeded"]), (&"cloud-init".into(), &true.into()), "{injected}");
    assert_eq!(injected["verified"], false, "{injected}");
    host.ok(&["vm", "stop", "plain", "--timeout", LIMIT]);
    host.ok(&["vm", "start", "plain"]);
    host.ok(&["vm", "wait", "plain", "--for", "cloud-init", "--timeout", LIMIT]);
    assert_eq!(host.guest("plain", "hostname; cat /var/tmp/script"), "plain\nran");

    let fingerprint = "sudo cat /etc/ssh/ssh_host_ed25519_key.pub";
    let ours = host.guest("plain", fingerprint);
    let change = "sudo rm /etc/ssh/ssh_host_*; sudo ssh-keygen -q -t ed25519 -N '' -f /etc/ssh/ssh_host_ed25519_key; sudo systemctl restart ssh";
    host.guest("plain", change);
    let refused = host.run(&["vm", "ssh", "plain", "--", "true"]).failed_with(255);
    assert!(refused.stderr.contains("REMOTE HOST IDENTIFICATION HAS CHANGED"), "{refused}");

    let inject = ["inject", "plain", "second", "--method", "cloud-init", "--restart", "--timeout", LIMIT, "-o", "json"];
    let injected = host.run(&inject).succeeded().json();
    assert_eq!((&injected["verified"], &injected["restartNeeded"]), (&true.into(), &false.into()), "{injected}");
    assert_eq!(host.guest("plain", fingerprint), ours, "the host keys are not the ones handed in");
    host.ok(&["vm", "wait", "plain", "--for", "cloud-init", "--timeout", LIMIT]);
    assert_eq!(host.guest("plain", "grep -c . .ssh/authorized_keys; cat /var/tmp/script"), "2\nran");
}
