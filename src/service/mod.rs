//! What the front ends that serve several clients share: authorization, jobs, coalesced reads, events, quotas, the
//! audit log and metrics.
//!
//! Nothing here knows the protocol of a request or of its response.

pub(crate) mod audit;
pub(crate) mod authorization;
mod blocking;
pub(crate) mod cached_probe;
pub(crate) mod client;
pub(crate) mod event_listener;
pub(crate) mod event_log;
pub(crate) mod job;
pub(crate) mod jobs;
pub mod metrics;
mod operations;
pub(crate) mod quota;
pub(crate) mod shutdown;
pub(crate) mod single_flight;
mod vm_queue;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use camino::Utf8PathBuf;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::{
    api::{self, Effect, ExecutionMode, Operation, Report},
    cancel::Cancel,
    error::Result,
    model::{
        source_policy::{Limits, SourcePolicy},
        stats::Stats,
    },
    ops::{Host, Settings, doctor::Diagnosis, progress::Progress},
};
use audit::Audit;
use cached_probe::CachedProbe;
use client::Client;
use event_listener::EventListener;
use event_log::EventLog;
use job::Job;
use jobs::{IdempotencyKey, Jobs, NewJob};
use metrics::Metrics;
use quota::Quotas;
use single_flight::{SharedReport, SingleFlight};

/// How long a client waits for a job by default. Many clients time out after 60 s.
pub(crate) const ANSWER_WITHIN: Duration = Duration::from_secs(45);

/// The time limit of each program that a read runs. Clients time out after a minute, and must receive the error before.
pub(crate) const READ_TIMEOUT: Duration = Duration::from_secs(30);

/// The configuration of a service.
#[derive(Debug)]
pub struct Options {
    /// The settings of the operations: libvirt connection, storage pool, folders.
    pub settings: Settings,
    /// The non-public sources that requests may name as an image or an installer.
    pub images: Limits,
    /// The file of the audit log.
    pub audit_log: Option<Utf8PathBuf>,
    /// Whether changes are refused while their records might be lost.
    pub audit_required: bool,
}

/// The state that all requests share.
pub(crate) struct Service {
    settings: Settings,
    /// The host that every request's host shares its connections with.
    host: Host,
    pub(crate) jobs: Jobs,
    pub(crate) reads: SingleFlight,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) stats: CachedProbe<Stats>,
    pub(crate) ready: CachedProbe<Diagnosis>,
    pub(crate) event_log: Arc<EventLog>,
    pub(crate) listener: EventListener,
    /// Cancels every read and the event listener.
    read_cancel: Cancel,
    pub(crate) quotas: Quotas,
    pub(crate) audit: Audit,
    limits: Limits,
    is_closed: AtomicBool,
}

impl Service {
    pub(crate) fn new(options: Options) -> Result<Self> {
        let Options { settings, images, audit_log, audit_required } = options;
        let metrics = Metrics::new();
        let audit = Audit::open(audit_log, audit_required, metrics.audit_lost())?;
        let metrics = Arc::new(metrics);
        let host = Host::new(settings.clone(), Cancel::default(), Arc::new(()));
        Ok(Self {
            settings,
            host: host.observed_by(metrics.clone()).in_background(),
            audit,
            limits: images,
            jobs: Jobs::default(),
            reads: SingleFlight::default(),
            quotas: Quotas::default(),
            metrics,
            stats: CachedProbe::default(),
            ready: CachedProbe::default(),
            event_log: Arc::new(EventLog::new()),
            listener: EventListener::default(),
            read_cancel: Cancel::default(),
            is_closed: AtomicBool::new(false),
        })
    }

    /// Authorizes a request and starts it. The request must have passed [`Operation::read`].
    pub(crate) async fn submit(self: &Arc<Self>, submission: Submission) -> Result<Begun> {
        let Submission { client, operation, mut request, request_id, key } = submission;
        authorization::authorize(&client, operation, &request, &self.settings.pool)?;
        if operation.effect != Effect::Read {
            self.audit.require()?;
        }
        if operation.mode == ExecutionMode::Quick {
            return Ok(Begun::Read(SingleFlight::read(self, &client, operation, request).await));
        }
        client.apply_defaults(operation, &mut request);
        let reservation = Quotas::reserve(self, &client, operation, &request).await?;
        let queue = self.queue(&client, operation, &request).await;
        Jobs::begin(self, NewJob { operation, request, client, request_id, reservation, queue, key }).map(Begun::Job)
    }

