//! A VM's addresses: from leases, its guest agent and the host's neighbor table.

use std::{cmp::Reverse, net::IpAddr};

use clap::Args;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    error::{Error, Hint, Result},
    model::{
        limit::Limit,
        record::PortForward,
        vm::{Address, AddressSource, WaitFor},
    },
    ops::{
        Host,
        vm::{look_up, not_running, wait::Watch},
    },
    tools::virsh::Domain,
};

/// Sets whether and how long to wait for an address
#[derive(Debug, Clone, Copy, PartialEq, Eq, Args, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct AddressOptions {
    /// Wait until the VM has an address
    #[arg(long)]
    pub wait: bool,

    /// Time limit for the wait
    #[arg(long, value_name = "TIME", default_value_t = Limit::WAIT, requires = "wait")]
    pub timeout: Limit,
}

impl Default for AddressOptions {
    fn default() -> Self {
        Self { wait: false, timeout: Limit::WAIT }
    }
}

/// The addresses of a VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Addresses {
    /// The VM, as it was named in the request.
    pub vm: String,
    /// The addresses, the best one for a login first.
    pub addresses: Vec<Address>,
}

/// Returns the addresses of a running VM.
pub fn addresses(host: &Host, reference: &str, options: AddressOptions) -> Result<Addresses> {
    let (listed, domain) = look_up(host, reference)?;
    if !listed.state.is_active() {
        return Err(not_running(&listed.name, listed.state, "so it has no address"));
    }
    if options.wait {
        Watch::new(listed.uuid, WaitFor::Ip, options.timeout.0, true).run(host)?;
    }
    let addresses = of(host, &domain)?;
    if addresses.is_empty() {
        return Err(Error::not_found(format!("VM `{}` has no address yet", listed.name)).hint(Hint::call(
            "Wait for one",
            "vm_wait",
            [("vm", listed.name.as_str()), ("for", "ip")],
        )));
    }
    Ok(Addresses { vm: reference.to_owned(), addresses })
}

/// Returns the addresses that a running VM has now.
pub(in crate::ops) fn of(host: &Host, domain: &Domain) -> Result<Vec<Address>> {
    Ok(best_first(domain, host.virsh.guest_status(domain)?.addresses))
}

/// Returns those of the reported addresses that belong to this VM by MAC address, the best one for a login first: IPv4
/// before IPv6, leases and the guest agent before the neighbor table, the newest lease first. An address that the guest
/// agent does not list is stale.
pub(in crate::ops) fn best_first(domain: &Domain, reported: Vec<Address>) -> Vec<Address> {
    if let Some(forward) = domain.metadata.as_ref().and_then(|metadata| metadata.forward) {
        let mac = domain.interfaces.first().map(|interface| interface.mac.clone()).unwrap_or_default();
        let PortForward { address, port } = forward;
        return vec![Address { address, port: Some(port), mac, source: AddressSource::Forward, expires: None }];
    }
    let is_ours = |address: &Address| domain.interfaces.iter().any(|interface| interface.mac == address.mac);
    let is_reachable = |address: &Address| match address.address {
        IpAddr::V4(address) => !address.is_link_local() && !address.is_loopback(),
        // A link-local address cannot be used without its interface.
        IpAddr::V6(address) => !address.is_unicast_link_local() && !address.is_loopback(),
    };
    let mut found: Vec<_> = reported.into_iter().filter(|address| is_ours(address) && is_reachable(address)).collect();
    let listed: Vec<_> = found.iter().filter(|address| address.source == AddressSource::Agent).cloned().collect();
    let is_stale = |address: &Address| {
        let mut of_interface = listed.iter().filter(|other| other.mac == address.mac).peekable();
        of_interface.peek().is_some() && of_interface.all(|other| other.address != address.address)
    };
    found.retain(|address| !is_stale(address));
    found.sort_by_key(|address| {
        let Address { source, expires, .. } = address;
        let trust = [AddressSource::Lease, AddressSource::Agent].iter().position(|trusted| trusted == source);
        (address.address.is_ipv6(), trust.is_none(), Reverse(*expires), trust)
    });
    let mut known: Vec<Address> = Vec::new();
    for address in found {
        if known.iter().all(|other| other.address != address.address) {
            known.push(address);
        }
    }
    known
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::vm::Interface;

    const OURS: &str = "52:54:00:00:00:01";

    fn reported(source: AddressSource, address: &str, mac: &str, expires: Option<&str>) -> Address {
        let expires = expires.map(|time| time.parse().unwrap());
        Address { address: address.parse().unwrap(), port: None, mac: mac.to_owned(), source, expires }
    }

    fn sorted(reported: Vec<Address>) -> Vec<String> {
        let interface = Interface { mac: OURS.to_owned(), kind: "network".to_owned(), source: None };
        let domain = Domain { interfaces: vec![interface], ..Domain::default() };
        best_first(&domain, reported).iter().map(|known| format!("{} {}", known.address, known.source)).collect()
    }

    #[test]
    fn addresses_of_other_machines_and_link_local_ones_are_excluded() {
        let other = reported(AddressSource::Lease, "10.0.0.9", "52:54:00:00:00:02", None);
        let link = reported(AddressSource::Agent, "fe80::1", OURS, None);
        let arp = reported(AddressSource::Arp, "10.0.0.5", OURS, None);
        assert_eq!(sorted(vec![other, link, arp]), ["10.0.0.5 arp"]);
    }

    #[test]
    fn the_newest_lease_comes_first_and_each_address_once() {
        use AddressSource::{Arp, Lease};
        let (old, new) = (Some("2026-11-25T10:00:00Z"), Some("2026-11-25T11:00:00Z"));
        let all = vec![
            reported(Arp, "10.0.0.7", OURS, None),
            reported(Lease, "fd00::5", OURS, new),
            reported(Lease, "10.0.0.5", OURS, old),
            reported(Lease, "10.0.0.6", OURS, new),
            reported(Arp, "10.0.0.6", OURS, None),
        ];
        assert_eq!(sorted(all), ["10.0.0.6 lease", "10.0.0.5 lease", "10.0.0.7 arp", "fd00::5 lease"]);
    }

    #[test]
    fn a_lease_that_the_guest_agent_does_not_list_is_stale() {
        use AddressSource::{Agent, Lease};
        let lease = |address| reported(Lease, address, OURS, Some("2026-11-25T10:00:00Z"));
        let agent = reported(Agent, "10.0.0.6", OURS, None);
        assert_eq!(sorted(vec![lease("10.0.0.5"), lease("10.0.0.6"), agent]), ["10.0.0.6 lease"]);
    }
}
