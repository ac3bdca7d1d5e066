//! Read-only views of VMs: lists, consoles, events and screenshots.

pub(in crate::ops) mod console;
pub(in crate::ops) mod event;
pub(in crate::ops) mod list;
pub(in crate::ops) mod screenshot;
