//! Whether guests can use the processor itself.

use std::io::ErrorKind;

use super::{context::Context, finding::Finding};
use crate::{
    error::Result,
    ops::accelerator::{self, Outcome},
    store::{kvm_verdict::Verdict, system},
};

const DEVICE: &str = "/dev/kvm";

pub(super) fn device(look: &Context) -> Finding {
    let flags = system::cpu_flags(&["vmx", "svm", "hypervisor"]);
    let error = match system::open_device(DEVICE) {
        Ok(()) => return Finding::ok(opened(&flags)),
        Err(error) => error,
    };
    match error.kind() {
        ErrorKind::NotFound => missing(&flags, matches!(std::env::consts::ARCH, "x86_64" | "x86")),
        // The guests of the machine's libvirt open it as QEMU's user.
        ErrorKind::PermissionDenied if !look.is_session() => {
            Finding::skip("/dev/kvm is there; you may not open it, which libvirt does for you")
        }
        ErrorKind::PermissionDenied => {
            Finding::warn("/dev/kvm is there, and you may not open it").mend("sudo usermod -aG kvm $USER")
        }
        _ => Finding::warn(format!("/dev/kvm cannot be opened: {error}")),
    }
}

/// Why there is no device, as far as the processor shows.
fn missing(flags: &[&str], is_x86: bool) -> Finding {
    let has = |flag: &str| flags.contains(&flag);
    let none = "there is no /dev/kvm, so guests are emulated";
    if !is_x86 {
        return Finding::warn(none);
    }
    let module = match (has("vmx"), has("svm")) {
        (true, _) => "kvm_intel",
        (false, true) => "kvm_amd",
        (false, false) => {
            let why = if has("hypervisor") {
                "this machine is a VM itself, and its host does not allow it nested virtualisation"
            } else {
                "the processor shows no virtualisation (vmx, svm): it has none, or the firmware has it switched off"
            };
            return Finding::warn(format!("{none}: {why}"));
        }
    };
    Finding::warn(format!("{none}: the kernel's module for it is not loaded")).mend(format!("sudo modprobe {module}"))
}

fn opened(flags: &[&str]) -> String {
    let virtualisation = flags.iter().find(|flag| matches!(**flag, "vmx" | "svm"));
    let how = virtualisation
        .map_or("the processor shows neither vmx nor svm".to_owned(), |flag| format!("the processor has {flag}"));
    let nested = if flags.contains(&"hypervisor") { "; this machine is a VM itself" } else { "" };
    format!("/dev/kvm opens; {how}{nested}")
}

pub(super) fn works(look: &Context) -> Result<Finding> {
    let offered = look.host.virsh.offered()?;
    if offered.kind == "qemu" {
        return Ok(Finding::warn("libvirt offers no KVM: guests are emulated, which is many times slower"));
    }
    if !offered.is_kvm() {
        return Ok(Finding::skip(format!("libvirt's driver `{}` has no KVM", offered.kind)));
    }
    Ok(match accelerator::probe(&look.host, &offered)? {
        Outcome::Proven(Verdict::Works) => Finding::ok("a guest's code was executed"),
        Outcome::Unknown(reason) => Finding::skip(format!("cannot tell whether KVM works: {reason}")),
        Outcome::Proven(Verdict::Fails(reason)) => Finding::warn(format!(
            "KVM is there but does not work ({reason}): guests are emulated, which is many times slower"
        )),
    })
}

pub(super) fn iommu() -> Finding {
    match system::iommu_groups() {
        0 => Finding::skip("the IOMMU is off or there is none; only PCI passthrough needs it"),
        groups => Finding::ok(format!("{groups} groups of devices that could be passed to guests")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_that_is_not_there_is_explained_by_the_processor() {
        let intel = Some("sudo modprobe kvm_intel");
        for (flags, is_x86, says, mends) in [
            (&["vmx"][..], true, "module", intel),
            (&["vmx", "hypervisor"], true, "module", intel),
            (&["svm"], true, "module", Some("sudo modprobe kvm_amd")),
            (&["hypervisor"], true, "nested virtualisation", None),
            (&[], true, "firmware", None),
            (&[], false, "emulated.", None),
        ] {
            let hint = missing(flags, is_x86).as_hint().unwrap();
            assert!(hint.text.contains(says) && hint.command() == mends, "{flags:?}: {hint:?}");
        }
    }
}
