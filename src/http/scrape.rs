//! `GET /metrics`

use std::{sync::Arc, time::Duration};

use axum::{
    Extension,
    extract::State,
    http::{HeaderName, header},
};

use super::problem::Problem;
use crate::{
    ops::stats,
    service::{Service, client::Client, metrics},
};

/// How old libvirt's figures may be. Scrapes come every 10 s or less often, so that one scraper's are always new; a second
/// scraper, or a person beside it, costs nothing.
const KEEP: Duration = Duration::from_secs(8);

/// How long a scrape waits for them: the look's own limit, and what ending it takes.
const BOUND: Duration = Duration::from_millis(3500);

/// Everything that is counted.
pub(super) async fn metrics(
    State(service): State<Arc<Service>>,
    Extension(client): Extension<Arc<Client>>,
) -> Result<([(HeaderName, &'static str); 1], String), Problem> {
    client.require_whole("see what is counted of every VM")?;
    let host = service.host_for_listening();
    let found = service.stats.look(KEEP, BOUND, move || stats::look(&host)).await;
    let text = service.metrics.encode(found.as_ref().as_ref());
    Ok(([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], text))
}
