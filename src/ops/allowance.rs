//! [`Allowance`]: a quota check for resources whose size an operation learns only while it runs.

use crate::error::Result;

/// Checks a caller's quota before an operation creates what its request does not state. A reservation counts until the
/// operation ends; after that, usage is what libvirt reports.
pub trait Allowance: Send + Sync {
    /// Reserves an image and its bytes in the pool; the volume of its manifest identifies it. An operation makes one
    /// image: a later call replaces an earlier one.
    fn take_image(&self, manifest: &str, bytes: u64) -> Result<()>;

    /// Reserves the bytes of another volume in the pool.
    fn take_volume(&self, name: &str, bytes: u64) -> Result<()>;
}

/// No limit.
impl Allowance for () {
    fn take_image(&self, _: &str, _: u64) -> Result<()> {
        Ok(())
    }

    fn take_volume(&self, _: &str, _: u64) -> Result<()> {
        Ok(())
    }
}
