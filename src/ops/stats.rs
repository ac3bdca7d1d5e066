//! The statistics of every VM and storage pool, for monitoring.

use std::time::{Duration, Instant};

use super::Host;
use crate::{
    error::Result,
    model::stats::{PoolStats, Stats},
};

/// The time limit for reading all statistics. A monitoring system scrapes again within seconds, and must be told in
/// time that libvirt does not answer.
const LIMIT: Duration = Duration::from_secs(3);

/// Reads the statistics with one process. A second one runs only if pools other than the configured one are active,
/// since the space of a pool can be read only once its name is known. If libvirt does not answer within 3 s, this fails
/// with [`Timeout`](crate::error::Code::Timeout), at the latest when a `virsh` that ignores SIGTERM has been killed.
pub fn read(host: &Host) -> Result<Stats> {
    let started = Instant::now();
    let mut stats = host.with_time_limit(LIMIT).virsh.stats(&host.settings.pool)?;
    let unmeasured = |pool: &PoolStats| pool.active && pool.space.is_none();
    let names: Vec<_> = stats.pools.iter().filter(|pool| unmeasured(pool)).map(|pool| pool.name.clone()).collect();
    if !names.is_empty() {
        let left = LIMIT.saturating_sub(started.elapsed());
        let spaces = host.with_time_limit(left).virsh.pool_spaces(&names)?;
        for pool in stats.pools.iter_mut().filter(|pool| unmeasured(pool)) {
            pool.space = spaces.get(&pool.name).copied();
        }
    }
    Ok(stats)
}
