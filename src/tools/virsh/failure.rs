//! Converts errors of virsh and libvirt to [`Code`]s.
//!
//! virsh exits with 1 for every failure (11.3.0), so the code depends on the text. The first line is virsh's, the
//! second is libvirt's (`virErrorMsg` in its sources). `LC_ALL=C` keeps both in English.

use super::super::fault::{self, NO_CONNECTION};
use crate::error::{Code, Error, Hint};

/// Texts in virsh's errors and their codes. The first that matches decides, so the specific texts come first.
const KNOWN: &[(&str, Code)] = &[
    ("authentication unavailable", Code::Denied),
    ("authentication failed", Code::Denied),
    ("Unable to get system bus connection", Code::Denied),
    ("-sock': Permission denied", Code::Denied),
    ("-sock-ro': Permission denied", Code::Denied),
    ("operation forbidden", Code::Denied),
    ("access denied", Code::Denied),
    ("failed to connect to the hypervisor", Code::Unreachable),
    ("End of file while reading data", Code::Unreachable),
    ("Disconnected from", Code::Unreachable),
    ("metadata not found", Code::NotFound),
    ("failed to get domain", Code::NotFound),
    ("Domain not found", Code::NotFound),
    ("no domain with matching", Code::NotFound),
    ("failed to get network", Code::NotFound),
    ("Network not found", Code::NotFound),
    ("failed to get pool", Code::NotFound),
    ("Storage pool not found", Code::NotFound),
    ("failed to get vol", Code::NotFound),
    ("Storage volume not found", Code::NotFound),
    ("no storage vol with matching", Code::NotFound),
    ("failed to get secret", Code::NotFound),
    ("Secret not found", Code::NotFound),
    ("Cannot access storage file", Code::NotFound),
    ("failed to lookup user", Code::NotFound),
    ("cannot contain '/'", Code::InvalidInput),
    ("already exists", Code::AlreadyExists),
    ("exists already", Code::AlreadyExists),
    ("already in use by", Code::AlreadyExists),
    ("is already active", Code::Conflict),
    ("is not active", Code::Conflict),
    ("domain is not running", Code::Conflict),
    ("cannot rename", Code::Conflict),
    ("can't be renamed", Code::Conflict),
    ("has asynchronous jobs running", Code::Busy),
    ("cannot acquire state change lock", Code::Busy),
    ("Failed to get \"write\" lock", Code::Busy),
    ("QEMU guest agent is not connected", Code::Conflict),
    ("QEMU guest agent is not configured", Code::Conflict),
    ("Guest agent is not responding", Code::Conflict),
    ("Guest agent not available", Code::Conflict),
    ("not supported by the connection driver", Code::Conflict),
    ("No space left on device", Code::ToolFailed),
];

/// Returns the code of an error; [`Code::ToolFailed`] if its text is unknown.
pub(super) fn classify(stderr: &str) -> Code {
    let known = KNOWN.iter().find(|(text, _)| stderr.contains(text));
    known.map_or(Code::ToolFailed, |&(_, code)| code)
}

/// Converts virsh's error output to an error with the cause and, if known, hints. `what` completes "cannot …".
pub(super) fn explain(what: &str, uri: &str, stderr: &str) -> Error {
    let lines = stderr.lines().map(|line| line.trim_start_matches("error: ").trim());
    let cause = lines.filter(|line| !line.is_empty()).collect::<Vec<_>>().join(": ");
    let code = classify(stderr);
    let message = if stderr.contains(NO_CONNECTION) {
        format!("cannot reach libvirt at {uri}")
    } else {
        format!("cannot {what}")
    };
    let error = Error::new(code, message).because(if cause.is_empty() { "virsh printed no error" } else { &cause });
    let error = hints(stderr, code, uri).into_iter().fold(error, Error::hint);
    match fault::of(stderr) {
        Some(fault) => error.fault(fault),
        None => error,
    }
}

