//! [`Fence`]: until when a process may change what it has a lease on.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use rustix::time::{ClockId, clock_gettime};

use crate::error::{Code, Error, Result};

/// A deadline that is moved on as long as a lease is renewed. A process that was stopped, or whose machine slept, finds
/// it passed: somebody else may have the lease by then, so nothing may be changed any more, nor be rolled back. Clones
/// share it.
#[derive(Debug, Clone)]
pub struct Fence {
    /// In milliseconds of the clock that goes on while the machine sleeps.
    deadline: Arc<AtomicI64>,
    what: Arc<str>,
}

impl Fence {
    /// A fence around `what`, which holds for so long from now.
    pub fn new(what: &str, term: Duration) -> Self {
        let fence = Self { deadline: Arc::default(), what: what.into() };
        fence.extend(now(), term);
        fence
    }

    /// Moves the deadline on to so long after `start`, of [`now`].
    pub fn extend(&self, start: i64, term: Duration) {
        let term = i64::try_from(term.as_millis()).unwrap_or(i64::MAX);
        self.deadline.store(start.saturating_add(term), Ordering::SeqCst);
    }

    /// Closes it: the lease is somebody else's.
    pub fn close(&self) {
        self.deadline.store(i64::MIN, Ordering::SeqCst);
    }

    /// Fails once the deadline has passed.
    pub fn check(&self) -> Result<()> {
        if now() <= self.deadline.load(Ordering::SeqCst) {
            return Ok(());
        }
        let message = format!("lost the lease on {} while this process was stopped or cut off from libvirt", self.what);
        Err(Error::new(Code::Busy, message).hint(
            "Another vmprov may work on it now, so nothing more was changed; `vmprov gc` removes what is left over.",
        ))
    }
}

/// Milliseconds since boot, those that the machine slept included.
pub fn now() -> i64 {
    let time = clock_gettime(ClockId::Boottime);
    time.tv_sec.saturating_mul(1000).saturating_add(time.tv_nsec / 1_000_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_holds_until_its_deadline_and_can_be_extended() {
        let fence = Fence::new("the VM `web`", Duration::from_mins(1));
        fence.check().unwrap();
        fence.extend(now() - 60_001, Duration::from_mins(1));
        let error = fence.clone().check().unwrap_err();
        assert_eq!(error.code, Code::Busy);
        assert!(error.message.starts_with("lost the lease on the VM `web`"), "{error}");
        fence.extend(now(), Duration::from_mins(1));
        fence.check().unwrap();
        fence.close();
        fence.check().unwrap_err();
    }
}
