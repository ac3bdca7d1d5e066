//! `gc`: what killed operations left.

use std::time::Duration;

use serde::Serialize;
use utoipa::ToSchema;

use super::{Host, accelerator, image, vm};
use crate::{
    error::{Code, Result},
    store::lock::{self, Lock},
    tools::virsh::{Listed, Metadata, Phase},
};

/// What was cleaned up.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Collected {
    /// The incomplete VMs that were removed.
    pub vms: Vec<String>,
    /// The volumes that were removed, as `pool/volume`, and files of this machine.
    pub volumes: Vec<String>,
    /// The incomplete VMs that were left alone, and why.
    pub skipped: Vec<Skipped>,
}

/// An incomplete VM that was left alone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Skipped {
    /// Its name.
    pub vm: String,
    /// Why.
    pub reason: String,
}

/// Removes every VM whose create or delete was cut short, and base images whose upload was. What another vmprov is
/// still at is left alone.
pub fn collect(host: &Host) -> Result<Collected> {
    let mut collected = Collected::default();
    for found in incomplete(host)? {
        let (listed, metadata, reason) = found?;
        if let Some(reason) = reason {
            collected.skipped.push(Skipped { vm: listed.name, reason });
            continue;
        }
        host.step(format!("removing {}", listed.name));
        let volumes = vm::remove(host, listed.uuid, Some(&metadata))?;
        collected.volumes.extend(volumes.iter().map(ToString::to_string));
        collected.vms.push(listed.name);
    }
    collected.volumes.extend(image::remove_unfinished(host)?);
    collected.volumes.extend(vm::remove_copies(host)?);
    lock::remove_stale();
    Ok(collected)
}

/// A VM whose create or delete was cut short, or is under way, and why it must be left alone, if it must.
type Incomplete = (Listed, Metadata, Option<String>);

/// Finds them; whether somebody is at one is looked at when its turn comes.
pub(super) fn incomplete(host: &Host) -> Result<impl Iterator<Item = Result<Incomplete>>> {
    let known = vm::known(host)?.into_iter().filter(|(_, metadata)| metadata.is_incomplete());
    Ok(known.map(|(listed, metadata)| {
        let reason = why_not(host, &listed.name, &metadata)?;
        Ok((listed, metadata, reason))
    }))
}

/// Why an incomplete VM must be left alone: somebody may still be at it.
fn why_not(host: &Host, name: &str, metadata: &Metadata) -> Result<Option<String>> {
    if metadata.phase == Phase::Probe && !metadata.is_of_this_host() {
        let reason = "another host may be probing KVM with it";
        return Ok((!accelerator::is_abandoned(metadata)).then(|| reason.to_owned()));
    }
    if !metadata.is_of_this_host() {
        return Ok(Some(format!("it was begun on `{}`; if nobody is at it there, delete it by name", metadata.host)));
    }
    match Lock::take(&vm::lock_name(host, name)?, Duration::ZERO, &host.runner.cancel) {
        Ok(_free) => Ok(None),
        Err(error) if error.code == Code::Busy => Ok(Some(error.message)),
        Err(error) => Err(error),
    }
}
