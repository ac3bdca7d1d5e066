//! vmprov provisions virtual machines on libvirt/QEMU from cloud images, and gets an ssh key into them.
//!
//! ```text
//! main ──> cli ──────────────────────────> ops ──> tools       (programs: virsh, qemu-img, genisoimage, ssh)
//!           ├─> http ──┐                   ^ │ └─> store       (files: keys, locks, downloads, /proc and /sys)
//!           │    │     ├─> service ─> api ─┘ └───> cloud_init, catalogue  (pure)
//!           └───>└> agents                 (api: every operation once; service: authorization, running operations)
//! everything may import: model, error, cancel; ops, tools and service: observer
//! ```
//!
//! Every front end calls the functions of [`ops`] with the structs of [`model`]. Only [`tools`] starts processes.
//! `tests/layers.rs` checks that the imports match this diagram.

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
