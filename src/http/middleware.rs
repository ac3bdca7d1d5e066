//! What every request passes on its way in and out.

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
        audit::{Answered, AuditOrigin, RequestInfo},
    },
};

/// The longest id of a request that is taken over.
const MOST_ID: usize = 128;

/// What is counted in the place of a route where none matches.
const NO_ROUTE: &str = "none";

/// Puts the layers around the routes.
pub(super) fn around(routes: Router, service: Arc<Service>, gate: Arc<Authenticator>) -> Router {
    let panicked = |_: Box<dyn std::any::Any + Send>| {
        Problem::from(Error::internal("the service has failed in a way that nobody foresaw")).into_response()
    };
    routes.layer(CatchPanicLayer::custom(panicked)).layer(from_fn_with_state((service, gate), pass))
}

/// Gives a request its id, finds out who asks, and notes what came of it.
async fn pass(
    State((service, gate)): State<(Arc<Service>, Arc<Authenticator>)>,
    mut request: Request,
    next: Next,
) -> Response {
    let began = Instant::now();
    let id = id_of(request.headers());
    request.headers_mut().insert(REQUEST_ID, id.clone());
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let route = request.extensions().get::<MatchedPath>().cloned();
    let flying = service.metrics.in_flight();
    let (asked, peer) = (Arc::new(RequestInfo::default()), request.extensions().get::<Peer>().cloned());
    request.extensions_mut().insert(asked.clone());
    let admitted = gate.admit(request.uri(), request.headers(), peer.as_ref());
    let client = admitted.as_ref().ok().cloned();
    let mut response = match admitted {
        Ok(client) => {
            request.extensions_mut().insert(client);
            next.run(request).await
        }
        Err(problem) => problem.into_response(),
    };
    let status = response.status().as_u16();
    drop(flying);
    service.metrics.request(
        route.as_ref().map_or(NO_ROUTE, MatchedPath::as_str),
        method.as_str(),
        status,
        began.elapsed(),
    );
    let headers = response.headers_mut();
    headers.insert(REQUEST_ID, id);
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    let (client, peer) = (client.as_ref().map(|client| client.name.as_str()), peer.as_ref());
    let peer = peer.map(|peer| peer.address.as_str());
    let whence = AuditOrigin { client, peer, method: method.as_str(), path: &path };
    let answered = Answered {
        whence,
        request_id: submit::request_id(response.headers()),
        status,
        code: response.extensions().get::<ProblemCode>().map(|code| code.0),
        operation_id: response.headers().get(OPERATION_ID).and_then(|id| id.to_str().ok()),
        duration: began.elapsed(),
    };
    note(&service, &asked, &answered);
    response
}

/// Notes what came of a request.
fn note(service: &Service, asked: &RequestInfo, answered: &Answered<'_>) {
    service.audit.answered(asked, answered);
    let AuditOrigin { client, method, path, .. } = answered.whence;
    tracing::info!(
        request_id = answered.request_id,
        client = client.unwrap_or_default(),
        method,
        path,
        status = answered.status,
        operation = answered.operation_id.unwrap_or_default(),
        ms = answered.duration.as_millis(),
        "answered"
    );
}

/// The id that a client has given, where it is plain and short; else a new one.
fn id_of(headers: &HeaderMap) -> HeaderValue {
    let is_plain =
        |id: &&HeaderValue| !id.is_empty() && id.len() <= MOST_ID && id.as_bytes().iter().all(u8::is_ascii_graphic);
    let given = headers.get(REQUEST_ID).filter(is_plain).cloned();
    given.unwrap_or_else(|| {
        // A UUID's characters are a header's.
        HeaderValue::from_str(&Uuid::new_v4().to_string()).unwrap_or(HeaderValue::from_static("none"))
    })
}
