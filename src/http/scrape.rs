//! `GET /metrics`: the metrics for Prometheus.

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

/// How long libvirt's statistics are cached. A scraper that comes every 10 s or less often always receives new ones. A
/// second scraper costs nothing.
const TTL: Duration = Duration::from_secs(8);

/// How long a scrape waits for the statistics: their own time limit, and the time to end the program.
const LIMIT: Duration = Duration::from_millis(3500);

/// Returns all metrics.
pub(super) async fn metrics(
    State(service): State<Arc<Service>>,
    Extension(client): Extension<Arc<Client>>,
) -> Result<([(HeaderName, &'static str); 1], String), Problem> {
    client.require_unrestricted("read the metrics")?;
    let host = service.background_host();
    let statistics = service.stats.get(TTL, LIMIT, move || stats::read(&host)).await;
    let text = service.metrics.encode(statistics.as_ref().as_ref());
    Ok(([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], text))
}
