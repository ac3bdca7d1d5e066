//! What the faces share that serve many callers: who may, what is under way, looks that are shared, and what is counted.
//!
//! Nothing here knows how a request came or how it is answered: texts speak the command line's words, and each face puts them
//! into its own.

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
use event_log::Feed;
use job::Job;
use jobs::{IdempotencyKey, Jobs, Order};
use metrics::Metrics;
use quota::Quotas;
use single_flight::{SharedReport, SingleFlight};

/// How long an answer may take where nobody says: many clients give up after 60 s.
pub(crate) const ANSWER_WITHIN: Duration = Duration::from_secs(45);

/// How long a look may take. Whoever asks gives up after a minute, and should be told why before that.
pub(crate) const LOOK_LIMIT: Duration = Duration::from_secs(30);

/// What decides how a service works.
#[derive(Debug)]
pub struct Options {
    /// Where the operations work.
    pub settings: Settings,
    /// What may be named as an image or as an installer beside what is public.
    pub images: Limits,
    /// Where it is noted who has asked for what.
    pub audit_log: Option<Utf8PathBuf>,
    /// Whether a change is refused while it might not be recorded there.
    pub audit_required: bool,
}

/// What all requests share.
pub(crate) struct Service {
    settings: Settings,
    pub(crate) jobs: Jobs,
    pub(crate) reads: SingleFlight,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) stats: CachedProbe<Stats>,
    pub(crate) ready: CachedProbe<Diagnosis>,
    pub(crate) feed: Arc<Feed>,
    pub(crate) ears: EventListener,
    /// Ends whatever only looks or listens.
    looks: Cancel,
    pub(crate) quotas: Quotas,
    pub(crate) audit: Audit,
    limits: Limits,
    is_ending: AtomicBool,
}

impl Service {
    pub(crate) fn new(options: Options) -> Result<Self> {
        let Options { settings, images, audit_log, audit_required } = options;
        let metrics = Metrics::new();
        Ok(Self {
            settings,
            audit: Audit::open(audit_log, audit_required, metrics.audit_lost())?,
            limits: images,
            jobs: Jobs::default(),
            reads: SingleFlight::default(),
            quotas: Quotas::default(),
            metrics: Arc::new(metrics),
            stats: CachedProbe::default(),
            ready: CachedProbe::default(),
            feed: Arc::new(Feed::new()),
            ears: EventListener::default(),
            looks: Cancel::default(),
            is_ending: AtomicBool::new(false),
        })
    }

    /// Begins what a client asks for, where they may: what is [`Operation::read`].
    pub(crate) async fn ask(self: &Arc<Self>, asked: Submission) -> Result<Begun> {
        let Submission { client, operation, mut request, request_id, key } = asked;
        authorization::request(&client, operation, &request, &self.settings.pool)?;
        if operation.effect != Effect::Read {
            self.audit.require()?;
        }
        if operation.pace == ExecutionMode::Quick {
            return Ok(Begun::Look(SingleFlight::look(self, &client, operation, request).await));
        }
        client.bound(operation, &mut request);
        let reservation = Quotas::reserve(self, &client, operation, &request).await?;
        let queue = self.queue(&client, operation, &request).await;
        Jobs::begin(self, Order { operation, request, client, request_id, reservation, queue, key }).map(Begun::Job)
    }

    /// The VM in whose queue a request has to wait: by its name, whatever the request names it by.
    async fn queue(self: &Arc<Self>, client: &Arc<Client>, operation: &Operation, request: &Value) -> Option<String> {
        let vm = operation.vm(request).filter(|_| operation.is_ordered(request))?;
        let info = api::find("vm_info").filter(|_| Uuid::parse_str(vm).is_ok());
        if let Some(info) = info
            && let Ok(Report::Json(found)) = &*SingleFlight::look(self, client, info, json!({"vm": vm})).await
            && let Some(name) = found["name"].as_str()
        {
            return Some(name.to_owned());
        }
        // One that is not there is refused by the operation itself.
        Some(vm.to_owned())
    }

    /// The host, for an operation that a client may cancel.
    pub(crate) fn host(&self, client: &Client, cancel: Cancel, progress: Arc<dyn Progress>) -> Host {
        let limits = Limits { only: client.image_hosts.clone(), ..self.limits.clone() };
        let host = self.own_host(cancel, progress).limited_to(SourcePolicy::Limited(limits));
        host.on_behalf_of(client.caller())
    }

    /// The host, for a client's look.
    pub(crate) fn host_for_look(&self, client: &Client) -> Host {
        self.host(client, self.looks.clone(), Arc::new(())).with_time_limit(LOOK_LIMIT)
    }

    /// The host, for whatever listens as long as the service lives.
    pub(crate) fn host_for_listening(&self) -> Host {
        self.own_host(self.looks.clone(), Arc::new(()))
    }

    fn own_host(&self, cancel: Cancel, progress: Arc<dyn Progress>) -> Host {
        Host::new(self.settings.clone(), cancel, progress).observed_by(self.metrics.clone()).in_background()
    }

    /// Ends every look: nobody waits for an answer any more.
    pub(crate) fn end_looks(&self) {
        self.looks.raise();
    }

    /// Whether nobody waits for an answer any more.
    pub(crate) fn is_over(&self) -> bool {
        self.looks.check().is_err()
    }

    /// Reads again what the operator may have changed.
    pub(crate) fn reload(&self) {
        self.audit.reopen();
    }

    /// Takes no further work.
    pub(crate) fn close(&self) {
        self.is_ending.store(true, Ordering::SeqCst);
    }

    /// Whether no further work is taken.
    pub(crate) fn is_ending(&self) -> bool {
        self.is_ending.load(Ordering::SeqCst)
    }
}

/// What a client asks for.
pub(crate) struct Submission {
    pub(crate) client: Arc<Client>,
    pub(crate) operation: &'static Operation,
    pub(crate) request: Value,
    pub(crate) request_id: String,
    /// The client's own name for it.
    pub(crate) key: Option<IdempotencyKey>,
}

/// What was begun.
pub(crate) enum Begun {
    /// A look, and what it has seen.
    Look(SharedReport),
    /// Something that may take long.
    Job(Arc<Job>),
}

#[cfg(test)]
impl Service {
    /// One that works on libvirt's in-memory driver and keeps no files, and that has not begun to listen to it.
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
        let service = Self::new(options).expect("without files there is nothing that can fail");
        service.ears.close();
        Arc::new(service)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_vm_has_one_queue_whatever_it_is_called_by() {
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
