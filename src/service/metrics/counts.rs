//! The counters, gauges and histograms of the service, and their names.

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::{Registry, Unit},
};

/// The histogram buckets of request durations in seconds: from a response from memory to a create that is waited for.
const REQUEST_BOUNDS: [f64; 12] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0];

/// The histogram buckets of operation durations in seconds: from a rename to an image download over a slow connection.
const OPERATION_BOUNDS: [f64; 11] = [0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 180.0, 600.0, 1800.0];

/// The histogram buckets of program runtimes in seconds: from one query of libvirt to the limit of
/// [`tools`](crate::tools).
const PROGRAM_BOUNDS: [f64; 11] = [0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0, 180.0];

type Histograms<S> = Family<S, Histogram, fn() -> Histogram>;

#[derive(Debug)]
pub(super) struct Requests {
    pub(super) total: Family<Request, Counter>,
    pub(super) seconds: Histograms<Route>,
    pub(super) in_flight: Gauge,
}

#[derive(Debug, Clone)]
pub(super) struct Operations {
    pub(super) now: Family<Phase, Gauge>,
    pub(super) finished: Family<Finished, Counter>,
    pub(super) seconds: Histograms<Kind>,
}

#[derive(Debug)]
pub(super) struct Programs {
    pub(super) started: Family<Program, Counter>,
    pub(super) failed: Family<Program, Counter>,
    pub(super) seconds: Histograms<Program>,
}

#[derive(Debug)]
pub(super) struct Downloads {
    pub(super) total: Family<Download, Counter>,
    pub(super) bytes: Counter,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct Request {
    pub(super) route: String,
    pub(super) method: &'static str,
    pub(super) code: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct Route {
    pub(super) route: String,
    pub(super) method: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct Phase {
    pub(super) kind: &'static str,
    pub(super) state: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct Finished {
    pub(super) kind: &'static str,
    pub(super) outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct Kind {
    pub(super) kind: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct Program {
    pub(super) program: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct Download {
    pub(super) result: &'static str,
}

impl Requests {
    pub(super) fn new(registry: &mut Registry) -> Self {
        let new = Self {
            total: Family::default(),
            seconds: Family::new_with_constructor(|| Histogram::new(REQUEST_BOUNDS)),
            in_flight: Gauge::default(),
        };
        registry.register("vmprov_http_requests", "Requests answered", new.total.clone());
        let help = "Time to answer requests";
        registry.register_with_unit("vmprov_http_request_duration", help, Unit::Seconds, new.seconds.clone());
        registry.register("vmprov_http_requests_in_flight", "Requests in progress", new.in_flight.clone());
        new
    }
}

impl Operations {
    pub(super) fn new(registry: &mut Registry) -> Self {
        let new = Self {
            now: Family::default(),
            finished: Family::default(),
            seconds: Family::new_with_constructor(|| Histogram::new(OPERATION_BOUNDS)),
        };
        registry.register("vmprov_operations", "Operations that are queued or running", new.now.clone());
        // Not vmprov_operations_total: a counter of that name and the gauge would be one metric family.
        registry.register("vmprov_operations_finished", "Ended operations by outcome", new.finished.clone());
        let help = "Run time of operations";
        registry.register_with_unit("vmprov_operation_duration", help, Unit::Seconds, new.seconds.clone());
        new
    }

    pub(super) fn enter(&self, kind: &'static str, state: &'static str) {
        self.now.get_or_create(&Phase { kind, state }).inc();
    }

    pub(super) fn leave(&self, kind: &'static str, state: &'static str) {
        self.now.get_or_create(&Phase { kind, state }).dec();
    }
}

impl Programs {
    pub(super) fn new(registry: &mut Registry) -> Self {
        let new = Self {
            started: Family::default(),
            failed: Family::default(),
            seconds: Family::new_with_constructor(|| Histogram::new(PROGRAM_BOUNDS)),
        };
        registry.register("vmprov_processes_started", "Started external programs", new.started.clone());
        let help = "External programs that could not start, were killed at their time limit or exited with an error";
        registry.register("vmprov_processes_failed", help, new.failed.clone());
        let help = "Run time of external programs";
        registry.register_with_unit("vmprov_process_duration", help, Unit::Seconds, new.seconds.clone());
        new
    }
}

impl Downloads {
    pub(super) fn new(registry: &mut Registry) -> Self {
        let new = Self { total: Family::default(), bytes: Counter::default() };
        registry.register("vmprov_image_downloads", "Ended image downloads by result", new.total.clone());
        let help = "Bytes of images received";
        registry.register_with_unit("vmprov_image_download", help, Unit::Bytes, new.bytes.clone());
        new
    }
}
