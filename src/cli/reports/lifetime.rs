//! The human-readable reports on the expiry, protection and reaping of VMs.

use super::{Results, Show};
use crate::ops::{
    reap::{Outcome, Reaped, ReapedVm},
    vm::{Expiry, Protection},
};

impl Show for Expiry {
    fn table(&self) -> String {
        match self.expires {
            Some(expires) => format!("{}: expires {expires}", self.vm),
            None => format!("{}: never expires", self.vm),
        }
    }

    fn names(&self) -> Vec<String> {
        vec![self.vm.clone()]
    }
}

impl Show for Results<Protection> {
    fn table(&self) -> String {
        let line = |report: &Protection| {
            let already = if report.changed { "" } else { "already " };
            format!("{}: {already}{}", report.vm, report.status)
        };
        self.results.iter().map(line).collect::<Vec<_>>().join("\n")
    }

    fn names(&self) -> Vec<String> {
        self.results.iter().map(|report| report.vm.clone()).collect()
    }
}

impl Show for Reaped {
    /// Failures are printed as errors, not here.
    fn table(&self) -> String {
        let line = |ReapedVm { vm, expires, outcome }: &ReapedVm| match outcome {
            Outcome::Deleted { deleted } if deleted.is_empty() => Some(format!("{vm}: deleted")),
            Outcome::Deleted { deleted } => Some(format!("{vm}: deleted, including {}", deleted.join(", "))),
            Outcome::Expired => Some(format!("{vm}: would be deleted (expired {expires})")),
            Outcome::Skipped { reason } => Some(format!("{vm}: skipped: {reason}")),
            Outcome::Failed(_) => None,
        };
        match &self.results[..] {
            [] => "no expired VMs".to_owned(),
            results => results.iter().filter_map(line).collect::<Vec<_>>().join("\n"),
        }
    }

    /// The VMs that were deleted, or would be.
    fn names(&self) -> Vec<String> {
        let is_deleted = |report: &&ReapedVm| matches!(report.outcome, Outcome::Deleted { .. } | Outcome::Expired);
        self.results.iter().filter(is_deleted).map(|report| report.vm.clone()).collect()
    }
}
