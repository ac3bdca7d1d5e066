//! What all requests share.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use super::{Options, jobs::Jobs, reads::Reads};
use crate::{
    cancel::Cancel,
    ops::{Host, Settings, progress::Progress},
};

/// How long a look may take. Whoever asks gives up after a minute, and should be told why before that.
const LOOK_LIMIT: Duration = Duration::from_secs(30);

/// What all requests share.
pub(super) struct Service {
    settings: Settings,
    pub(super) jobs: Jobs,
    pub(super) reads: Reads,
    is_ending: AtomicBool,
}

impl Service {
    pub(super) fn new(options: Options) -> Self {
        let Options { settings, listen: _, drain: _ } = options;
        Self { settings, jobs: Jobs::default(), reads: Reads::default(), is_ending: AtomicBool::new(false) }
    }

    /// The host, for an operation that somebody may cancel.
    pub(super) fn host(&self, cancel: Cancel, progress: Arc<dyn Progress>) -> Host {
        Host::new(self.settings.clone(), cancel, progress)
    }

    /// The host, for a look.
    pub(super) fn host_for_look(&self) -> Host {
        self.host(Cancel::default(), Arc::new(())).hurried(LOOK_LIMIT)
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
