//! The programs that vmprov calls.

use super::{context::Context, finding::Finding};
use crate::{
    error::{Code, Error, Result},
    tools::version,
};

/// The oldest virsh that has every command that vmprov calls: `set-user-sshkeys` came last.
const LEAST_VIRSH: [u32; 2] = [6, 10];

pub(super) fn virsh(look: &Context) -> Result<Finding> {
    let version = match version::of(&look.host.runner, "virsh") {
        Ok(version) => version,
        Err(error) => return missing(&error, None),
    };
    if version::is_older(&version, LEAST_VIRSH) {
        let [major, minor] = LEAST_VIRSH;
        let saw = format!("virsh {version} is too old: `set-user-sshkeys` came with {major}.{minor}");
        return Ok(Finding::fail(Code::Conflict, saw).mend("apt-get install libvirt-clients"));
    }
    Ok(Finding::ok(named("virsh", &version)))
}

pub(super) fn qemu_img(look: &Context) -> Result<Finding> {
    program(look, "qemu-img", None)
}

pub(super) fn genisoimage(look: &Context) -> Result<Finding> {
    program(look, "genisoimage", None)
}

pub(super) fn isoinfo(look: &Context) -> Result<Finding> {
    program(look, "isoinfo", None)
}

pub(super) fn ssh(look: &Context) -> Result<Finding> {
    program(look, "ssh", None)
}

pub(super) fn sysprep(look: &Context) -> Result<Finding> {
    program(look, "virt-sysprep", Some("only `vm commit` needs it"))
}

pub(super) fn passt(look: &Context) -> Result<Finding> {
    let for_nobody = (!look.is_session()).then_some("only guests of a session (qemu:///session) need it");
    program(look, "passt", for_nobody)
}

/// Whether a program is installed; `else_fine` says why it is no harm when it is not.
pub(super) fn program(look: &Context, name: &'static str, else_fine: Option<&str>) -> Result<Finding> {
    match version::of(&look.host.runner, name) {
        Ok(version) => Ok(Finding::ok(named(name, &version))),
        Err(error) => missing(&error, else_fine),
    }
}

fn missing(error: &Error, else_fine: Option<&str>) -> Result<Finding> {
    let finding = match (error.code, else_fine) {
        (Code::ToolMissing, Some(fine)) => Finding::skip(format!("{}; {fine}", error.message)),
        (Code::ToolMissing | Code::Denied, _) => Finding::fail(error.code, error.to_string()),
        _ => return Err(error.clone()),
    };
    let install = error.command();
    Ok(match install {
        Some(command) => finding.mend(command),
        None => finding,
    })
}

fn named(name: &str, version: &str) -> String {
    if version.is_empty() { format!("{name}, which tells no version") } else { format!("{name} {version}") }
}
