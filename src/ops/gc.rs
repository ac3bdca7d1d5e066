//! `gc`: removes leftovers of interrupted operations.

use clap::Args;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    Host, image,
    lease::{self, Lease},
    orphans, side_by_side, vm,
};
use crate::{
    error::{Code, Result},
    model::record::VmRecord,
    store::lock,
    tools::virsh::DomainSummary,
};

/// What to remove besides the leftovers of interrupted operations
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Args, Serialize, Deserialize, ToSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct GcOptions {
    /// Delete unused overlays whose backing file is missing (listed only by default)
    #[arg(long)]
    pub orphans: bool,
}

/// What was removed.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Collected {
    /// The incomplete VMs that were removed.
    pub vms: Vec<String>,
    /// The volumes that were removed, as `pool/volume`, and files of this machine.
    pub volumes: Vec<String>,
    /// The incomplete VMs that were not removed, and why.
    pub skipped: Vec<Skipped>,
    /// Unused overlays, as `pool/volume`, whose backing file is missing. They are deleted only on request.
    pub orphans: Vec<String>,
}

/// An incomplete VM that was not removed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Skipped {
    /// Its name.
    pub vm: String,
    /// Why.
    pub reason: String,
}

/// Removes every VM whose create or delete was interrupted, and base images whose upload was. What another vmprov is
/// working on is not touched.
pub fn collect(host: &Host, options: GcOptions) -> Result<Collected> {
    if options.orphans {
        let mut collected = remove_unfinished(host)?;
        collected.volumes.extend(orphans::collect(host, true)?);
        return Ok(collected);
    }
    // Listing orphans changes nothing, so it runs in parallel.
    let (orphans, collected) = side_by_side(host, || orphans::collect(host, false), || remove_unfinished(host))?;
    Ok(Collected { orphans, ..collected })
}

/// Removes leftovers of interrupted operations.
fn remove_unfinished(host: &Host) -> Result<Collected> {
    let mut collected = Collected::default();
    for (listed, _) in incomplete(host)? {
        match claim(host, &listed)? {
            Claim::Ours(ours) => {
                let (lease, metadata) = &*ours;
                host.step(format!("removing {}", listed.name));
                match vm::remove(&lease.host, listed.uuid, Some(metadata)) {
                    Ok(volumes) => {
                        collected.volumes.extend(volumes.iter().map(ToString::to_string));
                        collected.vms.push(listed.name);
                    }
                    // Something else depends on its volumes.
                    Err(error) if error.code == Code::Conflict => {
                        let reason = error.cause.unwrap_or(error.message);
                        collected.skipped.push(Skipped { vm: listed.name, reason });
                    }
                    Err(error) => return Err(error),
                }
            }
            Claim::Theirs(reason) => collected.skipped.push(Skipped { vm: listed.name, reason }),
            Claim::Settled => {}
        }
    }
    collected.volumes.extend(image::remove_unfinished(host)?);
    collected.volumes.extend(vm::remove_copies(host)?);
    lease::remove_stale(host)?;
    lock::remove_stale();
    Ok(collected)
}

/// Returns the VMs whose create or delete was interrupted, or is running.
pub(super) fn incomplete(host: &Host) -> Result<Vec<(DomainSummary, VmRecord)>> {
    let mut known = vm::known(host)?;
    known.retain(|(_, metadata)| metadata.is_incomplete());
    Ok(known)
}

/// The result of claiming an incomplete VM.
pub(super) enum Claim {
    /// It may be removed while the lease is held. This is its current record.
    Ours(Box<(Lease, VmRecord)>),
    /// Another operation is working on it, as this message says.
    Theirs(String),
    /// It was completed or removed after it was listed.
    Settled,
}

/// Claims an incomplete VM. Its record is read again under the lease: meanwhile the VM may have been completed, or its
/// name given to another VM.
pub(super) fn claim(host: &Host, listed: &DomainSummary) -> Result<Claim> {
    let lease = match vm::lock::lock_now(host, &listed.name) {
        Ok(lease) => lease,
        Err(error) if error.code == Code::Busy => return Ok(Claim::Theirs(error.message)),
        Err(error) => return Err(error),
    };
    let now = host.virsh.describe(&[(listed.uuid, false)])?.remove(&listed.uuid).and_then(|known| known.metadata);
    Ok(match now.filter(VmRecord::is_incomplete) {
        Some(metadata) => Claim::Ours(Box::new((lease, metadata))),
        None => Claim::Settled,
    })
}
