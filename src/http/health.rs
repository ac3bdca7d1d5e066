//! Whether the service lives, and whether it can do its work.

use std::{sync::Arc, time::Duration};

use axum::{Extension, Json, extract::State, http::StatusCode};
use serde::Serialize;
use serde_json::json;
use utoipa::ToSchema;

use super::problem::Problem;
use crate::{
    error::{Code, Error},
    ops::doctor::{self, CheckStatus, Checked, DoctorOptions},
    service::{Service, client::Client, jobs},
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
    /// What was looked at; only clients that have said who they are see it
    #[serde(skip_serializing_if = "Option::is_none")]
    checks: Option<Vec<Checked>>,
}

/// It lives: nothing else is looked at.
pub(super) async fn alive() -> &'static str {
    "OK"
}

/// It can do its work.
pub(super) async fn ready(
    State(service): State<Arc<Service>>,
    Extension(client): Extension<Arc<Client>>,
) -> Result<Json<Ready>, Problem> {
    if service.is_ending() {
        return Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, "interrupted", jobs::ending()));
    }
    let host = service.host_for_listening().with_time_limit(CALL_LIMIT);
    let options = DoctorOptions { checks: ESSENTIAL.map(str::to_owned).into(), fix: false };
    let found = service.ready.look(KEEP, BOUND, move || doctor::examine(&host, &options)).await;
    let is_known = client.is_known();
    let checks = match found.as_ref() {
        Ok(found) => &found.checks,
        Err(error) if is_known => return Err(not_ready(error.code, error.to_string(), &[])),
        Err(error) => return Err(failing(error.code, &[])),
    };
    let bad: Vec<_> = checks.iter().filter(|checked| is_in_the_way(checked)).cloned().collect();
    let Some(first) = bad.first() else {
        return Ok(Json(Ready { ready: true, checks: is_known.then(|| checks.clone()) }));
    };
    let code = first.code.unwrap_or(Code::Timeout);
    Err(if is_known { not_ready(code, first.saw.clone(), &bad) } else { failing(code, &bad) })
}

/// Whether the service cannot do its work because of what was found.
fn is_in_the_way(checked: &Checked) -> bool {
    let is_unseen = checked.status == CheckStatus::Skip && SEEN.contains(&checked.id);
    checked.status == CheckStatus::Fail || is_unseen
}

/// The same for a client that has not said who it is: the checks' ids, without paths and versions.
fn failing(code: Code, checks: &[Checked]) -> Problem {
    let ids: Vec<_> = checks.iter().map(|checked| json!({ "id": checked.id })).collect();
    let error = Error::new(code, "the service cannot do its work").hint("Only authenticated clients see the details.");
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, code.name(), error.details(json!({ "checks": ids })))
}

/// Whoever asks is a program that asks again: the status is always the same, and what fails stands in the details.
fn not_ready(code: Code, cause: String, checks: &[Checked]) -> Problem {
    let error = Error::new(code, "the service cannot do its work").because(cause);
    let fix = checks.iter().find_map(|checked| checked.fix.clone());
    let error = error.hint(fix.unwrap_or_else(|| "GET /api/doctor looks at everything.".to_owned()));
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, code.name(), error.details(json!({ "checks": checks })))
}
