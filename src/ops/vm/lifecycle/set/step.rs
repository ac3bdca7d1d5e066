//! The steps of a change: each one call or two, and what takes it back.

use super::Before;
use crate::{
    error::{Error, Result},
    model::record::VmRecord,
    ops::{Host, undo::undoing_with},
};

/// Something to be done to a VM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Action {
    /// Whether it starts with the host.
    Autostart(bool),
    /// Its description.
    Description(String),
    /// The memory of its configuration in MiB, and the maximum where that changes.
    Memory { max: Option<u64>, mib: u64 },
    /// The virtual CPUs of its configuration, and the maximum where that changes.
    Vcpus { max: Option<u32>, count: u32 },
    /// What vmprov notes of it.
    Note(Box<VmRecord>),
    /// The memory of the running VM in MiB.
    LiveMemory(u64),
    /// The virtual CPUs of the running VM.
    LiveVcpus(u32),
    /// The running VM's disk of that name in the guest, in bytes.
    LiveDisk(String, u64),
    /// The volume of a VM that is shut off, by its path, in bytes.
    Volume(String, u64),
}

/// A step, and what takes it back where that is possible.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Step {
    pub(super) what: &'static str,
    pub(super) action: Action,
    pub(super) undo: Option<Action>,
}

impl Action {
    /// What is left to the guest when it is done.
    pub(super) fn in_the_guest(&self) -> Option<&'static str> {
        match self {
            Self::LiveDisk(..) => {
                Some("the disk has grown; the guest's file system follows at its next boot, where cloud-init grows it")
            }
            Self::LiveVcpus(_) => Some(
                "the virtual CPUs are plugged in; a guest that does not use them by itself is told to: \
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
            Self::Note(metadata) => virsh.set_metadata(uuid, metadata, live),
            Self::LiveMemory(mib) => virsh.set_live_memory(uuid, *mib),
            Self::LiveVcpus(count) => virsh.set_live_vcpus(uuid, *count),
            Self::LiveDisk(target, bytes) => virsh.resize_live_disk(uuid, target, *bytes),
            Self::Volume(path, bytes) => virsh.resize_volume_at(path, *bytes),
        }
    }
}

/// Takes all the steps, or none that can be taken back.
pub(super) fn run_all(host: &Host, before: &Before, steps: &[Step]) -> Result<()> {
    let name = &before.listed.name;
    let tell = |error: Error, left: &[String]| {
        let info = format!("vmprov vm info {}", shell_words::quote(name));
        error.hint(format!("What was changed before that could not be undone: {}. See: {info}", left.join("; ")))
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
        tell,
    )
}
