//! Real guests, accessed over SSH, the guest agent, file copies, the console, screenshots and events. Then one part
//! after the other is broken, to check the diagnosis.
#![expect(clippy::unwrap_used, reason = "clippy knows only the functions marked as tests")]

#[path = "support/lab.rs"]
#[expect(dead_code, reason = "each test binary uses its own part")]
mod lab;

use std::{process::Command, thread, time::Duration};

use lab::{Lab, Run};
use rustix::process::Signal;

/// How long a guest may take to come up or go down.
const LIMIT: &str = "12m";

struct Host {
    lab: Lab,
}

impl Drop for Host {
    /// A failed test leaves no guest running.
    fn drop(&mut self) {
        if thread::panicking() {
            self.run(&["vm", "delete", "guest", "ailing", "alone", "--yes", "--ignore-missing"]);
            let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                self.lab.virsh(&["net-destroy", "silent"]);
            }));
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

    /// Runs a command in the guest as root through its agent, and returns its output.
    #[track_caller]
    fn root(&self, vm: &str, script: &str) -> String {
        self.ok(&["vm", "exec", vm, "--via", "agent", "--user", "root", "--", "sh", "-c", script]).trim().to_owned()
    }

    fn image() -> String {
        let built = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/lab/image")).output().unwrap();
        assert!(built.status.success(), "cannot build the image: {}", String::from_utf8_lossy(&built.stderr));
        String::from_utf8(built.stdout).unwrap().trim().to_owned()
    }

    fn create(&self, name: &str, image: &str, more: &[&str]) -> Run {
        let create = [
            "vm",
            "create",
            name,
            "--image",
            image,
            "--user",
            "debian",
            "--ssh-key",
            "k",
            "--memory",
            "640",
            "--vcpus",
            "1",
        ];
        self.run(&[&create[..], &["-o", "json"], more].concat())
    }

    /// Repeats a wait that fails until it fails at the expected stage, and returns the error.
    #[track_caller]
    fn wait_fails_at(&self, vm: &str, goal: &str, stage: &str) -> serde_json::Value {
        for _ in 0..40 {
            let ran = self.run(&["vm", "wait", vm, "--for", goal, "--timeout", "8s", "-o", "json"]);
            assert!(!ran.status.success(), "{ran}");
            let error: serde_json::Value = serde_json::from_str(&ran.stderr).unwrap_or_else(|_| panic!("{ran}"));
            if error["details"]["stage"] == stage {
                return error;
            }
        }
        panic!("no wait for {vm} failed at the stage {stage}");
    }
}

#[test]
fn a_guest_is_accessible_in_every_way_and_failures_are_diagnosed() {
    let host = Host { lab: Lab::qemu() };
    let image = Host::image();
    host.ok(&["key", "generate", "k", "--type", "ed25519"]);
    host.create("warm", &image, &["--no-start"]).succeeded();
    host.ok(&["vm", "delete", "warm", "--yes"]);
    host.ok(&["image", "prune", "--all"]);
    let network = "<network><name>silent</name><bridge/><ip address='192.168.77.1' netmask='255.255.255.0'/></network>";
    host.lab.virsh_with(&["net-create", "/dev/stdin"], network);
    let before = host.lab.snapshot();

    thread::scope(|scope| {
        let guest = scope.spawn(|| {
            host.create("guest", &image, &["--wait=cloud-init", "--timeout", LIMIT]).succeeded();
            commands(&host);
            input_is_private(&host);
            files(&host);
            plain_ssh(&host);
            screen_and_events(&host);
            break_and_diagnose(&host);
        });
        let others = scope.spawn(|| {
            cloud_init_fails(&host, &image);
            no_dhcp(&host, &image);
        });
        for thread in [guest, others] {
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        }
    });

    host.ok(&["vm", "delete", "guest", "ailing", "alone", "--yes"]);
    // A new VM with the same name that has sent no packets does not have the address of the deleted one.
    host.create("guest", &image, &["--no-start"]).succeeded();
    host.lab.virsh(&["start", "guest", "--paused"]);
    host.run(&["vm", "ip", "guest"]).failed_with(3);
    host.ok(&["vm", "delete", "guest", "--yes"]);
    for file in ["folder", "known", "ssh.conf", "back", "shot.png", "plain.txt"] {
        let path = host.lab.file(file);
        if path.is_dir() { std::fs::remove_dir_all(path).unwrap() } else { std::fs::remove_file(path).unwrap() }
    }
    host.ok(&["image", "prune", "--all"]);
    host.lab.settles_without(&before, |line| line.contains("known_hosts-"), "after everything was deleted");
    host.lab.virsh(&["net-destroy", "silent"]);
}

