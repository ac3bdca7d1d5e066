//! Leases: what is being worked on, told by libvirt itself, so that everybody who manages one hypervisor knows of it,
//! whichever machine or container they are on.
//!
//! A lease is an ephemeral libvirt secret without a value. libvirt refuses a second secret of the same usage atomically,
//! keeps it in memory alone, and has it described by its holder in the same call that makes it (11.3.0). A volume would do
//! for the first only.

use std::time::Duration;

use quick_xml::escape::escape;
use serde::Deserialize;
use uuid::Uuid;

use super::{
    super::{Runner, scratch::Scratch, session::Conversation},
    Virsh, failure, from_xml,
};
use crate::error::{Code, Result};

/// How the usage of every lease's secret begins.
const USAGE: &str = "vmprov lease on ";

/// How long libvirt may take to answer. It only looks at its memory.
const LIMIT: Duration = Duration::from_secs(30);

/// A virsh that stays, so that taking and giving back a lease cost one process together.
pub struct LeaseSession {
    virsh: Virsh,
    conversation: Conversation,
    /// No output can hold a mark that did not exist before the call.
    mark: String,
}

/// Whose a lease is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken {
    /// The caller's.
    Ours,
    /// Another one's: the secret of this UUID.
    Theirs(Uuid),
    /// Nobody's: this driver has no secrets, as libvirt's test driver.
    Unsupported,
}

/// A lease that somebody has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredLease {
    /// Its secret.
    pub uuid: Uuid,
    /// What its holder says of themselves.
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
        // A virsh that reads its commands writes them down in the user's cache folder when it ends. In a session that folder
        // is also the one of the libvirtd that virsh may start, so there it must be the real one.
        if !self.is_session() {
            virsh = virsh.env("XDG_CACHE_HOME", "/dev/null");
        }
        let conversation = virsh.converse(&self.runner)?;
        Ok(LeaseSession { virsh: self.clone(), conversation, mark: Uuid::new_v4().to_string() })
    }

    /// A lease; none when it has been given back meanwhile.
    pub fn operation_lease(&self, uuid: Uuid) -> Result<Option<StoredLease>> {
        match self.read("look at the lease", &["secret-dumpxml", "--secret", &uuid.to_string()]) {
            Ok(xml) => Ok(Some(StoredLease { uuid, description: from_xml::<RawSecret>("secret", &xml)?.description })),
            Err(error) if error.code == Code::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Every lease that there is; none where the driver has no secrets.
    pub fn operation_leases(&self) -> Result<Vec<StoredLease>> {
        let rows = match self.read("list the leases", &["secret-list"]) {
            Err(error) if error.code == Code::Conflict => return Ok(Vec::new()),
            result => result?,
        };
        // A row is a UUID, the kind of the usage, and the usage, which only ours begin like this.
        let is_ours = |row: &&str| row.contains(USAGE);
        let uuids = rows.lines().filter(is_ours).filter_map(|row| row.split_whitespace().next()?.parse().ok());
        uuids.filter_map(|uuid| self.operation_lease(uuid).transpose()).collect()
    }
}

impl LeaseSession {
    /// Takes the lease on `what`, unless somebody has it; one that is the caller's already gets the new description.
    pub fn take(&mut self, what: &str, uuid: Uuid, description: &str) -> Result<Taken> {
        let (usage, description) = (escape(format!("{USAGE}{what}")).into_owned(), escape(description));
        let xml = format!(
            "<secret ephemeral='yes' private='yes'><uuid>{uuid}</uuid><description>{description}</description>\
             <usage type='ceph'><name>{usage}</name></usage></secret>"
        );
        let file = Scratch::memory(xml.as_bytes())?;
        let runner = self.virsh.runner.clone();
        let complaint = self.ask(&format!("secret-define --file {}", file.path()), &runner)?;
        if complaint.is_empty() {
            return Ok(Taken::Ours);
        }
        if let Some((_, rest)) = complaint.split_once("a secret with UUID ")
            && let Some(holder) = rest.split_whitespace().next().and_then(|word| word.parse().ok())
        {
            return Ok(Taken::Theirs(holder));
        }
        let error = failure::explain(&format!("take the lease on {what}"), &self.virsh.uri, &complaint);
        // A client who may manage domains may still be refused the secrets, or libvirt's part for them not be installed.
        let refused = matches!(error.code, Code::Conflict | Code::Denied) || complaint.contains("no connection driver");
        if refused { Ok(Taken::Unsupported) } else { Err(error) }
    }

    /// Gives a lease back; one that is not there is fine.
    pub fn give_back(&mut self, uuid: Uuid) -> Result<()> {
        // Also by who has been interrupted.
        let runner = self.virsh.runner.uncancellable();
        let complaint = self.ask(&format!("secret-undefine --secret {uuid}"), &runner)?;
        if complaint.is_empty() || failure::classify(&complaint) == Code::NotFound {
            return Ok(());
        }
        Err(failure::explain("give back the lease", &self.virsh.uri, &complaint))
    }

    /// Gives virsh a command; returns its complaint.
    fn ask(&mut self, command: &str, runner: &Runner) -> Result<String> {
        let line = format!("{command}\necho --err {}", self.mark);
        let answer = self.conversation.ask(&line, &self.mark, LIMIT, runner)?;
        if answer.ended {
            let complaint = if answer.text.is_empty() { "virsh ended" } else { &answer.text };
            return Err(failure::explain("talk to libvirt", &self.virsh.uri, complaint));
        }
        Ok(answer.text)
    }
}

impl std::fmt::Debug for LeaseSession {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LeaseSession").finish_non_exhaustive()
    }
}
