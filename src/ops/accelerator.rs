//! Chooses the accelerator of guests: KVM if a probe has shown that it works, otherwise emulation.
//!
//! That KVM is present proves nothing: on some hosts it refuses to start guests, on others guests start but never
//! execute. So a domain is started with it, once for each boot of the hypervisor's machine.

use std::{ops::ControlFlow, time::Duration};

use uuid::Uuid;

use super::{Host, undo::undoing, vm::lock::lock_now};
use crate::{
    error::{Code, Error, Result},
    model::{
        record::{Phase, VmRecord},
        vm::State,
    },
    store::{
        kvm_verdict::{self, Key, Verdict},
        system,
    },
    tools::virsh::{Capabilities, NewDomain},
};

/// How long the firmware may take to show that it runs. With working KVM it takes about a second.
const PROBE_LIMIT: Duration = Duration::from_secs(15);

/// How many times KVM is probed if another client ends the probe.
const MAX_PROBES: usize = 3;

/// What virsh reports for a domain whose guest reset itself, if a reset ends the domain. It reports something else for
/// a reset from outside, for a QEMU that was killed by a signal, and for a power-off by another client.
const RESET_BY_GUEST: &str = "Shutdown Finished after guest request";

/// The words in messages of QEMU and libvirt about KVM.
const KVM_WORDS: &[&str] = &["kvm", "msr"];

/// Messages about a temporary shortage, which prove nothing about KVM.
const TEMPORARY: &[&str] = &[
    "Cannot allocate memory",
    "No space left on device",
    "Disk quota exceeded",
    "Too many open files",
    "Resource temporarily unavailable",
    "Device or resource busy",
];

/// The outcome of probing KVM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The verdict is proven, and cached.
    Proven(Verdict),
    /// Nothing is proven, for this reason. The next operation that needs a verdict probes again.
    Unknown(String),
}

/// Returns the cached verdict on this hypervisor's KVM, if there is one.
pub(super) fn verdict(host: &Host) -> Option<Verdict> {
    kvm_verdict::read(&host.settings.cache_dir, &key(host).ok()?)
}

fn key(host: &Host) -> Result<Key> {
    Ok(Key { hypervisor: host.hypervisor()?, is_local: host.virsh.is_local() })
}

/// Returns the virtualization type to read libvirt's capabilities for before the hypervisor is known: libvirt's own
/// choice, or emulation if KVM has failed on some hypervisor. [`accelerator`] reads them again if that was wrong.
pub(super) fn virttype(host: &Host) -> Option<&'static str> {
    kvm_verdict::has_failed(&host.settings.cache_dir).then_some("qemu")
}

/// Chooses KVM if it works, otherwise emulation with a warning. If a probe proves nothing, libvirt's choice is kept,
/// since a VM that was created emulated stays emulated. `offered` are libvirt's capabilities for the `virttype`.
pub(super) fn accelerator(
    host: &Host,
    virttype: Option<&str>,
    offered: Capabilities,
    warnings: &mut Vec<String>,
) -> Result<Capabilities> {
    let verdict = verdict(host);
    let is_wrong = virttype.is_some() && !matches!(verdict, Some(Verdict::Fails(_)));
    let offered = if is_wrong { host.virsh.capabilities()? } else { offered };
    let slow = "VMs are emulated, which is many times slower";
    let outcome = match verdict {
        None if offered.is_kvm() && !host.is_dry_run() => Some(probe(host, &offered)?),
        verdict => verdict.map(Outcome::Proven),
    };
    match outcome {
        Some(Outcome::Proven(Verdict::Fails(reason))) => {
            host.warn(warnings, format!("KVM exists but does not work ({reason}): {slow}"));
            return if offered.is_kvm() { host.virsh.emulation() } else { Ok(offered) };
        }
        Some(Outcome::Unknown(reason)) => {
            let text = format!("cannot tell whether KVM works ({reason}): using it, and probing it again next time");
            host.warn(warnings, text);
        }
        Some(Outcome::Proven(Verdict::Works)) | None => {}
    }
    if offered.kind == "qemu" {
        let why = "this host does not offer KVM (/dev/kvm is missing, or virtualization is disabled in the firmware)";
        host.warn(warnings, format!("{why}: {slow}"));
    }
    Ok(offered)
}

