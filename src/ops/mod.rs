//! The operations of vmprov. Each takes a request and returns a report. Nothing here depends on a command line, HTTP or
//! a terminal.

mod accelerator;
mod allowance;
mod caller;
mod chains;
pub mod connection;
pub mod doctor;
pub mod gc;
pub mod image;
pub mod key;
mod lease;
mod orphans;
pub mod prepare;
pub mod progress;
pub mod reap;
mod source_policy;
pub mod stats;
pub mod undo;
pub mod vm;

use std::{sync::Arc, time::Duration};

use camino::Utf8PathBuf;

use crate::{
    cancel::Cancel,
    error::{Error, Fault, Hint, ResourceKind, Result},
    model::{image::Mirror, proxy::Proxies, source_policy::SourcePolicy},
    observer::Observer,
    store::{http::Http, keys::KeyStore, rsa::Effort},
    tools::{Runner, fence::Fence, virsh::Virsh},
};
pub use allowance::Allowance;
pub use caller::Caller;
use progress::Progress;

/// Where and how operations work. A front end fills it from its options, environment and files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The libvirt connection.
    pub uri: String,
    /// The storage pool for disks, base images and seeds.
    pub pool: String,
    /// Where that pool is created if it does not exist.
    pub pool_path: Utf8PathBuf,
    /// Where SSH keys are stored.
    pub key_dir: Utf8PathBuf,
    /// Where the files that plain `ssh` needs to reach the VMs are stored.
    pub data_dir: Utf8PathBuf,
    /// Where unfinished downloads and the cached results of host checks are stored.
    pub cache_dir: Utf8PathBuf,
    /// The mirrors that publishers' files are downloaded from instead.
    pub mirrors: Vec<Mirror>,
    /// The proxies for HTTP requests.
    pub proxies: Proxies,
    /// Whether images without a checksum or signature are refused.
    pub require_verified: bool,
    /// How long a server may send no data before the download fails.
    pub stall_limit: Duration,
    /// The site's own files of the image catalogue; a later file overrides an earlier one.
    pub catalogue_files: Vec<Utf8PathBuf>,
    /// The images and installers that requests may name.
    pub sources: SourcePolicy,
}

/// The host as an operation sees it: libvirt, programs, stored keys, HTTP.
#[derive(Clone)]
pub struct Host {
    /// Its settings.
    pub settings: Settings,
    pub(crate) virsh: Virsh,
    pub(crate) runner: Runner,
    pub(crate) keys: KeyStore,
    pub(crate) http: Http,
    progress: Arc<dyn Progress>,
    caller: Caller,
    allowance: Arc<dyn Allowance>,
}

impl Host {
    /// Returns a host to work on. This calls nothing yet.
    pub fn new(settings: Settings, cancel: Cancel, progress: Arc<dyn Progress>) -> Self {
        Self::with(settings, Runner { cancel, ..Runner::default() }, progress)
    }

    /// Returns the same host for another request, which has its own cancellation and progress.
    #[must_use]
    pub fn for_request(&self, cancel: Cancel, progress: Arc<dyn Progress>) -> Self {
        let host = self.like(self.settings.clone(), Runner { cancel, ..self.runner.clone() });
        // libvirtd may have been replaced since the last request.
        Self { virsh: host.virsh.with_unknown_identity(), progress, ..host }
    }

    /// Returns the same host with an observer that counts program runs and downloads.
    #[must_use]
    pub fn observed_by(&self, observer: Arc<dyn Observer>) -> Self {
        let runner = Runner { observer: Some(observer), ..self.runner.clone() };
        self.like(self.settings.clone(), runner)
    }

    /// Returns the same host for a dry run: nothing is changed, and the commands that would run are recorded for
    /// [`Self::planned`].
    #[must_use]
    pub fn dry_run(&self) -> Self {
        let runner = Runner { plan: Some(Arc::default()), ..self.runner.clone() };
        self.like(self.settings.clone(), runner)
    }

    /// Returns the same host for requests that may name only these images and installers.
    #[must_use]
    pub fn limited_to(&self, sources: SourcePolicy) -> Self {
        let settings = Settings { sources, ..self.settings.clone() };
        self.like(settings, self.runner.clone())
    }

    /// Returns the same host on behalf of a caller, who may see only part of it or have a quota.
    #[must_use]
    pub fn on_behalf_of(&self, caller: Caller) -> Self {
        Self { caller, ..self.clone() }
    }

    /// Returns the same host with a quota check for what an operation creates beyond what its request states.
    #[must_use]
    pub fn within(&self, allowance: Arc<dyn Allowance>) -> Self {
        Self { allowance, ..self.clone() }
    }

