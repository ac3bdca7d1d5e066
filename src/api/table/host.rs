//! Operations on the host: checks, and the removal of leftovers and expired VMs.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::NOTHING;
use crate::{
    api::{
        Effect, ExecutionMode, Operation, Scope,
        builder::{change, read},
        tool::tool,
    },
    ops::{
        doctor::{self, DoctorOptions},
        gc::{self, GcOptions},
        reap::{self, ReapOptions},
    },
};

/// The checks of the host to run.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(default)]
struct Checks {
    /// Checks to run, by ID or its beginning, such as `pool` or `pool.space`; all checks if empty
    checks: Vec<String>,
}

pub(super) fn operations() -> Vec<Operation> {
    vec![
        read("doctor", "doctor", "/api/doctor")
            .about("Check the host for problems")
            .tool(tool(
                "Check the host",
                "Checks the host: programs, libvirt, storage, networks, images. Call it if several other calls fail.",
            ))
            .shell(&[("Check the host", "vmprov doctor"), ("Apply the safe fixes", "vmprov doctor --fix")])
            .mode(ExecutionMode::Long)
            .whole_host("check the host")
            .run(|host, Checks { checks }: Checks| doctor::examine(host, &DoctorOptions { checks, fix: false })),
        change("doctor_fix", "doctor", "POST", "/api/doctor")
            .about("Apply safe fixes to the host and check it again")
            .takes(NOTHING)
            .scope(Scope::Admin)
            .whole_host("check the host")
            .run(|host, options: DoctorOptions| doctor::examine(host, &options)),
        change("gc", "gc", "POST", "/api/gc")
            .about("Remove leftovers of interrupted operations")
            .takes(NOTHING)
            .effect(Effect::Destroy)
            .scope(Scope::Admin)
            .run(|host, options: GcOptions| gc::collect(host, options)),
        change("reap", "reap", "POST", "/api/reap")
            .about("Delete expired VMs, running or not")
            .shell(&[("Show which VMs have expired", "vmprov reap --dry-run")])
            .takes(NOTHING)
            .effect(Effect::Destroy)
            .scope(Scope::Admin)
            .run(|host, options: ReapOptions| reap::reap(host, options)),
    ]
}
