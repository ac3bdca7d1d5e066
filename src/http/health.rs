//! Whether the service lives, and whether it can do its work.

use std::sync::Arc;

use axum::{extract::State, http::StatusCode};

use super::{problem::Problem, service::Service};

/// It lives: nothing else is looked at.
pub(super) async fn alive() -> &'static str {
    "OK"
}

/// It can do its work.
pub(super) async fn ready(State(service): State<Arc<Service>>) -> Result<&'static str, Problem> {
    if service.is_ending() {
        return Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, "interrupted", super::ending()));
    }
    Ok("OK")
}
