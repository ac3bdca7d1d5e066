//! The files that vmprov keeps itself (ssh keys, downloads, and locks while it works), and what this machine's own
//! files tell of it.

pub mod accounts;
pub mod download;
pub mod host_keys;
pub mod http;
mod key_file;
pub mod keys;
pub mod known_hosts;
pub mod kvm;
pub mod local_file;
pub mod lock;
pub mod loopback;
pub mod part;
pub mod room;
pub mod rsa;
mod secret_file;
pub mod sums;
pub mod system;
pub mod unpack;
pub mod way;
