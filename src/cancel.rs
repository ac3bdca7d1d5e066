//! [`Cancel`]: how whatever runs is told to end.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use crate::error::{Code, Error, Result};

/// A flag that somebody may raise, once, to end what is going on. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Cancel(Arc<AtomicBool>);

impl Cancel {
    /// Asks for the end.
    pub fn raise(&self) {
        self.0.store(true, Ordering::SeqCst);
    }

    /// Fails once the end has been asked for.
    pub fn check(&self) -> Result<()> {
        if self.0.load(Ordering::SeqCst) {
            return Err(Error::new(Code::Interrupted, "interrupted"));
        }
        Ok(())
    }
}
