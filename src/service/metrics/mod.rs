//! The metrics for Prometheus: those of the service, and libvirt's statistics.
//!
//! Every label has few values: the template of a route, the name of an operation, a program, or the code of an
//! [`error`](crate::error). Names of VMs and pools appear only in libvirt's statistics.

mod counts;
mod libvirt;

use std::time::{Duration, Instant};

use prometheus_client::{
    encoding::text::{encode_eof, encode_registry},
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

use self::{
    counts::{Download, Downloads, Finished, Kind, Operations, Program, Programs, Request, Requests, Route},
    libvirt::Libvirt,
};
use crate::{
    error::{Code, Error, Result},
    model::stats::Stats,
    observer::Observer,
};

/// The media type of [`Metrics::encode`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The metrics since the start of the service.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    requests: Requests,
    operations: Operations,
    programs: Programs,
    downloads: Downloads,
    audit_lost: Counter,
}

impl Metrics {
    /// Returns metrics that are all zero.
    pub fn new() -> Self {
        let mut registry = Registry::default();
        // Not of the type "info", which not every reader of this format supports.
        let build = Family::<[(&str, &str); 1], Gauge>::default();
        build.get_or_create(&[("version", env!("CARGO_PKG_VERSION"))]).set(1);
        registry.register("vmprov_build_info", "Version of vmprov", build);
        let audit_lost = Counter::default();
        let help = "Records lost by the audit log";
        registry.register("vmprov_audit_records_lost", help, audit_lost.clone());
        Self {
            audit_lost,
            requests: Requests::new(&mut registry),
            operations: Operations::new(&mut registry),
            programs: Programs::new(&mut registry),
            downloads: Downloads::new(&mut registry),
            registry,
        }
    }

    /// Returns the counter of the records lost by the audit log.
    pub(super) fn audit_lost(&self) -> Counter {
        self.audit_lost.clone()
    }

    /// Counts an answered request. `route` is the template (`/vms/{name}`), or a fixed word if no route matches.
    pub fn request(&self, route: &str, method: &str, status: u16, took: Duration) {
        let (route, method) = (route.to_owned(), known_method(method));
        self.requests.seconds.get_or_create(&Route { route: route.clone(), method }).observe(took.as_secs_f64());
        self.requests.total.get_or_create(&Request { route, method, code: status }).inc();
    }

    /// Counts a request as in flight until the returned guard is dropped.
    pub fn in_flight(&self) -> InFlight {
        self.requests.in_flight.inc();
        InFlight(self.requests.in_flight.clone())
    }

    /// Counts a submitted operation as queued.
    pub fn operation(&self, kind: &'static str) -> Operation {
        self.operations.enter(kind, QUEUED);
        Operation { operations: self.operations.clone(), kind, since: None, outcome: Err(Code::Internal) }
    }

    /// Returns the metrics and libvirt's statistics as text of [`CONTENT_TYPE`]. Without statistics, `libvirt_up` is 0
    /// and libvirt's other metrics are missing.
    pub fn encode(&self, stats: Result<&Stats, &Error>) -> String {
        let mut libvirt = Registry::default();
        libvirt.register_collector(Box::new(Libvirt(stats.ok().cloned())));
        let mut text = String::new();
        let written = encode_registry(&mut text, &self.registry)
            .and_then(|()| encode_registry(&mut text, &libvirt))
            .and_then(|()| encode_eof(&mut text));
        // A scraper detects an incomplete text by its missing end.
        if let Err(error) = written {
            tracing::error!("cannot write the metrics: {error}");
        }
        text
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

/// A request that is not answered yet.
#[derive(Debug)]
#[must_use = "the request counts as in flight until this is dropped"]
pub struct InFlight(Gauge);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.dec();
    }
}

const QUEUED: &str = "queued";
const RUNNING: &str = "running";

/// An operation that has not ended yet. If it is dropped without [`Self::end`], its outcome is an internal error.
#[derive(Debug)]
#[must_use = "the operation ends when this is dropped"]
pub struct Operation {
    operations: Operations,
    kind: &'static str,
    /// When it started to run.
    since: Option<Instant>,
    outcome: Result<(), Code>,
}

impl Operation {
    /// Counts the operation as running.
    pub fn begin(&mut self) {
        if self.since.is_none() {
            self.operations.leave(self.kind, QUEUED);
            self.operations.enter(self.kind, RUNNING);
            self.since = Some(Instant::now());
        }
    }

    /// Counts the operation as ended, whether it had started to run or not.
    pub fn end(mut self, outcome: Result<(), Code>) {
        self.outcome = outcome;
    }
}

impl Drop for Operation {
    fn drop(&mut self) {
        let (kind, outcome) = (self.kind, name_of(self.outcome));
        self.operations.leave(kind, if self.since.is_some() { RUNNING } else { QUEUED });
        self.operations.finished.get_or_create(&Finished { kind, outcome }).inc();
        if let Some(since) = self.since {
            self.operations.seconds.get_or_create(&Kind { kind }).observe(since.elapsed().as_secs_f64());
        }
    }
}

impl Observer for Metrics {
    fn program_started(&self, program: &'static str) {
        self.programs.started.get_or_create(&Program { program }).inc();
    }

    fn program_ended(&self, program: &'static str, took: Option<Duration>, succeeded: bool) {
        if let Some(took) = took {
            self.programs.seconds.get_or_create(&Program { program }).observe(took.as_secs_f64());
        }
        if !succeeded {
            self.programs.failed.get_or_create(&Program { program }).inc();
        }
    }

