//! What somebody's VMs take together, for whoever limits that.

use uuid::Uuid;

use crate::{
    error::Result,
    model::{record::VolumeRole, specification::Specification},
    ops::{Host, vm::known},
};

/// What a VM takes of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnedVm {
    /// Its name.
    pub name: String,
    /// Its UUID.
    pub uuid: Uuid,
    /// Its virtual CPUs.
    pub vcpus: u32,
    /// Its memory in MiB.
    pub memory_mib: u64,
    /// The bytes that its volumes may grow to.
    pub disk_bytes: u64,
}

/// The bytes that a VM's other volumes may take beside its disk: its console's log, of which virtlogd keeps four files of
/// 2 MiB, and its seed.
pub const BESIDE_DISK: u64 = 9 << 20;

/// The VMs that were created on somebody's behalf, whole or not, with what they were asked to be.
pub fn owned(host: &Host, owner: &str) -> Result<Vec<OwnedVm>> {
    let theirs = known(host)?.into_iter().filter(|(_, metadata)| metadata.owner.as_deref() == Some(owner));
    let taken = theirs.map(|(listed, metadata)| {
        // Installers that were uploaded are few.
        let installers = metadata.volumes.iter().filter(|volume| volume.role == VolumeRole::Installer);
        let installers =
            installers.map(|volume| Ok(host.virsh.volume(&volume.pool, &volume.name)?.map(|it| it.allocation)));
        let installers = installers.collect::<Result<Vec<_>>>()?.into_iter().flatten().sum::<u64>();
        let noted = metadata.specification.and_then(|noted| Specification::from_json(&noted.json));
        let of = |get: fn(&Specification) -> u64| noted.as_ref().map(get).unwrap_or_default();
        Ok(OwnedVm {
            name: listed.name,
            uuid: listed.uuid,
            // What somebody else has changed since counts, too.
            vcpus: noted.as_ref().map(|noted| noted.vcpus).max(listed.vcpus).unwrap_or_default(),
            memory_mib: of(|noted| noted.memory_mib).max(listed.memory_mib.unwrap_or_default()),
            disk_bytes: of(|noted| noted.disk_bytes) + BESIDE_DISK + installers,
        })
    });
    taken.collect()
}
