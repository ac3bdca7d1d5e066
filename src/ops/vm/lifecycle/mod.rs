//! Operations that create, change and delete VMs.

pub(in crate::ops) mod commit;
pub(in crate::ops) mod create;
pub(in crate::ops) mod delete;
pub(in crate::ops) mod expiry;
pub(in crate::ops) mod host_limits;
pub(in crate::ops) mod power;
pub(in crate::ops) mod removal;
pub(in crate::ops) mod rename;
pub(in crate::ops) mod seed;
pub(in crate::ops) mod set;
pub(in crate::ops) mod usage_by_owner;
