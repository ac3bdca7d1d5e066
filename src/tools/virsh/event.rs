//! libvirt's events about domains, from a single `virsh event` process.

use std::{ops::ControlFlow, time::Duration};

use jiff::Timestamp;
use uuid::Uuid;

use super::{Virsh, failure};
use crate::error::Result;

/// An event of a domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Its time.
    pub time: Timestamp,
    /// Its kind: `lifecycle`, `agent-lifecycle`, `reboot`, …
    pub kind: String,
    /// The domain's name.
    pub domain: String,
    /// The details as virsh prints them: `Started Booted`.
    pub detail: String,
}

impl Event {
    /// Parses a line of `virsh event --timestamp` (11.3.0): `TIME: event 'KIND' for domain 'NAME': DETAIL`. A name may
    /// contain anything but a line break. The detail of a `lifecycle` event contains no `': `.
    fn from_line(line: &str) -> Option<Self> {
        let (time, rest) = line.split_once(": event '")?;
        let (kind, rest) = rest.split_once("' for domain '")?;
        let (domain, detail) = match rest.split_once("': ") {
            // Events such as `reboot` have no detail.
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
    /// Passes on the events of one or all domains as they arrive, until `on_event` breaks or the time limit is reached.
    /// Calls `on_connected` once libvirt has responded.
    pub fn events(
        &self,
        domain: Option<Uuid>,
        limit: Option<Duration>,
        on_connected: impl FnOnce(),
        mut on_event: impl FnMut(Event) -> Result<ControlFlow<()>>,
    ) -> Result<()> {
        // `event` prints nothing before the first event, so `uri` prints a line as soon as the connection is open.
        let mut script = "uri; event --all --loop --timestamp".to_owned();
        script.extend(domain.map(|uuid| format!(" --domain {uuid}")));
        let tool = self.tool(&[&script]).limit(limit.unwrap_or(Duration::MAX));
        let mut stopped = false;
        let mut on_connected = Some(on_connected);
        let finished = tool.lines(&self.runner, |line| {
            if let Some(on_connected) = on_connected.take() {
                on_connected();
            }
            let Some(event) = Event::from_line(line) else { return Ok(ControlFlow::Continue(())) };
            let flow = on_event(event)?;
            stopped = flow.is_break();
            Ok(flow)
        })?;
        // virsh exits by itself only if libvirtd stops or cannot be reached.
        let was_ended = stopped || finished.status.code().is_none();
        if was_ended || finished.status.success() && finished.stderr.trim().is_empty() {
            return Ok(());
        }
        Err(failure::explain("receive libvirt's events", &self.uri, &finished.stderr))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_parsed_for_any_domain_name() {
        let parse = |text: &str| {
            let event = Event::from_line(text).unwrap();
            (event.time.to_string(), event.kind, event.domain, event.detail)
        };
        let time = "2026-11-25 05:56:20.807+0000";
        let parts = |kind: &str, domain: &str, detail: &str| {
            ("2026-11-25T05:56:20.807Z".to_owned(), kind.to_owned(), domain.to_owned(), detail.to_owned())
        };
        assert_eq!(
            parse(&format!("{time}: event 'lifecycle' for domain 'it's': odd': Stopped Destroyed")),
            parts("lifecycle", "it's': odd", "Stopped Destroyed")
        );
        assert_eq!(
            parse(&format!(
                "{time}: event 'agent-lifecycle' for domain 'a': state: 'connected' reason: 'channel event'"
            )),
            parts("agent-lifecycle", "a", "state: 'connected' reason: 'channel event'")
        );
        assert_eq!(parse(&format!("{time}: event 'reboot' for domain 'a'")), parts("reboot", "a", ""));
        assert_eq!(Event::from_line("events received: 3"), None);
        assert_eq!(Event::from_line("\tcpu: 3"), None);
    }
}
