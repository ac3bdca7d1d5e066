//! Where a VM is: what leases, its guest agent and the host's neighbour table say of its own interfaces.

use std::{cmp::Reverse, net::IpAddr};

use clap::Args;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    error::{Error, Result},
    model::{
        limit::Limit,
        record::PortForward,
        vm::{Address, AddressSource, WaitFor},
    },
    ops::{
        Host,
        vm::{look_up, wait::Watch},
    },
    tools::virsh::Domain,
};

/// How long to wait for an address
#[derive(Debug, Clone, Copy, PartialEq, Eq, Args, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct AddressOptions {
    /// Wait until it has one
    #[arg(long)]
    pub wait: bool,

    /// How long to wait at most
    #[arg(long, value_name = "TIME", default_value_t = Limit::WAIT, requires = "wait")]
    pub timeout: Limit,
}

impl Default for AddressOptions {
    fn default() -> Self {
        Self { wait: false, timeout: Limit::WAIT }
    }
}

/// Where a VM is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Addresses {
    /// The VM, as it was called.
    pub vm: String,
    /// Its addresses, those that a login is best tried at first.
    pub addresses: Vec<Address>,
}

/// The addresses of a running VM.
pub fn addresses(host: &Host, reference: &str, options: AddressOptions) -> Result<Addresses> {
    let (listed, domain) = look_up(host, reference)?;
    let name = shell_words::quote(&listed.name);
    if !listed.state.is_active() {
        return Err(Error::conflict(format!("the VM `{}` is {}, so it has no address", listed.name, listed.state))
            .hint(format!("Start it: vmprov vm start {name}")));
    }
    if options.wait {
        Watch::new(listed.uuid, WaitFor::Ip, options.timeout.0, true).run(host)?;
    }
    let addresses = of(host, &domain)?;
    if addresses.is_empty() {
        return Err(Error::not_found(format!("the VM `{}` has no address yet", listed.name))
            .hint(format!("Wait for one: vmprov vm ip {name} --wait")));
    }
    Ok(Addresses { vm: reference.to_owned(), addresses })
}

/// The addresses that a running VM has now.
pub(in crate::ops) fn of(host: &Host, domain: &Domain) -> Result<Vec<Address>> {
    Ok(best_first(domain, host.virsh.vitals(domain)?.addresses))
}

/// What of all that was said is an address of this VM: by MAC address, IPv4 before IPv6, what the guest or a DHCP server
/// says before what neighbours remember, the newest lease first. What a guest's agent does not list, the guest does not
/// have any more.
pub(in crate::ops) fn best_first(domain: &Domain, said: Vec<Address>) -> Vec<Address> {
    if let Some(forward) = domain.metadata.as_ref().and_then(|metadata| metadata.forward) {
        let mac = domain.interfaces.first().map(|interface| interface.mac.clone()).unwrap_or_default();
        let PortForward { address, port } = forward;
        return vec![Address { address, port: Some(port), mac, source: AddressSource::Forward, expires: None }];
    }
    let is_ours = |address: &Address| domain.interfaces.iter().any(|interface| interface.mac == address.mac);
    let is_reachable = |address: &Address| match address.address {
        IpAddr::V4(address) => !address.is_link_local() && !address.is_loopback(),
        // A link-local address is none without the interface that it is on.
        IpAddr::V6(address) => !address.is_unicast_link_local() && !address.is_loopback(),
    };
    let mut said: Vec<_> = said.into_iter().filter(|address| is_ours(address) && is_reachable(address)).collect();
    let listed: Vec<_> = said.iter().filter(|address| address.source == AddressSource::Agent).cloned().collect();
    let has_gone = |address: &Address| {
        let mut of_interface = listed.iter().filter(|other| other.mac == address.mac).peekable();
        of_interface.peek().is_some() && of_interface.all(|other| other.address != address.address)
    };
    said.retain(|address| !has_gone(address));
    said.sort_by_key(|address| {
        let Address { source, expires, .. } = address;
        let trust = [AddressSource::Lease, AddressSource::Agent].iter().position(|trusted| trusted == source);
        (address.address.is_ipv6(), trust.is_none(), Reverse(*expires), trust)
    });
    let mut known: Vec<Address> = Vec::new();
    for address in said {
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

    fn said(source: AddressSource, address: &str, mac: &str, expires: Option<&str>) -> Address {
        let expires = expires.map(|time| time.parse().unwrap());
        Address { address: address.parse().unwrap(), port: None, mac: mac.to_owned(), source, expires }
    }

    fn known(said: Vec<Address>) -> Vec<String> {
        let interface = Interface { mac: OURS.to_owned(), kind: "network".to_owned(), source: None };
        let domain = Domain { interfaces: vec![interface], ..Domain::default() };
        best_first(&domain, said).iter().map(|known| format!("{} {}", known.address, known.source)).collect()
    }

    #[test]
    fn another_machines_addresses_and_those_of_a_link_are_left_out() {
        let other = said(AddressSource::Lease, "10.0.0.9", "52:54:00:00:00:02", None);
        let link = said(AddressSource::Agent, "fe80::1", OURS, None);
        let arp = said(AddressSource::Arp, "10.0.0.5", OURS, None);
        assert_eq!(known(vec![other, link, arp]), ["10.0.0.5 arp"]);
    }

    #[test]
    fn the_newest_lease_comes_first_and_each_address_once() {
        use AddressSource::{Arp, Lease};
        let (old, new) = (Some("2026-11-25T10:00:00Z"), Some("2026-11-25T11:00:00Z"));
        let all = vec![
            said(Arp, "10.0.0.7", OURS, None),
            said(Lease, "fd00::5", OURS, new),
            said(Lease, "10.0.0.5", OURS, old),
            said(Lease, "10.0.0.6", OURS, new),
            said(Arp, "10.0.0.6", OURS, None),
        ];
        assert_eq!(known(all), ["10.0.0.6 lease", "10.0.0.5 lease", "10.0.0.7 arp", "fd00::5 lease"]);
    }

    #[test]
    fn a_lease_that_the_guest_does_not_use_is_stale() {
        use AddressSource::{Agent, Lease};
        let lease = |address| said(Lease, address, OURS, Some("2026-11-25T10:00:00Z"));
        let agent = said(Agent, "10.0.0.6", OURS, None);
        assert_eq!(known(vec![lease("10.0.0.5"), lease("10.0.0.6"), agent]), ["10.0.0.6 lease"]);
    }
}
