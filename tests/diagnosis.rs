//! Guests that do not become ready: vmprov diagnoses the reason and ends a wait that cannot succeed. The disks of these
//! guests hold only a few instructions; `reach.rs` tests real guests.
#![expect(clippy::unwrap_used, reason = "clippy knows only the functions marked as tests")]

#[path = "support/lab.rs"]
#[expect(dead_code, reason = "each test binary uses its own part")]
mod lab;

use std::{process::Command, time::Duration};

use lab::{Lab, Run, Snapshot};

/// A boot sector that loops forever: `jmp $`.
const HANGS: &[u8] = &[0xeb, 0xfe];

/// A boot sector that powers off with ACPI: `mov dx, 0x604; mov ax, 0x2000; out dx, ax`.
const POWERS_OFF: &[u8] = &[0xba, 0x04, 0x06, 0xb8, 0x00, 0x20, 0xef, 0xeb, 0xfe];

/// Returns a boot sector that prints `text` on the serial port, then hangs: `mov dx, 0x3f8; mov al, C; out dx, al; …`.
fn prints(text: &str) -> Vec<u8> {
    let mut code = vec![0xba, 0xf8, 0x03];
    code.extend(text.bytes().flat_map(|byte| [0xb0, byte, 0xee]));
    code.extend(HANGS);
    code
}

/// The lab with a key, and with the pool, network and KVM probe result that a create makes and that remain.
struct Host {
    lab: Lab,
    before: Snapshot,
}

impl Drop for Host {
    /// Deletes the VM of a failed test, so that no guest keeps running.
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.lab.run(&["vm", "delete", "sick", "--yes", "--ignore-missing"]);
        }
    }
}

impl Host {
    fn new() -> Self {
        let lab = Lab::qemu();
        lab.run(&["key", "generate", "k", "--type", "ed25519"]).succeeded();
        lab.run(&["vm", "create", "warm", "--no-start", "--memory", "64M", "--disk-size", "1"]).succeeded();
        lab.run(&["vm", "delete", "warm", "--yes"]).succeeded();
        lab.run(&["image", "prune", "--all"]).succeeded();
        let before = lab.snapshot();
        Self { lab, before }
    }

    /// Creates an image whose boot sector holds `code`, or an unbootable image without `code`.
    fn image(&self, name: &str, code: Option<&[u8]>) -> String {
        let (raw, path) = (self.lab.file("boot.raw"), self.lab.file(name));
        let mut sector = vec![0; 512];
        if let Some(code) = code {
            sector[..code.len()].copy_from_slice(code);
            sector[510..].copy_from_slice(&[0x55, 0xaa]);
        }
        sector.resize(1 << 20, 0);
        std::fs::write(&raw, sector).unwrap();
        let made = Command::new("qemu-img").args(["convert", "-f", "raw", "-O", "qcow2"]).args([&raw, &path]).status();
        assert!(made.unwrap().success());
        path.to_str().unwrap().to_owned()
    }

    fn create(&self, image: &str, more: &[&str]) -> Run {
        let create =
            ["vm", "create", "sick", "--image", image, "--user", "debian", "--ssh-key", "k", "--memory", "64M"];
        self.lab.run(&[&create[..], &["--disk-size", "1", "-o", "json"], more].concat())
    }

    /// Asserts that vmprov has kept the VM, and that its deletion leaves nothing behind.
    fn assert_kept_and_deletable(&self) {
        self.lab.run(&["vm", "info", "sick"]).succeeded();
        self.lab.run(&["vm", "delete", "sick", "--yes"]).succeeded();
        self.lab.run(&["image", "prune", "--all"]).succeeded();
        for file in ["boot.raw", "sick.qcow2"] {
            std::fs::remove_file(self.lab.file(file)).unwrap();
        }
        // A busy machine may reach a conclusion about KVM later.
        let is_verdict = |line: &str| line.contains("home .cache/vmprov/kvm-");
        self.lab.settles_without(&self.before, is_verdict, "after the VM was deleted");
    }
}

/// Returns the error of a failed wait.
#[track_caller]
fn error(ran: &Run, status: i32, stage: &str) -> serde_json::Value {
    assert_eq!(ran.code(), Some(status), "{ran}");
    // Each warning is a separate JSON object on its own line.
    let text = ran.stderr.lines().filter(|line| !line.starts_with("{\"")).collect::<Vec<_>>().join("\n");
    let error: serde_json::Value = serde_json::from_str(&text).unwrap_or_else(|_| panic!("invalid JSON: {ran}"));
    assert_eq!(error["details"]["stage"], stage, "{ran}");
    error
}