/// The arguments, output, input, status and time limit of a command work the same over SSH and the agent.
fn commands(host: &Host) {
    for via in ["ssh", "agent"] {
        let exec = ["vm", "exec", "guest", "--via", via];
        let run = |more: &[&str], command: &[&str]| host.run(&[&exec[..], more, &["--"], command].concat());
        let ran = run(
            &[],
            &["sh", "-c", "id -un; pwd; printf '%s|' \"$@\"; echo gone wrong >&2; exit 7", "x", "a b", "*", "$HOME"],
        );
        assert_eq!((ran.code(), ran.stdout.as_str()), (Some(7), "debian\n/home/debian\na b|*|$HOME|"), "{ran}");
        assert_eq!(ran.stderr, "gone wrong\n", "{ran}");
        let ran = run(&["-o", "json"], &["sh", "-c", "echo out; echo err >&2; kill -9 $$"]);
        assert_eq!(ran.json()["exitStatus"], 137, "{ran}");
        assert_eq!(ran.json()["stdout"], "out\n", "{ran}");
        // A shell in between adds a message about the killed command.
        assert!(ran.json()["stderr"].as_str().unwrap().starts_with("err\n"), "{ran}");
        // Here, 255 is the command's own status, although ssh also uses it for its own failures.
        run(&[], &["sh", "-c", "exit 255"]).failed_with(255);
        assert_eq!(run(&[], &["nosuch"]).code(), Some(127));
        let ran = host.lab.with_stdin(&[&exec[..], &["--", "sha256sum"]].concat(), &vec![b'x'; 200_000]);
        assert_eq!(ran.stdout.split(' ').next().unwrap(), vmprov::model::digest::of(&vec![b'x'; 200_000]), "{ran}");
        let ran = run(&[], &["head", "-c", "300000", "/dev/zero"]).succeeded();
        assert_eq!(ran.stdout.len(), 300_000);
        let ran = run(&["--timeout", "2s"], &["sleep", "4242"]).failed_with(10);
        assert!(ran.stderr.contains("it exceeded its limit of 2 s"), "{ran}");
        // The output before the timeout is printed.
        assert_eq!(run(&["--timeout", "3s"], &["sh", "-c", "echo first; sleep 4242"]).stdout, "first\n");
    }
    // An interrupted command is ended in the guest, and its files are removed.
    let running =
        host.lab.begin("", &["vm", "exec", "guest", "--via", "agent", "--", "sh", "-c", "echo on; sleep 4343"]);
    lab::wait_until("the command's output", || running.has_printed("on"));
    running.signal(Signal::INT);
    running.end().failed_with(130);
    lab::wait_until("the end of the interrupted command", || {
        host.root("guest", "pgrep -x sleep || true; ls /run | grep -v \"$(basename \"$(dirname \"$(readlink /proc/$$/fd/1)\")\")\" | grep vmprov || true").is_empty()
    });
    host.run(&["vm", "exec", "guest", "--user", "nobody-there", "--via", "agent", "--", "true"]).failed_with(1);
}

