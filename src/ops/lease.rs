//! [`Lease`]: one operation at a time on a VM, across processes, containers and machines.
//!
//! libvirt itself stores the leases (`tools/virsh/lease.rs`). A holder that dies cannot release its lease, so a lease
//! has a term and is renewed. Processes that share the lock folder with the holder notice its death at once.

use std::{
    sync::mpsc::{RecvTimeoutError, Sender, channel},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::Host;
use crate::{
    error::{Code, Error, Result},
    store::{
        lock::{self, Lock},
        system,
    },
    tools::{
        fence::{self, Fence},
        virsh::{LeaseOutcome, StoredLease, Virsh},
    },
};

/// The time without renewal after which a lease may be taken from a holder that cannot be observed.
const TERM: Duration = Duration::from_mins(1);

/// How long after a renewal the holder may go on working. The rest of the term allows for clocks that differ.
const SAFE_TERM: Duration = Duration::from_secs(40);

/// The interval between renewals.
const RENEWAL: Duration = Duration::from_secs(15);

/// The interval between attempts to take a lease that is held, which cost next to nothing.
const POLL: Duration = Duration::from_millis(100);

/// The interval between checks whether the holder has died.
const HOLDER_CHECK: Duration = Duration::from_secs(1);

/// How a holder describes itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Holder {
    /// The boot and the lock folder of its machine or container.
    place: String,
    /// Its machine's or container's name, for people.
    host: String,
    /// Its process there, for people.
    process: u32,
    /// When its lease ends, unless it is renewed.
    expires: Timestamp,
}

/// The right to change something, until it is dropped.
pub(super) struct Lease {
    /// The host to change it on: its calls are refused once the lease is lost.
    pub(super) host: Host,
    /// What backs it; dropped with it.
    _kind: Kind,
}

/// What backs a lease.
enum Kind {
    /// Nothing: a dry run changes nothing.
    None,
    /// A lock on this machine only, if libvirt's driver does not support secrets.
    Local { _lock: Lock },
    /// A secret in libvirt.
    Shared { _secret: Shared },
}

struct Shared {
    virsh: Virsh,
    uuid: Uuid,
    stop: Option<Sender<()>>,
    renewer: Option<JoinHandle<()>>,
    /// Shows processes that share the lock folder that this one is alive.
    _alive: Lock,
}

/// Returns the name of the lock that shows that the holder of a lease is alive.
fn liveness_lock(lease: Uuid) -> String {
    format!("the lease {lease}")
}

impl Lease {
    /// Takes the lease on `what`, waiting for another holder at most `limit`.
    pub(super) fn take(host: &Host, what: &str, limit: Duration) -> Result<Self> {
        if host.is_dry_run() {
            return Ok(Self { host: host.clone(), _kind: Kind::None });
        }
        let (uuid, deadline) = (Uuid::new_v4(), Instant::now() + limit);
        let alive = Lock::take(&liveness_lock(uuid), Duration::ZERO, &host.runner.cancel)?;
        let mut checked: Option<(Uuid, Instant)> = None;
        loop {
            let start = fence::now();
            match host.virsh.take_lease(what, uuid, &Holder::this()?)? {
                LeaseOutcome::Ours => {
                    let fence = Fence::new(what, SAFE_TERM);
                    fence.extend(start, SAFE_TERM);
                    let shared = Shared::new(host, what, uuid, alive, &fence);
                    return Ok(Self { host: host.fenced_by(fence), _kind: Kind::Shared { _secret: shared } });
                }
                LeaseOutcome::Unsupported => {
                    let name = format!("{what} at {}", host.hypervisor()?);
                    let left = deadline.saturating_duration_since(Instant::now());
                    let lock = Lock::take(&name, left, &host.runner.cancel);
                    let lock = lock.map_err(|error| lease_error(error, what))?;
                    return Ok(Self { host: host.clone(), _kind: Kind::Local { _lock: lock } });
                }
                LeaseOutcome::Theirs(other) => {
                    let is_recent = checked.is_some_and(|(uuid, when)| uuid == other && when.elapsed() < HOLDER_CHECK);
                    if is_recent && Instant::now() < deadline {
                        host.runner.cancel.check()?;
                        std::thread::sleep(POLL);
                        continue;
                    }
                    checked = Some((other, Instant::now()));
                    let Some(stored) = host.virsh.operation_lease(other)? else { continue };
                    match Holder::of(&stored) {
                        Some(holder) if !holder.has_died(other, host)? => {
                            if Instant::now() >= deadline {
                                return Err(holder.is_busy(what));
                            }
                        }
                        // The UUID ensures that no other holder's lease is removed.
                        _ => host.virsh.release_lease(other)?,
                    }
                }
            }
        }
    }
}

