//! The programs that vmprov calls.

use super::{context::Context, finding::Finding};
use crate::{
    error::{Code, Error, Result},
    tools::version,
};

/// The oldest virsh with every command that vmprov calls. The newest of these is `set-user-sshkeys`.
const MIN_VIRSH: [u32; 2] = [6, 10];

pub(super) fn virsh(context: &Context) -> Result<Finding> {
    let version = match version::of(&context.host.runner, "virsh") {
        Ok(version) => version,
        Err(error) => return missing(&error, None),
    };
    if version::is_older(&version, MIN_VIRSH) {
        let [major, minor] = MIN_VIRSH;
        let observed = format!("virsh {version} is too old: `set-user-sshkeys` requires {major}.{minor}");
        return Ok(Finding::fail(Code::Conflict, observed).fix("apt-get install libvirt-clients"));
    }
    Ok(Finding::ok(named("virsh", &version)))
}

pub(super) fn qemu_img(context: &Context) -> Result<Finding> {
    program(context, "qemu-img", None)
}

pub(super) fn genisoimage(context: &Context) -> Result<Finding> {
    program(context, "genisoimage", None)
}

pub(super) fn isoinfo(context: &Context) -> Result<Finding> {
    program(context, "isoinfo", None)
}

pub(super) fn gpgv(context: &Context) -> Result<Finding> {
    program(context, "gpgv", None)
}

pub(super) fn ssh(context: &Context) -> Result<Finding> {
    program(context, "ssh", None)
}

pub(super) fn sysprep(context: &Context) -> Result<Finding> {
    program(context, "virt-sysprep", Some("only `vm commit` needs it"))
}

pub(super) fn passt(context: &Context) -> Result<Finding> {
    let unneeded = (!context.is_session()).then_some("only guests of a session (qemu:///session) need it");
    program(context, "passt", unneeded)
}

/// Checks whether a program is installed. `unneeded` says why it may be missing, if so.
pub(super) fn program(context: &Context, name: &'static str, unneeded: Option<&str>) -> Result<Finding> {
    match version::of(&context.host.runner, name) {
        Ok(version) => Ok(Finding::ok(named(name, &version))),
        Err(error) => missing(&error, unneeded),
    }
}

fn missing(error: &Error, unneeded: Option<&str>) -> Result<Finding> {
    let finding = match (error.code, unneeded) {
        (Code::ToolMissing, Some(reason)) => Finding::skip(format!("{}; {reason}", error.message)),
        (Code::ToolMissing | Code::Denied, _) => Finding::fail(error.code, error.to_string()),
        _ => return Err(error.clone()),
    };
    let install = error.command();
    Ok(match install {
        Some(command) => finding.fix(command),
        None => finding,
    })
}

fn named(name: &str, version: &str) -> String {
    if version.is_empty() { format!("{name} (unknown version)") } else { format!("{name} {version}") }
}
