//! [`Reference`]: a member of a request that names a resource. Authorization, quotas, audit and queues are based on
//! these.

use serde_json::Value;

use crate::error::ResourceKind as Kind;

/// A member of a request that names one or several resources.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reference {
    /// The member.
    pub member: &'static str,
    /// What it names.
    pub kind: Kind,
    /// Whether the operation creates the resource.
    pub is_new: bool,
}

impl Reference {
    /// Returns the names that a request has in this member.
    pub fn names<'r>(&self, request: &'r Value) -> impl Iterator<Item = &'r str> {
        let value = request.get(self.member);
        let several = value.and_then(Value::as_array).into_iter().flatten();
        value.into_iter().chain(several).filter_map(Value::as_str)
    }
}

/// A resource that a quota limits. An operation declares which of these it creates, see [`super::Operation::takes`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, strum::Display)]
#[strum(serialize_all = "lowercase")]
pub enum Resource {
    /// VMs.
    Vms,
    /// Virtual CPUs.
    Vcpus,
    /// Memory.
    Memory,
    /// Bytes in the storage pool: disks, consoles and images.
    Disk,
    /// Images.
    Images,
    /// Keys.
    Keys,
}

impl Resource {
    /// Every resource.
    pub const ALL: [Self; 6] = [Self::Vms, Self::Vcpus, Self::Memory, Self::Disk, Self::Images, Self::Keys];
}
