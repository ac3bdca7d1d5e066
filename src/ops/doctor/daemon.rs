//! Whether libvirt answers, and what it has to run guests with.

use camino::Utf8Path;

use super::{context::Context, finding::Finding};
use crate::{
    error::{Code, Error, Result},
    store::{
        accounts::{Account, group_name},
        system,
    },
};

/// The folder of systemd's that is there where it runs (`sd_booted(3)`).
const SYSTEMD: &str = "/run/systemd/system";

pub(super) fn reachable(look: &Context) -> Finding {
    match look.versions() {
        Ok(versions) => {
            let daemon = versions.daemon.as_deref().unwrap_or("of an unknown version");
            Finding::ok(format!("libvirt {daemon} at {}", look.host.virsh.uri()))
        }
        Err(error) if error.code == Code::Denied => {
            Finding::skip("nobody can tell while libvirt does not permit the connection")
        }
        Err(error) => reason(look, error).unwrap_or_else(|| as_told(look, error)),
    }
}

pub(super) fn permission(look: &Context) -> Finding {
    match look.versions() {
        Ok(_) => Finding::ok(format!("`{}` may manage VMs", Account::own().name)),
        Err(error) if error.code == Code::Denied => reason(look, error).unwrap_or_else(|| as_told(look, error)),
        Err(_) => Finding::skip("libvirt does not answer"),
    }
}

/// A connection that failed, in libvirt's own words where this machine shows nothing more of it.
fn as_told(look: &Context, error: &Error) -> Finding {
    let told = error.cause.as_deref().unwrap_or(&error.message).replace('\n', " ");
    Finding::fail(error.code, told).mend(look.virsh(&["version"]))
}

/// What this machine shows of a connection that failed; none where that is nothing.
pub(super) fn reason(look: &Context, error: &Error) -> Option<Finding> {
    if !look.host.virsh.is_local() {
        return None;
    }
    let cause = error.cause.as_deref().unwrap_or_default();
    match (error.code, socket_in(cause)) {
        (Code::Denied, socket) => Some(denied(socket, cause)),
        (Code::Timeout, _) => {
            let saw = format!("libvirt does not answer within {} s", look.limit().as_secs());
            Some(Finding::fail(Code::Timeout, saw).mend(start("libvirtd", "restart")))
        }
        (code, Some(socket)) => Some(without_listener(code, socket, cause)),
        _ => None,
    }
}

/// Why nobody listens at libvirt's socket.
fn without_listener(code: Code, socket: &str, cause: &str) -> Finding {
    // Where the machine's drivers are daemons of their own, libvirt tries the socket of QEMU's.
    let daemon = if socket.ends_with("virtqemud-sock") { "virtqemud" } else { "libvirtd" };
    if cause.contains("Connection refused") {
        let saw = format!("{daemon} is gone and left its socket {socket} behind");
        return Finding::fail(code, saw).mend(start(daemon, "restart"));
    }
    if !system::has_program(daemon) {
        let saw = format!("{daemon} is not installed on this machine");
        return Finding::fail(code, saw).mend("sudo apt-get install libvirt-daemon-system");
    }
    let saw = format!("{daemon} is installed and is not running: there is no socket {socket}");
    Finding::fail(code, saw).mend(start(daemon, "enable --now"))
}

/// The command that starts a daemon, in the way of whatever runs this machine.
fn start(daemon: &str, verb: &str) -> String {
    let is_there = |path: &str| Utf8Path::new(path).exists();
    if is_there(SYSTEMD) {
        format!("sudo systemctl {verb} {daemon}")
    } else if is_there(&format!("/etc/init.d/{daemon}")) {
        format!("sudo service {daemon} restart")
    } else {
        format!("sudo virtlogd -d; sudo {daemon} -d")
    }
}

