//! What every request passes on its way in and out.

use std::{sync::Arc, time::Instant};

use axum::{
    Router,
    extract::{Request, State},
    http::{HeaderMap, HeaderValue, header},
    middleware::{Next, from_fn_with_state},
    response::{IntoResponse, Response},
};
use tower_http::catch_panic::CatchPanicLayer;
use uuid::Uuid;

use super::{
    audit::{Answered, Asked, ProblemCode},
    call::{self, OPERATION_ID, REQUEST_ID},
    listen::Peer,
    problem::Problem,
    service::Service,
};
use crate::error::Error;

/// The longest id of a request that is taken over.
const MOST_ID: usize = 128;

/// Puts the layers around the routes.
pub(super) fn around(routes: Router, service: Arc<Service>) -> Router {
    let panicked = |_: Box<dyn std::any::Any + Send>| {
        Problem::from(Error::internal("the service has failed in a way that nobody foresaw")).into_response()
    };
    routes.layer(CatchPanicLayer::custom(panicked)).layer(from_fn_with_state(service, pass))
}

/// Gives a request its id, finds out who asks, and notes what came of it.
async fn pass(State(service): State<Arc<Service>>, mut request: Request, next: Next) -> Response {
    let began = Instant::now();
    let id = id_of(request.headers());
    request.headers_mut().insert(REQUEST_ID, id.clone());
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let (asked, peer) = (Arc::new(Asked::default()), request.extensions().get::<Peer>().cloned());
    request.extensions_mut().insert(asked.clone());
    let admitted = service.gate.admit(request.uri(), request.headers(), peer.as_ref());
    let client = admitted.as_ref().ok().cloned();
    let mut response = match admitted {
        Ok(client) => {
            request.extensions_mut().insert(client);
            next.run(request).await
        }
        Err(problem) => problem.into_response(),
    };
    let code = response.extensions().get::<ProblemCode>().map(|code| code.0);
    let status = response.status().as_u16();
    let headers = response.headers_mut();
    headers.insert(REQUEST_ID, id);
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    let operation = headers.get(OPERATION_ID).and_then(|id| id.to_str().ok());
    let answered = Answered {
        request_id: call::request_id(headers),
        client: client.as_ref().map(|client| client.name.as_str()),
        peer: peer.as_ref().map(|peer| peer.address.as_str()),
        method: &method,
        path: &path,
        status,
        code,
        operation_id: operation,
        duration: began.elapsed(),
    };
    service.audit.answered(&asked, &answered);
    tracing::info!(
        request_id = call::request_id(headers),
        %method,
        path,
        status,
        operation = operation.unwrap_or_default(),
        client = answered.client.unwrap_or_default(),
        ms = began.elapsed().as_millis(),
        "answered"
    );
    response
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
