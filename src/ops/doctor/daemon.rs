//! Whether libvirt answers, and whether it can run guests.

use camino::Utf8Path;

use super::{context::Context, finding::Finding};
use crate::{
    error::{Code, Error, Result},
    store::{
        accounts::{Account, group_name},
        system,
    },
};

/// The folder that exists if and only if systemd runs (`sd_booted(3)`).
const SYSTEMD: &str = "/run/systemd/system";

pub(super) fn reachable(context: &Context) -> Finding {
    match context.versions() {
        Ok(versions) => {
            let daemon = versions.daemon.as_deref().unwrap_or("(unknown version)");
            Finding::ok(format!("libvirt {daemon} at {}", context.host.virsh.uri()))
        }
        Err(error) if error.code == Code::Denied => Finding::skip("libvirt denies the connection"),
        Err(error) => reason(context, error).unwrap_or_else(|| unexplained(context, error)),
    }
}

pub(super) fn permission(context: &Context) -> Finding {
    match context.versions() {
        Ok(_) => Finding::ok(format!("`{}` may manage VMs", Account::own().name)),
        Err(error) if error.code == Code::Denied => {
            reason(context, error).unwrap_or_else(|| unexplained(context, error))
        }
        Err(_) => Finding::skip("libvirt does not answer"),
    }
}

/// Returns the finding of a failed connection, in libvirt's own words if no reason can be found on this machine.
fn unexplained(context: &Context, error: &Error) -> Finding {
    let cause = error.cause.as_deref().unwrap_or(&error.message).replace('\n', " ");
    Finding::fail(error.code, cause).fix(context.virsh(&["version"]))
}

/// Returns the reason of a failed connection, if it can be found on this machine.
pub(super) fn reason(context: &Context, error: &Error) -> Option<Finding> {
    if !context.host.virsh.is_local() {
        return None;
    }
    let cause = error.cause.as_deref().unwrap_or_default();
    match (error.code, socket_in(cause)) {
        (Code::Denied, socket) => Some(denied(socket, cause)),
        (Code::Timeout, _) => {
            let observed = format!("libvirt does not answer within {} s", context.limit().as_secs());
            Some(Finding::fail(Code::Timeout, observed).fix(start("libvirtd", "restart")))
        }
        (code, Some(socket)) => Some(without_listener(code, socket, cause)),
        _ => None,
    }
}

/// Returns why nothing listens on libvirt's socket.
fn without_listener(code: Code, socket: &str, cause: &str) -> Finding {
    // On a host with modular daemons, libvirt tries the socket of virtqemud.
    let daemon = if socket.ends_with("virtqemud-sock") { "virtqemud" } else { "libvirtd" };
    if cause.contains("Connection refused") {
        let observed = format!("{daemon} is not running but left its socket {socket}");
        return Finding::fail(code, observed).fix(start(daemon, "restart"));
    }
    if !system::has_program(daemon) {
        let observed = format!("{daemon} is not installed on this machine");
        return Finding::fail(code, observed).fix("sudo apt-get install libvirt-daemon-system");
    }
    let observed = format!("{daemon} is installed but not running: the socket {socket} does not exist");
    Finding::fail(code, observed).fix(start(daemon, "enable --now"))
}

/// Returns the command that starts a daemon with the service manager of this machine.
fn start(daemon: &str, verb: &str) -> String {
    let exists = |path: &str| Utf8Path::new(path).exists();
    if exists(SYSTEMD) {
        format!("sudo systemctl {verb} {daemon}")
    } else if exists(&format!("/etc/init.d/{daemon}")) {
        format!("sudo service {daemon} restart")
    } else {
        format!("sudo virtlogd -d; sudo {daemon} -d")
    }
}

