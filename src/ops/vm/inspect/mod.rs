//! What can be seen of a VM without changing it.

pub(in crate::ops) mod console;
pub(in crate::ops) mod event;
pub(in crate::ops) mod list;
pub(in crate::ops) mod screenshot;
