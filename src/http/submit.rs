//! Handles the requests of operations.

use std::sync::Arc;

use axum::{
    body::Body,
    extract::{RawPathParams, Request, rejection::RawPathParamsRejection},
    http::{HeaderMap, HeaderName, HeaderValue, Response},
};
use serde_json::Value;

use super::{
    body::{self, Parts},
    prefer::{self, Preference},
    problem::Problem,
    response,
};
use crate::{
    api::Operation,
    error::Error,
    model::digest,
    service::{
        Begun, Service, Submission, audit::RequestInfo, authorization, client::Client, job::Job, jobs::IdempotencyKey,
    },
};

/// The header with the ID of a request, which all logs contain.
pub(super) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The header with the idempotency key (draft-ietf-httpapi-idempotency-key-header-07).
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// The longest idempotency key.
const MAX_KEY: usize = 255;

/// Runs the operation of a request.
pub(super) async fn call(
    service: Arc<Service>,
    operation: &'static Operation,
    route: Route,
    request: Request,
) -> Result<Response<Body>, Problem> {
    let route = parameters(route)?;
    let (head, body) = request.into_parts();
    let client = head.extensions.get::<Arc<Client>>().cloned();
    let client = client.ok_or_else(|| Error::internal("the request was not authenticated"))?;
    record(&head, |info| info.operation.set(operation).is_ok());
    authorization::require_scope(&client, operation)?;
    let parts = Parts { method: &head.method, uri: &head.uri, headers: &head.headers, route: &route };
    let members = body::read(operation, &parts, body).await?;
    record(&head, |info| info.targets.set(authorization::targets(operation, &members)).is_ok());
    let key = idempotency_key(&client, operation.name, &head.headers, &members)?;
    let (request_id, request) = (request_id(&head.headers).to_owned(), members.clone());
    let begun = service.submit(Submission { client, operation, request, request_id, key }).await;
    match begun? {
        Begun::Read(report) => Ok(response::outcome(operation, &members, (*report).as_ref())),
        Begun::Job(job) => Ok(job_response(&job, &members, prefer::read(&head.headers)).await),
    }
}

/// Records a fact about a request for the audit log.
pub(super) fn record(head: &axum::http::request::Parts, set: impl FnOnce(&RequestInfo) -> bool) {
    if let Some(info) = head.extensions.get::<Arc<RequestInfo>>() {
        // A fact that was set before is kept.
        set(info);
    }
}

/// Waits for a job as long as the client wants, and returns the outcome or the state.
async fn job_response(job: &Job, request: &Value, Preference { wait, applied }: Preference) -> Response<Body> {
    job.ends_within(wait).await;
    let mut response = response::job(job, request);
    add_job_headers(&mut response, job, applied);
    response
}

/// Adds the headers with the ID of the operation and the applied preferences.
pub(super) fn add_job_headers(response: &mut Response<Body>, job: &Job, applied: Option<String>) {
    let value = |text: String| HeaderValue::from_str(&text).ok();
    let applied = applied.and_then(value).map(|applied| (HeaderName::from_static("preference-applied"), applied));
    let id = value(job.id.to_string()).map(|id| (OPERATION_ID, id));
    response.headers_mut().extend(applied.into_iter().chain(id));
}

/// The header with the ID of the operation that a request started.
pub(super) const OPERATION_ID: HeaderName = HeaderName::from_static("x-operation-id");

/// Returns the ID of a request, which the middleware assigns.
pub(super) fn request_id(headers: &HeaderMap) -> &str {
    headers.get(REQUEST_ID).and_then(|id| id.to_str().ok()).unwrap_or_default()
}

/// Returns the idempotency key of a request. `name` is the name of the operation or tool.
pub(super) fn idempotency_key(
    client: &Client,
    name: &str,
    headers: &HeaderMap,
    request: &Value,
) -> Result<Option<IdempotencyKey>, Error> {
    let Some(value) = headers.get(IDEMPOTENCY_KEY) else { return Ok(None) };
    let is_plain = |text: &&str| text.bytes().all(|byte| byte.is_ascii_graphic());
    let text = value.to_str().ok().filter(|text| !text.is_empty() && text.len() <= MAX_KEY);
    let Some(key) = text.filter(is_plain) else {
        return Err(Error::invalid("invalid Idempotency-Key header")
            .because(format!("it must have 1 to {MAX_KEY} visible ASCII characters without spaces"))
            .hint("Use a UUID, for example"));
    };
    let fingerprint = digest::of(format!("{name} {request}").as_bytes());
    Ok(Some(IdempotencyKey { client: client.name.clone(), key: key.to_owned(), fingerprint }))
}

/// The parameters in a path, or why they cannot be read.
pub(super) type Route = Result<RawPathParams, RawPathParamsRejection>;

/// Returns the parameters in a path.
pub(super) fn parameters(route: Route) -> Result<RawPathParams, Problem> {
    route.map_err(|error| {
        let error = Error::invalid("invalid path").because(error.body_text());
        error.hint("Percent-encode the path as UTF-8").into()
    })
}