    /// Returns the same host for a process that also does other work: computations leave processors free for it.
    #[must_use]
    pub fn in_background(self) -> Self {
        let keys = self.keys.with_effort(Effort::Background);
        Self { keys, ..self }
    }

    /// Returns the commands that a dry run would have run.
    pub fn planned(&self) -> Vec<String> {
        self.runner.planned()
    }

    fn with(settings: Settings, runner: Runner, progress: Arc<dyn Progress>) -> Self {
        Self {
            virsh: Virsh::new(settings.uri.clone(), runner.clone()),
            keys: KeyStore::new(&settings.key_dir).cancelled_by(runner.cancel.clone()),
            http: Http::new(settings.stall_limit, &settings.proxies, runner.cancel.clone())
                .limited_to(&settings.sources),
            settings,
            runner,
            progress,
            caller: Caller::default(),
            allowance: Arc::new(()),
        }
    }

    fn like(&self, settings: Settings, runner: Runner) -> Self {
        let like = Self::with(settings, runner.clone(), self.progress.clone());
        Self {
            virsh: self.virsh.run_by(runner),
            caller: self.caller.clone(),
            allowance: self.allowance.clone(),
            keys: like.keys.with_effort(self.keys.effort()),
            ..like
        }
    }

    /// Returns the same host without cancellation, for rollback.
    fn uncancellable(&self) -> Self {
        self.like(self.settings.clone(), self.runner.uncancellable())
    }

    /// Returns the same host, which refuses changes once the fence is closed.
    fn fenced_by(&self, fence: Fence) -> Self {
        let fence = match &self.runner.fence {
            Some(outer) => fence.and(outer),
            None => fence,
        };
        self.like(self.settings.clone(), Runner { fence: Some(fence), ..self.runner.clone() })
    }

    /// Returns the same host with a time limit for each call, for probes that must be quick.
    #[must_use]
    pub fn with_time_limit(&self, limit: Duration) -> Self {
        let limit = self.runner.limit.map_or(limit, |present| present.min(limit));
        let runner = Runner { limit: Some(limit), ..self.runner.clone() };
        self.like(self.settings.clone(), runner)
    }

    fn is_dry_run(&self) -> bool {
        self.runner.plan.is_some()
    }

    /// Returns the hypervisor's identity, which does not depend on how the URI is spelled. It is part of the names of
    /// locks and of cached results.
    fn hypervisor(&self) -> Result<String> {
        self.virsh.hypervisor()
    }

    fn step(&self, text: impl AsRef<str>) {
        self.progress.step(text.as_ref());
    }

    /// Adds a warning to the operation's report and sends it to its progress at once.
    fn warn(&self, warnings: &mut Vec<String>, text: impl Into<String>) {
        let text = text.into();
        self.progress.warn(&text);
        warnings.push(text);
    }
}

/// Returns the error for a resource that does not exist, with similar names. `list` is the hint to list existing ones.
fn missing<'a>(kind: ResourceKind, name: &str, known: impl IntoIterator<Item = &'a str>, list: Hint) -> Error {
    unknown(kind.noun(), name, known, list).fault(Fault::Missing(kind))
}

/// Returns the error for a name that does not exist, with similar names. `list` is the hint to list existing ones.
fn unknown<'a>(what: &str, name: &str, known: impl IntoIterator<Item = &'a str>, list: Hint) -> Error {
    /// The least Jaro-Winkler similarity. Below it are words that no one would confuse.
    const MIN_SIMILARITY: f64 = 0.75;
    let mut similar: Vec<_> = known
        .into_iter()
        .map(|other| (strsim::jaro_winkler(name, other), other))
        .filter(|(similarity, _)| *similarity > MIN_SIMILARITY)
        .collect();
    similar.sort_by(|(a, _), (b, _)| b.total_cmp(a));
    let error = Error::not_found(format!("{what} `{}` does not exist", name.escape_debug()));
    let error = match &similar[..] {
        [] => error,
        similar => {
            let names: Vec<_> = similar.iter().take(3).map(|(_, name)| format!("`{}`", name.escape_debug())).collect();
            error.hint(format!("Check the name; similar: {}", names.join(", ")))
        }
    };
    error.hint(list)
}

/// Runs two closures in parallel. A dry run runs them in sequence, so that the recorded commands have a fixed order.
fn side_by_side<A: Send, B>(
    host: &Host,
    beside: impl FnOnce() -> Result<A> + Send,
    here: impl FnOnce() -> Result<B>,
) -> Result<(A, B)> {
    if host.is_dry_run() {
        return Ok((beside()?, here()?));
    }
    std::thread::scope(|scope| {
        let beside = scope.spawn(beside);
        let here = here();
        let beside = beside.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        Ok((beside?, here?))
    })
}
