//! What libvirt tells of domains as it happens: one `virsh event` for all.

use std::{ops::ControlFlow, time::Duration};

use jiff::Timestamp;
use uuid::Uuid;

use super::{Virsh, failure};
use crate::error::Result;

/// Something that happened to a domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// When.
    pub time: Timestamp,
    /// What kind of event: `lifecycle`, `agent-lifecycle`, `reboot`, …
    pub kind: String,
    /// The domain's name.
    pub domain: String,
    /// What happened, in virsh's words: `Started Booted`.
    pub detail: String,
}

impl Event {
    /// Reads a line of `virsh event --timestamp` (11.3.0): `TIME: event 'KIND' for domain 'NAME': DETAIL`. A name may hold
    /// anything but a line break, a detail holds no `': `.
    fn from_line(line: &str) -> Option<Self> {
        let (time, rest) = line.split_once(": event '")?;
        let (kind, rest) = rest.split_once("' for domain '")?;
        let (domain, detail) = match rest.split_once("': ") {
            // `reboot` and its like say nothing more.
            None => (rest.strip_suffix('\'')?, ""),
            Some(_) if kind == "lifecycle" => rest.rsplit_once("': ")?,
            Some(parts) => parts,
        };
        // 2026-11-25 05:56:20.807+0000
        let time = jiff::fmt::strtime::parse("%Y-%m-%d %H:%M:%S%.f%z", time.trim()).ok()?.to_timestamp().ok()?;
        let text = |text: &str| text.trim().to_owned();
        Some(Self { time, kind: text(kind), domain: domain.to_owned(), detail: text(detail) })
    }
}

impl Virsh {
    /// Hands on what happens to domains, or to one, as it comes, until `on_event` has enough or the limit is reached.
    /// `on_connected` is told once libvirt has answered.
    pub fn events(
        &self,
        domain: Option<Uuid>,
        limit: Option<Duration>,
        on_connected: impl FnOnce(),
        mut on_event: impl FnMut(Event) -> Result<ControlFlow<()>>,
    ) -> Result<()> {
        // The connection's URI is printed before anything can happen: `event` itself says nothing until something does.
        let mut script = "uri; event --all --loop --timestamp".to_owned();
        script.extend(domain.map(|uuid| format!(" --domain {uuid}")));
        let tool = self.tool(&[&script]).limit(limit.unwrap_or(Duration::MAX));
        let mut ended = false;
        let mut on_connected = Some(on_connected);
        let finished = tool.lines(&self.runner, |line| {
            if let Some(on_connected) = on_connected.take() {
                on_connected();
            }
            let Some(event) = Event::from_line(line) else { return Ok(ControlFlow::Continue(())) };
            let flow = on_event(event)?;
            ended = flow.is_break();
            Ok(flow)
        })?;
        // It ends by itself only when libvirtd does, or never was there.
        let was_told_to = ended || finished.status.code().is_none();
        if was_told_to || finished.status.success() && finished.stderr.trim().is_empty() {
            return Ok(());
        }
        Err(failure::explain("listen to what happens to VMs", &self.uri, &finished.stderr))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_read_whatever_the_domain_is_called() {
        let read = |text: &str| {
            let event = Event::from_line(text).unwrap();
            (event.time.to_string(), event.kind, event.domain, event.detail)
        };
        let time = "2026-11-25 05:56:20.807+0000";
        let parts = |kind: &str, domain: &str, detail: &str| {
            ("2026-11-25T05:56:20.807Z".to_owned(), kind.to_owned(), domain.to_owned(), detail.to_owned())
        };
        assert_eq!(
            read(&format!("{time}: event 'lifecycle' for domain 'it's': odd': Stopped Destroyed")),
            parts("lifecycle", "it's': odd", "Stopped Destroyed")
        );
        assert_eq!(
            read(&format!(
                "{time}: event 'agent-lifecycle' for domain 'a': state: 'connected' reason: 'channel event'"
            )),
            parts("agent-lifecycle", "a", "state: 'connected' reason: 'channel event'")
        );
        assert_eq!(read(&format!("{time}: event 'reboot' for domain 'a'")), parts("reboot", "a", ""));
        assert_eq!(Event::from_line("events received: 3"), None);
        assert_eq!(Event::from_line("\tcpu: 3"), None);
    }
}
