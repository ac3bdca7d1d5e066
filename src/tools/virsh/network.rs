//! Networks and the addresses of guests.

use jiff::{civil, tz::TimeZone};

use super::{Domain, Virsh, domain, failure, unexpected_sections};
use crate::{
    error::{Code, Result},
    model::vm::{Address, AddressSource as Source, State},
};

impl Virsh {
    /// Defines a NAT network like the `default` network of libvirt's packages. Fails if the name exists.
    pub fn define_network(&self, name: &str, subnet: u8) -> Result<()> {
        let xml = format!(
            "<network><name>{name}</name><forward mode='nat'/><bridge stp='on' delay='0'/>\
             <ip address='192.168.{subnet}.1' netmask='255.255.255.0'>\
             <dhcp><range start='192.168.{subnet}.2' end='192.168.{subnet}.254'/></dhcp></ip></network>"
        );
        self.change_with(&format!("create the network `{name}`"), self.tool(&["net-define", "/dev/stdin"]).stdin(xml))
    }

    /// Enables autostart for a network, so that it starts with the host.
    pub fn autostart_network(&self, name: &str) -> Result<()> {
        let what = format!("enable autostart for the network `{name}`");
        self.change(&what, &["net-autostart", "--network", name])
    }

    /// Undefines an inactive network. Does nothing if it does not exist.
    pub fn remove_network(&self, name: &str) -> Result<()> {
        match self.change(&format!("remove the network `{name}`"), &["net-undefine", "--network", name]) {
            Err(error) if error.code == Code::NotFound => Ok(()),
            result => result,
        }
    }

    /// Starts a network. Does nothing if it is already active.
    pub fn start_network(&self, name: &str) -> Result<()> {
        match self.change(&format!("start the network `{name}`"), &["net-start", "--network", name]) {
            Err(error) if error.code == Code::Conflict => Ok(()),
            result => result,
        }
    }

    /// Returns the DHCP leases of all active networks, in two processes.
    pub fn leases(&self) -> Result<Vec<Address>> {
        let networks = self.read("list the networks", &["net-list", "--name"])?;
        let commands: Vec<_> = networks
            .lines()
            .map(str::trim_end)
            .filter(|name| !name.is_empty())
            .map(|name| vec!["net-dhcp-leases", "--network", name])
            .collect();
        if commands.is_empty() {
            return Ok(Vec::new());
        }
        // A network may have no DHCP server, or may have been removed since it was listed.
        let sections = self.batch_tolerating("read the DHCP leases", &commands, &[Code::NotFound, Code::Conflict])?;
        Ok(sections.iter().flat_map(|text| addresses(text, Source::Lease)).collect())
    }

    /// Reads a domain's state and all known addresses from DHCP leases, the guest agent and the host's neighbor table,
    /// in one process.
    pub fn guest_status(&self, domain: &Domain) -> Result<GuestStatus> {
        let uuid = domain.uuid.to_string();
        let statistics = vec!["domstats", "--raw", "--nowait", "--state", "--interface", &uuid];
        let of = |source| vec!["domifaddr", "--domain", &uuid, "--full", "--source", source];
        let networks = domain.interfaces.iter().filter(|interface| interface.kind == "network");
        let networks = networks.filter_map(|interface| interface.source.as_deref());
        // Only the networks report when their leases end. `domifaddr` covers drivers without such networks.
        let leases = networks.map(|network| vec!["net-dhcp-leases", "--network", network]);
        let commands: Vec<_> = [statistics, of("agent"), of("arp"), of("lease")].into_iter().chain(leases).collect();
        let batch = self.batch("read the VM's status", &commands)?;
        let [statistics, agent, arp, leases @ ..] = &batch.sections[..] else {
            return Err(unexpected_sections());
        };
        let value = |key: &str| statistics.lines().find_map(|line| line.trim().strip_prefix(key)?.strip_prefix('='));
        let Some(state) = value("state.state") else {
            // A missing agent, lease or libvirt network is no failure, because another source may have addresses.
            // A missing state is a failure.
            return Err(failure::explain("read the VM's status", &self.uri, &batch.complaints().join("\n")));
        };
        let sources = [(Source::Agent, agent), (Source::Arp, arp)].into_iter();
        let sources = sources.chain(leases.iter().map(|text| (Source::Lease, text)));
        Ok(GuestStatus {
            state: domain::state(state),
            reason: value("state.reason").and_then(|number| number.parse().ok()).unwrap_or_default(),
            sent: value("net.0.tx.pkts").and_then(|number| number.parse().ok()),
            addresses: sources.flat_map(|(source, text)| addresses(text, source)).collect(),
        })
    }
}

/// The status of a guest.
#[derive(Debug, Clone)]
pub struct GuestStatus {
    /// Its state.
    pub state: State,
    /// libvirt's number for the reason of that state (`virDomainShutoffReason` and similar).
    pub reason: u32,
    /// The number of packets sent through its first interface, if known.
    pub sent: Option<u64>,
    /// All known addresses, including those of other machines.
    pub addresses: Vec<Address>,
}

/// Parses `net-dhcp-leases` and `domifaddr`, which virsh prints only as tables.
///
/// A MAC address and an address with its prefix length are recognized by their form, so the position and width of the
/// columns do not matter. The first MAC address of a row is the interface's, because the client ID, which may contain
/// another one, comes last.
fn addresses(text: &str, source: Source) -> Vec<Address> {
    let row = |line: &str| {
        let mut words = line.split_whitespace();
        // A row of a lease begins with its end, in the time zone of the caller.
        let mut time = line.split_whitespace().take(2).map(str::to_owned);
        let ends: Option<civil::DateTime> =
            time.next().zip(time.next()).and_then(|(day, time)| format!("{day}T{time}").parse().ok());
        let expires = ends.and_then(|ends| Some(ends.to_zoned(TimeZone::system()).ok()?.timestamp()));
        let mac = words.find(|word| is_mac(word))?.to_ascii_lowercase();
        let address = words.find_map(|word| word.split_once('/')?.0.parse().ok())?;
        Some(Address { address, port: None, mac, source, expires })
    };
    text.lines().filter_map(row).collect()
}

fn is_mac(word: &str) -> bool {
    let mut parts = 0;
    word.split(':').all(|part| {
        parts += 1;
        part.len() == 2 && part.bytes().all(|byte| byte.is_ascii_hexdigit())
    }) && parts == 6
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_recognized_by_their_form() {
        let text = " Expiry Time           MAC address         Protocol   IP address           Hostname   Client ID or DUID\n\
                    ------------------------------------------------\n \
                    2026-11-23 04:20:11   52:54:00:AA:bb:01   ipv4       192.168.122.76/24    web        ff:00:aa:52:54:00:aa:bb:02\n \
                    2026-11-23 04:20:11   52:54:00:aa:bb:01   ipv6       fd00::5/64           -          -\n";
        let leases = addresses(text, Source::Lease);
        let found: Vec<_> = leases.iter().map(|lease| (lease.mac.as_str(), lease.address.to_string())).collect();
        assert_eq!(
            found,
            [("52:54:00:aa:bb:01", "192.168.122.76".to_owned()), ("52:54:00:aa:bb:01", "fd00::5".to_owned())]
        );
        assert!(addresses(" lo  -  N/A  N/A\n", Source::Agent).is_empty());
    }
}
