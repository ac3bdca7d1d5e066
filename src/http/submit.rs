//! A call of one of the API's operations.

use std::sync::Arc;

use axum::{
    body::Body,
    extract::{RawPathParams, Request, rejection::RawPathParamsRejection},
    http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, header},
    response::IntoResponse,
};
use serde_json::Value;

use super::{
    body::{self, Parts},
    prefer::{self, Preference},
    problem::Problem,
    response, suggest,
};
use crate::{
    api::Operation,
    error::Error,
    model::digest,
    service::{
        Begun, Service, Submission, audit::RequestInfo, authorization, client::Client, job::Job, jobs::IdempotencyKey,
    },
};

/// The header by which a request is known in every log.
pub(super) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The header of a client's own name for a request (draft-ietf-httpapi-idempotency-key-header-07).
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// The longest such name.
const MOST_KEY: usize = 255;

/// Runs an operation that was asked for.
pub(super) async fn call(
    service: Arc<Service>,
    operation: &'static Operation,
    route: Route,
    request: Request,
) -> Result<Response<Body>, Problem> {
    let route = names(route)?;
    let (head, body) = request.into_parts();
    let client = head.extensions.get::<Arc<Client>>().cloned();
    let client = client.ok_or_else(|| Error::internal("nobody has asked who asks"))?;
    note(&head, |asked| asked.operation.set(operation).is_ok());
    authorization::scope(&client, operation)?;
    let parts = Parts { method: &head.method, uri: &head.uri, headers: &head.headers, route: &route };
    let asked = body::read(operation, &parts, body).await?;
    note(&head, |noted| noted.targets.set(authorization::targets(operation, &asked)).is_ok());
    let key = idempotency_key(&client, operation.name, &head.headers, &asked)?;
    let (request_id, request) = (request_id(&head.headers).to_owned(), asked.clone());
    let begun = service.ask(Submission { client, operation, request, request_id, key }).await;
    match begun? {
        Begun::Look(seen) => Ok(response::seen(operation, &asked, (*seen).as_ref())),
        Begun::Job(job) => Ok(answered(&job, &asked, prefer::read(&head.headers)).await),
    }
}

/// Notes something about a request, for the audit log.
pub(super) fn note(head: &axum::http::request::Parts, note: impl FnOnce(&RequestInfo) -> bool) {
    if let Some(asked) = head.extensions.get::<Arc<RequestInfo>>() {
        // What is noted already stays.
        note(asked);
    }
}

/// Waits as long as the client does, and then says how far it is.
async fn answered(job: &Job, asked: &Value, Preference { wait, applied }: Preference) -> Response<Body> {
    job.ends_within(wait).await;
    let mut response = response::job(job, asked);
    say_of_job(&mut response, job, applied);
    response
}

/// Says in an answer's headers which operation it is about, and which preferences were honoured.
pub(super) fn say_of_job(response: &mut Response<Body>, job: &Job, applied: Option<String>) {
    let value = |text: String| HeaderValue::from_str(&text).ok();
    let applied = applied.and_then(value).map(|applied| (HeaderName::from_static("preference-applied"), applied));
    let id = value(job.id.to_string()).map(|id| (OPERATION_ID, id));
    response.headers_mut().extend(applied.into_iter().chain(id));
}

/// The header that names the operation that a request began.
pub(super) const OPERATION_ID: HeaderName = HeaderName::from_static("x-operation-id");

/// The id of a request, which the outermost layer sees to.
pub(super) fn request_id(headers: &HeaderMap) -> &str {
    headers.get(REQUEST_ID).and_then(|id| id.to_str().ok()).unwrap_or_default()
}

pub(super) fn idempotency_key(
    client: &Client,
    what: &str,
    headers: &HeaderMap,
    asked: &Value,
) -> Result<Option<IdempotencyKey>, Error> {
    let Some(given) = headers.get(IDEMPOTENCY_KEY) else { return Ok(None) };
    let is_plain = |text: &&str| text.bytes().all(|byte| byte.is_ascii_graphic());
    let text = given.to_str().ok().filter(|text| !text.is_empty() && text.len() <= MOST_KEY);
    let Some(key) = text.filter(is_plain) else {
        return Err(Error::invalid("the Idempotency-Key cannot be used")
            .because("it is empty, too long, or has blanks or other characters that cannot be seen")
            .hint(format!("Give 1 to {MOST_KEY} characters, as a UUID has them.")));
    };
    let fingerprint = digest::of(format!("{what} {asked}").as_bytes());
    Ok(Some(IdempotencyKey { client: client.name.clone(), key: key.to_owned(), fingerprint }))
}

/// What the names in a route stand for, where they could be read.
pub(super) type Route = Result<RawPathParams, RawPathParamsRejection>;

/// What the names in a route stand for.
pub(super) fn names(route: Route) -> Result<RawPathParams, Problem> {
    route.map_err(|error| {
        let error = Error::invalid("the path cannot be used").because(error.body_text());
        error.hint("Write what is no plain character as the percent-encoding of its UTF-8.").into()
    })
}

/// A route that is not there.
pub(super) async fn no_route(request: Request) -> Response<Body> {
    let path = request.uri().path().to_owned();
    let error = Error::not_found(format!("there is no route `{}`", path.escape_debug()));
    let trimmed = path.trim_end_matches('/');
    let error = if trimmed.len() < path.len() && !trimmed.is_empty() {
        error.hint(format!("Leave out the slash at its end: {trimmed}"))
    } else {
        match suggest::route(&path) {
            Some(route) => error.hint(format!("Did you mean {route}?")),
            None => error,
        }
    };
    Problem::from(error.hint("GET /openapi.json describes every route; /docs shows them.")).into_response()
}

/// A method that a route does not take.
pub(super) fn no_method(methods: &[&str], method: &Method) -> Response<Body> {
    let allowed = methods.join(", ");
    let error = Error::invalid(format!("this route does not take {method}")).hint(format!("It takes {allowed}."));
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", error)
        .header(header::ALLOW, &allowed)
        .into_response()
}
