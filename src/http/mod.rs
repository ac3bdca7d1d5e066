//! What an HTTP server shows of vmprov.

pub mod metrics;
