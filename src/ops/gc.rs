//! `gc`: what killed operations left.

use std::time::Duration;

use serde::Serialize;

use super::{Host, image, vm};
use crate::{
    error::{Code, Result},
    store::lock::{self, Lock},
    tools::virsh::{Metadata, Phase},
};

/// What was cleaned up.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
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
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
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
    for (listed, metadata) in vm::known(host)? {
        if !metadata.is_incomplete() {
            continue;
        }
        if let Some(reason) = why_not(host, &listed.name, &metadata)? {
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

/// Why an incomplete VM must be left alone: somebody may still be at it.
fn why_not(host: &Host, name: &str, metadata: &Metadata) -> Result<Option<String>> {
    if metadata.phase == Phase::Probe {
        return Ok(None);
    }
    if !metadata.is_of_this_host() {
        return Ok(Some(format!("it was begun on `{}`; if nobody is at it there, delete it by name", metadata.host)));
    }
    match Lock::take(&vm::lock_name(host, name), Duration::ZERO, &host.runner.cancel) {
        Ok(_free) => Ok(None),
        Err(error) if error.code == Code::Busy => Ok(Some(error.message)),
        Err(error) => Err(error),
    }
}
