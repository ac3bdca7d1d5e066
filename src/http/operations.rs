//! `/api/operations`: what is under way, and what has ended not long ago.

use std::{sync::Arc, time::Duration};

use axum::{
    Extension, Json,
    extract::{RawPathParams, State},
};
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use super::{
    call,
    client::Client,
    job::{Job, View},
    problem::Problem,
    service::Service,
};
use crate::{api::Scope, error::Error};

/// How long undoing is waited for before it is answered that it goes on.
const UNDONE_WITHIN: Duration = Duration::from_secs(45);

/// What is under way, and what has ended not long ago
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Operations)]
pub(super) struct Listing {
    /// They, the newest first
    operations: Vec<View>,
}

/// Lists them.
pub(super) async fn list(
    State(service): State<Arc<Service>>,
    Extension(client): Extension<Arc<Client>>,
) -> Json<Listing> {
    let mut operations = service.jobs.views();
    operations.retain(|view| client.may_see(view));
    Json(Listing { operations })
}

/// Shows one.
pub(super) async fn show(
    State(service): State<Arc<Service>>,
    Extension(client): Extension<Arc<Client>>,
    route: call::Route,
) -> Result<Json<View>, Problem> {
    Ok(Json(find(&service, &client, &call::names(route)?)?.view()))
}

/// Cancels one, and waits until it has undone what it had done.
pub(super) async fn cancel(
    State(service): State<Arc<Service>>,
    Extension(client): Extension<Arc<Client>>,
    route: call::Route,
) -> Result<Json<View>, Problem> {
    client.require(Scope::Operate, "cancel operations")?;
    let job = find(&service, &client, &call::names(route)?)?;
    if !job.stop() {
        let View { id, operation, state, .. } = job.view();
        let state = serde_json::to_value(state).unwrap_or_default();
        let message = format!("the operation {id} ({operation}) has ended already: it is {state}");
        return Err(Error::conflict(message.replace('"', ""))
            .hint("What it has done can only be undone by another.")
            .into());
    }
    call::ended_within(&job, UNDONE_WITHIN).await;
    Ok(Json(job.view()))
}

fn find(service: &Service, client: &Client, route: &RawPathParams) -> Result<Arc<Job>, Error> {
    let given = route.iter().next().map(|(_, id)| id).unwrap_or_default();
    let found = Uuid::parse_str(given).ok().and_then(|id| service.jobs.find(id));
    found.filter(|job| client.may_see(&job.view())).ok_or_else(|| {
        Error::not_found(format!("there is no operation `{}`", given.escape_debug()))
            .hint("GET /api/operations lists those that are known: what has ended is forgotten after a while, and when the service is started again.")
    })
}