/// Returns hints for a failure, the most likely first.
fn hints(stderr: &str, code: Code, uri: &str) -> Vec<Hint> {
    let has = |text: &str| stderr.contains(text);
    if code == Code::Denied {
        let group = "Add your user to the group libvirt, which amounts to root, and log in again";
        return vec![
            Hint::run(group, "sudo usermod -aG libvirt $USER"),
            Hint::run("Use your user's own libvirt instead", "vmprov --connect qemu:///session"),
        ];
    }
    if has(NO_CONNECTION) {
        return vec![if has("Connection refused") {
            Hint::run("Restart libvirtd: it stopped and left its socket", "sudo systemctl restart libvirtd")
        } else if has("Failed to connect socket") && has("No such file or directory") {
            let start = "Start libvirtd (from the package libvirt-daemon-system)";
            Hint::run(start, "sudo systemctl enable --now libvirtd")
        } else {
            Hint::run("Try the connection by hand", format!("virsh -c {} version", shell_words::quote(uri)))
        }];
    }
    if has("Permission denied") && has("Cannot access storage file") {
        let text = "Check that the user of QEMU (libvirt-qemu) can read the file and enter every folder above it";
        return vec![Hint::new(text)];
    }
    if has("No space left on device") {
        return vec![Hint::run("Check the free space of the storage pool", "virsh pool-info POOL")];
    }
    if has("cannot rename domain with snapshots") {
        return vec![Hint::run("List its snapshots, and delete them first", "virsh snapshot-list VM")];
    }
    if has("managed saved state can't be renamed") {
        return vec![Hint::new("Start the VM and shut it down, which ends its saved state")];
    }
    match code {
        Code::Busy => vec![Hint::new("Try again in a moment, because another operation is running")],
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Fault;

    const SOCKET: &str = "error: failed to connect to the hypervisor\n\
                          error: Failed to connect socket to '/var/run/libvirt/libvirt-sock': ";

    #[test]
    fn each_known_error_has_its_code() {
        for (stderr, code) in [
            ("error: failed to get domain 'x'", Code::NotFound),
            (
                "error: failed to get pool 'x'\nerror: Storage pool not found: no storage pool with matching name 'x'",
                Code::NotFound,
            ),
            (
                "error: Failed to define domain from /dev/stdin\nerror: operation failed: domain 'x' already exists with uuid u",
                Code::AlreadyExists,
            ),
            ("error: Domain is already active", Code::Conflict),
            ("error: Requested operation is not valid: domain is not running", Code::Conflict),
            ("error: an unknown error", Code::ToolFailed),
            (&format!("{SOCKET}No such file or directory"), Code::Unreachable),
            (&format!("{SOCKET}Permission denied"), Code::Denied),
        ] {
            assert_eq!(classify(stderr), code, "{stderr}");
        }
    }

    #[test]
    fn a_port_in_use_is_recognized() {
        for (cause, is) in [
            ("-netdev user,…: Could not set up host forwarding rule 'tcp:127.0.0.1:30056-:22'", true),
            ("Could not start 'passt': Failed to bind any port for '-t 127.0.0.1/29999:22', exiting", true),
            ("cannot set up guest memory 'pc.ram': Cannot allocate memory", false),
        ] {
            assert_eq!(fault::of(cause) == Some(Fault::PortInUse), is, "{cause}");
        }
    }

    #[test]
    fn a_connection_failure_has_a_command_that_repairs_it() {
        for (reason, command) in [
            ("No such file or directory", "systemctl enable --now libvirtd"),
            ("Connection refused", "systemctl restart libvirtd"),
            ("Permission denied", "usermod -aG libvirt"),
        ] {
            let error = explain("list the VMs", "qemu:///system", &format!("{SOCKET}{reason}"));
            assert_eq!(error.message, "cannot reach libvirt at qemu:///system");
            assert!(error.command().unwrap().contains(command), "{error:?}");
        }
    }

    #[test]
    fn the_cause_is_virshs_error_on_one_line() {
        let error = explain("start VM `x`", "u", "error: Failed to start domain 'x'\nerror: internal error: boom\n\n");
        assert_eq!(error.to_string(), "cannot start VM `x`: Failed to start domain 'x': internal error: boom");
    }
}
