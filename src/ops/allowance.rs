//! [`Allowance`]: whether a caller may have more, for what an operation learns only on its way.

use crate::error::Result;

/// Where a caller's quota is asked before an operation creates what the request alone does not tell. It counts until the
/// operation ends; what is there then is counted by what libvirt has.
pub trait Allowance: Send + Sync {
    /// Reserves an image and its bytes in the pool, by the volume that will lead to it. An operation makes one image: a
    /// later call takes the place of an earlier one.
    fn take_image(&self, companion: &str, bytes: u64) -> Result<()>;

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
