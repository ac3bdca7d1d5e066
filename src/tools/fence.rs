//! [`Fence`]: stops a process from changing a resource after its lease may have expired.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use rustix::time::{ClockId, clock_gettime};

use crate::error::{Code, Error, Hint, Result};

/// A deadline that is extended whenever a lease is renewed. Clones share it.
///
/// It passes when the process was stopped or its machine was suspended. Another process may hold the lease by then,
/// so nothing may be changed or rolled back any more.
#[derive(Debug, Clone)]
pub struct Fence {
    /// In milliseconds of the clock that continues while the machine is suspended.
    deadline: Arc<AtomicI64>,
    what: Arc<str>,
    /// The fence of another lease that must hold too.
    other: Option<Arc<Self>>,
}

impl Fence {
    /// Returns a fence for `what` whose deadline is `term` from now.
    pub fn new(what: &str, term: Duration) -> Self {
        let fence = Self { deadline: Arc::default(), what: what.into(), other: None };
        fence.extend(now(), term);
        fence
    }

    /// Returns a fence that stops a process where this one or another one does.
    #[must_use]
    pub fn and(self, other: &Self) -> Self {
        Self { other: Some(Arc::new(other.clone())), ..self }
    }

    /// Moves the deadline to `term` after `start`, a time of [`now`].
    pub fn extend(&self, start: i64, term: Duration) {
        let term = i64::try_from(term.as_millis()).unwrap_or(i64::MAX);
        self.deadline.store(start.saturating_add(term), Ordering::SeqCst);
    }

    /// Ends the term at once, because another process holds the lease.
    pub fn close(&self) {
        self.deadline.store(i64::MIN, Ordering::SeqCst);
    }

    /// Fails once the deadline has passed.
    pub fn check(&self) -> Result<()> {
        if now() <= self.deadline.load(Ordering::SeqCst) {
            return self.other.as_ref().map_or(Ok(()), |other| other.check());
        }
        let message = format!("lost the lease on {} while this process was stopped or cut off from libvirt", self.what);
        Err(Error::new(Code::Busy, message)
            .hint("Check whether another vmprov works on it now (this one stopped making changes)")
            .hint(Hint::call_any("Remove leftovers", "gc")))
    }
}

/// Returns the milliseconds since boot, including the time that the machine was suspended.
pub fn now() -> i64 {
    let time = clock_gettime(ClockId::Boottime);
    time.tv_sec.saturating_mul(1000).saturating_add(time.tv_nsec / 1_000_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fence_holds_until_its_deadline_and_can_be_extended() {
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

    #[test]
    fn two_fences_hold_together() {
        let fence = |what| Fence::new(what, Duration::from_mins(1));
        let (one, other) = (fence("one"), fence("other"));
        let both = one.clone().and(&other);
        both.check().unwrap();
        other.close();
        assert!(both.check().unwrap_err().message.starts_with("lost the lease on other"));
        one.check().unwrap();
    }
}
