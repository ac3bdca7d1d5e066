//! Leases: locks on VMs and other resources, kept in libvirt. All clients of the hypervisor see them, on any machine or
//! in any container.
//!
//! A lease is an ephemeral libvirt secret without a value. libvirt atomically refuses a second secret with the same
//! usage. It keeps the secret only in memory, and the call that creates it also sets the description of its holder
//! (11.3.0). A volume would offer only the first of these.

use std::time::Duration;

use quick_xml::escape::escape;
use serde::Deserialize;
use uuid::Uuid;

use super::{
    super::{Runner, scratch::Scratch, session::Conversation},
    Virsh, failure, from_xml,
};
use crate::error::{Code, Result};

/// The prefix of the usage of every lease's secret.
const USAGE: &str = "vmprov lease on ";

/// The time limit for libvirt's response. libvirt only reads its memory.
const LIMIT: Duration = Duration::from_secs(30);

/// A virsh that keeps running, so that acquiring and releasing a lease takes one process in total.
pub struct LeaseSession {
    virsh: Virsh,
    conversation: Conversation,
    /// No output can contain a mark that did not exist before the call.
    mark: String,
}

/// The result of acquiring a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken {
    /// The caller holds it.
    Ours,
    /// Another process holds it. This is the UUID of its secret.
    Theirs(Uuid),
    /// The driver has no secrets, like libvirt's test driver.
    Unsupported,
}

/// A lease that is held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredLease {
    /// The UUID of its secret.
    pub uuid: Uuid,
    /// Its holder's description.
    pub description: String,
}

#[derive(Deserialize)]
struct RawSecret {
    #[serde(default)]
    description: String,
}

impl Virsh {
    /// Starts a session for leases.
    pub fn lease_session(&self) -> Result<LeaseSession> {
        let mut virsh = self.tool(&[]);
        // A virsh that reads commands writes them to a history file in the user's cache folder when it exits. In a
        // session, the libvirtd that virsh may start inherits that folder, so it must be the real one.
        if !self.is_session() {
            virsh = virsh.env("XDG_CACHE_HOME", "/dev/null");
        }
        let conversation = virsh.converse(&self.runner)?;
        Ok(LeaseSession { virsh: self.clone(), conversation, mark: Uuid::new_v4().to_string() })
    }

    /// Returns a lease; none if it was released.
    pub fn operation_lease(&self, uuid: Uuid) -> Result<Option<StoredLease>> {
        match self.read("read the lease", &["secret-dumpxml", "--secret", &uuid.to_string()]) {
            Ok(xml) => Ok(Some(StoredLease { uuid, description: from_xml::<RawSecret>("secret", &xml)?.description })),
            Err(error) if error.code == Code::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Returns all leases. There are none if the driver has no secrets.
    pub fn operation_leases(&self) -> Result<Vec<StoredLease>> {
        let rows = match self.read("list the leases", &["secret-list"]) {
            Err(error) if error.code == Code::Conflict => return Ok(Vec::new()),
            result => result?,
        };
        // A row is a UUID, the type of the usage, and the usage. Only that of a lease has this prefix.
        let is_ours = |row: &&str| row.contains(USAGE);
        let uuids = rows.lines().filter(is_ours).filter_map(|row| row.split_whitespace().next()?.parse().ok());
        uuids.filter_map(|uuid| self.operation_lease(uuid).transpose()).collect()
    }
}

impl LeaseSession {
    /// Acquires the lease on `what`, unless another process holds it. A lease that the caller already holds gets the
    /// new description.
    pub fn take(&mut self, what: &str, uuid: Uuid, description: &str) -> Result<Taken> {
        let (usage, description) = (escape(format!("{USAGE}{what}")).into_owned(), escape(description));
        let xml = format!(
            "<secret ephemeral='yes' private='yes'><uuid>{uuid}</uuid><description>{description}</description>\
             <usage type='ceph'><name>{usage}</name></usage></secret>"
        );
        let file = Scratch::memory(xml.as_bytes())?;
        let runner = self.virsh.runner.clone();
        let complaint = self.send(&format!("secret-define --file {}", file.path()), &runner)?;
        if complaint.is_empty() {
            return Ok(Taken::Ours);
        }
        if let Some((_, rest)) = complaint.split_once("a secret with UUID ")
            && let Some(holder) = rest.split_whitespace().next().and_then(|word| word.parse().ok())
        {
            return Ok(Taken::Theirs(holder));
        }
        let error = failure::explain(&format!("acquire the lease on {what}"), &self.virsh.uri, &complaint);
        // A client that may manage domains may be denied secrets, and libvirt's secret driver may not be installed.
        let refused = matches!(error.code, Code::Conflict | Code::Denied) || complaint.contains("no connection driver");
        if refused { Ok(Taken::Unsupported) } else { Err(error) }
    }

    /// Releases a lease. Does nothing if it does not exist.
    pub fn release(&mut self, uuid: Uuid) -> Result<()> {
        // A lease must also be released after cancellation.
        let runner = self.virsh.runner.uncancellable();
        let complaint = self.send(&format!("secret-undefine --secret {uuid}"), &runner)?;
        if complaint.is_empty() || failure::classify(&complaint) == Code::NotFound {
            return Ok(());
        }
        Err(failure::explain("release the lease", &self.virsh.uri, &complaint))
    }

    /// Sends a command to virsh and returns its error output.
    fn send(&mut self, command: &str, runner: &Runner) -> Result<String> {
        let line = format!("{command}\necho --err {}", self.mark);
        let response = self.conversation.send(&line, &self.mark, LIMIT, runner)?;
        if response.ended {
            let complaint = if response.text.is_empty() { "virsh exited" } else { &response.text };
            return Err(failure::explain("communicate with libvirt", &self.virsh.uri, complaint));
        }
        Ok(response.text)
    }
}

impl std::fmt::Debug for LeaseSession {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LeaseSession").finish_non_exhaustive()
    }
}
