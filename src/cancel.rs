//! [`Cancel`]: cancellation of running work.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use crate::error::{Code, Error, Result};

/// A flag that cancels running work. It can be raised, but not lowered again. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Cancel(Arc<AtomicBool>);

impl Cancel {
    /// Requests cancellation.
    pub fn raise(&self) {
        self.0.store(true, Ordering::SeqCst);
    }

    /// Fails once cancellation was requested.
    pub fn check(&self) -> Result<()> {
        if self.0.load(Ordering::SeqCst) {
            return Err(Error::new(Code::Interrupted, "interrupted"));
        }
        Ok(())
    }
}
