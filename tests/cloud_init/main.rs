//! What the operator's user data and vmprov's configuration become together, as cloud-init's own code sees it.
#![expect(clippy::unwrap_used, reason = "a test ends where something goes wrong")]

mod cases;
mod merged;
mod refused;
mod support;
