//! What an operation has reported, or how far it is, as a response.

use axum::{
    Json,
    body::Body,
    http::{HeaderValue, Response, StatusCode, header},
    response::IntoResponse,
};
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::problem::Problem;
use crate::{
    api::{self, Operation, Report},
    error::{Error, Result},
    service::job::{Job, View},
};

/// How long to wait before an operation is looked at again, in seconds.
pub(super) const POLL: &str = "2";

/// What is said of an operation that is under way.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct Accepted {
    /// `accepted`.
    status: &'static str,
    /// What is to be done next, in words.
    message: String,
    /// Where to ask how far it is.
    poll: String,
    /// The operation, as it is now.
    operation: View,
}

/// A report.
pub(super) fn report(operation: &Operation, request: &Value, report: &Report) -> Response<Body> {
    let status = StatusCode::from_u16(operation.status_of(report)).unwrap_or(StatusCode::OK);
    match report {
        Report::Json(value) => {
            let mut response = (status, Json(value)).into_response();
            if response.status() == StatusCode::CREATED
                && let Some(location) = location(operation, request)
            {
                response.headers_mut().insert(header::LOCATION, location);
            }
            response
        }
        Report::Png(png) => ([(header::CONTENT_TYPE, "image/png")], png.clone()).into_response(),
        Report::Text(text) => {
            ([(header::CONTENT_TYPE, "text/plain; charset=utf-8")], format!("{text}\n")).into_response()
        }
    }
}

/// Where what was created is.
fn location(operation: &Operation, request: &Value) -> Option<HeaderValue> {
    let name = |member: &str| Some(api::segment(request.get(member)?.as_str()?));
    let path = match operation.name {
        "vm_create" => format!("/api/vms/{}", name("name")?),
        "ssh_key_generate" => format!("/api/ssh-keys/{}", name("name")?),
        "image_import" => format!("/api/images/{}", name("name")?),
        "vm_commit" => format!("/api/images/{}", name("image")?),
        _ => return None,
    };
    HeaderValue::from_str(&path).ok()
}

/// What came of a look.
pub(super) fn seen(operation: &Operation, request: &Value, seen: Result<&Report, &Error>) -> Response<Body> {
    match seen {
        Ok(found) => report(operation, request, found),
        Err(error) => Problem::from(error.clone()).into_response(),
    }
}

/// What came of an operation, or how far it is.
pub(super) fn job(job: &Job, request: &Value) -> Response<Body> {
    match job.outcome() {
        Some(outcome) => seen(job.operation, request, outcome.as_ref().map(AsRef::as_ref)),
        None => accepted(job),
    }
}

fn accepted(job: &Job) -> Response<Body> {
    let operation = job.view().written(api::as_request);
    let poll = format!("/api/operations/{}", operation.id);
    let message = format!(
        "{} is under way and goes on by itself. Ask how far it is with GET {poll} until its state is succeeded, failed or \
         cancelled; DELETE {poll} cancels it. Do not send the request again.",
        job.operation.name
    );
    let headers = [(header::LOCATION, poll.clone()), (header::RETRY_AFTER, POLL.to_owned())];
    (StatusCode::ACCEPTED, headers, Json(Accepted { status: "accepted", message, poll, operation })).into_response()
}