#[test]
fn an_unbootable_disk_fails_the_wait() {
    let host = Host::new();
    let ran = host.create(&host.image("sick.qcow2", None), &["--wait", "--timeout", "90s"]);
    let error = error(&ran, 11, "no-boot-device");
    assert_eq!(error["code"], "guest_failed");
    assert_eq!(error["error"], "VM `sick` will not become ready (waiting for ssh): its firmware found nothing to boot");
    let console = error["details"]["console"].as_array().unwrap();
    assert!(console.iter().any(|line| line == "Boot failed: not a bootable disk"), "{ran}");
    assert!(error["cause"].as_str().unwrap().ends_with("No bootable device."), "{ran}");

    let logs = host.lab.run(&["vm", "logs", "sick"]).succeeded().stdout;
    assert!(logs.starts_with("SeaBIOS (version ") && logs.ends_with("No bootable device.\n"), "{logs}");
    assert_eq!(host.lab.run(&["vm", "logs", "sick", "-n", "1"]).succeeded().stdout, "No bootable device.\n");
    host.assert_kept_and_deletable();
}

#[test]
fn a_guest_without_dhcp_requests_times_out() {
    let host = Host::new();
    let ran = host.create(&host.image("sick.qcow2", Some(HANGS)), &["--wait=ip", "--timeout", "6s"]);
    let error = error(&ran, 10, "no-dhcp-request");
    assert_eq!(error["error"], "VM `sick` was not ready within 6 s (waiting for ip): it has sent no DHCP request");
    assert!(error["hint"].as_str().unwrap().contains("vmprov vm wait sick --for ip"), "{ran}");
    host.lab.run(&["vm", "ip", "sick", "--wait", "--timeout", "1s"]).failed_with(10);
    host.lab.run(&["vm", "ip", "sick"]).failed_with(3);

    // A terminal shows the current stage of the wait.
    let drawn = host.lab.terminal_output("vm wait sick --timeout 3s");
    assert!(drawn.contains("sick: it has sent no DHCP request ("), "{drawn:?}");

    // Each command that needs access to the guest says why it fails.
    for (args, status, says) in [
        (&["vm", "exec", "sick", "--", "true"][..], 9, "has no address yet"),
        (&["vm", "exec", "sick", "--via", "agent", "--", "true"], 4, "the guest agent of VM `sick` is not connected"),
        (&["vm", "cp", "sick:/etc/hosts", "."], 9, "has no address yet"),
        (&["vm", "ssh", "sick", "--", "true"], 4, "has no address yet"),
    ] {
        let ran = host.lab.run(args).failed_with(status);
        assert!(ran.stderr.contains(says), "{ran}");
    }
    host.lab.virsh(&["suspend", "sick"]);
    let ran = host.lab.run(&["vm", "wait", "sick", "--timeout", "1s", "-o", "json"]);
    let paused = self::error(&ran, 10, "paused");
    assert!(paused["cause"].as_str().unwrap().starts_with("paused by an administrator"), "{ran}");
    assert!(paused["hint"].as_str().unwrap().contains("vmprov vm resume sick"), "{ran}");
    host.assert_kept_and_deletable();
}

#[test]
fn a_guest_that_powers_off_fails_the_wait() {
    let host = Host::new();
    let ran = host.create(&host.image("sick.qcow2", Some(POWERS_OFF)), &["--wait", "--timeout", "90s"]);
    let error = error(&ran, 11, "stopped");
    assert!(error["cause"].as_str().unwrap().starts_with("the guest shut itself down\n"), "{ran}");
    // Waiting for a stopped VM is a conflict.
    let ran = host.lab.run(&["vm", "wait", "sick"]).failed_with(4);
    assert!(ran.stderr.contains("vmprov vm start sick"), "{ran}");
    host.assert_kept_and_deletable();
}

#[test]
fn an_emergency_shell_fails_the_wait() {
    let host = Host::new();
    let code = prints("\r\nwait\rALERT! no root\r\n\x1b[1m(initramfs) ");
    let ran = host.create(&host.image("sick.qcow2", Some(&code)), &["--wait", "--timeout", "90s"]);
    let error = error(&ran, 11, "emergency-shell");
    let console = error["details"]["console"].as_array().unwrap();
    let [.., before, last] = &console[..] else { panic!("{ran}") };
    // A dot of the firmware's delayed output may follow the prompt.
    assert!(before == "ALERT! no root" && last.as_str().unwrap().starts_with("(initramfs)"), "{ran}");
    host.assert_kept_and_deletable();
}

/// virtlogd rotates a log of 2 MiB. Deleting the VM also deletes the rotated logs.
#[test]
fn rotated_console_logs_are_deleted_with_the_vm() {
    let host = Host::new();
    // mov dx, 0x3f8; mov al, '#'; out dx, al; jmp to the out
    let code = [0xba, 0xf8, 0x03, 0xb0, b'#', 0xee, 0xeb, 0xfd];
    host.create(&host.image("sick.qcow2", Some(&code)), &[]).succeeded();
    let rotated = host.lab.pool_folder().join("sick-console.log.0");
    // An emulated guest prints slowly on a busy host.
    lab::wait_for("the log to be rotated", Duration::from_mins(5), || rotated.exists());
    let printed = host.lab.run(&["vm", "logs", "sick", "-n", "1"]).succeeded().stdout;
    assert!(printed.trim_end().bytes().all(|byte| byte == b'#') && printed.len() <= 501, "{} bytes", printed.len());
    host.assert_kept_and_deletable();
}