    /// Returns the name of the VM in whose queue the request waits, also if the request contains the VM's UUID.
    async fn queue(self: &Arc<Self>, client: &Arc<Client>, operation: &Operation, request: &Value) -> Option<String> {
        let vm = operation.vm(request).filter(|_| operation.is_ordered(request))?;
        let info = api::find("vm_info").filter(|_| Uuid::parse_str(vm).is_ok());
        if let Some(info) = info
            && let Ok(Report::Json(found)) = &*SingleFlight::read(self, client, info, json!({"vm": vm})).await
            && let Some(name) = found["name"].as_str()
        {
            return Some(name.to_owned());
        }
        // If the VM does not exist, the operation itself fails.
        Some(vm.to_owned())
    }

    /// Returns the host for a client's operation, which the client can cancel.
    pub(crate) fn host(&self, client: &Client, cancel: Cancel, progress: Arc<dyn Progress>) -> Host {
        let limits = Limits { only: client.image_hosts.clone(), ..self.limits.clone() };
        let host = self.host.for_request(cancel, progress).limited_to(SourcePolicy::Limited(limits));
        host.on_behalf_of(client.caller())
    }

    /// Returns the host for a client's read.
    pub(crate) fn host_for_read(&self, client: &Client) -> Host {
        self.host(client, self.read_cancel.clone(), Arc::new(())).with_time_limit(READ_TIMEOUT)
    }

    /// Returns the host for the service's own reads: probes, metrics and the event listener.
    pub(crate) fn background_host(&self) -> Host {
        self.host.for_request(self.read_cancel.clone(), Arc::new(()))
    }

    /// Cancels every read. Called when no client waits for a response any more.
    pub(crate) fn cancel_reads(&self) {
        self.read_cancel.raise();
    }

    /// Returns whether [`Self::cancel_reads`] was called.
    pub(crate) fn is_stopped(&self) -> bool {
        self.read_cancel.check().is_err()
    }

    /// Reopens the audit log, which the operator may have rotated.
    pub(crate) fn reload(&self) {
        self.audit.reopen();
    }

    /// Makes the service refuse new jobs.
    pub(crate) fn close(&self) {
        self.is_closed.store(true, Ordering::SeqCst);
    }

    /// Returns whether the service refuses new jobs because it shuts down.
    pub(crate) fn is_shutting_down(&self) -> bool {
        self.is_closed.load(Ordering::SeqCst)
    }
}

/// A client's request to run an operation.
pub(crate) struct Submission {
    pub(crate) client: Arc<Client>,
    pub(crate) operation: &'static Operation,
    pub(crate) request: Value,
    pub(crate) request_id: String,
    pub(crate) key: Option<IdempotencyKey>,
}

/// The result of a submission.
pub(crate) enum Begun {
    /// The report of a finished read.
    Read(SharedReport),
    /// A job, which may take long.
    Job(Arc<Job>),
}

#[cfg(test)]
impl Service {
    /// Returns a service that uses libvirt's in-memory driver, writes no files, and never listens to libvirt's events.
    pub(crate) fn for_test() -> Arc<Self> {
        let settings = Settings {
            uri: "test:///default".to_owned(),
            pool: "default-pool".to_owned(),
            pool_path: "/not-there/pool".into(),
            key_dir: "/not-there/keys".into(),
            data_dir: "/not-there/data".into(),
            cache_dir: "/not-there/cache".into(),
            mirrors: Vec::new(),
            proxies: crate::model::proxy::Proxies::default(),
            require_verified: false,
            stall_limit: Duration::from_secs(2),
            catalogue_files: Vec::new(),
            sources: SourcePolicy::Any,
        };
        let options = Options { settings, images: Limits::default(), audit_log: None, audit_required: false };
        let service = Self::new(options).expect("a service without files always starts");
        service.listener.disable();
        Arc::new(service)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_vm_has_one_queue_for_its_name_and_its_uuid() {
        let service = Service::for_test();
        let client = Arc::new(Client::anonymous());
        let (start, stop) = (api::find("vm_start").unwrap(), api::find("vm_stop").unwrap());
        for (vm, queue) in [("test", "test"), ("6695eb01-f6a4-8304-79aa-97f2502e193f", "test"), ("nobody", "nobody")] {
            let found = service.queue(&client, start, &json!({"vm": vm})).await;
            assert_eq!(found.as_deref(), Some(queue), "{vm}");
        }
        assert_eq!(service.queue(&client, stop, &json!({"vm": "test", "force": true})).await, None);
    }
}
