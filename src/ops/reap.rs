//! `reap`: deletes the VMs that have expired, and nothing else.

use clap::Args;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Host, vm};
use crate::{
    error::{Code, Error, Result},
    model::record::VmRecord,
    tools::virsh::DomainSummary,
};

/// Whether to delete expired VMs
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Args, Serialize, Deserialize, ToSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct ReapOptions {
    /// List the expired VMs without deleting them
    #[arg(long)]
    pub dry_run: bool,
}

/// The results for the expired VMs.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Reaped {
    /// The result for each expired VM.
    pub results: Vec<ReapedVm>,
}

/// An expired VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ReapedVm {
    /// Its name.
    pub vm: String,
    /// When it expired (RFC 3339, UTC).
    pub expires: Timestamp,
    /// The outcome.
    #[serde(flatten)]
    pub outcome: Outcome,
}

/// The outcome for an expired VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase", tag = "status")]
pub enum Outcome {
    /// It was deleted, with the volumes that it owned.
    Deleted {
        /// Those volumes, as `pool/volume`.
        deleted: Vec<String>,
    },
    /// It has expired, and was not deleted because this is a dry run.
    Expired,
    /// It was not deleted.
    Skipped {
        /// Why.
        reason: String,
    },
    /// Deleting it failed.
    Failed(Error),
}

impl Reaped {
    /// Returns the failures, in the order of the VMs.
    pub fn failures(&self) -> impl Iterator<Item = &Error> {
        self.results.iter().filter_map(|vm| match &vm.outcome {
            Outcome::Failed(error) => Some(error),
            _ => None,
        })
    }
}

/// Deletes every expired VM, running or not; with `dryRun`, only lists them. A VM is skipped if it is protected or
/// incomplete, or if another vmprov is working on it. A failure does not stop the others from being deleted.
pub fn reap(host: &Host, options: ReapOptions) -> Result<Reaped> {
    let ReapOptions { dry_run } = options;
    let now = Timestamp::now();
    let mut reaped = Reaped::default();
    for (listed, metadata) in vm::known(host)? {
        let Some(expires) = metadata.expires.filter(|expires| *expires <= now) else { continue };
        let failed = |error: Error| {
            let message = format!("expired VM `{}` was not deleted: {}", listed.name, error.message);
            Outcome::Failed(Error { message, ..error })
        };
        let outcome = reap_one(host, &listed, now, dry_run).unwrap_or_else(failed);
        reaped.results.push(ReapedVm { vm: listed.name, expires, outcome });
        if reaped.failures().any(|error| error.code == Code::Interrupted) {
            break;
        }
    }
    Ok(reaped)
}

fn reap_one(host: &Host, listed: &DomainSummary, now: Timestamp, dry_run: bool) -> Result<Outcome> {
    let lease = match vm::lock::lock_now(host, &listed.name) {
        Err(error) if error.code == Code::Busy => return Ok(Outcome::Skipped { reason: error.message }),
        result => result?,
    };
    let host = &lease.host;
    // Before the lease was taken, its TTL may have been extended, or it may have been deleted and another VM created
    // with its name.
    let described = host.virsh.describe(&[(listed.uuid, false)])?;
    let metadata = described.get(&listed.uuid).and_then(|known| known.metadata.as_ref());
    let Some(metadata) = metadata else {
        return Ok(Outcome::Skipped { reason: "it was deleted meanwhile".to_owned() });
    };
    if let Some(reason) = why_not(metadata, now) {
        return Ok(Outcome::Skipped { reason: reason.to_owned() });
    }
    if dry_run {
        return Ok(Outcome::Expired);
    }
    host.step(format!("deleting {}", listed.name));
    let deleted = vm::remove(host, listed.uuid, Some(metadata))?;
    Ok(Outcome::Deleted { deleted: deleted.iter().map(ToString::to_string).collect() })
}

/// Returns why a VM must not be deleted, if so.
fn why_not(metadata: &VmRecord, now: Timestamp) -> Option<&'static str> {
    if metadata.is_incomplete() {
        return Some("its create or delete was interrupted; `gc` removes it");
    }
    if metadata.protected {
        return Some("it is protected");
    }
    let expired = metadata.expires.is_some_and(|expires| expires <= now);
    (!expired).then_some("its TTL was extended")
}
