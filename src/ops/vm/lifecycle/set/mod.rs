//! `set`: changes an existing VM, at once if libvirt supports that, else at its next start.
//!
//! The request is validated before anything is changed, and a later failure rolls back the steps before it. The disk
//! comes last, because it cannot shrink again.

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
        vm::{lock_found, look_up, require_complete},
    },
    tools::virsh::{Domain, DomainSummary},
};
use plan::plan;

/// The result of changing a VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Edited {
    /// The VM's name.
    pub vm: String,
    /// Whether anything was changed.
    pub changed: bool,
    /// Whether some changes take effect only after a restart.
    pub restart_needed: bool,
    /// The requested changes.
    pub changes: Vec<Item>,
    /// Warnings for the operator.
    pub warnings: Vec<String>,
}

/// The result of one requested change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Item {
    /// The setting, with its old and new values.
    #[serde(flatten)]
    pub difference: Difference,
    /// When the change takes effect.
    pub effect: Effect,
}

/// When a change takes effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub enum Effect {
    /// At once.
    Live,
    /// At the VM's next start.
    NextStart,
    /// The setting already had this value.
    Unchanged,
}

/// A VM before the change.
struct Before {
    listed: DomainSummary,
    /// The running configuration, if the VM is active.
    live: Option<Domain>,
    /// The persistent configuration, for the next start.
    config: Domain,
}

impl Before {
    fn read(host: &Host, reference: &str) -> Result<Self> {
        let (listed, domain) = look_up(host, reference)?;
        require_complete(&domain)?;
        if !listed.state.is_active() {
            return Ok(Self { listed, live: None, config: domain });
        }
        let config = host.virsh.persistent_domain(listed.uuid)?;
        Ok(Self { listed, live: Some(domain), config })
    }

    /// Returns the disks that the VM has now.
    fn disks(&self) -> &[Disk] {
        &self.live.as_ref().unwrap_or(&self.config).disks
    }
}

/// Changes a VM.
pub fn set(host: &Host, change: &Change) -> Result<Edited> {
    change.check()?;
    let lease = lock_found(host, &change.vm)?;
    let host = &lease.host;
    // The VM is read under the lease, because another vmprov process may have changed it before.
    let before = Before::read(host, &change.vm)?;
    let mut warnings = Vec::new();
    let plan = plan(host, &before, change, &mut warnings)?;
    step::run_all(host, &before, &plan.steps)?;
    for step in &plan.steps {
        step.action.guest_notice().into_iter().for_each(|text| host.warn(&mut warnings, text));
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
