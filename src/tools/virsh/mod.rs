//! libvirt, through `virsh`: one method for each action.
//!
//! Where possible, only XML and the output of `--name`, `--uuid` and `domstats --raw` is parsed. Domains are passed to
//! virsh only by UUID, because a name may look like an option, an ID or a UUID. Reads are batched, so the number of
//! processes does not grow with the number of VMs.

mod agent;
mod chain;
mod connection;
mod domain;
mod domain_xml;
mod edit;
mod event;
mod failure;
#[cfg(test)]
mod fixture_tests;
mod host;
mod host_facts;
mod identity;
mod lease;
mod metadata;
mod network;
mod screenshot;
mod script;
mod stats;
mod volume;

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use super::{Runner, Tool};
use crate::error::{Code, Error, Result};

pub use agent::{GuestFiles, Progress};
pub use chain::{NamedFile, Storage, StoredVolume, VolumeUser};
use connection::Sessions;
pub use domain::{Domain, DomainDetails, DomainSummary};
pub use domain_xml::{DiskDevice, Link, NewDomain, NewInterface, UserMode};
pub use edit::Limits;
pub use event::Event;
pub use host::{Capabilities, HostInventory};
pub use host_facts::{Confinement, Network, SupportedDevices, Versions};
pub use lease::{LeaseOutcome, StoredLease};
pub use network::GuestStatus;
use script::{Batch, Script};
pub use volume::{NewVolume, Pool, Volume};

/// The maximum number of commands in one call. Together they may be one argument, which Linux limits to 128 KiB
/// (`MAX_ARG_STRLEN`), and a name may have 255 bytes.
const MAX_COMMANDS: usize = 250;

/// The time limit for a transfer: an image of tens of GiB over a slow connection.
const TRANSFER_LIMIT: Duration = Duration::from_hours(2);

/// A connection to libvirt. Every call uses the same URI.
#[derive(Debug, Clone)]
pub struct Virsh {
    uri: String,
    runner: Runner,
    /// The identity of the hypervisor, once it was read. Clones share it.
    identity: Arc<OnceLock<String>>,
    /// Clones share them, too.
    sessions: Arc<Sessions>,
}

impl Virsh {
    /// Returns a connection to `uri` whose calls are run by `runner`.
    pub fn new(uri: String, runner: Runner) -> Self {
        Self { uri, runner, identity: Arc::default(), sessions: Arc::default() }
    }

    /// Returns the same connection with another runner.
    #[must_use]
    pub fn run_by(&self, runner: Runner) -> Self {
        Self { runner, ..self.clone() }
    }

    /// Returns the same connection, which reads the identity of its hypervisor again.
    #[must_use]
    pub fn with_unknown_identity(&self) -> Self {
        Self { identity: Arc::default(), ..self.clone() }
    }

    /// Returns the connection's URI.
    pub fn uri(&self) -> &str {
        &self.uri
    }

    /// Returns whether the URI names no host, so that libvirt runs on this machine and its paths are valid here.
    pub fn is_local(&self) -> bool {
        let authority = self.uri.split_once("://").map_or("", |(_, rest)| rest);
        authority.starts_with('/') || authority.is_empty()
    }

    /// Returns whether libvirt runs as a user and not as the system's service. Such a libvirt has no networks.
    pub fn is_session(&self) -> bool {
        self.uri.split('?').next().is_some_and(|uri| uri.ends_with("/session"))
    }

    /// Checks that the connection can be opened.
    pub fn connects(&self, limit: Duration) -> Result<()> {
        let finished = self.tool(&["uri"]).limit(limit).read(&self.runner)?;
        if finished.status.success() { Ok(()) } else { Err(failure::explain("connect", &self.uri, &finished.stderr)) }
    }

    /// Returns a virsh command line for the user's shell, without the options that only vmprov needs.
    pub fn command(&self, args: &[&str]) -> String {
        Tool::new("virsh").args(["-c", &self.uri]).args(args.iter().copied()).command()
    }

    /// Returns a call of virsh that will get the terminal.
    pub fn attached(&self, args: &[&str]) -> Tool {
        Tool::new("virsh").args(["-c", &self.uri]).args(args.iter().copied())
    }

    fn tool(&self, args: &[&str]) -> Tool {
        Tool::new("virsh").args(["-q", "-c", &self.uri]).args(args.iter().copied())
    }

    /// Runs a command that changes nothing. `what` completes "cannot …".
    fn read(&self, what: &str, args: &[&str]) -> Result<String> {
        let Some(mut batch) = self.run_command(what, &self.tool(args))? else { return Ok(String::new()) };
        match batch.failure() {
            Some(errors) => Err(failure::explain(what, &self.uri, errors)),
            None => Ok(batch.sections.swap_remove(0)),
        }
    }

