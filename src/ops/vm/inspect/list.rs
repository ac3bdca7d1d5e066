//! What there is: the list, one VM, its addresses. A fixed number of processes, however many VMs there are.

use std::net::IpAddr;

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

/// How much is said of each VM
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Args, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct ListOptions {
    /// Only libvirt's own figures, which is faster: name, uuid, state, memory, vcpus, autostart
    #[arg(long)]
    pub brief: bool,
}

/// Lists every VM of the connection, vmprov's own and others.
pub fn list(host: &Host, options: ListOptions) -> Result<Vms> {
    let ListOptions { brief } = options;
    let listed = visible(host)?;
    // A running VM's addresses are found by its MAC addresses, which its XML has; so is what statistics lack.
    let lacks = |domain: &DomainSummary| domain.memory_mib.is_none() || domain.vcpus.is_none();
    let whole = |domain: &DomainSummary| lacks(domain) || (!brief && domain.state.is_active());
    let asked = listed.iter().filter(|domain| !brief || lacks(domain));
    let asked: Vec<_> = asked.map(|domain| (domain.uuid, whole(domain))).collect();
    let described = host.virsh.describe(&asked)?;
    let any_active = listed.iter().any(|domain| domain.state.is_active());
    let leases = if any_active && !brief { host.virsh.leases()? } else { Vec::new() };
    let mut vms = Vec::with_capacity(listed.len());
    for listed in &listed {
        let (domain, metadata) = match described.get(&listed.uuid) {
            Some(known) => (known.domain.as_ref(), known.metadata.as_ref()),
            None if brief && !lacks(listed) => (None, None),
            None => continue, // it has gone since it was listed
        };
        vms.push(report(listed, domain, (!brief).then_some((metadata, &leases[..]))));
    }
    Ok(Vms { vms })
}

/// Puts together what is known of a VM; `beyond` is what vmprov knows beyond libvirt's figures.
fn report(listed: &DomainSummary, domain: Option<&Domain>, beyond: Option<(Option<&VmRecord>, &[Address])>) -> Vm {
    let known = beyond.map(|(metadata, leases)| Known {
        managed: metadata.is_some(),
        incomplete: metadata.is_some_and(VmRecord::is_incomplete),
        image: metadata.and_then(|metadata| metadata.image.as_ref()).map(|image| image.source.clone()),
        image_verification: metadata.and_then(|metadata| metadata.image.as_ref()?.verification),
        user: metadata.and_then(|metadata| metadata.user.clone()),
        expires: metadata.and_then(|metadata| metadata.expires),
        protected: metadata.is_some_and(|metadata| metadata.protected),
        owner: metadata.and_then(|metadata| metadata.owner.clone()),
        addresses: domain.map(|domain| ips(&address::best_first(domain, leases.to_vec()))).unwrap_or_default(),
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

pub(in crate::ops) fn ips(addresses: &[Address]) -> Vec<IpAddr> {
    addresses.iter().map(|address| address.address).collect()
}

/// One VM as the list has it.
pub(in crate::ops) fn one(host: &Host, listed: &DomainSummary) -> Result<Vm> {
    let domain = host.virsh.domain(listed.uuid)?;
    let addresses = if listed.state.is_active() { address::of(host, &domain)? } else { Vec::new() };
    Ok(report(listed, Some(&domain), Some((domain.metadata.as_ref(), &addresses))))
}

/// Everything there is to know of a VM.
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

/// What vmprov knows of every VM: for cleaning up.
pub(in crate::ops) fn known(host: &Host) -> Result<Vec<(DomainSummary, VmRecord)>> {
    let listed = host.virsh.domains()?;
    let asked: Vec<_> = listed.iter().map(|domain| (domain.uuid, false)).collect();
    let mut described = host.virsh.describe(&asked)?;
    let with_metadata = |listed: DomainSummary| {
        let metadata = described.remove(&listed.uuid)?.metadata?;
        Some((listed, metadata))
    };
    Ok(listed.into_iter().filter_map(with_metadata).collect())
}