/// Returns the error of a lock as that of a lease on `what`.
fn lease_error(error: Error, what: &str) -> Error {
    match error.code {
        Code::Busy => Error { message: format!("another vmprov is working on {what}"), ..error },
        _ => error,
    }
}

impl Shared {
    fn new(host: &Host, what: &str, uuid: Uuid, alive: Lock, fence: &Fence) -> Self {
        let (stop, stopped) = channel();
        // A rollback needs the lease as well.
        let virsh = host.uncancellable().virsh;
        let renewer = std::thread::spawn({
            let (virsh, what, fence) = (virsh.clone(), what.to_owned(), fence.clone());
            move || {
                while stopped.recv_timeout(RENEWAL) == Err(RecvTimeoutError::Timeout) {
                    renew(&virsh, &what, uuid, &fence);
                }
            }
        });
        Self { virsh, uuid, stop: Some(stop), renewer: Some(renewer), _alive: alive }
    }
}

/// Renews a lease. A failed renewal is tried again; the fence closes by itself if none succeeds in time.
fn renew(virsh: &Virsh, what: &str, uuid: Uuid, fence: &Fence) {
    let start = fence::now();
    // Another holder may have had an expired lease in the meantime, even if it is free now.
    if fence.check().is_err() {
        return fence.close();
    }
    match Holder::this().and_then(|holder| virsh.take_lease(what, uuid, &holder)) {
        Ok(LeaseOutcome::Ours) => fence.extend(start, SAFE_TERM),
        Ok(_) => fence.close(),
        Err(error) => tracing::warn!("cannot renew the lease on {what}: {error}"),
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(renewer) = self.renewer.take()
            && renewer.join().is_err()
        {
            tracing::debug!("the thread that renews a lease has panicked");
        }
        // A lease that cannot be released ends with its term.
        if let Err(error) = self.virsh.release_lease(self.uuid) {
            tracing::debug!("cannot give back a lease: {error}");
        }
    }
}

impl Holder {
    /// This process, as it describes itself.
    fn this() -> Result<String> {
        let failed = |error: &dyn std::fmt::Display| Error::internal("cannot describe a lease").because(error);
        let term = jiff::SignedDuration::try_from(TERM).map_err(|error| failed(&error))?;
        let holder = Self {
            place: lock::place()?,
            host: system::host_name(),
            process: std::process::id(),
            expires: Timestamp::now().checked_add(term).map_err(|error| failed(&error))?,
        };
        serde_json::to_string(&holder).map_err(|error| failed(&error))
    }

    /// Returns the holder of a lease; none if its description is not one of vmprov.
    fn of(lease: &StoredLease) -> Option<Self> {
        serde_json::from_str(&lease.description).ok()
    }

    /// Returns whether it is certain that nothing works under this lease any more.
    fn has_died(&self, lease: Uuid, host: &Host) -> Result<bool> {
        if self.place == lock::place()? {
            return match Lock::take(&liveness_lock(lease), Duration::ZERO, &host.runner.cancel) {
                Ok(_taken_from_it) => Ok(true),
                Err(error) if error.code == Code::Busy => Ok(false),
                Err(error) => Err(error),
            };
        }
        Ok(self.expires <= Timestamp::now())
    }

    fn is_busy(&self, what: &str) -> Error {
        let Self { host, process, expires, .. } = self;
        let message = format!("another vmprov is working on {what}");
        Error::new(Code::Busy, message)
            .because(format!("process {process} on `{host}` has its lease, which ends at {expires:.0} unless renewed"))
            .hint("Try again when that process has finished")
            .hint("Wait for the lease to end if the process has died")
    }
}

/// Removes the leases whose holders have died.
pub(super) fn remove_stale(host: &Host) -> Result<()> {
    for lease in host.virsh.operation_leases()? {
        let has_died = Holder::of(&lease).map_or(Ok(true), |holder| holder.has_died(lease.uuid, host))?;
        if has_died && !host.is_dry_run() {
            host.virsh.release_lease(lease.uuid)?;
        }
    }
    Ok(())
}
