//! The data types of the domain: parsed and validated, without I/O.

pub mod address;
pub mod change;
pub mod console;
pub mod digest;
pub mod firewall;
pub mod image;
pub mod key;
pub mod limit;
pub mod name;
pub mod proxy;
pub mod record;
mod schema;
pub mod size;
pub mod source_policy;
pub mod specification;
pub mod ssh;
pub mod stage;
pub mod stats;
pub mod ttl;
pub mod user;
pub mod vm;
