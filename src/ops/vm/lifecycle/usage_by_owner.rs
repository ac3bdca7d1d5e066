//! The resources that an owner's VMs use, for quotas.

use uuid::Uuid;

use crate::{
    error::Result,
    model::{record::VolumeRole, specification::Specification},
    ops::{Host, vm::known},
};

/// The resources that a VM uses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnedVm {
    /// The VM's name.
    pub name: String,
    /// The VM's UUID.
    pub uuid: Uuid,
    /// The number of virtual CPUs.
    pub vcpus: u32,
    /// The memory in MiB.
    pub memory_mib: u64,
    /// The bytes that the VM's volumes may grow to.
    pub disk_bytes: u64,
}

/// The bytes that a VM's volumes other than its disk may use: its seed, and its console log, of which virtlogd keeps
/// four files of 2 MiB.
pub const SEED_AND_CONSOLE_BYTES: u64 = 9 << 20;

/// Returns the VMs of an owner, including incomplete ones, with the resources that were requested for them.
pub fn owned(host: &Host, owner: &str) -> Result<Vec<OwnedVm>> {
    let vms = known(host)?.into_iter().filter(|(_, metadata)| metadata.owner.as_deref() == Some(owner));
    let usage = vms.map(|(listed, metadata)| {
        // Few VMs have an uploaded installer, so one query for each is acceptable.
        let installers = metadata.volumes.iter().filter(|volume| volume.role == VolumeRole::Installer);
        let installers =
            installers.map(|volume| Ok(host.virsh.volume(&volume.pool, &volume.name)?.map(|it| it.allocation)));
        let installers = installers.collect::<Result<Vec<_>>>()?.into_iter().flatten().sum::<u64>();
        let requested = metadata.specification.and_then(|recorded| Specification::from_json(&recorded.json));
        let of = |get: fn(&Specification) -> u64| requested.as_ref().map(get).unwrap_or_default();
        Ok(OwnedVm {
            name: listed.name,
            uuid: listed.uuid,
            // Later changes by other tools count too.
            vcpus: requested.as_ref().map(|requested| requested.vcpus).max(listed.vcpus).unwrap_or_default(),
            memory_mib: of(|requested| requested.memory_mib).max(listed.memory_mib.unwrap_or_default()),
            disk_bytes: of(|requested| requested.disk_bytes) + SEED_AND_CONSOLE_BYTES + installers,
        })
    });
    usage.collect()
}
