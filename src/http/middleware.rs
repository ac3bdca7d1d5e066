//! The middleware of all routes: request IDs, authentication, metrics, the audit log and common headers.

use std::{sync::Arc, time::Instant};

use axum::{
    Router,
    extract::{MatchedPath, Request, State},
    http::{HeaderMap, HeaderValue, header},
    middleware::{Next, from_fn_with_state},
    response::{IntoResponse, Response},
};
use tower_http::catch_panic::CatchPanicLayer;
use uuid::Uuid;

use super::{
    authentication::Authenticator,
    listen::Peer,
    problem::{Problem, ProblemCode},
    submit::{self, OPERATION_ID, REQUEST_ID},
};
use crate::{
    error::Error,
    service::{
        Service,
        audit::{AuditOrigin, AuditResponse, RequestInfo},
    },
};

/// The longest request ID that is accepted from a client.
const MAX_ID: usize = 128;

/// The route in the metrics if no route matches.
const NO_ROUTE: &str = "none";

/// Adds the middleware to the routes.
pub(super) fn around(routes: Router, service: Arc<Service>, authenticator: Arc<Authenticator>) -> Router {
    let panicked = |_: Box<dyn std::any::Any + Send>| {
        Problem::from(Error::internal("the handler of the request panicked")).into_response()
    };
    routes.layer(CatchPanicLayer::custom(panicked)).layer(from_fn_with_state((service, authenticator), pass))
}

/// Assigns a request its ID, authenticates it, and records the response.
async fn pass(
    State((service, authenticator)): State<(Arc<Service>, Arc<Authenticator>)>,
    mut request: Request,
    next: Next,
) -> Response {
    let started = Instant::now();
    let id = id_of(request.headers());
    request.headers_mut().insert(REQUEST_ID, id.clone());
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let route = request.extensions().get::<MatchedPath>().cloned();
    let in_flight = service.metrics.in_flight();
    let (info, peer) = (Arc::new(RequestInfo::default()), request.extensions().get::<Peer>().cloned());
    request.extensions_mut().insert(info.clone());
    let authenticated = authenticator.authenticate(request.uri(), request.headers(), peer.as_ref());
    let client = authenticated.as_ref().ok().cloned();
    let mut response = match authenticated {
        Ok(client) => {
            request.extensions_mut().insert(client);
            next.run(request).await
        }
        Err(problem) => problem.into_response(),
    };
    let status = response.status().as_u16();
    drop(in_flight);
    service.metrics.request(
        route.as_ref().map_or(NO_ROUTE, MatchedPath::as_str),
        method.as_str(),
        status,
        started.elapsed(),
    );
    let headers = response.headers_mut();
    headers.insert(REQUEST_ID, id);
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    let (client, peer) = (client.as_ref().map(|client| client.name.as_str()), peer.as_ref());
    let peer = peer.map(|peer| peer.address.as_str());
    let origin = AuditOrigin { client, peer, method: method.as_str(), path: &path };
    let record = AuditResponse {
        origin,
        request_id: submit::request_id(response.headers()),
        status,
        code: response.extensions().get::<ProblemCode>().map(|code| code.0),
        operation_id: response.headers().get(OPERATION_ID).and_then(|id| id.to_str().ok()),
        duration: started.elapsed(),
    };
    write_logs(&service, &info, &record);
    response
}

/// Writes a response to the audit log and to the log.
fn write_logs(service: &Service, info: &RequestInfo, record: &AuditResponse<'_>) {
    service.audit.record_response(info, record);
    let AuditOrigin { client, method, path, .. } = record.origin;
    tracing::info!(
        request_id = record.request_id,
        client = client.unwrap_or_default(),
        method,
        path,
        status = record.status,
        operation = record.operation_id.unwrap_or_default(),
        ms = record.duration.as_millis(),
        "answered"
    );
}

/// Returns the client's request ID if it is short and has only visible ASCII characters; otherwise a new one.
fn id_of(headers: &HeaderMap) -> HeaderValue {
    let is_plain =
        |id: &&HeaderValue| !id.is_empty() && id.len() <= MAX_ID && id.as_bytes().iter().all(u8::is_ascii_graphic);
    let given = headers.get(REQUEST_ID).filter(is_plain).cloned();
    given.unwrap_or_else(|| {
        // A UUID is always a valid header value.
        HeaderValue::from_str(&Uuid::new_v4().to_string()).unwrap_or(HeaderValue::from_static("none"))
    })
}
