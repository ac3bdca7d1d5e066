//! Networks, and the addresses of guests.

use jiff::{civil, tz::TimeZone};

use super::{Domain, Virsh, domain, failure};
use crate::{
    error::{Code, Error, Result},
    model::vm::{Address, AddressSource as Source, State},
};

impl Virsh {
    /// Defines a NAT network like the one that libvirt's packages bring; fails when there is one of that name.
    pub fn define_network(&self, name: &str, subnet: u8) -> Result<()> {
        let xml = format!(
            "<network><name>{name}</name><forward mode='nat'/><bridge stp='on' delay='0'/>\
             <ip address='192.168.{subnet}.1' netmask='255.255.255.0'>\
             <dhcp><range start='192.168.{subnet}.2' end='192.168.{subnet}.254'/></dhcp></ip></network>"
        );
        self.change_with(&format!("make the network `{name}`"), self.tool(&["net-define", "/dev/stdin"]).stdin(xml))
    }

    /// Has a network start with the host.
    pub fn autostart_network(&self, name: &str) -> Result<()> {
        let what = format!("make the network `{name}` start with the host");
        self.change(&what, &["net-autostart", "--network", name])
    }

    /// Forgets a network that is not active; one that is not there is fine.
    pub fn remove_network(&self, name: &str) -> Result<()> {
        match self.change(&format!("remove the network `{name}`"), &["net-undefine", "--network", name]) {
            Err(error) if error.code == Code::NotFound => Ok(()),
            result => result,
        }
    }

    /// Starts a network; one that is active already is fine.
    pub fn start_network(&self, name: &str) -> Result<()> {
        match self.change(&format!("start the network `{name}`"), &["net-start", "--network", name]) {
            Err(error) if error.code == Code::Conflict => Ok(()),
            result => result,
        }
    }

    /// The leases of every network that is up, in two processes however many there are.
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
        // A network may have no DHCP server of its own, or have gone meanwhile.
        let sections = self.batch_tolerating("read the leases", &commands, &[Code::NotFound, Code::Conflict])?;
        Ok(sections.iter().flat_map(|text| addresses(text, Source::Lease)).collect())
    }

    /// A domain's state and everything that is said of its addresses, by leases, its guest agent and the host's neighbour
    /// table: one process.
    pub fn vitals(&self, domain: &Domain) -> Result<GuestStatus> {
        let uuid = domain.uuid.to_string();
        let figures = vec!["domstats", "--raw", "--nowait", "--state", "--interface", &uuid];
        let of = |source| vec!["domifaddr", "--domain", &uuid, "--full", "--source", source];
        let networks = domain.interfaces.iter().filter(|interface| interface.kind == "network");
        let networks = networks.filter_map(|interface| interface.source.as_deref());
        // Only a network says when its leases end; drivers other than QEMU's have no networks of their own to ask.
        let leases = networks.map(|network| vec!["net-dhcp-leases", "--network", network]);
        let commands: Vec<_> = [figures, of("agent"), of("arp"), of("lease")].into_iter().chain(leases).collect();
        let batch = self.batch("look at the VM", &commands)?;
        let [figures, agent, arp, leases @ ..] = &batch.sections[..] else {
            return Err(Error::internal("virsh printed another number of answers than asked for"));
        };
        let figure = |key: &str| figures.lines().find_map(|line| line.trim().strip_prefix(key)?.strip_prefix('='));
        let Some(state) = figure("state.state") else {
            // No agent, no lease or no network of libvirt's is no failure: another source may know. No state is one.
            return Err(failure::explain("look at the VM", &self.uri, &batch.complaints.join("\n")));
        };
        let sources = [(Source::Agent, agent), (Source::Arp, arp)].into_iter();
        let sources = sources.chain(leases.iter().map(|text| (Source::Lease, text)));
        Ok(GuestStatus {
            state: domain::state(state),
            reason: figure("state.reason").and_then(|number| number.parse().ok()).unwrap_or_default(),
            sent: figure("net.0.tx.pkts").and_then(|number| number.parse().ok()),
            addresses: sources.flat_map(|(source, text)| addresses(text, source)).collect(),
        })
    }
}

/// How a domain is.
#[derive(Debug, Clone)]
pub struct GuestStatus {
    /// Its state.
    pub state: State,
    /// Why it is in that state, as libvirt counts reasons (`virDomainShutoffReason` and its like).
    pub reason: u32,
    /// The packets that it has sent through its first interface, where that is known.
    pub sent: Option<u64>,
    /// Everything that is said of addresses, of other machines too.
    pub addresses: Vec<Address>,
}

/// Reads `net-dhcp-leases` and `domifaddr`, which virsh prints as tables only. A MAC address and an address with its
/// prefix length are known by their form, so that no column's place or width matters; the first MAC address of a row
/// is the interface's, since the client's id, which may hold another, comes last.
fn addresses(text: &str, source: Source) -> Vec<Address> {
    let row = |line: &str| {
        let mut words = line.split_whitespace();
        // A lease says first when it ends, in the time zone of whoever asks.
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
    fn addresses_are_known_by_their_form() {
        let text = " Expiry Time           MAC address         Protocol   IP address           Hostname   Client ID or DUID\n\
                    ------------------------------------------------\n \
                    2026-11-23 04:20:11   52:54:00:AA:bb:01   ipv4       192.168.122.76/24    web        ff:00:aa:52:54:00:aa:bb:02\n \
                    2026-11-23 04:20:11   52:54:00:aa:bb:01   ipv6       fd00::5/64           -          -\n";
        let leases = addresses(text, Source::Lease);
        let seen: Vec<_> = leases.iter().map(|lease| (lease.mac.as_str(), lease.address.to_string())).collect();
        assert_eq!(
            seen,
            [("52:54:00:aa:bb:01", "192.168.122.76".to_owned()), ("52:54:00:aa:bb:01", "fd00::5".to_owned())]
        );
        assert!(addresses(" lo  -  N/A  N/A\n", Source::Agent).is_empty());
    }
}
