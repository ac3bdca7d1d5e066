//! `doctor`: finds problems of the host by testing rather than assuming, and tells how to fix them.
//!
//! A check examines one thing and changes nothing (KVM is tested with a domain that is removed at once). A check that
//! depends on one that did not succeed is skipped, so that each problem is reported once. What cannot be examined is
//! skipped with the reason: it is never reported as ok.

mod checks;
mod clock;
mod context;
mod daemon;
mod explain;
mod finding;
mod folders;
mod kvm;
mod network;
mod pool;
mod security;
mod state;
mod tools;

use std::{collections::BTreeMap, time::Duration};

use clap::Args;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Host, unknown};
use crate::error::{Code, Hint, Result};
pub use checks::{CHECKS, Check};
use context::Context;
pub use explain::explain;
use finding::Finding;

/// The time limit of each call that a check makes: a daemon that hangs is one of the problems to report.
const CALL_LIMIT: Duration = Duration::from_secs(30);

/// How many fixes are applied for one check at most: a fix may uncover the next problem.
const MAX_FIXES: usize = 3;

/// Which checks to run, and whether to apply safe fixes
#[derive(Debug, Clone, PartialEq, Eq, Default, Args, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct DoctorOptions {
    /// Checks to run, by ID or group, as in pool.space or pool [default: all]
    #[arg(value_name = "ID")]
    pub checks: Vec<String>,

    /// Apply safe fixes and check again: start the pool and the network, enable their autostart, remove leftovers of
    /// interrupted commands
    #[arg(long)]
    pub fix: bool,
}

/// How a check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(as = CheckStatus)]
pub enum CheckStatus {
    /// No problem was found.
    Ok,
    /// There is a problem, but VMs can be created.
    Warn,
    /// Something will not work.
    Fail,
    /// The check was not run, or could not determine anything.
    Skip,
}

/// The result of a check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Checked {
    /// The check's ID.
    pub id: &'static str,
    /// How it ended.
    pub status: CheckStatus,
    /// What it observed.
    pub observed: String,
    /// The kind of failure, if it failed.
    pub code: Option<Code>,
    /// The command that fixes the problem, if there is one.
    pub fix_command: Option<String>,
    /// Whether the fix is safe, so that `fix` applies it.
    pub safe: bool,
    /// Whether a fix was applied.
    pub fixed: bool,
    /// The fixes that were applied.
    pub actions: Vec<String>,
}

/// How many checks ended with each status.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Summary {
    /// Checks that found no problem.
    pub ok: usize,
    /// Checks that found a problem with which VMs can still be created.
    pub warn: usize,
    /// Checks that failed.
    pub fail: usize,
    /// Checks that were skipped.
    pub skip: usize,
    /// Checks for which a fix was applied.
    pub fixed: usize,
}

/// The results of all checks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Diagnosis {
    /// Each check, after those that it depends on.
    pub checks: Vec<Checked>,
    /// How many ended with each status.
    pub summary: Summary,
}

impl Diagnosis {
    /// Returns the kind of the first failure, if any check failed.
    pub fn code(&self) -> Option<Code> {
        self.checks.iter().find_map(|checked| checked.code)
    }
}

/// Runs checks on the host and, on request, applies safe fixes.
pub fn examine(host: &Host, options: &DoctorOptions) -> Result<Diagnosis> {
    let chosen = choose(&options.checks)?;
    let mut context = Context::new(host);
    let mut ended = BTreeMap::new();
    let mut checks = Vec::new();
    for check in CHECKS.iter().filter(|check| is_needed(check, &chosen)) {
        host.runner.cancel.check()?;
        let is_chosen = chosen.contains(&check.id);
        host.step(format!("checking {}", check.id));
        let mut finding = run(check, &context, &ended)?;
        let mut actions = Vec::new();
        while let Some(fix) = finding.safe_fix().filter(|_| options.fix && is_chosen && actions.len() < MAX_FIXES) {
            match fix(host) {
                Ok(action) => actions.push(action),
                Err(error) => {
                    finding = finding.fix_failed(&error);
                    break;
                }
            }
            context = Context::new(host);
            finding = run(check, &context, &ended)?;
        }
        ended.insert(check.id, finding.status);
        if is_chosen {
            checks.push(finding.report(check.id, actions));
        }
    }
    let summary = count(&checks);
    Ok(Diagnosis { checks, summary })
}

/// Returns the IDs of the requested checks; those of all checks if none is requested.
fn choose(requested: &[String]) -> Result<Vec<&'static str>> {
    let matches =
        |id: &str, word: &str| id.strip_prefix(word).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'));
    for word in requested {
        if !CHECKS.iter().any(|check| matches(check.id, word)) {
            return Err(unknown(
                "check",
                word,
                CHECKS.iter().map(|check| check.id),
                Hint::run("List the checks", "vmprov doctor --list"),
            ));
        }
    }
    let chosen = |check: &&Check| requested.is_empty() || requested.iter().any(|word| matches(check.id, word));
    Ok(CHECKS.iter().filter(chosen).map(|check| check.id).collect())
}

/// Returns whether a check is chosen, or a chosen one depends on it.
fn is_needed(check: &Check, chosen: &[&str]) -> bool {
    let depends_on_it = |other: &&Check| other.needs.contains(&check.id);
    chosen.contains(&check.id) || CHECKS.iter().filter(depends_on_it).any(|other| is_needed(other, chosen))
}

/// Runs a check, unless it depends on one that did not succeed, or does not apply here. Only an interrupt is an error.
fn run(check: &Check, context: &Context, ended: &BTreeMap<&str, CheckStatus>) -> Result<Finding> {
    if let Some(reason) = context.why_not(check.scope) {
        return Ok(Finding::skip(reason));
    }
    let is_unmet = |need: &&&str| matches!(ended.get(**need), Some(CheckStatus::Fail | CheckStatus::Skip));
    if let Some(need) = check.needs.iter().find(is_unmet) {
        return Ok(Finding::skip(format!("depends on {need}, which did not succeed")));
    }
    match (check.run)(context) {
        Err(error) if error.code == Code::Interrupted => Err(error),
        Err(error) => Ok(Finding::unknown(&error)),
        finding => finding,
    }
}

fn count(checks: &[Checked]) -> Summary {
    let of = |status| checks.iter().filter(|checked| checked.status == status).count();
    Summary {
        ok: of(CheckStatus::Ok),
        warn: of(CheckStatus::Warn),
        fail: of(CheckStatus::Fail),
        skip: of(CheckStatus::Skip),
        fixed: checks.iter().filter(|checked| checked.fixed).count(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn check_ids_are_unique_and_follow_their_dependencies() {
        for (at, check) in CHECKS.iter().enumerate() {
            assert!(CHECKS[..at].iter().all(|other| other.id != check.id), "{} is a duplicate", check.id);
            for need in check.needs {
                assert!(CHECKS[..at].iter().any(|other| other.id == *need), "{}: {need} must come first", check.id);
            }
        }
    }

    #[test]
    fn checks_are_chosen_by_id_or_group() {
        let of = |words: &[&str]| choose(&words.iter().map(|&word| word.to_owned()).collect::<Vec<_>>());
        assert_eq!(of(&[]).unwrap().len(), CHECKS.len());
        assert_eq!(of(&["pool.space", "iommu"]).unwrap(), ["iommu", "pool.space"]);
        assert_eq!(of(&["pool"]).unwrap(), ["pool.active", "pool.reachable", "pool.space"]);
        let error = of(&["poo"]).unwrap_err();
        assert_eq!(error.code, Code::NotFound);
        assert_eq!(error.message, "check `poo` does not exist");
    }
}
