//! `/api/operations`: the running and recently ended operations.

use std::sync::Arc;

use axum::{
    Extension, Json,
    extract::{RawPathParams, State},
};
use serde::Serialize;
use utoipa::ToSchema;

use super::{problem::Problem, submit};
use crate::{
    api::{self, OperationView},
    service::{Service, client::Client},
};

/// The running and recently ended operations
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Operations)]
pub(super) struct Listing {
    /// The operations, the newest first
    operations: Vec<OperationView>,
}

/// Lists the operations.
pub(super) async fn list(
    State(service): State<Arc<Service>>,
    Extension(client): Extension<Arc<Client>>,
) -> Json<Listing> {
    let operations = service.operations(&client).map(|view| view.written(api::as_request)).collect();
    Json(Listing { operations })
}

/// Shows an operation.
pub(super) async fn show(
    State(service): State<Arc<Service>>,
    Extension(client): Extension<Arc<Client>>,
    route: submit::Route,
) -> Result<Json<OperationView>, Problem> {
    let job = service.operation(&client, id(&submit::parameters(route)?))?;
    Ok(Json(job.view().written(api::as_request)))
}

/// Cancels an operation, and waits for its rollback.
pub(super) async fn cancel(
    State(service): State<Arc<Service>>,
    Extension(client): Extension<Arc<Client>>,
    route: submit::Route,
) -> Result<Json<OperationView>, Problem> {
    let view = service.cancel(&client, id(&submit::parameters(route)?)).await?;
    Ok(Json(view.written(api::as_request)))
}

fn id(route: &RawPathParams) -> &str {
    route.iter().next().map(|(_, id)| id).unwrap_or_default()
}
