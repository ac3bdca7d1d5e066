//! What all requests share.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use super::{Options, feed::Feed, glance::Glance, hearing::Ears, jobs::Jobs, metrics::Metrics, reads::Reads};
use crate::{
    cancel::Cancel,
    model::stats::Stats,
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
    is_ending: AtomicBool,
}

impl Service {
    pub(super) fn new(options: Options) -> Self {
        let Options { settings, listen: _, drain: _ } = options;
        Self {
            settings,
            jobs: Jobs::default(),
            reads: Reads::default(),
            metrics: Arc::new(Metrics::new()),
            stats: Glance::default(),
            ready: Glance::default(),
            feed: Arc::new(Feed::new()),
            ears: Ears::default(),
            looks: Cancel::default(),
            is_ending: AtomicBool::new(false),
        }
    }

    /// The host, for an operation that somebody may cancel.
    pub(super) fn host(&self, cancel: Cancel, progress: Arc<dyn Progress>) -> Host {
        Host::new(self.settings.clone(), cancel, progress).observed_by(self.metrics.clone())
    }

    /// The host, for a look.
    pub(super) fn host_for_look(&self) -> Host {
        self.host_for_listening().hurried(LOOK_LIMIT)
    }

    /// The host, for whatever listens as long as the service lives.
    pub(super) fn host_for_listening(&self) -> Host {
        self.host(self.looks.clone(), Arc::new(()))
    }

    /// Ends every look: nobody waits for an answer any more.
    pub(super) fn end_looks(&self) {
        self.looks.raise();
    }

    /// Whether nobody waits for an answer any more.
    pub(super) fn is_over(&self) -> bool {
        self.looks.check().is_err()
    }

    /// Reads anew what can be read anew while the service runs.
    pub(super) fn reload(&self) {
        tracing::info!(pool = self.settings.pool, "told to reload: nothing was read from files");
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
        };
        let service = Self::new(Options { settings, listen: Vec::new(), drain: Duration::ZERO });
        service.ears.close();
        Arc::new(service)
    }
}
