//! The merge of the operator's user data with vmprov's configuration, evaluated by cloud-init's own code.
#![expect(clippy::unwrap_used, reason = "a test ends where something goes wrong")]

mod cases;
mod merged;
mod refused;
mod support;
