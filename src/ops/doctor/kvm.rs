//! Hardware virtualization: whether guests can use KVM, and whether there is an IOMMU.

use std::io::ErrorKind;

use super::{context::Context, finding::Finding};
use crate::{
    error::Result,
    ops::accelerator::{self, Outcome},
    store::{kvm_verdict::Verdict, system},
};

const DEVICE: &str = "/dev/kvm";

pub(super) fn device(context: &Context) -> Finding {
    let flags = system::cpu_flags(&["vmx", "svm", "hypervisor"]);
    let error = match system::open_device(DEVICE) {
        Ok(()) => return Finding::ok(opened(&flags)),
        Err(error) => error,
    };
    match error.kind() {
        ErrorKind::NotFound => missing(&flags, matches!(std::env::consts::ARCH, "x86_64" | "x86")),
        // QEMU's user opens it for the guests of the system's libvirt.
        ErrorKind::PermissionDenied if !context.is_session() => {
            Finding::skip("/dev/kvm exists; this user may not open it, but libvirt opens it for guests")
        }
        ErrorKind::PermissionDenied => {
            Finding::warn("/dev/kvm exists, but this user may not open it").fix("sudo usermod -aG kvm $USER")
        }
        _ => Finding::warn(format!("cannot open /dev/kvm: {error}")),
    }
}

/// Returns why the device does not exist, if the processor shows it.
fn missing(flags: &[&str], is_x86: bool) -> Finding {
    let has = |flag: &str| flags.contains(&flag);
    let none = "/dev/kvm does not exist, so guests are emulated";
    if !is_x86 {
        return Finding::warn(none);
    }
    let module = match (has("vmx"), has("svm")) {
        (true, _) => "kvm_intel",
        (false, true) => "kvm_amd",
        (false, false) => {
            let why = if has("hypervisor") {
                "this machine is a VM, and its host does not allow nested virtualization"
            } else {
                "the processor reports no virtualization (vmx, svm): it has none, or the firmware disables it"
            };
            return Finding::warn(format!("{none}: {why}"));
        }
    };
    Finding::warn(format!("{none}: its kernel module is not loaded")).fix(format!("sudo modprobe {module}"))
}

fn opened(flags: &[&str]) -> String {
    let virtualization = flags.iter().find(|flag| matches!(**flag, "vmx" | "svm"));
    let processor = virtualization
        .map_or("the processor reports neither vmx nor svm".to_owned(), |flag| format!("the processor has {flag}"));
    let nested = if flags.contains(&"hypervisor") { "; this machine is a VM" } else { "" };
    format!("/dev/kvm can be opened; {processor}{nested}")
}

pub(super) fn works(context: &Context) -> Result<Finding> {
    let offered = context.host.virsh.capabilities()?;
    if offered.kind == "qemu" {
        return Ok(Finding::warn("libvirt does not offer KVM: guests are emulated, which is many times slower"));
    }
    if !offered.is_kvm() {
        return Ok(Finding::skip(format!("libvirt's driver `{}` has no KVM", offered.kind)));
    }
    Ok(match accelerator::probe(&context.host, &offered)? {
        Outcome::Proven(Verdict::Works) => Finding::ok("KVM executed guest code"),
        Outcome::Unknown(reason) => Finding::skip(format!("cannot tell whether KVM works: {reason}")),
        Outcome::Proven(Verdict::Fails(reason)) => Finding::warn(format!(
            "KVM exists but does not work ({reason}): guests are emulated, which is many times slower"
        )),
    })
}

pub(super) fn iommu() -> Finding {
    match system::iommu_groups() {
        0 => Finding::skip("no IOMMU is enabled; only PCI passthrough needs one"),
        groups => Finding::ok(format!("{groups} IOMMU groups of devices that can be passed through to guests")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_device_is_explained_by_the_processor() {
        let intel = Some("sudo modprobe kvm_intel");
        for (flags, is_x86, text, command) in [
            (&["vmx"][..], true, "module", intel),
            (&["vmx", "hypervisor"], true, "module", intel),
            (&["svm"], true, "module", Some("sudo modprobe kvm_amd")),
            (&["hypervisor"], true, "nested virtualization", None),
            (&[], true, "firmware", None),
            (&[], false, "emulated", None),
        ] {
            let hint = missing(flags, is_x86).as_hint().unwrap();
            assert!(hint.text.contains(text) && hint.command() == command, "{flags:?}: {hint:?}");
        }
    }
}
