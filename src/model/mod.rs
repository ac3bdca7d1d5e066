//! The nouns: plain data, parsed and validated, without any input or output.

pub mod digest;
pub mod firewall;
pub mod image;
pub mod key;
pub mod limit;
pub mod name;
pub mod proxy;
pub mod size;
pub mod user;
pub mod vm;
