//! The files that vmprov keeps itself: ssh keys, and locks while it works.

pub mod download;
pub mod host_keys;
mod key_file;
pub mod keys;
pub mod kvm;
pub mod lock;
pub mod rsa;
mod secret_file;
