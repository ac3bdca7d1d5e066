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

use super::{Batch, Virsh, failure, from_xml};
use crate::error::{Code, Result};

/// The prefix of the usage of every lease's secret.
const USAGE: &str = "vmprov lease on ";

/// The time limit for libvirt's response. libvirt only reads its memory.
const LIMIT: Duration = Duration::from_secs(30);

/// The result of acquiring a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeaseOutcome {
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
    /// Acquires the lease on `what`, unless another process holds it. A lease that the caller already holds gets the
    /// new description.
    pub fn take_lease(&self, what: &str, uuid: Uuid, description: &str) -> Result<LeaseOutcome> {
        let (usage, description) = (escape(format!("{USAGE}{what}")).into_owned(), escape(description));
        let xml = format!(
            "<secret ephemeral='yes' private='yes'><uuid>{uuid}</uuid><description>{description}</description>\
             <usage type='ceph'><name>{usage}</name></usage></secret>"
        );
        let call = self.tool(&["secret-define", "--file", "/dev/stdin"]).stdin(xml).limit(LIMIT);
        let what = format!("acquire the lease on {what}");
        let batch = self.run_command(&what, &call)?;
        let Some(errors) = batch.as_ref().and_then(Batch::failure) else { return Ok(LeaseOutcome::Ours) };
        if let Some((_, rest)) = errors.split_once("a secret with UUID ")
            && let Some(holder) = rest.split_whitespace().next().and_then(|word| word.parse().ok())
        {
            return Ok(LeaseOutcome::Theirs(holder));
        }
        let error = failure::explain(&what, &self.uri, errors);
        // A client that may manage domains may be denied secrets, and libvirt's secret driver may not be installed.
        let refused = matches!(error.code, Code::Conflict | Code::Denied) || errors.contains("no connection driver");
        if refused { Ok(LeaseOutcome::Unsupported) } else { Err(error) }
    }

    /// Releases a lease, even after cancellation. Does nothing if it does not exist.
    pub fn release_lease(&self, uuid: Uuid) -> Result<()> {
        let virsh = self.run_by(self.runner.uncancellable());
        let call = self.tool(&["secret-undefine", "--secret", &uuid.to_string()]).limit(LIMIT);
        match virsh.done("release the lease", virsh.run_command("release the lease", &call)?) {
            Err(error) if error.code == Code::NotFound => Ok(()),
            result => result,
        }
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