    /// Runs a command that changes something. `what` completes "cannot …".
    fn change(&self, what: &str, args: &[&str]) -> Result<()> {
        self.change_with(what, self.tool(args))
    }

    fn change_with(&self, what: &str, call: Tool) -> Result<()> {
        self.done(what, self.run_command(what, &call.changes())?)
    }

    /// Runs a command that transfers data, which may take long.
    fn transfer(&self, what: &str, call: Tool) -> Result<()> {
        self.done(what, self.run_in_process(&call.limit(TRANSFER_LIMIT))?)
    }

    /// Runs several commands that change something, without a wait in between. virsh continues after a command that
    /// failed, so the caller must roll back all of them. Returns the first error, because later ones may be its
    /// consequences.
    fn change_all(&self, what: &str, commands: &[&[&str]]) -> Result<()> {
        if self.runner.plan.is_some() {
            return commands.iter().try_for_each(|command| self.change(what, command));
        }
        self.done(what, Some(self.run_script(what, &Script::new(commands), true)?))
    }

    fn done(&self, what: &str, batch: Option<Batch>) -> Result<()> {
        let failure = batch.and_then(|batch| batch.errors.into_iter().find(|errors| !errors.is_empty()));
        failure.map_or(Ok(()), |errors| Err(failure::explain(what, &self.uri, &errors)))
    }

    /// Runs several commands that change nothing, in one call for each [`MAX_COMMANDS`].
    fn batch(&self, what: &str, commands: &[Vec<&str>]) -> Result<Batch> {
        let mut whole = Batch { sections: Vec::new(), errors: Vec::new() };
        for part in commands.chunks(MAX_COMMANDS) {
            let Batch { sections, errors } = self.run_reads(what, &Script::new(part))?;
            whole.sections.extend(sections);
            whole.errors.extend(errors);
        }
        Ok(whole)
    }

    /// Runs several commands that change nothing. A command may fail with a code in `tolerated`; its section is then
    /// empty.
    fn batch_tolerating(&self, what: &str, commands: &[Vec<&str>], tolerated: &[Code]) -> Result<Vec<String>> {
        let batch = self.batch(what, commands)?;
        match batch.complaints().iter().find(|text| !tolerated.contains(&failure::classify(text))) {
            Some(complaint) => Err(failure::explain(what, &self.uri, complaint)),
            None => Ok(batch.sections),
        }
    }
}

/// Groups the lines of standard error into one complaint for each failed command: virsh's line, libvirt's line, and
/// lines of QEMU's. Lines before the first error, such as warnings of the library, are left out.
///
/// The lines do not tell where the next command's error begins. So an `error:` line is added to the previous complaint
/// only while that has no known meaning. This way an unknown error is never hidden behind a known one.
fn complaints(stderr: &str) -> Vec<String> {
    let mut complaints: Vec<String> = Vec::new();
    for line in stderr.lines().filter(|line| !line.trim().is_empty()) {
        let is_error = line.starts_with("error:");
        match complaints.last_mut() {
            Some(last) if !is_error || failure::classify(last) == Code::ToolFailed => {
                last.push('\n');
                last.push_str(line);
            }
            _ if is_error => complaints.push(line.to_owned()),
            _ => {}
        }
    }
    complaints
}

/// Returns the error for virsh output that has an unexpected number of sections.
fn unexpected_sections() -> Error {
    Error::internal("cannot read virsh's output: unexpected number of sections")
}

/// Parses XML that libvirt wrote.
fn from_xml<'de, T: serde::Deserialize<'de>>(what: &str, xml: &'de str) -> Result<T> {
    quick_xml::de::from_str(xml)
        .map_err(|error| Error::new(Code::ToolFailed, format!("cannot read libvirt's {what} XML")).because(error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_error_is_not_hidden_behind_a_known_one() {
        let stderr = "warning: x\nerror: failed to get domain 'a'\n\nerror: cannot do it\nerror: internal error: boom\nqemu: y\n";
        assert_eq!(
            complaints(stderr),
            ["error: failed to get domain 'a'", "error: cannot do it\nerror: internal error: boom\nqemu: y"]
        );
    }

    #[test]
    fn a_uri_that_names_a_host_is_not_local() {
        for (uri, local) in [
            ("qemu:///system", true),
            ("test:///default", true),
            ("qemu+unix:///system?socket=/run/x", true),
            ("qemu+ssh://host/system", false),
            ("qemu+tls://host:16514/system", false),
        ] {
            assert_eq!(Virsh::new(uri.to_owned(), Runner::default()).is_local(), local, "{uri}");
        }
    }
}
