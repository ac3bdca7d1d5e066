//! What libvirt counts of every VM and storage pool, for whoever watches them.

use std::time::{Duration, Instant};

use super::Host;
use crate::{
    error::Result,
    model::stats::{PoolStats, Stats},
};

/// How long a look may take in all. Whoever watches comes again in some seconds, and is to be told meanwhile that libvirt
/// does not answer.
const LIMIT: Duration = Duration::from_secs(3);

/// Looks once: one process, and a second one only where other pools are active beside the configured one, since they can
/// be asked for their room only when their names are known. Where libvirt does not answer within 3 s this fails with
/// [`Timeout`](crate::error::Code::Timeout), at the latest when a `virsh` that does not heed SIGTERM has been killed.
pub fn look(host: &Host) -> Result<Stats> {
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
