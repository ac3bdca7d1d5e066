//! A call of one of the API's operations.

use std::{sync::Arc, time::Duration};

use axum::{
    body::Body,
    extract::{RawPathParams, Request, rejection::RawPathParamsRejection},
    http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, header},
    response::IntoResponse,
};
use serde_json::Value;

use super::{
    answer,
    audit::Asked,
    body::{self, Parts},
    client::Client,
    job::Job,
    jobs::{IdempotencyKey, Jobs, Order},
    near,
    permit::{self, Names},
    prefer::{self, Preference},
    problem::Problem,
    quota::Quotas,
    reads::Reads,
    service::Service,
};
use crate::{
    api::{Operation, Pace},
    error::Error,
    model::{digest, image::ImageName},
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
    permit::scope(&client, operation)?;
    let parts = Parts { method: &head.method, uri: &head.uri, headers: &head.headers, route: &route };
    let asked = body::read(operation, &parts, body).await?;
    note(&head, |noted| noted.targets.set(targets(operation, &asked)).is_ok());
    permit::request(&client, operation, &asked)?;
    if operation.pace == Pace::Quick {
        let seen = Reads::look(&service, &client, operation, asked.clone()).await;
        return Ok(answer::seen(operation, &asked, &seen));
    }
    let key = idempotency_key(&client, operation, &head.headers, &asked)?;
    let preference = prefer::read(&head.headers);
    let reservation = Quotas::reserve(&service, &client, operation, &asked).await?;
    let order = Order {
        operation,
        request: asked.clone(),
        client,
        request_id: request_id(&head.headers).to_owned(),
        reservation,
        key,
    };
    let job = Jobs::begin(&service, order).map_err(|error| refused(error, &head.headers))?;
    Ok(answered(&job, &asked, preference).await)
}

/// Notes something about a request, for the audit log.
fn note(head: &axum::http::request::Parts, note: impl FnOnce(&Asked) -> bool) {
    if let Some(asked) = head.extensions.get::<Arc<Asked>>() {
        // What is noted already stays.
        note(asked);
    }
}

/// The names of what a request is about. A URL or a path is none: it may hold a secret.
fn targets(operation: &Operation, asked: &Value) -> Vec<String> {
    let named = permit::named(operation, asked).into_iter();
    let is_name = |kind: Names, name: &str| kind != Names::Image || name.parse::<ImageName>().is_ok();
    named.filter(|(kind, name)| is_name(*kind, name)).map(|(_, name)| name.to_owned()).collect()
}

/// Waits as long as the client does, and then says how far it is.
async fn answered(job: &Job, asked: &Value, Preference { wait, applied }: Preference) -> Response<Body> {
    ended_within(job, wait).await;
    let mut response = answer::job(job, asked);
    if let Some(applied) = applied.and_then(|applied| HeaderValue::from_str(&applied).ok()) {
        response.headers_mut().insert(HeaderName::from_static("preference-applied"), applied);
    }
    let id = job.view().id.to_string();
    response.headers_mut().extend(HeaderValue::from_str(&id).ok().map(|id| (OPERATION_ID, id)));
    response
}

/// The header that names the operation that a request began.
pub(super) const OPERATION_ID: HeaderName = HeaderName::from_static("x-operation-id");

/// Waits until a job has ended, at most so long.
pub(super) async fn ended_within(job: &Job, limit: Duration) {
    // That it has not ended in time shows in the job itself.
    let _ = tokio::time::timeout(limit, job.ends()).await;
}

/// The id of a request, which the outermost layer sees to.
pub(super) fn request_id(headers: &HeaderMap) -> &str {
    headers.get(REQUEST_ID).and_then(|id| id.to_str().ok()).unwrap_or_default()
}

/// A key that was used for something else has a status of its own.
fn refused(error: Error, headers: &HeaderMap) -> Problem {
    if error.code == crate::error::Code::Conflict && headers.contains_key(IDEMPOTENCY_KEY) {
        return Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "key_reused", error);
    }
    error.into()
}

fn idempotency_key(
    client: &Client,
    operation: &Operation,
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
    let fingerprint = digest::of(format!("{} {asked}", operation.name).as_bytes());
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
        match near::route(&path) {
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
