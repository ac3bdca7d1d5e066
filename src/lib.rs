//! vmprov provisions virtual machines on libvirt/QEMU from cloud images, and gets an ssh key into them.
//!
//! ```text
//! main ──> cli ──────────────────────────> ops ──> tools       (programs: virsh, qemu-img, genisoimage, ssh)
//!           ├─> http ──┐                   ^ │ └─> store       (files: keys, locks, downloads; what /proc and /sys tell)
//!           │    │     ├─> service ─> api ─┘ └───> cloud_init, catalogue  (pure)
//!           └───>└> agents                 (api: every operation once; service: who may, what is under way)
//! everything may import: model, error, cancel; ops, tools and service: observer
//! ```
//!
//! Every face calls the functions of [`ops`] with the structs of [`model`]; [`tools`] is the one place that starts a
//! process. `tests/layers.rs` holds the arrows.

pub mod agents;
pub mod api;
pub mod cancel;
pub mod catalogue;
pub mod cli;
pub mod cloud_init;
pub mod error;
pub mod http;
pub mod model;
pub mod observer;
pub mod ops;
pub mod service;
pub mod store;
pub mod tools;
