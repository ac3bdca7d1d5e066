//! What all requests share.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use super::{
    Options, audit::Audit, client::Client, feed::Feed, gate::Gate, glance::Glance, hearing::Ears, jobs::Jobs,
    metrics::Metrics, quota::Quotas, reads::Reads,
};
use crate::{
    cancel::Cancel,
    error::Result,
    model::{
        sources::{Limits, Sources},
        stats::Stats,
    },
    ops::{Host, Settings, doctor::Diagnosis, progress::Progress},
};

/// How long a look may take. Whoever asks gives up after a minute, and should be told why before that.
pub(super) const LOOK_LIMIT: Duration = Duration::from_secs(30);

/// What all requests share.
pub(super) struct Service {
    settings: Settings,
    pub(super) jobs: Jobs,
    pub(super) reads: Reads,
    pub(super) metrics: Arc<Metrics>,
    pub(super) stats: Glance<Stats>,
    pub(super) ready: Glance<Diagnosis>,
    pub(super) feed: Arc<Feed>,
    pub(super) ears: Ears,
    /// Ends whatever only looks or listens.
    looks: Cancel,
    pub(super) gate: Gate,
    pub(super) quotas: Quotas,
    pub(super) audit: Audit,
    limits: Limits,
    is_ending: AtomicBool,
}

impl Service {
    pub(super) fn new(options: Options) -> Result<Self> {
        let Options { settings, access, .. } = options;
        Ok(Self {
            settings,
            gate: Gate::new(access.tokens)?,
            audit: Audit::open(access.audit_log)?,
            limits: access.images,
            jobs: Jobs::default(),
            reads: Reads::default(),
            quotas: Quotas::default(),
            metrics: Arc::new(Metrics::new()),
            stats: Glance::default(),
            ready: Glance::default(),
            feed: Arc::new(Feed::new()),
            ears: Ears::default(),
            looks: Cancel::default(),
            is_ending: AtomicBool::new(false),
        })
    }

    /// The host, for an operation that a client may cancel.
    pub(super) fn host(&self, client: &Client, cancel: Cancel, progress: Arc<dyn Progress>) -> Host {
        let limits = Limits { only: client.image_hosts.clone(), ..self.limits.clone() };
        let host = self.own_host(cancel, progress).limited_to(Sources::Limited(limits));
        host.on_behalf_of(client.caller())
    }

    /// The host, for a client's look.
    pub(super) fn host_for_look(&self, client: &Client) -> Host {
        self.host(client, self.looks.clone(), Arc::new(())).hurried(LOOK_LIMIT)
    }

    /// The host, for whatever listens as long as the service lives.
    pub(super) fn host_for_listening(&self) -> Host {
        self.own_host(self.looks.clone(), Arc::new(()))
    }

    fn own_host(&self, cancel: Cancel, progress: Arc<dyn Progress>) -> Host {
        Host::new(self.settings.clone(), cancel, progress).observed_by(self.metrics.clone())
    }

    /// Ends every look: nobody waits for an answer any more.
    pub(super) fn end_looks(&self) {
        self.looks.raise();
    }

    /// Whether nobody waits for an answer any more.
    pub(super) fn is_over(&self) -> bool {
        self.looks.check().is_err()
    }

    /// Reads again what the operator may have changed.
    pub(super) fn reload(&self) {
        self.audit.reopen();
        self.gate.reload();
    }

    /// Takes no further work.
    pub(super) fn close(&self) {
        self.is_ending.store(true, Ordering::SeqCst);
    }

    /// Whether no further work is taken.
    pub(super) fn is_ending(&self) -> bool {
        self.is_ending.load(Ordering::SeqCst)
    }
}

#[cfg(test)]
impl Service {
    /// One that works on libvirt's in-memory driver and keeps no files, and that has not begun to listen to it.
    pub(super) fn for_test() -> Arc<Self> {
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
            sources: Sources::Any,
        };
        let (access, inherited) = (super::Access::default(), Vec::new());
        let options = Options { settings, listen: Vec::new(), inherited, access, drain: Duration::ZERO };
        let service = Self::new(options).expect("without files there is nothing that can fail");
        service.ears.close();
        Arc::new(service)
    }
}
