//! Whether the service lives, and whether it can do its work.

use std::{sync::Arc, time::Duration};

use axum::{Json, extract::State, http::StatusCode};
use serde::Serialize;
use serde_json::json;
use utoipa::ToSchema;

use super::problem::Problem;
use crate::{
    error::{Code, Error},
    ops::doctor::{self, Checked, DoctorOptions, Status},
    service::{Service, jobs},
};

/// The checks without which no VM can be made.
const ESSENTIAL: [&str; 8] = [
    "tools.virsh",
    "tools.qemu-img",
    "tools.genisoimage",
    "daemon.reachable",
    "daemon.permission",
    "daemon.qemu",
    "pool.active",
    "network.active",
];

/// Those that must have seen that all is well. What the others do not see may not exist here: a session has no networks.
const SEEN: [&str; 2] = ["tools.virsh", "daemon.reachable"];

/// How old an answer may be: a storm of probes costs one look.
const KEEP: Duration = Duration::from_secs(2);

/// How long a call of a check may take, so that one that hangs shows by its name.
const CALL_LIMIT: Duration = Duration::from_secs(2);

/// How long a probe waits.
const BOUND: Duration = Duration::from_secs(5);

/// That the service can do its work
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Ready {
    /// `true`
    ready: bool,
    /// What was looked at
    checks: Vec<Checked>,
}

/// It lives: nothing else is looked at.
pub(super) async fn alive() -> &'static str {
    "OK"
}

/// It can do its work.
pub(super) async fn ready(State(service): State<Arc<Service>>) -> Result<Json<Ready>, Problem> {
    if service.is_ending() {
        return Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, "interrupted", jobs::ending()));
    }
    let host = service.host_for_listening().hurried(CALL_LIMIT);
    let options = DoctorOptions { checks: ESSENTIAL.map(str::to_owned).into(), fix: false };
    let found = service.ready.look(KEEP, BOUND, move || doctor::examine(&host, &options)).await;
    let checks = found.as_ref().as_ref().map_err(|error| not_ready(error.code, error.to_string(), &[]))?.checks.clone();
    let bad: Vec<_> = checks.iter().filter(|checked| is_in_the_way(checked)).cloned().collect();
    let Some(first) = bad.first() else { return Ok(Json(Ready { ready: true, checks })) };
    Err(not_ready(first.code.unwrap_or(Code::Timeout), first.saw.clone(), &bad))
}

/// Whether the service cannot do its work because of what was found.
fn is_in_the_way(checked: &Checked) -> bool {
    let is_unseen = checked.status == Status::Skip && SEEN.contains(&checked.id);
    checked.status == Status::Fail || is_unseen
}

/// Whoever asks is a program that asks again: the status is always the same, and what fails stands in the details.
fn not_ready(code: Code, cause: String, checks: &[Checked]) -> Problem {
    let error = Error::new(code, "the service cannot do its work").because(cause);
    let fix = checks.iter().find_map(|checked| checked.fix.clone());
    let error = error.hint(fix.unwrap_or_else(|| "GET /api/doctor looks at everything.".to_owned()));
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, code.name(), error.details(json!({ "checks": checks })))
}
