//! `events`: what happens to VMs, as it happens.

use std::{ops::ControlFlow, time::Duration};

use jiff::Timestamp;
use serde::Serialize;
use utoipa::ToSchema;

use crate::{
    error::Result,
    ops::{Host, vm::find},
};

/// The kinds that are of interest to whoever does not ask for all: what becomes of VMs and their agents, not each change of
/// a statistic.
pub const EVENT_KINDS: [&str; 6] =
    ["lifecycle", "agent-lifecycle", "reboot", "watchdog", "io-error-reason", "control-error"];

/// Something that happened to a VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Event {
    /// When (RFC 3339, UTC).
    pub time: Timestamp,
    /// The VM's name.
    pub vm: String,
    /// libvirt's kind of event: `lifecycle`, `agent-lifecycle`, `reboot`, …
    pub kind: String,
    /// What happened, in libvirt's words: `Started Booted`.
    pub detail: String,
}

/// Which events one wants.
#[derive(Debug, Clone, Default)]
pub struct EventFilter {
    /// Of this VM alone, by name or UUID.
    pub vm: Option<String>,
    /// Every kind that libvirt knows.
    pub all: bool,
}

/// Hands on what happens to VMs as it comes, until `on_event` says that it has enough, the limit is reached or somebody
/// interrupts. One process of virsh listens, however many VMs there are.
pub fn events(
    host: &Host,
    filter: &EventFilter,
    limit: Option<Duration>,
    on_event: impl FnMut(&Event) -> Result<ControlFlow<()>>,
) -> Result<()> {
    listen(host, filter, limit, || (), on_event)
}

/// The same for whoever has to know from when on they hear of everything: `on_connected` is told once libvirt has answered,
/// and virsh listens within milliseconds of that.
pub fn listen(
    host: &Host,
    filter: &EventFilter,
    limit: Option<Duration>,
    on_connected: impl FnOnce(),
    mut on_event: impl FnMut(&Event) -> Result<ControlFlow<()>>,
) -> Result<()> {
    let uuid = filter.vm.as_deref().map(|vm| find(host, vm)).transpose()?.map(|listed| listed.uuid);
    host.virsh.events(uuid, limit, on_connected, |event| {
        if !filter.all && !EVENT_KINDS.contains(&event.kind.as_str()) {
            return Ok(ControlFlow::Continue(()));
        }
        on_event(&Event { time: event.time, vm: event.domain, kind: event.kind, detail: event.detail })
    })
}
