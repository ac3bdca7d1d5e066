//! Takes the lease on a VM.

use std::time::Duration;

use super::find;
use crate::{
    error::Result,
    ops::{Host, lease::Lease},
};

/// How long an operation waits for another vmprov process that works on the same VM.
const LOCK_WAIT: Duration = Duration::from_secs(10);

/// Takes the lease on a VM. All work on the VM must use the lease's `host`.
pub(super) fn lock(host: &Host, name: &str) -> Result<Lease> {
    Lease::take(host, &lease_name(name), LOCK_WAIT)
}

/// Finds a VM and takes its lease.
pub(super) fn lock_found(host: &Host, reference: &str) -> Result<Lease> {
    lock(host, &find(host, reference)?.name)
}

/// Returns the name of the lease on a VM.
fn lease_name(name: &str) -> String {
    format!("the VM `{name}`")
}

/// Takes the lease on a VM without waiting. If another process holds it, the error has [`Code::Busy`](crate::error::Code::Busy) and names the
/// holder.
pub(in crate::ops) fn lock_now(host: &Host, name: &str) -> Result<Lease> {
    Lease::take(host, &lease_name(name), Duration::ZERO)
}