/// Returns why libvirt denies a connection.
fn denied(socket: Option<&str>, cause: &str) -> Finding {
    let own = Account::own();
    let group = socket.and_then(|socket| system::group_of(Utf8Path::new(socket))).filter(|gid| *gid != 0);
    let name = group.map_or_else(|| "libvirt".to_owned(), group_name);
    // A change of /etc/group takes effect at the next login.
    if group.is_some_and(|gid| Account::of(own.uid, own.gids[0]).gids.contains(&gid)) {
        let observed = format!("user `{}` was added to the group `{name}` but has not logged in since", own.name);
        return Finding::fail(Code::Denied, observed).fix(format!("newgrp {name}"));
    }
    let observed = match group {
        Some(_) => {
            let user = &own.name;
            format!(
                "user `{user}` is not in the group `{name}`, as libvirt's socket requires \
                 (qemu:///session requires no group)"
            )
        }
        None => format!("libvirt denies access to user `{}` ({})", own.name, cause.replace('\n', " ")),
    };
    // The account may have no name on this machine.
    let user = if own.name.parse::<u32>().is_ok() { "$USER" } else { &own.name };
    let observed = format!("{observed}; membership takes effect at the next login");
    Finding::fail(Code::Denied, observed).fix(format!("sudo usermod -aG {name} {user}"))
}

/// Returns the socket on which a connection failed: `Failed to connect socket to 'PATH': …`.
fn socket_in(cause: &str) -> Option<&str> {
    let (_, rest) = cause.split_once("Failed to connect socket to '")?;
    rest.split_once('\'').map(|(path, _)| path)
}

pub(super) fn qemu(context: &Context) -> Result<Finding> {
    let versions = context.versions().map_err(Clone::clone)?;
    let Some(hypervisor) = &versions.hypervisor else {
        let complaint = versions.complaint.as_deref().unwrap_or("it reports no hypervisor");
        let package = match std::env::consts::ARCH {
            "x86_64" | "x86" => "qemu-system-x86",
            "aarch64" | "arm" => "qemu-system-arm",
            _ => "qemu-system",
        };
        let observed = format!("libvirt finds no QEMU: {complaint}");
        return Ok(Finding::fail(Code::ToolMissing, observed).fix(format!("sudo apt-get install {package}")));
    };
    let emulator = context.host.virsh.supported_devices()?.emulator;
    Ok(Finding::ok(match emulator {
        Some(emulator) => format!("{hypervisor}, {emulator}"),
        None => hypervisor.clone(),
    }))
}

pub(super) fn log() -> Finding {
    const SOCKET: &str = "/run/libvirt/virtlogd-sock";
    let error = match system::connect(Utf8Path::new(SOCKET)) {
        Ok(()) => return Finding::ok(format!("virtlogd listens on {SOCKET}")),
        Err(error) => error,
    };
    if error.kind() == std::io::ErrorKind::PermissionDenied {
        return Finding::skip("only root may connect to virtlogd");
    }
    let without = |line: &str| line.replace(' ', "").starts_with("stdio_handler=\"file\"");
    match system::fact("/etc/libvirt/qemu.conf") {
        None => Finding::skip(format!("virtlogd does not listen ({error}), and cannot read whether libvirt uses it")),
        Some(config) if config.lines().any(without) => Finding::ok("virtlogd is not used: QEMU writes its logs itself"),
        Some(_) => Finding::fail(Code::Unreachable, format!("virtlogd does not listen on {SOCKET}: {error}"))
            .fix("sudo systemctl enable --now virtlogd.socket"),
    }
}

pub(super) fn agent(context: &Context) -> Result<Finding> {
    Ok(match context.host.virsh.supported_devices()?.channels {
        None => Finding::skip("libvirt does not report its channel types"),
        Some(kinds) if kinds.iter().any(|kind| kind == "unix") => {
            Finding::ok("guests have a channel for the guest agent; the details of a VM tell whether one runs")
        }
        Some(kinds) => Finding::warn(format!("libvirt offers no guest agent channel, only {}", kinds.join(", "))),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_socket_is_extracted_from_libvirts_message() {
        let cause = "failed to connect to the hypervisor: Failed to connect socket to '/run/x': Connection refused";
        assert_eq!(socket_in(cause), Some("/run/x"));
        assert_eq!(socket_in("Cannot recv data: ssh: connect to host"), None);
    }
}
