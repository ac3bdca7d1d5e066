//! `events`: libvirt's events about VMs, as they occur.

use std::{ops::ControlFlow, time::Duration};

use jiff::Timestamp;
use serde::Serialize;
use utoipa::ToSchema;

use crate::{
    error::Result,
    ops::{Host, vm::find},
};

/// The kinds that are reported by default: changes of VMs and their guest agents, but not of every statistic.
pub const EVENT_KINDS: [&str; 6] =
    ["lifecycle", "agent-lifecycle", "reboot", "watchdog", "io-error-reason", "control-error"];

/// An event of a VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Event {
    /// The time (RFC 3339, UTC).
    pub time: Timestamp,
    /// The VM's name.
    pub vm: String,
    /// libvirt's kind of event: `lifecycle`, `agent-lifecycle`, `reboot`, …
    pub kind: String,
    /// libvirt's description: `Started Booted`.
    pub detail: String,
}

/// Selects events.
#[derive(Debug, Clone, Default)]
pub struct EventFilter {
    /// Only events of this VM, by name or UUID.
    pub vm: Option<String>,
    /// Every kind that libvirt has, not only [`EVENT_KINDS`].
    pub all: bool,
}

/// Calls `on_event` for each event, until it breaks, the time limit is reached, or an interrupt. A single virsh process
/// listens, regardless of the number of VMs.
pub fn events(
    host: &Host,
    filter: &EventFilter,
    limit: Option<Duration>,
    on_event: impl FnMut(&Event) -> Result<ControlFlow<()>>,
) -> Result<()> {
    listen(host, filter, limit, || (), on_event)
}

/// Like [`events`], and calls `on_connected` once libvirt has responded. virsh listens within milliseconds after that,
/// so a caller knows from when on it receives every event.
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