    fn received(&self, bytes: u64) {
        self.downloads.bytes.inc_by(bytes);
    }

    fn download_ended(&self, result: Result<(), &Error>) {
        let result = name_of(result.map_err(|error| error.code));
        self.downloads.total.get_or_create(&Download { result }).inc();
    }
}

/// Returns the name of an outcome: `succeeded`, or the code of the error.
fn name_of(outcome: Result<(), Code>) -> &'static str {
    outcome.map_or_else(Code::name, |()| "succeeded")
}

/// Returns the method, or `other` for an unknown one, so that the label has few values.
fn known_method(method: &str) -> &'static str {
    const KNOWN: [&str; 8] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"];
    KNOWN.into_iter().find(|known| *known == method).unwrap_or("other")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Asserts that the text has this line.
    #[track_caller]
    fn assert_has(text: &str, line: &str) {
        assert!(text.lines().any(|other| other == line), "no `{line}` in:\n{text}");
    }

    fn text(metrics: &Metrics) -> String {
        metrics.encode(Ok(&Stats::default()))
    }

    #[test]
    fn a_libvirt_that_does_not_answer_is_down_and_has_no_statistics() {
        let metrics = Metrics::new();
        assert_has(&text(&metrics), "libvirt_up 1");
        assert_has(&text(&metrics), "libvirt_domains 0");
        let text = metrics.encode(Err(&Error::new(Code::Timeout, "it hangs")));
        let rows: Vec<_> = text.lines().filter(|line| line.contains("libvirt_") && !line.starts_with('#')).collect();
        assert_eq!(rows, ["libvirt_up 0"]);
        assert!(text.contains("vmprov_build_info") && text.ends_with("# EOF\n"), "{text}");
    }

    #[test]
    fn a_request_is_counted_by_route_method_and_status() {
        let metrics = Metrics::new();
        let in_flight = metrics.in_flight();
        metrics.request("/vms/{name}", "GET", 200, Duration::from_millis(30));
        metrics.request("/vms/{name}", "GET", 404, Duration::from_millis(3));
        metrics.request("other", "BREW\"", 405, Duration::ZERO);
        let shown = text(&metrics);
        assert_has(&shown, r#"vmprov_http_requests_total{route="/vms/{name}",method="GET",code="200"} 1"#);
        assert_has(&shown, r#"vmprov_http_requests_total{route="/vms/{name}",method="GET",code="404"} 1"#);
        assert_has(&shown, r#"vmprov_http_requests_total{route="other",method="other",code="405"} 1"#);
        let seconds = "vmprov_http_request_duration_seconds";
        assert_has(&shown, &format!(r#"{seconds}_sum{{route="/vms/{{name}}",method="GET"}} 0.033"#));
        assert_has(&shown, &format!(r#"{seconds}_bucket{{le="0.025",route="/vms/{{name}}",method="GET"}} 1"#));
        assert_has(&shown, &format!(r#"{seconds}_bucket{{le="0.05",route="/vms/{{name}}",method="GET"}} 2"#));
        assert_has(&shown, "vmprov_http_requests_in_flight 1");
        drop(in_flight);
        assert_has(&text(&metrics), "vmprov_http_requests_in_flight 0");
    }

    #[test]
    fn an_operation_counts_in_one_state_and_with_one_outcome() {
        let metrics = Metrics::new();
        let states = |queued: u8, running: u8| {
            let text = text(&metrics);
            assert_has(&text, &format!(r#"vmprov_operations{{kind="vm_create",state="queued"}} {queued}"#));
            assert_has(&text, &format!(r#"vmprov_operations{{kind="vm_create",state="running"}} {running}"#));
        };
        let (mut first, mut second, third) =
            (metrics.operation("vm_create"), metrics.operation("vm_create"), metrics.operation("vm_create"));
        first.begin();
        states(2, 1);
        second.begin();
        second.begin();
        first.end(Ok(()));
        states(1, 1);
        third.end(Err(Code::Interrupted));
        drop(second);
        states(0, 0);
        let text = text(&metrics);
        for outcome in ["succeeded", "interrupted", "internal"] {
            let line = format!(r#"vmprov_operations_finished_total{{kind="vm_create",outcome="{outcome}"}} 1"#);
            assert_has(&text, &line);
        }
        assert_has(&text, r#"vmprov_operation_duration_seconds_count{kind="vm_create"} 2"#);
    }

    #[test]
    fn observed_programs_and_downloads_are_counted() {
        let metrics = Metrics::new();
        metrics.program_started("virsh");
        metrics.program_ended("virsh", Some(Duration::from_millis(20)), true);
        metrics.program_started("virsh");
        metrics.program_ended("virsh", None, false);
        metrics.received(5);
        metrics.received(6);
        metrics.download_ended(Ok(()));
        metrics.download_ended(Err(&Error::not_found("x")));
        let text = text(&metrics);
        for line in [
            r#"vmprov_processes_started_total{program="virsh"} 2"#,
            r#"vmprov_processes_failed_total{program="virsh"} 1"#,
            r#"vmprov_process_duration_seconds_count{program="virsh"} 1"#,
            r#"vmprov_process_duration_seconds_sum{program="virsh"} 0.02"#,
            "vmprov_image_download_bytes_total 11",
            r#"vmprov_image_downloads_total{result="succeeded"} 1"#,
            r#"vmprov_image_downloads_total{result="not_found"} 1"#,
            concat!(r#"vmprov_build_info{version=""#, env!("CARGO_PKG_VERSION"), r#""} 1"#),
        ] {
            assert_has(&text, line);
        }
    }
}