/// Another user of the guest can see that the agent runs a command, but can neither read nor change its input.
fn input_is_private(host: &Host) {
    // Only builtins of the shell, so that polling is fast.
    let poll = "n=0
        until [ -e /tmp/enough ]; do
            for folder in /run/vmprov-exec-*; do
                [ -e \"$folder\" ] || continue
                n=$((n + 1))
                for file in \"$folder\" \"$folder\"/*; do
                    { read -r line && echo \"read $file: $line\"; } <\"$file\"
                    { echo 'echo changed' && echo \"wrote $file\"; } >>\"$file\"
                done
            done
        done 2>/dev/null
        [ $n -eq 0 ] || echo has looked";
    let exec = ["vm", "exec", "guest", "--via", "agent", "--user"];
    let poller =
        host.lab.begin("", &[&exec[..], &["nobody", "--", "sh", "-c", &format!("echo begins; {poll}")]].concat());
    lab::wait_until("the other user", || poller.has_printed("begins"));
    let sh = [&exec[..], &["root", "--", "sh"]].concat();
    for number in 0..49 {
        let ran = host.lab.with_stdin(&sh, format!("echo {number}\n").as_bytes());
        assert_eq!(ran.succeeded().stdout, format!("{number}\n"));
    }
    // An input that is too large to be sent together with the command.
    let large = format!("echo 49\n{}", "#\n".repeat(200_000));
    assert_eq!(host.lab.with_stdin(&sh, large.as_bytes()).succeeded().stdout, "49\n");
    host.root("guest", "touch /tmp/enough");
    assert_eq!(poller.end().succeeded().stdout, "begins\nhas looked\n");
    host.root("guest", "rm /tmp/enough");
}

/// Copies folders and files with unusual names in both directions.
fn files(host: &Host) {
    host.lab.write("folder/deep/one two", "deep\n");
    host.lab.write("folder/-dash:colon", "odd\n");
    let folder = host.lab.file("folder");
    let folder = folder.to_str().unwrap();
    host.ok(&["vm", "cp", folder, "guest:"]);
    assert_eq!(
        host.ok(&["vm", "exec", "guest", "--", "cat", "folder/deep/one two", "folder/-dash:colon"]),
        "deep\nodd\n"
    );
    let back = host.lab.file("back");
    let copied = host.run(&["vm", "cp", "-r", "guest:folder", back.to_str().unwrap(), "-o", "json"]).succeeded().json();
    assert_eq!((&copied["vm"], &copied["direction"]), (&"guest".into(), &"out-of".into()), "{copied}");
    assert_eq!(std::fs::read_to_string(back.join("deep/one two")).unwrap(), "deep\n");
    assert_eq!(std::fs::read_to_string(back.join("-dash:colon")).unwrap(), "odd\n");
    host.run(&["vm", "cp", "guest:/nosuch", "/tmp"]).failed_with(3);
    let denied = host.run(&["vm", "cp", folder, "guest:/root/"]).failed_with(6);
    assert!(denied.stderr.contains("ermission denied"), "{denied}");
}

/// Runs plain ssh with the configuration that vmprov printed.
fn plain_ssh(host: &Host) {
    let config = host.lab.write("ssh.conf", host.ok(&["ssh-config", "guest"]));
    let ssh = |command: &[&str]| {
        let [program, entrance @ ..] = host.lab.nsenter();
        Command::new(program).args(entrance).args(["ssh", "-F", &config]).args(command).output().unwrap()
    };
    let ran = ssh(&["guest", "hostname"]);
    assert!(ran.status.success() && ran.stdout == b"guest\n", "{ran:?}");
    // Host key checking is strict: with another host key, the connection fails.
    let known = config.clone();
    let file = std::fs::read_to_string(known).unwrap();
    let file = file.lines().find_map(|line| line.trim().strip_prefix("UserKnownHostsFile ")).unwrap();
    let original = std::fs::read_to_string(file).unwrap();
    std::fs::write(file, original.replace("AAAA", "AAAB")).unwrap();
    assert!(!ssh(&["guest", "hostname"]).status.success());
    host.ok(&["ssh-config"]);
    assert!(ssh(&["guest", "hostname"]).status.success());
    host.lab.write("known", &original);
    let json = host.run(&["ssh-config", "-o", "json"]).succeeded().json();
    let hosts = json["hosts"].as_array().unwrap();
    assert!(hosts.iter().any(|known| known["host"] == "guest" && known["port"].is_null()), "{json}");
    let addresses = host.run(&["vm", "ip", "guest", "--all", "-o", "json"]).succeeded().json();
    let first = &addresses["addresses"][0];
    assert_eq!((&first["source"], first["expires"].is_string()), (&"lease".into(), true), "{addresses}");
}

/// Tests the screenshot, the console log and the event stream.
fn screen_and_events(host: &Host) {
    let shot = host.lab.file("shot.png");
    let taken = host.run(&["vm", "screenshot", "guest", "-o", shot.to_str().unwrap()]).succeeded();
    let image = std::fs::read(&shot).unwrap();
    assert!(image.starts_with(b"\x89PNG\r\n\x1a\n") && image.len() > 1000, "{taken}");
    let logs = host.ok(&["vm", "logs", "guest"]);
    assert!(logs.contains("SeaBIOS") && logs.contains("Cloud-init v.") && !logs.contains('\x1b'), "{logs}");

    let follow = host.lab.begin("", &["vm", "logs", "guest", "-f", "-n", "1"]);
    host.root("guest", "echo said at last >/dev/ttyS0");
    lab::wait_until("the line on the console", || follow.has_printed("said at last"));
    follow.signal(Signal::TERM);
    follow.end().failed_with(130);

    let events = host.lab.begin("", &["vm", "events", "-f", "-o", "json"]);
    lab::wait_until("an event", || {
        host.lab.virsh(&["suspend", "guest"]);
        host.lab.virsh(&["resume", "guest"]);
        thread::sleep(Duration::from_millis(200));
        events.has_printed("Resumed Unpaused")
    });
    events.signal(Signal::INT);
    let ran = events.end().failed_with(130);
    let first: serde_json::Value = serde_json::from_str(ran.stdout.lines().next().unwrap()).unwrap();
    assert_eq!((&first["kind"], &first["vm"]), (&"lifecycle".into(), &"guest".into()), "{ran}");
    let ran = host.run(&["vm", "events", "guest", "--timeout", "1s"]).failed_with(10);
    assert!(ran.stderr.contains("no event within 1s"), "{ran}");
}

/// Breaks one part of the guest after the other, from the inside.
fn break_and_diagnose(host: &Host) {
    host.root("guest", "mv /home/debian/.ssh/authorized_keys /root/kept");
    let error = host.wait_fails_at("guest", "ssh", "key-refused");
    let message = error["error"].as_str().unwrap();
    assert!(message.contains("rejected `k` (SHA256:") && message.ends_with("for user `debian`"), "{error}");
    assert!(error["hint"].as_str().unwrap().contains("vmprov inject guest"), "{error}");
    host.root("guest", "mv /root/kept /home/debian/.ssh/authorized_keys");
    host.ok(&["vm", "wait", "guest", "--timeout", LIMIT]);

    host.root("guest", "systemctl stop ssh ssh.socket 2>/dev/null || systemctl stop ssh");
    let error = host.wait_fails_at("guest", "ssh", "port-closed");
    assert!(error["cause"].as_str().unwrap().contains("Connection refused"), "{error}");
    assert!(error["hint"].as_str().unwrap().contains("--via agent"), "{error}");
    // The agent is used instead of SSH, and a message says so.
    let ran = host.run(&["vm", "exec", "guest", "--", "echo", "here"]).succeeded();
    assert_eq!(ran.stdout, "here\n");
    assert!(ran.stderr.contains("using the guest agent: cannot log in"), "{ran}");

    host.root("guest", "ip link set \"$(ls /sys/class/net | grep -v lo | head -n 1)\" down");
    host.wait_fails_at("guest", "ssh", "silent");

    // The kernel panics, so the agent never responds.
    host.run(&[
        "vm",
        "exec",
        "guest",
        "--via",
        "agent",
        "--user",
        "root",
        "--timeout",
        "5s",
        "--",
        "sh",
        "-c",
        "echo 1 >/proc/sys/kernel/sysrq; echo c >/proc/sysrq-trigger",
    ]);
    let error = host.wait_fails_at("guest", "ssh", "kernel-panic");
    assert!(error["cause"].as_str().unwrap().contains("Kernel panic - not syncing: sysrq triggered crash"), "{error}");
    assert_eq!(error["details"]["console"].as_array().unwrap().len(), 20, "{error}");
    // A kernel that has panicked keeps its processor busy.
    host.ok(&["vm", "stop", "guest", "--force"]);
}

/// The operator's user-data script fails: cloud-init reports it, and the wait ends at once.
fn cloud_init_fails(host: &Host, image: &str) {
    let script = host.lab.write("plain.txt", "#!/bin/sh\nexit 3\n");
    let ran = host.create("ailing", image, &["--user-data", &script, "--wait=cloud-init", "--timeout", LIMIT]);
    let error = ran.failed_with(11);
    let text = error.stderr.lines().filter(|line| !line.starts_with("{\"")).collect::<Vec<_>>().join("\n");
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(json["details"]["stage"], "cloud-init-error", "{error}");
    assert!(json["cause"].as_str().unwrap().contains("Failed to run module scripts-user"), "{error}");
    host.ok(&["vm", "stop", "ailing", "--force"]);
}

/// The network has no DHCP server, so the guest gets no address. Its agent still works.
fn no_dhcp(host: &Host, image: &str) {
    host.create("alone", image, &["--network", "silent"]).succeeded();
    host.ok(&["vm", "wait", "alone", "--for", "agent", "--timeout", LIMIT]);
    let error = host.wait_fails_at("alone", "ip", "no-lease");
    assert!(error["cause"].as_str().unwrap().contains("although it has sent"), "{error}");
    let ran = host.run(&["vm", "exec", "alone", "--", "hostname"]).succeeded();
    assert_eq!(ran.stdout, "alone\n", "{ran}");
}
