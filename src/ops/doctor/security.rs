//! AppArmor and SELinux: whether they confine guests, and whether they have denied a guest anything.

use super::{context::Context, finding::Finding};
use crate::{
    error::{Error, Result},
    store::system,
};

pub(super) fn apparmor(context: &Context) -> Result<Finding> {
    match system::fact("/sys/module/apparmor/parameters/enabled").as_deref() {
        Some("Y") => confined(context, "apparmor", "AppArmor"),
        _ => Ok(Finding::skip("AppArmor is not enabled in this kernel")),
    }
}

pub(super) fn selinux(context: &Context) -> Result<Finding> {
    match system::fact("/sys/fs/selinux/enforce").as_deref() {
        Some("1") => confined(context, "selinux", "SELinux"),
        Some(_) => Ok(Finding::skip("SELinux is permissive: it only logs denials")),
        None => Ok(Finding::skip("SELinux is not enabled in this kernel")),
    }
}

/// Checks whether libvirt uses a security model to confine guests.
fn confined(context: &Context, model: &str, name: &str) -> Result<Finding> {
    let models = &context.confinement()?.models;
    if models.iter().any(|known| known == model) {
        return Ok(Finding::ok(format!("{name} confines guests")));
    }
    let observed = format!("{name} is enabled, but libvirt does not use it (security_driver in qemu.conf)");
    Ok(Finding::warn(observed).fix("sudo grep -n security_driver /etc/libvirt/qemu.conf"))
}

pub(super) fn denials(_: &Context) -> Result<Finding> {
    let denials = system::denials().map_err(|error| Error::io("read the kernel log", &error))?;
    Ok(match &denials[..] {
        [] => Finding::ok("the kernel log contains no denials"),
        [.., last] => {
            let observed = format!("{} denials, the latest: {last}", denials.len());
            Finding::warn(observed).fix("sudo dmesg | grep -E 'apparmor=\"DENIED\"|avc:  denied'")
        }
    })
}
