//! Responses of operations: the report, the error, or the state of a running operation.

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
    api::{self, Operation, OperationView, Report},
    error::{Error, Result},
    service::job::Job,
};

/// After how many seconds a client should poll an operation.
pub(super) const POLL: &str = "2";

/// The response for an operation that is still running.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct Accepted {
    /// `accepted`.
    status: &'static str,
    /// What to do next, in words.
    message: String,
    /// The path at which to poll the operation.
    poll: String,
    /// The current state of the operation.
    operation: OperationView,
}

/// Returns the response with a report.
pub(super) fn report(operation: &Operation, request: &Value, report: &Report) -> Response<Body> {
    let status = StatusCode::from_u16(operation.status_of(report)).unwrap_or(StatusCode::OK);
    match report {
        Report::Json(value) => {
            let mut response = (status, Json(value)).into_response();
            if response.status() == StatusCode::CREATED
                && let Some(location) = operation.location(request).and_then(|path| HeaderValue::from_str(&path).ok())
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

/// Returns the response with the outcome of an operation.
pub(super) fn outcome(operation: &Operation, request: &Value, outcome: Result<&Report, &Error>) -> Response<Body> {
    match outcome {
        Ok(result) => report(operation, request, result),
        Err(error) => Problem::from(error.clone()).into_response(),
    }
}

/// Returns the response with the outcome of a job, or with its state if it is still running.
pub(super) fn job(job: &Job, request: &Value) -> Response<Body> {
    match job.outcome() {
        Some(result) => outcome(job.operation, request, result.as_ref().map(AsRef::as_ref)),
        None => accepted(job),
    }
}

fn accepted(job: &Job) -> Response<Body> {
    let operation = job.view().written(api::as_request);
    let poll = format!("/api/operations/{}", operation.id);
    let message = format!(
        "{} is running in the background. Poll it with GET {poll} until its state is succeeded, failed or cancelled; \
         cancel it with DELETE {poll}. Do not send the request again.",
        job.operation.name
    );
    let headers = [(header::LOCATION, poll.clone()), (header::RETRY_AFTER, POLL.to_owned())];
    (StatusCode::ACCEPTED, headers, Json(Accepted { status: "accepted", message, poll, operation })).into_response()
}