/// Why a KVM without hardware virtualization does not work for cloud images.
const PVM: &str = "it is PVM, which runs only kernels that are built for it";

/// Probes KVM, whether or not a verdict is cached, and caches a proven verdict.
pub(super) fn probe(host: &Host, offered: &Capabilities) -> Result<Outcome> {
    host.step("probing KVM");
    let mut outcome = probe_once(host, offered)?;
    for _ in 1..MAX_PROBES {
        if !matches!(outcome, Probed::Ended(_)) {
            break;
        }
        outcome = probe_once(host, offered)?;
    }
    Ok(match outcome {
        Probed::Proven(verdict) => {
            // The probe runs firmware, which PVM runs too.
            let is_pvm = verdict == Verdict::Works && host.virsh.is_local() && system::has_only_pvm();
            let verdict = if is_pvm { Verdict::Fails(PVM.to_owned()) } else { verdict };
            kvm_verdict::write(&host.settings.cache_dir, &key(host)?, &verdict);
            Outcome::Proven(verdict)
        }
        Probed::Ended(reason) | Probed::NotStarted(reason) => Outcome::Unknown(reason),
    })
}

/// How a single probe ended.
enum Probed {
    Proven(Verdict),
    /// It ran, and something other than its guest ended or paused it.
    Ended(String),
    /// It could not be started, for a reason that does not concern KVM.
    NotStarted(String),
}

/// Runs a domain whose firmware finds nothing to boot and resets at once, whereupon libvirt ends the domain. The event
/// tells whether the guest caused the reset, which proves that its CPU executes.
fn probe_once(host: &Host, offered: &Capabilities) -> Result<Probed> {
    let uuid = Uuid::new_v4();
    let metadata = VmRecord { phase: Phase::Probe, ..VmRecord::new(system::host_name()) };
    let name = format!("vmprov-kvm-test-{}", uuid.simple());
    let domain = NewDomain {
        name: &name,
        uuid,
        memory_mib: 64,
        vcpus: 1,
        capabilities: offered,
        disks: Vec::new(),
        interface: None,
        console_log: None,
        seeded: false,
        uefi: false,
        metadata: &metadata,
    };
    // As with every incomplete VM, `gc` does not touch it while this lease is held.
    let lease = lock_now(host, &name)?;
    let host = &lease.host;
    undoing(|undo| {
        let undoer = host.uncancellable();
        let end = move || match undoer.virsh.destroy(uuid) {
            Err(error) if !matches!(error.code, Code::NotFound | Code::Conflict) => Err(error),
            _ => Ok(()),
        };
        undo.push("the domain that probes KVM", end.clone());
        let probed = match host.virsh.create_transient_paused(&domain.to_xml()?) {
            Err(error) => not_started(error, &name)?,
            Ok(()) => watch(host, uuid)?,
        };
        // The domain may still exist, whatever happened.
        end()?;
        Ok(probed)
    })
}

/// Returns what a failure to start the probe means.
fn not_started(error: Error, name: &str) -> Result<Probed> {
    if matches!(error.code, Code::Interrupted | Code::Unreachable | Code::Denied) {
        return Err(error);
    }
    let code = error.code;
    let cause = error.cause.unwrap_or(error.message);
    let reason = qemu_message(&cause).to_owned();
    let is_proof = code == Code::ToolFailed && is_about_kvm(&cause.replace(name, ""));
    // libvirt may notice that QEMU ended before it has read QEMU's last message. The next probe may get the message.
    let lacks_message = cause.contains("unexpectedly closed the monitor") && reason == cause;
    Ok(match (is_proof, lacks_message) {
        (true, _) => Probed::Proven(Verdict::Fails(reason)),
        (false, true) => Probed::Ended(reason),
        (false, false) => Probed::NotStarted(reason),
    })
}

