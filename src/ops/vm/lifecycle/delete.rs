//! `delete`: deletes a domain and exactly the volumes that it owns.

use clap::Args;
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::{
    error::{Code, Error, Hint, Result},
    model::record::{OwnedVolume, Phase, VmRecord},
    ops::{
        Host,
        vm::{find, lifecycle::expiry::require_unprotected, lifecycle::removal, lock},
    },
    tools::virsh::Domain,
};

/// Describes what a deletion includes
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Args, Serialize, Deserialize, ToSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct DeleteOptions {
    /// Also delete VMs that vmprov does not manage; their disks are kept
    #[arg(long)]
    pub unmanaged: bool,

    /// Succeed if the VM does not exist
    #[arg(long)]
    pub ignore_missing: bool,
}

/// The result of deleting a VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Deleted {
    /// `deleted`, or `missing` if the VM did not exist and `ignoreMissing` was set.
    pub status: &'static str,
    /// The VM's name.
    pub vm: String,
    /// The volumes that were deleted with the VM, as `pool/volume`.
    pub deleted: Vec<String>,
    /// The files and volumes that were attached to the VM but do not belong to it, and are kept.
    pub kept: Vec<String>,
}

/// Deletes a VM, running or not.
pub fn delete(host: &Host, reference: &str, options: DeleteOptions) -> Result<Deleted> {
    let listed = match find(host, reference) {
        Err(error) if error.code == Code::NotFound && options.ignore_missing => {
            return Ok(Deleted { status: "missing", vm: reference.to_owned(), deleted: Vec::new(), kept: Vec::new() });
        }
        result => result?,
    };
    let lease = lock(host, &listed.name)?;
    let host = &lease.host;
    // The persistent configuration counts: a running VM may still use a disk that has been removed from it.
    let domain = host.virsh.persistent_domain(listed.uuid)?;
    if domain.metadata.is_none() && !options.unmanaged {
        let members = [("vm", json!(listed.name)), ("unmanaged", json!(true))];
        return Err(Error::conflict(format!("VM `{}` is not managed by vmprov", listed.name)).hint(Hint::call(
            "Delete it but keep its disks",
            "vm_delete",
            members,
        )));
    }
    require_unprotected(&listed.name, domain.metadata.as_ref())?;
    host.step(format!("deleting {}", listed.name));
    let deleted = remove(host, listed.uuid, domain.metadata.as_ref())?;
    Ok(Deleted {
        status: "deleted",
        kept: kept(&domain, &deleted),
        deleted: deleted.iter().map(ToString::to_string).collect(),
        vm: listed.name,
    })
}

/// Removes a domain, running or not, and its volumes; returns the volumes that existed. The caller holds the lease.
/// Refuses volumes that others depend on before changing anything. Removes the domain last, so that after an
/// interruption it still tells what to remove. Ignores what is already gone.
pub(in crate::ops) fn remove(host: &Host, uuid: Uuid, metadata: Option<&VmRecord>) -> Result<Vec<OwnedVolume>> {
    let metadata = metadata.filter(|metadata| !metadata.volumes.is_empty());
    let volumes = metadata.map(|metadata| removal::volumes_of(host, uuid, metadata)).transpose()?.unwrap_or_default();
    let gone = |result: Result<()>| match result {
        Err(error) if matches!(error.code, Code::NotFound | Code::Conflict) => Ok(()),
        result => result,
    };
    gone(host.virsh.destroy(uuid))?;
    let mut deleted = Vec::new();
    if let Some(metadata) = metadata {
        let deleting = VmRecord { phase: Phase::Deleting, volumes: volumes.clone(), ..metadata.clone() };
        match host.virsh.set_metadata(uuid, &deleting, false) {
            Err(error) if error.code == Code::NotFound => {} // It was undefined while it was running.
            result => result?,
        }
        for volume in volumes {
            if delete_volume(host, &volume)? {
                deleted.push(volume);
            }
        }
    }
    match host.virsh.undefine(uuid) {
        Err(error) if error.code == Code::NotFound => {}
        result => result?,
    }
    Ok(deleted)
}

/// Deletes a volume, and starts its pool if necessary. Returns whether the volume existed.
fn delete_volume(host: &Host, volume: &OwnedVolume) -> Result<bool> {
    match host.virsh.delete_volume(&volume.pool, &volume.name) {
        Err(error) if error.code == Code::Conflict => {
            host.virsh.start_pool(&volume.pool)?;
            host.virsh.delete_volume(&volume.pool, &volume.name)
        }
        result => result,
    }
}

/// Returns the disks that were attached and do not belong to the VM.
fn kept(domain: &Domain, deleted: &[OwnedVolume]) -> Vec<String> {
    let owned = |source: &str| {
        let name = source.rsplit('/').next().unwrap_or(source);
        domain.metadata.iter().flat_map(|metadata| &metadata.volumes).chain(deleted).any(|volume| volume.name == name)
    };
    let sources = domain.disks.iter().filter_map(|disk| disk.source.clone());
    sources.filter(|source| !owned(source)).collect()
}
