//! The router: all routes, with the middleware.

use std::{collections::BTreeMap, sync::Arc};

use axum::{
    Router,
    body::Body,
    extract::{Request, State},
    http::{Method, Response, StatusCode, header},
    response::IntoResponse,
    routing::{MethodFilter, MethodRouter, any, delete, get, on, post},
};

use super::{
    authentication::Authenticator, docs, events, health, mcp_transport::Mcp, middleware, operations, problem::Problem,
    scrape, submit, suggest, tools,
};
use crate::{
    api::{self, Operation},
    error::Error,
    service::Service,
};

/// A route that is not an operation: its path, its method and its handler.
type OwnRoute = (&'static str, &'static str, MethodRouter<Arc<Service>>);

/// The path of the Model Context Protocol, which handles all methods itself.
const MCP: &str = "/mcp";

/// Returns the router with all routes.
pub(super) fn router(service: Arc<Service>, authenticator: Arc<Authenticator>, mcp: Mcp) -> Router {
    let mut paths: BTreeMap<&str, (Vec<&str>, MethodRouter<Arc<Service>>)> = BTreeMap::new();
    let operations = api::operations().iter().map(|operation| (operation.path, operation.method, handler(operation)));
    for (path, method, handler) in operations.chain(own()) {
        let (methods, router) = paths.entry(path).or_default();
        methods.push(method);
        if method == "GET" {
            methods.push("HEAD");
        }
        *router = std::mem::take(router).merge(handler);
    }
    let mut router = Router::new();
    for (path, (methods, handlers)) in paths {
        let refuse = move |method: Method| async move { no_method(&methods, &method) };
        router = router.route(path, handlers.fallback(refuse));
    }
    router = router.route(MCP, any(move |request| mcp.clone().handle(request)));
    middleware::around(router.fallback(no_route).with_state(service.clone()), service, authenticator)
}

fn handler(operation: &'static Operation) -> MethodRouter<Arc<Service>> {
    let method = Method::from_bytes(operation.method.as_bytes()).unwrap_or_default();
    let filter = MethodFilter::try_from(method).unwrap_or(MethodFilter::GET);
    on(filter, move |State(service): State<Arc<Service>>, route: submit::Route, request: Request| async move {
        submit::call(service, operation, route, request).await
    })
}

/// Returns the templates of the paths of all routes.
pub(super) fn paths() -> impl Iterator<Item = &'static str> {
    api::operations()
        .iter()
        .map(|operation| operation.path)
        .chain(own().into_iter().map(|(path, _, _)| path))
        .chain([MCP])
}

/// Returns the routes that are not operations.
fn own() -> Vec<OwnRoute> {
    vec![
        ("/openapi.json", "GET", get(docs::document)),
        ("/docs", "GET", get(docs::page)),
        ("/docs/", "GET", get(docs::index)),
        ("/docs/{*file}", "GET", get(docs::asset)),
        ("/healthz", "GET", get(health::alive)),
        ("/readyz", "GET", get(health::ready)),
        ("/metrics", "GET", get(scrape::metrics)),
        ("/api/tools", "GET", get(tools::list)),
        ("/api/tools/{name}", "POST", post(tools::call)),
        ("/api/events", "GET", get(events::stream)),
        ("/api/operations", "GET", get(operations::list)),
        ("/api/operations/{id}", "GET", get(operations::show)),
        ("/api/operations/{id}", "DELETE", delete(operations::cancel)),
    ]
}

/// Returns the problem for a path that matches no route.
async fn no_route(request: Request) -> Response<Body> {
    let path = request.uri().path().to_owned();
    let error = Error::not_found(format!("route `{}` does not exist", path.escape_debug()));
    let trimmed = path.trim_end_matches('/');
    let error = if trimmed.len() < path.len() && !trimmed.is_empty() {
        error.hint(format!("Remove the slash at the end: {trimmed}"))
    } else {
        match suggest::route(paths(), &path) {
            Some(route) => error.hint(format!("Check the path; similar: {route}")),
            None => error,
        }
    };
    Problem::from(error.hint("See the routes at /docs or /openapi.json")).into_response()
}

/// Returns the problem for a method that a route does not support.
fn no_method(methods: &[&str], method: &Method) -> Response<Body> {
    let allowed = methods.join(", ");
    let error = Error::invalid(format!("this route does not support {method}")).hint(format!("Use one of {allowed}"));
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", error)
        .header(header::ALLOW, &allowed)
        .into_response()
}
