//! `doctor`: what may be wrong with the host, tried rather than assumed, and what mends it.
//!
//! A check looks at one thing and changes nothing (that KVM works is tried with a domain that is gone at once). One that
//! rests on another is skipped when that did not succeed, so that a fault is told once. What cannot be seen is skipped
//! with the reason: never taken for well.

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

/// How long a call of a check may take: a daemon that is stuck is one of the things to be told.
const CALL_LIMIT: Duration = Duration::from_secs(30);

/// How often one check is mended at most: what was mended may uncover the next fault.
const MOST_MENDINGS: usize = 3;

/// Says what to look at, and whether to mend it
#[derive(Debug, Clone, PartialEq, Eq, Default, Args, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct DoctorOptions {
    /// Checks to run, by id or its beginning, as in pool or pool.space [default: all of them]
    #[arg(value_name = "ID")]
    pub checks: Vec<String>,

    /// Mend what can be mended without a risk, and look again: start the pool and the network and have them start with the
    /// host, clean up after killed commands
    #[arg(long)]
    pub fix: bool,
}

/// How a check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(as = CheckStatus)]
pub enum CheckStatus {
    /// All is well.
    Ok,
    /// Something is not as it should be; VMs can be made all the same.
    Warn,
    /// Something will not work.
    Fail,
    /// Not looked at, or nothing could be seen.
    Skip,
}

/// What a check found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Checked {
    /// The check.
    pub id: &'static str,
    /// How it ended.
    pub status: CheckStatus,
    /// What it saw.
    pub saw: String,
    /// The kind of failure, where it failed.
    pub code: Option<Code>,
    /// The command that mends it, where one does.
    pub fix: Option<String>,
    /// Whether `--fix` does it.
    pub safe: bool,
    /// Whether something was mended.
    pub fixed: bool,
    /// What was done.
    pub did: Vec<String>,
}

/// How many checks ended in which way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Summary {
    /// All was well.
    pub ok: usize,
    /// Something was not as it should be.
    pub warn: usize,
    /// Something will not work.
    pub fail: usize,
    /// Not looked at.
    pub skip: usize,
    /// Something was mended.
    pub fixed: usize,
}

/// What all checks found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Diagnosis {
    /// Each check, in the order in which they rest on each other.
    pub checks: Vec<Checked>,
    /// How many ended in which way.
    pub summary: Summary,
}

impl Diagnosis {
    /// The kind of the first failure; none where nothing failed.
    pub fn code(&self) -> Option<Code> {
        self.checks.iter().find_map(|checked| checked.code)
    }
}

/// Looks at the host and, where that is asked for, mends what can be mended without a risk.
pub fn examine(host: &Host, options: &DoctorOptions) -> Result<Diagnosis> {
    let chosen = choose(&options.checks)?;
    let mut look = Context::new(host);
    let mut ended = BTreeMap::new();
    let mut checks = Vec::new();
    for check in CHECKS.iter().filter(|check| is_wanted(check, &chosen)) {
        host.runner.cancel.check()?;
        let is_asked = chosen.contains(&check.id);
        host.step(format!("checking {}", check.id));
        let mut finding = run(check, &look, &ended)?;
        let mut did = Vec::new();
        while let Some(act) = finding.act().filter(|_| options.fix && is_asked && did.len() < MOST_MENDINGS) {
            match act(host) {
                Ok(done) => did.push(done),
                Err(error) => {
                    finding = finding.not_mended(&error);
                    break;
                }
            }
            look = Context::new(host);
            finding = run(check, &look, &ended)?;
        }
        ended.insert(check.id, finding.status);
        if is_asked {
            checks.push(finding.report(check.id, did));
        }
    }
    let summary = count(&checks);
    Ok(Diagnosis { checks, summary })
}

/// The ids of the checks that are asked for: all where none is.
fn choose(asked: &[String]) -> Result<Vec<&'static str>> {
    let is_meant =
        |id: &str, word: &str| id.strip_prefix(word).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'));
    for word in asked {
        if !CHECKS.iter().any(|check| is_meant(check.id, word)) {
            return Err(unknown(
                "check",
                word,
                CHECKS.iter().map(|check| check.id),
                Hint::run("List the checks", "vmprov doctor --list"),
            ));
        }
    }
    let chosen = |check: &&Check| asked.is_empty() || asked.iter().any(|word| is_meant(check.id, word));
    Ok(CHECKS.iter().filter(chosen).map(|check| check.id).collect())
}

/// Whether a check is asked for, or one rests on it that is.
fn is_wanted(check: &Check, chosen: &[&str]) -> bool {
    let rests_on_it = |other: &&Check| other.needs.contains(&check.id);
    chosen.contains(&check.id) || CHECKS.iter().filter(rests_on_it).any(|other| is_wanted(other, chosen))
}

/// Runs a check, unless it rests on one that did not succeed, or makes no sense here. Only an interrupt is an error.
fn run(check: &Check, look: &Context, ended: &BTreeMap<&str, CheckStatus>) -> Result<Finding> {
    if let Some(reason) = look.why_not(check.scope) {
        return Ok(Finding::skip(reason));
    }
    let without = |need: &&&str| matches!(ended.get(**need), Some(CheckStatus::Fail | CheckStatus::Skip));
    if let Some(need) = check.needs.iter().find(without) {
        return Ok(Finding::skip(format!("it rests on {need}")));
    }
    match (check.look)(look) {
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
    fn checks_stand_behind_those_that_they_rest_on_and_have_ids_of_their_own() {
        for (at, check) in CHECKS.iter().enumerate() {
            assert!(CHECKS[..at].iter().all(|other| other.id != check.id), "{} stands twice", check.id);
            for need in check.needs {
                assert!(CHECKS[..at].iter().any(|other| other.id == *need), "{}: {need} must come first", check.id);
            }
        }
    }

    #[test]
    fn a_check_is_asked_for_by_its_id_or_its_beginning() {
        let of = |words: &[&str]| choose(&words.iter().map(|&word| word.to_owned()).collect::<Vec<_>>());
        assert_eq!(of(&[]).unwrap().len(), CHECKS.len());
        assert_eq!(of(&["pool.space", "iommu"]).unwrap(), ["iommu", "pool.space"]);
        assert_eq!(of(&["pool"]).unwrap(), ["pool.active", "pool.reachable", "pool.space"]);
        let error = of(&["poo"]).unwrap_err();
        assert_eq!(error.code, Code::NotFound);
        assert_eq!(error.message, "there is no check `poo`");
    }
}
