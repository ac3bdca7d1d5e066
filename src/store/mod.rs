//! The files that vmprov owns (ssh keys, downloads, caches and locks), and facts from this machine's system files.

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
