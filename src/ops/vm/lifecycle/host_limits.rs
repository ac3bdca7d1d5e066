//! Checks a VM's resources against the host's limits, both at creation and when a VM is changed.

use crate::{
    error::{Error, Result},
    model::size::{Memory, human},
    ops::Host,
    tools::virsh::Limits,
};

/// Refuses more virtual CPUs than the host allows, and warns about more memory than it has.
pub(in crate::ops) fn check_host_limits(
    host: &Host,
    vcpus: Option<u32>,
    memory: Option<Memory>,
    limits: Limits,
    warnings: &mut Vec<String>,
) -> Result<()> {
    if let Some((vcpus, max)) = vcpus.zip(limits.vcpus).filter(|(vcpus, max)| vcpus > max) {
        let message = format!("{vcpus} virtual CPUs exceed this host's maximum of {max} for a VM");
        return Err(Error::invalid(message));
    }
    if let Some((memory, total)) = memory.zip(limits.memory_mib).filter(|(memory, total)| memory.mib() > *total) {
        let total = human(total << 20);
        host.warn(warnings, format!("{memory} of memory exceeds the host's {total}: the VM may be killed"));
    }
    Ok(())
}
