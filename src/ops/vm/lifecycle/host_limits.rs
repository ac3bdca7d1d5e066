//! What the host can give a VM: the same bounds for one that is made and one that is changed.

use crate::{
    error::{Error, Result},
    model::size::{Memory, human},
    ops::Host,
    tools::virsh::Limits,
};

/// Refuses more virtual CPUs than the host can give, and warns of more memory than it has.
pub(in crate::ops) fn check_host_limits(
    host: &Host,
    vcpus: Option<u32>,
    memory: Option<Memory>,
    limits: Limits,
    warnings: &mut Vec<String>,
) -> Result<()> {
    if let Some((vcpus, most)) = vcpus.zip(limits.vcpus).filter(|(vcpus, most)| vcpus > most) {
        let message = format!("{vcpus} virtual CPUs are more than the {most} that this host can give a VM");
        return Err(Error::invalid(message));
    }
    if let Some((memory, most)) = memory.zip(limits.memory_mib).filter(|(memory, most)| memory.mib() > *most) {
        let most = human(most << 20);
        host.warn(
            warnings,
            format!("{memory} of memory are more than the {most} that the host has: the VM may be killed"),
        );
    }
    Ok(())
}
