//! `delete`: the domain, and exactly the volumes that it owns.

use clap::Args;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::{
    error::{Code, Error, Result},
    model::record::{OwnedVolume, Phase, VmRecord},
    ops::{
        Host,
        vm::{find, lifecycle::expiry::require_unprotected, lifecycle::removal, lock},
    },
    tools::virsh::Domain,
};

/// What else may be deleted
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Args, Serialize, Deserialize, ToSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct DeleteOptions {
    /// Also VMs that vmprov did not make; their disks are kept
    #[arg(long)]
    pub unmanaged: bool,

    /// A VM that is not there is no failure
    #[arg(long)]
    pub ignore_missing: bool,
}

/// What came of deleting a VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Deleted {
    /// `deleted`, or `missing` where there was none and that is no failure.
    pub status: &'static str,
    /// The VM, as it was called.
    pub vm: String,
    /// The volumes that were deleted with it, as `pool/volume`.
    pub deleted: Vec<String>,
    /// The files and volumes that were attached to it and belong to others: they are kept.
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
    // As it will be at its next start: a running VM may still have a disk that its configuration has lost.
    let domain = host.virsh.persistent_domain(listed.uuid)?;
    if domain.metadata.is_none() && !options.unmanaged {
        let name = shell_words::quote(&listed.name);
        return Err(Error::conflict(format!("vmprov did not make the VM `{}`, so it does not delete it", listed.name))
            .hint(format!("To remove it and keep its disks: vmprov vm delete {name} --unmanaged")));
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

/// Removes a domain, running or not, and the volumes that go with it; returns those that were there. Its lease is held.
/// What others depend on is refused before anything is changed. The domain goes last, so that it still says what to remove
/// when this is cut short; what is gone already is no failure.
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
            Err(error) if error.code == Code::NotFound => {} // it was undefined while it ran
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

/// Deletes a volume, starting its pool where that is needed; true when it was there.
fn delete_volume(host: &Host, volume: &OwnedVolume) -> Result<bool> {
    match host.virsh.delete_volume(&volume.pool, &volume.name) {
        Err(error) if error.code == Code::Conflict => {
            host.virsh.start_pool(&volume.pool)?;
            host.virsh.delete_volume(&volume.pool, &volume.name)
        }
        result => result,
    }
}

/// What was attached and does not belong to the VM.
fn kept(domain: &Domain, deleted: &[OwnedVolume]) -> Vec<String> {
    let owned = |source: &str| {
        let name = source.rsplit('/').next().unwrap_or(source);
        domain.metadata.iter().flat_map(|metadata| &metadata.volumes).chain(deleted).any(|volume| volume.name == name)
    };
    let sources = domain.disks.iter().filter_map(|disk| disk.source.clone());
    sources.filter(|source| !owned(source)).collect()
}
