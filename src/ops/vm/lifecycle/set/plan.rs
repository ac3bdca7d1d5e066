//! Plans a change: validates it, and decides the steps and when each setting takes effect.

use super::{
    Before, Effect, Item, disk,
    step::{Action, Step},
};
use crate::{
    error::Result,
    model::{
        change::{Change, Description},
        record::VmRecord,
        size::{DiskSize, Memory, human},
        specification::{Difference, Specification},
    },
    ops::{Host, vm::lifecycle::host_limits::check_host_limits},
    tools::virsh::Domain,
};

/// The steps of a change, and their effects.
#[derive(Default)]
pub(super) struct Plan {
    pub(super) items: Vec<Item>,
    /// The steps: first those for the next start, then those with immediate effect, and the disk last.
    pub(super) steps: Vec<Step>,
}

/// Validates a change and plans its steps.
pub(super) fn plan(host: &Host, before: &Before, change: &Change, warnings: &mut Vec<String>) -> Result<Plan> {
    if change.memory.is_some() || change.vcpus.is_some() {
        let limits = host.virsh.limits(&before.config)?;
        check_host_limits(host, change.vcpus, change.memory, limits, warnings)?;
        warn_of_saved_state(host, before, warnings)?;
    }
    let disk = change.disk_size.map(|size| disk::grow(host, before, size)).transpose()?;
    let mut plan = Plan::default();
    let mut live = Vec::new();
    if let Some(memory) = change.memory {
        plan.memory(before, memory, &mut live);
    }
    if let Some(count) = change.vcpus {
        plan.vcpus(before, count, &mut live);
    }
    if let Some((item, step)) = disk {
        plan.items.push(item);
        live.extend(step);
    }
    if let Some(wanted) = change.autostart {
        plan.autostart(before, wanted);
    }
    if let Some(text) = &change.description {
        plan.description(before, text);
    }
    if let Some(step) = update_record(before, change) {
        plan.steps.push(step);
    }
    plan.steps.append(&mut live);
    Ok(plan)
}

impl Plan {
    fn add(&mut self, member: &'static str, from: String, to: String, effect: Effect) {
        self.items.push(Item { difference: Difference { member, from, to }, effect });
    }

    /// Plans a change of the memory. The balloon of a running guest can change it up to the maximum at boot.
    fn memory(&mut self, before: &Before, to: Memory, live_steps: &mut Vec<Step>) {
        let (config, mib) = (&before.config, to.mib());
        if config.memory_mib != mib {
            let max = (mib > config.max_memory_mib).then_some(mib);
            let undo = Action::Memory { max: max.map(|_| config.max_memory_mib), mib: config.memory_mib };
            self.steps.push(Step { what: "memory", action: Action::Memory { max, mib }, undo: Some(undo) });
        }
        let is_possible = |live: &&Domain| live.balloon && mib <= live.max_memory_mib;
        if let Some(live) = before.live.as_ref().filter(is_possible).filter(|live| live.memory_mib != mib) {
            let undo = Some(Action::LiveMemory(live.memory_mib));
            live_steps.push(Step { what: "running VM's memory", action: Action::LiveMemory(mib), undo });
        }
        let now = before.live.as_ref().unwrap_or(config).memory_mib;
        let is_live = before.live.as_ref().is_some_and(|live| live.memory_mib == mib || is_possible(&live));
        let effect = effect(now == mib && config.memory_mib == mib, is_live);
        self.add("memory", human(now << 20), to.to_string(), effect);
    }

    /// Plans a change of the number of virtual CPUs. They are hot-plugged up to the maximum at boot. They are never
    /// unplugged: a guest may refuse to release a CPU, and never releases those that it booted with.
    fn vcpus(&mut self, before: &Before, to: u32, live_steps: &mut Vec<Step>) {
        let config = &before.config;
        if config.vcpus != to {
            let max = (to > config.max_vcpus).then_some(to);
            let undo = Action::Vcpus { max: max.map(|_| config.max_vcpus), count: config.vcpus };
            self.steps.push(Step { what: "virtual CPUs", action: Action::Vcpus { max, count: to }, undo: Some(undo) });
        }
        let is_possible = |live: &&Domain| live.vcpus < to && to <= live.max_vcpus;
        if let Some(live) = before.live.as_ref().filter(is_possible) {
            let undo = Some(Action::LiveVcpus(live.vcpus));
            live_steps.push(Step { what: "running VM's virtual CPUs", action: Action::LiveVcpus(to), undo });
        }
        let now = before.live.as_ref().unwrap_or(config).vcpus;
        let is_live = before.live.as_ref().is_some_and(|live| live.vcpus == to || is_possible(&live));
        let effect = effect(now == to && config.vcpus == to, is_live);
        self.add("vcpus", now.to_string(), to.to_string(), effect);
    }

    fn autostart(&mut self, before: &Before, wanted: bool) {
        let now = before.listed.autostart;
        if now != wanted {
            let undo = Some(Action::Autostart(now));
            self.steps.push(Step { what: "autostart", action: Action::Autostart(wanted), undo });
        }
        self.add("autostart", now.to_string(), wanted.to_string(), effect(now == wanted, true));
    }

    fn description(&mut self, before: &Before, wanted: &Description) {
        let now = before.config.description.clone().unwrap_or_default();
        let same = now == wanted.as_str();
        if !same {
            let (action, undo) = (Action::Description(wanted.to_string()), Action::Description(now.clone()));
            self.steps.push(Step { what: "description", action, undo: Some(undo) });
        }
        self.add("description", now, wanted.to_string(), effect(same, true));
    }
}

/// Returns when a setting takes effect, which may be `unchanged` or changed `at_once`.
const fn effect(unchanged: bool, at_once: bool) -> Effect {
    match (unchanged, at_once) {
        (true, _) => Effect::Unchanged,
        (false, true) => Effect::Live,
        (false, false) => Effect::NextStart,
    }
}

/// Returns the step that updates the VM's recorded specification, with which a later create is compared. The record is
/// updated even if the VM already has the requested values: another tool may have set them.
fn update_record(before: &Before, change: &Change) -> Option<Step> {
    let record = before.config.metadata.as_ref()?;
    // A specification of another format cannot be updated. It is dropped, because it would be wrong from now on.
    let specification = Specification::from_json(&record.specification.as_ref()?.json).map(|mut specification| {
        specification.memory_mib = change.memory.map_or(specification.memory_mib, Memory::mib);
        specification.vcpus = change.vcpus.unwrap_or(specification.vcpus);
        specification.disk_bytes = change.disk_size.map_or(specification.disk_bytes, DiskSize::bytes);
        specification.autostart = change.autostart.unwrap_or(specification.autostart);
        (&specification).into()
    });
    let after = VmRecord { specification, ..record.clone() };
    (after != *record).then(|| Step {
        what: "recorded specification",
        action: Action::Record(Box::new(after)),
        undo: Some(Action::Record(Box::new(record.clone()))),
    })
}

/// Warns if the VM has a saved state, from which it resumes with its old settings.
fn warn_of_saved_state(host: &Host, before: &Before, warnings: &mut Vec<String>) -> Result<()> {
    if before.live.is_none() && host.virsh.has_managed_save(before.listed.uuid)? {
        let name = &before.listed.name;
        let text = format!(
            "VM `{name}` has a saved state and resumes with its old memory and virtual CPUs; restart it after that"
        );
        host.warn(warnings, text);
    }
    Ok(())
}
