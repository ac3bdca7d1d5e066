//! libvirt, through `virsh`: one method for each action.
//!
//! Where possible, only XML and the output of `--name`, `--uuid` and `domstats --raw` is parsed. Domains are passed to
//! virsh only by UUID, because a name may look like an option, an ID or a UUID. Reads are batched, so the number of
//! processes does not grow with the number of VMs.

mod agent;
mod chain;
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

use uuid::Uuid;

use super::{Runner, Tool};
use crate::error::{Code, Error, Result};

pub use agent::{GuestFiles, Progress};
pub use chain::{NamedFile, Storage, StoredVolume, User};
pub use domain::{Described, Domain, DomainSummary};
pub use domain_xml::{DiskDevice, Link, NewDomain, NewInterface, UserMode};
pub use edit::Limits;
pub use event::Event;
pub use host::{Capabilities, HostInventory};
pub use host_facts::{Confinement, Network, Offer, Versions};
pub use lease::{LeaseSession, StoredLease, Taken};
pub use network::GuestStatus;
use script::Script;
pub use volume::{NewVolume, Pool, Volume};

/// The maximum number of commands in one call. Together they are one argument, which Linux limits to 128 KiB
/// (`MAX_ARG_STRLEN`), and a name may have 255 bytes.
const MAX_COMMANDS: usize = 250;

/// A connection to libvirt. Every call uses the same URI.
#[derive(Debug, Clone)]
pub struct Virsh {
    uri: String,
    runner: Runner,
    /// The identity of the hypervisor, once it was read. Clones share it.
    identity: Arc<OnceLock<String>>,
}

/// The output of each command of a batch, and virsh's errors.
///
/// virsh continues after a command that failed and exits with the last command's status (11.3.0).
#[derive(Debug)]
struct Batch {
    sections: Vec<String>,
    complaints: Vec<String>,
}

impl Virsh {
    /// Returns a connection to `uri` whose calls are run by `runner`.
    pub fn new(uri: String, runner: Runner) -> Self {
        Self { uri, runner, identity: Arc::default() }
    }

    /// Returns the same connection with another runner.
    #[must_use]
    pub fn run_by(&self, runner: Runner) -> Self {
        Self { runner, ..self.clone() }
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
        let finished = self.tool(args).read(&self.runner)?;
        if !finished.status.success() {
            return Err(failure::explain(what, &self.uri, &finished.stderr));
        }
        finished.text()
    }

    /// Runs a command that changes something. `what` completes "cannot …".
    fn change(&self, what: &str, args: &[&str]) -> Result<()> {
        self.change_with(what, self.tool(args))
    }

    fn change_with(&self, what: &str, tool: Tool) -> Result<()> {
        match tool.changes().run(&self.runner)? {
            Some(finished) if !finished.status.success() => Err(failure::explain(what, &self.uri, &finished.stderr)),
            _ => Ok(()),
        }
    }

    /// Runs several commands that change something in one process. virsh continues after a command that failed, so the
    /// caller must roll back all of them. Returns the first error, because later ones may be its consequences.
    fn change_all(&self, what: &str, commands: &[&[&str]]) -> Result<()> {
        if self.runner.plan.is_some() {
            return commands.iter().try_for_each(|command| self.change(what, command));
        }
        let batch = self.run_script(what, &Script::new(commands)?, true)?;
        batch.complaints.first().map_or(Ok(()), |first| Err(failure::explain(what, &self.uri, first)))
    }

    /// Runs several commands that change nothing, in one process for each [`MAX_COMMANDS`].
    fn batch(&self, what: &str, commands: &[Vec<&str>]) -> Result<Batch> {
        let mut whole = Batch { sections: Vec::new(), complaints: Vec::new() };
        for part in commands.chunks(MAX_COMMANDS) {
            let Batch { sections, complaints } = self.one_batch(what, part)?;
            whole.sections.extend(sections);
            whole.complaints.extend(complaints);
        }
        Ok(whole)
    }

    fn one_batch(&self, what: &str, commands: &[Vec<&str>]) -> Result<Batch> {
        // No output can contain a mark that did not exist before the call.
        let mark = Uuid::new_v4().to_string();
        let script = commands
            .iter()
            .map(|command| format!("{}; echo {mark}", shell_words::join(command)))
            .collect::<Vec<_>>()
            .join("; ");
        let finished = self.tool(&[&script]).read(&self.runner)?;
        let complaints = complaints(&finished.stderr);
        if finished.stderr.contains("failed to connect to the hypervisor") {
            return Err(failure::explain(what, &self.uri, &finished.stderr));
        }
        let text = String::from_utf8_lossy(&finished.stdout);
        let mut sections: Vec<_> = text.split(&mark).map(str::to_owned).collect();
        sections.pop();
        if sections.len() != commands.len() {
            return Err(failure::explain(what, &self.uri, &finished.stderr));
        }
        Ok(Batch { sections, complaints })
    }

    /// Runs several commands that change nothing. A command may fail with a code in `tolerated`; its section is then
    /// empty.
    fn batch_tolerating(&self, what: &str, commands: &[Vec<&str>], tolerated: &[Code]) -> Result<Vec<String>> {
        let batch = self.batch(what, commands)?;
        match batch.complaints.iter().find(|text| !tolerated.contains(&failure::classify(text))) {
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
