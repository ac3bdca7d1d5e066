//! `set`: changes a VM that exists, at once where libvirt can, else at its next start.
//!
//! Everything that can be refused is refused before anything is changed, and what fails later undoes what came before it.
//! The disk comes last, because it cannot be made smaller again.

mod disk;
mod plan;
mod step;

use serde::Serialize;
use utoipa::ToSchema;

use crate::{
    error::Result,
    model::{change::Change, specification::Difference, vm::Disk},
    ops::{
        Host,
        vm::{lock_found, look_up, require_whole},
    },
    tools::virsh::{Domain, DomainSummary},
};
use plan::plan;

/// What came of changing a VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Edited {
    /// The VM's name.
    pub vm: String,
    /// Whether anything had to be done.
    pub changed: bool,
    /// Whether it must be restarted before everything is as it was asked for.
    pub restart_needed: bool,
    /// What was asked for, one by one.
    pub changes: Vec<Item>,
    /// What the operator should know although nothing failed.
    pub warnings: Vec<String>,
}

/// What came of one thing that was asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Item {
    /// What it is, how it was, and how it is to be.
    #[serde(flatten)]
    pub difference: Difference,
    /// From when on it is so.
    pub effect: Effect,
}

/// From when on something is so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub enum Effect {
    /// From now on.
    Live,
    /// From the VM's next start on.
    NextStart,
    /// It was so before.
    Unchanged,
}

/// A VM before it is changed.
struct Before {
    listed: DomainSummary,
    /// As it runs, when it does.
    live: Option<Domain>,
    /// As it will start next.
    config: Domain,
}

impl Before {
    fn look(host: &Host, reference: &str) -> Result<Self> {
        let (listed, domain) = look_up(host, reference)?;
        require_whole(&domain)?;
        if !listed.state.is_active() {
            return Ok(Self { listed, live: None, config: domain });
        }
        let config = host.virsh.persistent_domain(listed.uuid)?;
        Ok(Self { listed, live: Some(domain), config })
    }

    /// The disks that the VM has now.
    fn disks(&self) -> &[Disk] {
        &self.live.as_ref().unwrap_or(&self.config).disks
    }
}

/// Changes a VM.
pub fn set(host: &Host, change: &Change) -> Result<Edited> {
    change.check()?;
    let lease = lock_found(host, &change.vm)?;
    let host = &lease.host;
    // What another vmprov did to it before we had the lock counts.
    let before = Before::look(host, &change.vm)?;
    let mut warnings = Vec::new();
    let plan = plan(host, &before, change, &mut warnings)?;
    step::run_all(host, &before, &plan.steps)?;
    for step in &plan.steps {
        step.action.in_the_guest().into_iter().for_each(|text| host.warn(&mut warnings, text));
    }
    let is = |effect: Effect| plan.items.iter().any(|item| item.effect == effect);
    Ok(Edited {
        changed: !plan.steps.is_empty(),
        restart_needed: before.live.is_some() && is(Effect::NextStart),
        vm: before.listed.name,
        changes: plan.items,
        warnings,
    })
}
