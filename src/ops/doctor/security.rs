//! AppArmor and SELinux: whether they confine guests, and whether they were in a guest's way.

use super::{context::Context, finding::Finding};
use crate::{
    error::{Error, Result},
    store::system,
};

pub(super) fn apparmor(look: &Context) -> Result<Finding> {
    match system::fact("/sys/module/apparmor/parameters/enabled").as_deref() {
        Some("Y") => confined(look, "apparmor", "AppArmor"),
        _ => Ok(Finding::skip("AppArmor is not on in this kernel")),
    }
}

pub(super) fn selinux(look: &Context) -> Result<Finding> {
    match system::fact("/sys/fs/selinux/enforce").as_deref() {
        Some("1") => confined(look, "selinux", "SELinux"),
        Some(_) => Ok(Finding::skip("SELinux only notes what it would refuse (permissive)")),
        None => Ok(Finding::skip("SELinux is not on in this kernel")),
    }
}

/// Whether libvirt has the kernel confine guests.
fn confined(look: &Context, model: &str, name: &str) -> Result<Finding> {
    let models = &look.confinement()?.models;
    if models.iter().any(|known| known == model) {
        return Ok(Finding::ok(format!("{name} confines guests")));
    }
    let saw = format!("{name} is on, and libvirt does not let it confine guests (security_driver in qemu.conf)");
    Ok(Finding::warn(saw).mend("sudo grep -n security_driver /etc/libvirt/qemu.conf"))
}

pub(super) fn denials(_: &Context) -> Result<Finding> {
    let denials = system::denials().map_err(|error| Error::io("read the kernel's log", &error))?;
    Ok(match &denials[..] {
        [] => Finding::ok("the kernel's log has no refusal"),
        [.., last] => {
            let saw = format!("{} refusals, the last one: {last}", denials.len());
            Finding::warn(saw).mend("sudo dmesg | grep -E 'apparmor=\"DENIED\"|avc:  denied'")
        }
    })
}
