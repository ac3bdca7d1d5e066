//! `GET /healthz` and `GET /readyz`: whether the service is alive, and whether it is ready.

use std::{sync::Arc, time::Duration};

use axum::{Extension, Json, extract::State, http::StatusCode};
use serde::Serialize;
use serde_json::json;
use utoipa::ToSchema;

use super::problem::Problem;
use crate::{
    error::{Code, Error, Hint},
    ops::doctor::{self, CheckStatus, Checked, DoctorOptions},
    service::{Service, client::Client, jobs},
};

/// The checks without which no VM can be created.
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

/// The checks that must not be skipped. The others may not apply: the libvirt session of a user has no networks.
const REQUIRED: [&str; 2] = ["tools.virsh", "daemon.reachable"];

/// How long a result is cached, so that frequent probes cost one run of the checks.
const TTL: Duration = Duration::from_secs(2);

/// The time limit of each program that a check runs, so that the response names the check that hangs.
const PROGRAM_LIMIT: Duration = Duration::from_secs(2);

/// How long a probe waits for the checks.
const LIMIT: Duration = Duration::from_secs(5);

/// The service is ready
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Ready {
    /// `true`
    ready: bool,
    /// The results of the checks; only authenticated clients receive them
    #[serde(skip_serializing_if = "Option::is_none")]
    checks: Option<Vec<Checked>>,
}

/// Returns that the service is alive, without any check.
pub(super) async fn alive() -> &'static str {
    "OK"
}

/// Returns whether the service is ready.
pub(super) async fn ready(
    State(service): State<Arc<Service>>,
    Extension(client): Extension<Arc<Client>>,
) -> Result<Json<Ready>, Problem> {
    if service.is_shutting_down() {
        return Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, "interrupted", jobs::shutting_down()));
    }
    let host = service.background_host().with_time_limit(PROGRAM_LIMIT);
    let options = DoctorOptions { checks: ESSENTIAL.map(str::to_owned).into(), fix: false };
    let found = service.ready.get(TTL, LIMIT, move || doctor::examine(&host, &options)).await;
    let shows_details = client.may_see_details();
    let checks = match found.as_ref() {
        Ok(found) => &found.checks,
        Err(error) if shows_details => return Err(not_ready(error.code, error.to_string(), &[])),
        Err(error) => return Err(not_ready_brief(error.code, &[])),
    };
    let failed: Vec<_> = checks.iter().filter(|checked| is_failed(checked)).cloned().collect();
    let Some(first) = failed.first() else {
        return Ok(Json(Ready { ready: true, checks: shows_details.then(|| checks.clone()) }));
    };
    let code = first.code.unwrap_or(Code::Timeout);
    Err(if shows_details { not_ready(code, first.observed.clone(), &failed) } else { not_ready_brief(code, &failed) })
}

/// Returns whether the result of a check makes the service unready.
fn is_failed(checked: &Checked) -> bool {
    let is_missing = checked.status == CheckStatus::Skip && REQUIRED.contains(&checked.id);
    checked.status == CheckStatus::Fail || is_missing
}

/// Returns the problem for an unauthenticated client: the IDs of the checks, without paths and versions.
fn not_ready_brief(code: Code, checks: &[Checked]) -> Problem {
    let ids: Vec<_> = checks.iter().map(|checked| json!({ "id": checked.id })).collect();
    let error = Error::new(code, "the service is not ready").hint("Authenticate to see the details");
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, code.name(), error.details(json!({ "checks": ids })))
}

/// Returns the problem for an authenticated client. The status is always the same for probes; the details contain the
/// failed checks.
fn not_ready(code: Code, cause: String, checks: &[Checked]) -> Problem {
    let fix = checks.iter().find_map(|checked| checked.fix_command.clone());
    let hint = match fix {
        Some(command) => Hint::run("Fix it", command),
        None => Hint::call_any("Run all checks", "doctor"),
    };
    let error = Error::new(code, "the service is not ready").because(cause).hint(hint);
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, code.name(), error.details(json!({ "checks": checks })))
}
