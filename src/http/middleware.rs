//! The middleware of all routes: request IDs, authentication, metrics, the audit log and common headers.

use std::{sync::Arc, time::Instant};

use axum::{
    Router,
    extract::{MatchedPath, Request, State},
    http::{HeaderValue, StatusCode, header},
    middleware::{Next, from_fn_with_state, map_request},
    response::{IntoResponse, Response},
};
use tower_http::{
    catch_panic::CatchPanicLayer,
    request_id::{MakeRequestUuid, PropagateRequestIdLayer, SetRequestIdLayer},
    set_header::SetResponseHeaderLayer,
};

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
    let fixed = |name, value| SetResponseHeaderLayer::overriding(name, HeaderValue::from_static(value));
    // The first layer of the tuple is the outermost one.
    routes.layer((
        fixed(header::CACHE_CONTROL, "no-store"),
        fixed(header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        map_request(remove_invalid_id),
        SetRequestIdLayer::new(REQUEST_ID, MakeRequestUuid),
        PropagateRequestIdLayer::new(REQUEST_ID),
        from_fn_with_state((service, authenticator), pass),
        CatchPanicLayer::custom(panicked),
    ))
}

/// Removes the client's request ID, unless it is short and has only visible ASCII characters. The request gets a new one.
async fn remove_invalid_id(mut request: Request) -> Request {
    let is_valid =
        |id: &HeaderValue| !id.is_empty() && id.len() <= MAX_ID && id.as_bytes().iter().all(u8::is_ascii_graphic);
    if !request.headers().get(REQUEST_ID).is_some_and(is_valid) {
        request.headers_mut().remove(REQUEST_ID);
    }
    request
}

/// Authenticates a request, and records the response.
async fn pass(
    State((service, authenticator)): State<(Arc<Service>, Arc<Authenticator>)>,
    mut request: Request,
    next: Next,
) -> Response {
    let started = Instant::now();
    let request_id = submit::request_id(request.headers()).to_owned();
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let route = request.extensions().get::<MatchedPath>().cloned();
    let in_flight = service.metrics.in_flight();
    let (info, peer) = (Arc::new(RequestInfo::default()), request.extensions().get::<Peer>().cloned());
    request.extensions_mut().insert(info.clone());
    let authenticated = authenticator.authenticate(request.uri(), request.headers(), peer.as_ref());
    let client = authenticated.as_ref().ok().cloned();
    let response = match authenticated {
        Ok(client) => {
            request.extensions_mut().insert(client);
            next.run(request).await
        }
        Err(problem) => problem.into_response(),
    };
    let status = response.status();
    drop(in_flight);
    service.metrics.request(
        route.as_ref().map_or(NO_ROUTE, MatchedPath::as_str),
        method.as_str(),
        status.as_u16(),
        started.elapsed(),
    );
    let (client, peer) = (client.as_ref().map(|client| client.name.as_str()), peer.as_ref());
    let peer = peer.map(|peer| peer.address.as_str());
    let origin = AuditOrigin { client, peer, method: method.as_str(), route: audited_route(&info, &path) };
    let record = AuditResponse {
        origin,
        request_id: &request_id,
        status: status.as_u16(),
        code: response.extensions().get::<ProblemCode>().map(|code| code.0),
        operation_id: response.headers().get(OPERATION_ID).and_then(|id| id.to_str().ok()),
        duration: started.elapsed(),
    };
    if is_audited(&path, status) {
        service.audit.record_response(&info, &record);
    }
    log(&record, &path);
    response
}

/// Returns whether the audit log records a response: those of the API, and every refusal.
fn is_audited(path: &str, status: StatusCode) -> bool {
    path.starts_with("/api") || matches!(status.as_u16(), 401 | 403 | 421)
}

/// Returns the route in the audit log: the template of an operation's route, otherwise the path, which names a tool.
fn audited_route<'r>(info: &RequestInfo, path: &'r str) -> &'r str {
    let operation = info.operation.get().filter(|_| !path.starts_with("/api/tools/"));
    operation.map_or(path, |operation| operation.path)
}

/// Writes a response to the log.
fn log(record: &AuditResponse<'_>, path: &str) {
    let AuditOrigin { client, method, .. } = record.origin;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_audit_log_records_the_api_and_every_refusal() {
        let audited = [("/api/vms", 200), ("/api/nothing", 404), ("/metrics", 401), ("/mcp", 403), ("/healthz", 421)];
        for (path, status) in audited {
            assert!(is_audited(path, StatusCode::from_u16(status).unwrap()), "{path} {status}");
        }
        for (path, status) in [("/healthz", 200), ("/mcp", 200), ("/favicon.ico", 404)] {
            assert!(!is_audited(path, StatusCode::from_u16(status).unwrap()), "{path} {status}");
        }
    }

    #[test]
    fn the_audit_log_has_the_template_of_an_operation_and_the_name_of_a_tool() {
        let info = RequestInfo::default();
        assert_eq!(audited_route(&info, "/api/vms/web"), "/api/vms/web");
        info.operation.set(crate::api::find("vm_info").unwrap()).unwrap();
        assert_eq!(audited_route(&info, "/api/vms/web"), "/api/vms/{vm}");
        assert_eq!(audited_route(&info, "/api/tools/vm_info"), "/api/tools/vm_info");
    }
}
