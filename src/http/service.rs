//! What all requests share.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use super::{Options, audit::Audit, client::Client, gate::Gate, jobs::Jobs, quota::Quotas, reads::Reads};
use crate::{
    cancel::Cancel,
    error::Result,
    model::sources::{Limits, Sources},
    ops::{Host, Settings, progress::Progress},
};

/// How long a look may take. Whoever asks gives up after a minute, and should be told why before that.
const LOOK_LIMIT: Duration = Duration::from_secs(30);

/// What all requests share.
pub(super) struct Service {
    settings: Settings,
    pub(super) jobs: Jobs,
    pub(super) reads: Reads,
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
            is_ending: AtomicBool::new(false),
        })
    }

    /// The host, for an operation that a client may cancel.
    pub(super) fn host(&self, client: &Client, cancel: Cancel, progress: Arc<dyn Progress>) -> Host {
        let limits = Limits { only: client.image_hosts.clone(), ..self.limits.clone() };
        let host = Host::new(self.settings.clone(), cancel, progress).limited_to(Sources::Limited(limits));
        host.on_behalf_of(client.caller())
    }

    /// The host, for a client's look.
    pub(super) fn host_for_look(&self, client: &Client) -> Host {
        self.host(client, Cancel::default(), Arc::new(())).hurried(LOOK_LIMIT)
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
