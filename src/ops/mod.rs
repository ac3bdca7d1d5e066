//! The verbs: what vmprov does. A request goes in, a report comes out; nothing here knows of a command line, HTTP or a
//! terminal.

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

/// What decides where an operation works; a face fills it from its flags, environment and files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The libvirt connection.
    pub uri: String,
    /// The storage pool for disks, base images and seeds.
    pub pool: String,
    /// Where that pool is made when it is missing.
    pub pool_path: Utf8PathBuf,
    /// Where ssh keys are kept.
    pub key_dir: Utf8PathBuf,
    /// Where what plain ssh needs of the VMs is kept.
    pub data_dir: Utf8PathBuf,
    /// Where downloads are, while they are, and what was found out of this host.
    pub cache_dir: Utf8PathBuf,
    /// Where publishers' files are had from instead.
    pub mirrors: Vec<Mirror>,
    /// Through whom the web is reached.
    pub proxies: Proxies,
    /// Whether images are refused that neither a checksum nor a signature speaks for.
    pub require_verified: bool,
    /// How long a server may be silent.
    pub stall_limit: Duration,
    /// The site's own files of the image catalogue; a later one wins.
    pub catalogue_files: Vec<Utf8PathBuf>,
    /// What may be named as an image or as an installer.
    pub sources: SourcePolicy,
}

/// Everything that an operation may touch.
#[derive(Clone)]
pub struct Host {
    /// Where it works.
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
    /// A host to work on. Nothing is called yet.
    pub fn new(settings: Settings, cancel: Cancel, progress: Arc<dyn Progress>) -> Self {
        Self::with(settings, Runner { cancel, ..Runner::default() }, progress)
    }

    /// The same host, where somebody counts what is called and fetched.
    #[must_use]
    pub fn observed_by(&self, observer: Arc<dyn Observer>) -> Self {
        let runner = Runner { observer: Some(observer), ..self.runner.clone() };
        self.like(self.settings.clone(), runner)
    }

    /// The same host, on which nothing is changed: what would be called is written down for [`Self::planned`].
    #[must_use]
    pub fn dry_run(&self) -> Self {
        let runner = Runner { plan: Some(Arc::default()), ..self.runner.clone() };
        self.like(self.settings.clone(), runner)
    }

    /// The same host for a request that may name these images and installers only.
    #[must_use]
    pub fn limited_to(&self, sources: SourcePolicy) -> Self {
        let settings = Settings { sources, ..self.settings.clone() };
        self.like(settings, self.runner.clone())
    }

    /// The same host for somebody who sees less than everything, or whose VMs are counted.
    #[must_use]
    pub fn on_behalf_of(&self, caller: Caller) -> Self {
        Self { caller, ..self.clone() }
    }

    /// The same host for an operation that asks there before it creates more than the request tells.
    #[must_use]
    pub fn within(&self, allowance: Arc<dyn Allowance>) -> Self {
        Self { allowance, ..self.clone() }
    }

    /// The same host for a process that also does other work: what computes leaves it processors.
    #[must_use]
    pub fn in_background(self) -> Self {
        let keys = self.keys.with_effort(Effort::Background);
        Self { keys, ..self }
    }

    /// What a dry run would have called.
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

    /// The same host, whose calls nobody can cancel: for undoing what was begun.
    fn uncancellable(&self) -> Self {
        self.like(self.settings.clone(), self.runner.uncancellable())
    }

    /// The same host, on which nothing is changed any more once the fence is closed.
    fn fenced_by(&self, fence: Fence) -> Self {
        self.like(self.settings.clone(), Runner { fence: Some(fence), ..self.runner.clone() })
    }

    /// The same host, none of whose calls may take longer than this: for a look that nobody waits long for.
    #[must_use]
    pub fn with_time_limit(&self, limit: Duration) -> Self {
        let limit = self.runner.limit.map_or(limit, |present| present.min(limit));
        let runner = Runner { limit: Some(limit), ..self.runner.clone() };
        self.like(self.settings.clone(), runner)
    }

    fn is_dry_run(&self) -> bool {
        self.runner.plan.is_some()
    }

    /// Which hypervisor it works on, however the URI is spelled: for the names of locks, and for what is remembered of it.
    fn hypervisor(&self) -> Result<String> {
        self.virsh.hypervisor()
    }

    fn step(&self, text: impl AsRef<str>) {
        self.progress.step(text.as_ref());
    }

    /// Warns at once, and in the operation's report.
    fn warn(&self, warnings: &mut Vec<String>, text: impl Into<String>) {
        let text = text.into();
        self.progress.warn(&text);
        warnings.push(text);
    }
}

/// Returns the error for a resource that does not exist, with the names that are similar. `list` is how to list them.
fn missing<'a>(kind: ResourceKind, name: &str, known: impl IntoIterator<Item = &'a str>, list: Hint) -> Error {
    unknown(kind.noun(), name, known, list).fault(Fault::Missing(kind))
}

/// Returns the error for a name that does not exist, with the names that are similar. `list` is how to list them.
fn unknown<'a>(what: &str, name: &str, known: impl IntoIterator<Item = &'a str>, list: Hint) -> Error {
    /// Below this, Jaro-Winkler calls words alike that nobody would mistake for each other.
    const ALIKE: f64 = 0.75;
    let mut near: Vec<_> = known
        .into_iter()
        .map(|other| (strsim::jaro_winkler(name, other), other))
        .filter(|(near, _)| *near > ALIKE)
        .collect();
    near.sort_by(|(a, _), (b, _)| b.total_cmp(a));
    let error = Error::not_found(format!("there is no {what} `{}`", name.escape_debug()));
    let error = match &near[..] {
        [] => error,
        near => {
            let names: Vec<_> = near.iter().take(3).map(|(_, name)| format!("`{}`", name.escape_debug())).collect();
            error.hint(format!("Check the name; similar: {}", names.join(", ")))
        }
    };
    error.hint(list)
}

/// Does two things at once; in a dry run one after the other, so that its commands have an order.
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