/// Why libvirt does not permit a connection.
fn denied(socket: Option<&str>, cause: &str) -> Finding {
    let own = Account::own();
    let group = socket.and_then(|socket| system::group_of(Utf8Path::new(socket))).filter(|gid| *gid != 0);
    let name = group.map_or_else(|| "libvirt".to_owned(), group_name);
    // What /etc/group says counts for who logs in from now on.
    if group.is_some_and(|gid| Account::of(own.uid, own.gids[0]).gids.contains(&gid)) {
        let saw = format!("`{}` was put into the group `{name}` and has not logged in since", own.name);
        return Finding::fail(Code::Denied, saw).mend(format!("newgrp {name}"));
    }
    let saw = match group {
        Some(_) => {
            let user = &own.name;
            format!(
                "libvirt's socket is for the group `{name}`, which `{user}` is not in (`--connect qemu:///session` needs none)"
            )
        }
        None => format!("libvirt does not let `{}` in ({})", own.name, cause.replace('\n', " ")),
    };
    // Whoever has no name here knows theirs.
    let user = if own.name.parse::<u32>().is_ok() { "$USER" } else { &own.name };
    let saw = format!("{saw}; put into it, one has to log in anew");
    Finding::fail(Code::Denied, saw).mend(format!("sudo usermod -aG {name} {user}"))
}

/// The socket that a connection failed at: `Failed to connect socket to 'PATH': …`.
fn socket_in(cause: &str) -> Option<&str> {
    let (_, rest) = cause.split_once("Failed to connect socket to '")?;
    rest.split_once('\'').map(|(path, _)| path)
}

pub(super) fn qemu(look: &Context) -> Result<Finding> {
    let versions = look.versions().map_err(Clone::clone)?;
    let Some(hypervisor) = &versions.hypervisor else {
        let complaint = versions.complaint.as_deref().unwrap_or("it names no hypervisor");
        let package = match std::env::consts::ARCH {
            "x86_64" | "x86" => "qemu-system-x86",
            "aarch64" | "arm" => "qemu-system-arm",
            _ => "qemu-system",
        };
        let saw = format!("libvirt finds no QEMU: {complaint}");
        return Ok(Finding::fail(Code::ToolMissing, saw).mend(format!("sudo apt-get install {package}")));
    };
    let emulator = look.host.virsh.offer()?.emulator;
    Ok(Finding::ok(match emulator {
        Some(emulator) => format!("{hypervisor}, {emulator}"),
        None => hypervisor.clone(),
    }))
}

pub(super) fn log() -> Finding {
    const SOCKET: &str = "/run/libvirt/virtlogd-sock";
    let error = match system::connect(Utf8Path::new(SOCKET)) {
        Ok(()) => return Finding::ok(format!("virtlogd listens at {SOCKET}")),
        Err(error) => error,
    };
    if error.kind() == std::io::ErrorKind::PermissionDenied {
        return Finding::skip("only root may ask virtlogd");
    }
    let without = |line: &str| line.replace(' ', "").starts_with("stdio_handler=\"file\"");
    match system::fact("/etc/libvirt/qemu.conf") {
        None => Finding::skip(format!("virtlogd does not listen ({error}), and whether it is used cannot be read")),
        Some(config) if config.lines().any(without) => Finding::ok("virtlogd is not used: QEMU writes its logs itself"),
        Some(_) => Finding::fail(Code::Unreachable, format!("virtlogd does not listen at {SOCKET}: {error}"))
            .mend("sudo systemctl enable --now virtlogd.socket"),
    }
}

pub(super) fn agent(look: &Context) -> Result<Finding> {
    Ok(match look.host.virsh.offer()?.channels {
        None => Finding::skip("libvirt does not tell which channels it has"),
        Some(kinds) if kinds.iter().any(|kind| kind == "unix") => {
            Finding::ok("guests have a channel; whether an agent is in one is told by `vmprov vm info`")
        }
        Some(kinds) => Finding::warn(format!("libvirt has no channel for an agent, only {}", kinds.join(", "))),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_socket_is_in_libvirts_words() {
        let cause = "failed to connect to the hypervisor: Failed to connect socket to '/run/x': Connection refused";
        assert_eq!(socket_in(cause), Some("/run/x"));
        assert_eq!(socket_in("Cannot recv data: ssh: connect to host"), None);
    }
}
