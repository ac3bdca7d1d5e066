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

/// Whether expired VMs are deleted
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Args, Serialize, Deserialize, ToSchema)]
#[serde(default, rename_all = "camelCase")]
pub struct ReapOptions {
    /// Delete nothing; say what would be
    #[arg(long)]
    pub dry_run: bool,
}

/// What came of the VMs that have expired.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Reaped {
    /// Each of them, by name.
    pub results: Vec<ReapedVm>,
}

/// A VM that has expired.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ReapedVm {
    /// Its name.
    pub vm: String,
    /// When it expired (RFC 3339, UTC).
    pub expires: Timestamp,
    /// What came of it.
    #[serde(flatten)]
    pub outcome: Outcome,
}

/// What came of a VM that has expired.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase", tag = "status")]
pub enum Outcome {
    /// It is gone, with the volumes that it owned, as `pool/volume`.
    Deleted {
        /// Those volumes.
        deleted: Vec<String>,
    },
    /// It would be deleted if this were no dry run.
    Expired,
    /// It was left alone.
    Skipped {
        /// Why.
        reason: String,
    },
    /// Deleting it failed.
    Failed(Error),
}

impl Reaped {
    /// What failed, in the order of the VMs.
    pub fn failures(&self) -> impl Iterator<Item = &Error> {
        self.results.iter().filter_map(|vm| match &vm.outcome {
            Outcome::Failed(error) => Some(error),
            _ => None,
        })
    }
}

/// Deletes every VM that has expired, running or not; with `dryRun` only says which these are. One that is protected
/// or incomplete is left alone, and so is one that another vmprov works on. A failure does not keep the others.
pub fn reap(host: &Host, options: ReapOptions) -> Result<Reaped> {
    let ReapOptions { dry_run } = options;
    let now = Timestamp::now();
    let mut reaped = Reaped::default();
    for (listed, metadata) in vm::known(host)? {
        let Some(expires) = metadata.expires.filter(|expires| *expires <= now) else { continue };
        let failed = |error: Error| {
            let message = format!("the VM `{}` has expired and was not deleted: {}", listed.name, error.message);
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
    let lease = match vm::lock_now(host, &listed.name) {
        Err(error) if error.code == Code::Busy => return Ok(Outcome::Skipped { reason: error.message }),
        result => result?,
    };
    let host = &lease.host;
    // Before we had the lock somebody may have given it longer, or deleted it and made another of its name.
    let described = host.virsh.describe(&[(listed.uuid, false)])?;
    let metadata = described.get(&listed.uuid).and_then(|known| known.metadata.as_ref());
    let Some(metadata) = metadata else {
        return Ok(Outcome::Skipped { reason: "it has gone meanwhile".to_owned() });
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

/// Why a VM must be left alone.
fn why_not(metadata: &VmRecord, now: Timestamp) -> Option<&'static str> {
    if metadata.is_incomplete() {
        return Some("creating or deleting it was cut short; `vmprov gc` removes what is left");
    }
    if metadata.protected {
        return Some("it is protected");
    }
    let expired = metadata.expires.is_some_and(|expires| expires <= now);
    (!expired).then_some("it has been given longer meanwhile")
}
