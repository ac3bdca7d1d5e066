//! The steps of a change. Each is one or two calls, with an action that undoes it.

use super::Before;
use crate::{
    error::{Error, Hint, Result},
    model::record::VmRecord,
    ops::{Host, undo::undoing_with},
};

/// A change to a VM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Action {
    /// Whether the VM starts with the host.
    Autostart(bool),
    /// The description.
    Description(String),
    /// The memory in the persistent configuration in MiB, and the maximum if that changes.
    Memory { max: Option<u64>, mib: u64 },
    /// The virtual CPUs in the persistent configuration, and the maximum if that changes.
    Vcpus { max: Option<u32>, count: u32 },
    /// vmprov's record of the VM.
    Record(Box<VmRecord>),
    /// The memory of the running VM in MiB.
    LiveMemory(u64),
    /// The virtual CPUs of the running VM.
    LiveVcpus(u32),
    /// The size in bytes of the running VM's disk with this name in the guest.
    LiveDisk(String, u64),
    /// The size in bytes of the volume with this path, while the VM is shut off.
    Volume(String, u64),
}

/// A step, and the action that undoes it, if there is one.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Step {
    pub(super) what: &'static str,
    pub(super) action: Action,
    pub(super) undo: Option<Action>,
}

impl Action {
    /// Returns what remains to be done in the guest afterwards.
    pub(super) fn guest_notice(&self) -> Option<&'static str> {
        match self {
            Self::LiveDisk(..) => Some("the disk has grown; cloud-init grows the guest's file system at its next boot"),
            Self::LiveVcpus(_) => Some(
                "virtual CPUs were hot-plugged; if the guest does not use them, run in it: \
                 echo 1 | sudo tee /sys/devices/system/cpu/cpu*/online",
            ),
            _ => None,
        }
    }

    fn run(&self, host: &Host, before: &Before) -> Result<()> {
        let (virsh, uuid, live) = (&host.virsh, before.listed.uuid, before.live.is_some());
        match self {
            Self::Autostart(wanted) => virsh.set_autostart(uuid, *wanted),
            Self::Description(text) => virsh.set_description(uuid, text, live),
            Self::Memory { max, mib } => virsh.set_memory(uuid, *max, *mib),
            Self::Vcpus { max, count } => virsh.set_vcpus(uuid, *max, *count),
            Self::Record(metadata) => virsh.set_metadata(uuid, metadata, live),
            Self::LiveMemory(mib) => virsh.set_live_memory(uuid, *mib),
            Self::LiveVcpus(count) => virsh.set_live_vcpus(uuid, *count),
            Self::LiveDisk(target, bytes) => virsh.resize_live_disk(uuid, target, *bytes),
            Self::Volume(path, bytes) => virsh.resize_volume_at(path, *bytes),
        }
    }
}

/// Runs all steps. If one fails, undoes those before it that can be undone.
pub(super) fn run_all(host: &Host, before: &Before, steps: &[Step]) -> Result<()> {
    let name = &before.listed.name;
    let report = |error: Error, left: &[String]| {
        let text = format!("Check the VM, because some changes could not be undone ({})", left.join("; "));
        error.hint(Hint { is_about_leftovers: true, ..Hint::call_on_vm(text, "vm_info", name) })
    };
    undoing_with(
        |undo| {
            for step in steps {
                host.step(format!("{name}: changing the {}", step.what));
                if let Some(back) = step.undo.clone() {
                    let undoer = host.uncancellable();
                    undo.push(step.what, move || back.run(&undoer, before));
                }
                step.action.run(host, before)?;
            }
            Ok(())
        },
        report,
    )
}
