//! Listing VMs, and showing one. The number of processes is fixed, regardless of the number of VMs.

use clap::Args;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    error::Result,
    model::{
        record::VmRecord,
        vm::{Address, Known, Vm, VmInfo, VmKey, Vms},
    },
    ops::{
        Host,
        vm::{access::address, look_up, visible},
    },
    tools::virsh::{Domain, DomainSummary},
};

/// Selects the details of each VM
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Args, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct ListOptions {
    /// Show only name, uuid, state, memory, vcpus and autostart, which is faster
    #[arg(long)]
    pub brief: bool,
}

/// Lists every VM of the connection, including those that vmprov did not create.
pub fn list(host: &Host, options: ListOptions) -> Result<Vms> {
    let ListOptions { brief } = options;
    let listed = visible(host)?;
    // The XML has the MAC addresses by which a running VM's addresses are found, and figures that statistics lack.
    let lacks_figures = |domain: &DomainSummary| domain.memory_mib.is_none() || domain.vcpus.is_none();
    let needs_xml = |domain: &DomainSummary| lacks_figures(domain) || (!brief && domain.state.is_active());
    let requested = listed.iter().filter(|domain| !brief || lacks_figures(domain));
    let requested: Vec<_> = requested.map(|domain| (domain.uuid, needs_xml(domain))).collect();
    let described = host.virsh.describe(&requested)?;
    let any_active = listed.iter().any(|domain| domain.state.is_active());
    let leases = if any_active && !brief { host.virsh.leases()? } else { Vec::new() };
    let mut vms = Vec::with_capacity(listed.len());
    for listed in &listed {
        let (domain, metadata) = match described.get(&listed.uuid) {
            Some(known) => (known.domain.as_ref(), known.metadata.as_ref()),
            None if brief && !lacks_figures(listed) => (None, None),
            None => continue, // it was removed after it was listed
        };
        vms.push(report(listed, domain, (!brief).then_some((metadata, &leases[..]))));
    }
    Ok(Vms { vms })
}

/// Returns the report of a VM; `details` is what a brief report leaves out.
fn report(listed: &DomainSummary, domain: Option<&Domain>, details: Option<(Option<&VmRecord>, &[Address])>) -> Vm {
    let known = details.map(|(metadata, leases)| Known {
        managed: metadata.is_some(),
        incomplete: metadata.is_some_and(VmRecord::is_incomplete),
        image: metadata.and_then(|metadata| metadata.image.as_ref()).map(|image| image.source.clone()),
        image_verification: metadata.and_then(|metadata| metadata.image.as_ref()?.verification),
        user: metadata.and_then(|metadata| metadata.user.clone()),
        expires: metadata.and_then(|metadata| metadata.expires),
        protected: metadata.is_some_and(|metadata| metadata.protected),
        owner: metadata.and_then(|metadata| metadata.owner.clone()),
        addresses: domain.map(|domain| address::ips(&address::best_first(domain, leases.to_vec()))).unwrap_or_default(),
        ssh_port: metadata.and_then(|metadata| metadata.forward).map(|forward| forward.port),
    });
    Vm {
        name: listed.name.clone(),
        uuid: listed.uuid,
        state: listed.state,
        memory: listed.memory_mib.or(domain.map(|domain| domain.memory_mib)).unwrap_or_default(),
        vcpus: listed.vcpus.or(domain.map(|domain| domain.vcpus)).unwrap_or_default(),
        autostart: listed.autostart,
        known,
    }
}

/// Returns one VM as it is in the list.
pub(in crate::ops) fn one(host: &Host, listed: &DomainSummary) -> Result<Vm> {
    let domain = host.virsh.domain(listed.uuid)?;
    let addresses = if listed.state.is_active() { address::of(host, &domain)? } else { Vec::new() };
    Ok(report(listed, Some(&domain), Some((domain.metadata.as_ref(), &addresses))))
}

/// Returns every detail of a VM.
pub fn info(host: &Host, reference: &str) -> Result<VmInfo> {
    let (listed, domain) = look_up(host, reference)?;
    let addresses = if listed.state.is_active() { address::of(host, &domain)? } else { Vec::new() };
    let vm = report(&listed, Some(&domain), Some((domain.metadata.as_ref(), &addresses)));
    let metadata = domain.metadata.as_ref();
    let keys = metadata.map(|metadata| &metadata.keys[..]).unwrap_or_default();
    let key = |key: &crate::model::record::InjectedKey| VmKey {
        name: key.name.clone(),
        fingerprint: key.fingerprint.clone(),
    };
    let volumes = metadata.map(|metadata| &metadata.volumes[..]).unwrap_or_default();
    Ok(VmInfo {
        vm,
        created: metadata.map(|metadata| metadata.created.clone()),
        image_sha256: metadata.and_then(|metadata| metadata.image.as_ref()).map(|image| image.sha256.clone()),
        max_memory: domain.max_memory_mib,
        max_vcpus: domain.max_vcpus,
        description: domain.description,
        instance_id: metadata.and_then(|metadata| metadata.instance_id.clone()),
        ssh_keys: keys.iter().map(key).collect(),
        host_keys: metadata.map(|metadata| metadata.host_keys.clone()).unwrap_or_default(),
        volumes: volumes.iter().map(ToString::to_string).collect(),
        accelerator: domain.kind,
        arch: domain.arch,
        machine: domain.machine,
        agent: domain.agent_connected,
        disks: domain.disks,
        interfaces: domain.interfaces,
    })
}

/// Returns every VM that has a record of vmprov's, for cleaning up.
pub(in crate::ops) fn known(host: &Host) -> Result<Vec<(DomainSummary, VmRecord)>> {
    let listed = host.virsh.domains()?;
    let requested: Vec<_> = listed.iter().map(|domain| (domain.uuid, false)).collect();
    let mut described = host.virsh.describe(&requested)?;
    let with_metadata = |listed: DomainSummary| {
        let metadata = described.remove(&listed.uuid)?.metadata?;
        Some((listed, metadata))
    };
    Ok(listed.into_iter().filter_map(with_metadata).collect())
}