/// Resumes the probe, and waits for the outcome.
fn watch(host: &Host, uuid: Uuid) -> Result<Probed> {
    let (mut resumed, mut end) = (Ok(()), None);
    let resume = || resumed = host.virsh.resume(uuid, State::Paused);
    let watched = host.virsh.events(Some(uuid), Some(PROBE_LIMIT), resume, |event| {
        let is_end = event.kind == "lifecycle"
            && ["Shutdown", "Stopped", "Suspended", "Crashed"].iter().any(|word| event.detail.starts_with(word));
        if !is_end {
            return Ok(ControlFlow::Continue(()));
        }
        end = Some(event.detail);
        Ok(ControlFlow::Break(()))
    });
    // Another client may have ended it already.
    for result in [watched, resumed] {
        match result {
            Err(error) if matches!(error.code, Code::Interrupted | Code::Unreachable) => return Err(error),
            Err(error) => return Ok(Probed::Ended(error.cause.unwrap_or(error.message))),
            Ok(()) => {}
        }
    }
    if let Some(detail) = end {
        let by_guest = detail == RESET_BY_GUEST;
        return Ok(if by_guest {
            Probed::Proven(Verdict::Works)
        } else {
            Probed::Ended(format!("the probe: {detail}"))
        });
    }
    Ok(match host.virsh.state(uuid) {
        Ok(State::Running) => Probed::Proven(Verdict::Fails("a guest starts but its CPU never executes".to_owned())),
        Ok(state) => Probed::Ended(format!("the probe is {state}")),
        Err(error) if error.code == Code::NotFound => Probed::Ended("the probe is gone".to_owned()),
        Err(error) => return Err(error),
    })
}

/// Returns whether an error message proves that KVM does not work.
fn is_about_kvm(cause: &str) -> bool {
    let lower = cause.to_lowercase();
    KVM_WORDS.iter().any(|word| lower.contains(word)) && !TEMPORARY.iter().any(|text| cause.contains(text))
}

/// Returns QEMU's own message within libvirt's: `… qemu-system-x86_64: error: failed to set MSR …: qemu-system-x86_64:
/// …`.
fn qemu_message(cause: &str) -> &str {
    let is_program = |word: &str| word.starts_with("qemu-system-") || word.contains(" qemu-system-");
    let mut parts = cause.split(": ").skip_while(|part| !is_program(part)).skip(1);
    parts.find(|part| *part != "error").unwrap_or(cause)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn qemus_own_message_is_extracted() {
        let cause = "Failed to create domain from /dev/stdin: internal error: QEMU unexpectedly closed the monitor (vm='x'): \
                     2026-11-23T04:03:13.6Z qemu-system-x86_64: error: failed to set MSR 0x10a: qemu-system-x86_64: \
                     target/i386/kvm/kvm.c:3849: kvm_buf_set_msrs: Assertion failed.";
        assert_eq!(qemu_message(cause), "failed to set MSR 0x10a");
        assert_eq!(qemu_message("something: else"), "something: else");
    }

    #[test]
    fn only_messages_about_kvm_prove_that_it_does_not_work() {
        let name = "vmprov-kvm-test-0";
        let closed =
            |text: &str| format!("QEMU unexpectedly closed the monitor (vm='{name}'): qemu-system-x86_64: {text}");
        for (cause, is_proof) in [
            (closed("Could not access KVM kernel module: Permission denied"), true),
            (closed("error: failed to set MSR 0x10a"), true),
            ("unsupported configuration: Emulator 'x' does not support virt type 'kvm'".to_owned(), true),
            (closed("cannot set up guest memory 'pc.ram': Cannot allocate memory"), false),
            (closed("ioctl(KVM_CREATE_VM) failed: 12 Cannot allocate memory"), false),
            (closed("ioctl(KVM_CREATE_VM) failed: 16 Device or resource busy"), false),
            (format!("unable to write to '/run/{name}.xml': No space left on device"), false),
        ] {
            let error = Error::new(Code::ToolFailed, "x").because(&cause);
            let proven = matches!(not_started(error, name).unwrap(), Probed::Proven(Verdict::Fails(_)));
            assert_eq!(proven, is_proof, "{cause}");
        }
    }
}
