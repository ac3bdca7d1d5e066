//! The files that vmprov keeps itself (ssh keys, downloads, and locks while it works), and what this machine's own
//! files tell of it.

pub mod accounts;
pub mod checksum_file;
pub mod disk_space;
pub mod download;
pub mod host_keys;
pub mod http;
mod key_file;
pub mod keys;
pub mod known_hosts;
pub mod kvm_verdict;
pub mod local_file;
pub mod lock;
pub mod loopback;
pub mod partial_file;
pub mod path_access;
pub mod rsa;
mod secret_file;
pub mod system;
pub mod unpack;
