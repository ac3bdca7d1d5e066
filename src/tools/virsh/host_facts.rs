//! libvirt's versions, security settings, capabilities and networks, for diagnosing problems.

use std::net::Ipv4Addr;

use serde::Deserialize;

use super::{Virsh, from_xml};
use crate::error::{Code, Result};

/// The versions of libvirt and the hypervisor.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Versions {
    /// The version of the libvirt daemon.
    pub daemon: Option<String>,
    /// The hypervisor and its version.
    pub hypervisor: Option<String>,
    /// libvirt's host name, up to the first dot.
    pub host: Option<String>,
    /// libvirt's error if it finds no hypervisor.
    pub complaint: Option<String>,
}

/// The security drivers that confine guests, and the user that guests run as.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Confinement {
    /// The security drivers: `apparmor`, `selinux`, `dac`.
    pub models: Vec<String>,
    /// The IDs of the user and the group that QEMU runs as.
    pub user: Option<(u32, u32)>,
}

/// The emulator and the devices that libvirt supports.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SupportedDevices {
    /// The emulator.
    pub emulator: Option<String>,
    /// The types of channels to a guest. None if libvirt does not report them.
    pub channels: Option<Vec<String>>,
}

/// A network.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Network {
    /// Whether it is active.
    pub active: bool,
    /// Whether it starts with the host.
    pub autostart: bool,
    /// Its forward mode: `nat`, `route`, `bridge`, … None for an isolated network.
    pub forward: Option<String>,
    /// The bridge that its guests are attached to.
    pub bridge: Option<String>,
    /// The host's addresses on it, with their prefix lengths.
    pub addresses: Vec<(Ipv4Addr, u32)>,
}

impl Virsh {
    /// Connects and reads the versions, in one process.
    pub fn versions(&self) -> Result<Versions> {
        let commands = [vec!["hostname"], vec!["version", "--daemon"]];
        let batch = self.batch("read libvirt's version", &commands)?;
        let [host, text] = &batch.sections[..] else { return Ok(Versions::default()) };
        let host = host.trim().split('.').next().filter(|host| !host.is_empty());
        let of = |key: &str| text.lines().find_map(|line| line.strip_prefix(key)).map(|rest| rest.trim().to_owned());
        Ok(Versions {
            daemon: of("Running against daemon: "),
            hypervisor: of("Running hypervisor: "),
            host: host.map(str::to_owned),
            complaint: batch.complaints().first().map(|text| text.replace("error: ", "").replace('\n', ": ")),
        })
    }

    /// Reads how guests are confined and which user they run as.
    pub fn confinement(&self) -> Result<Confinement> {
        confinement(&self.read("read the host's capabilities", &["capabilities"])?)
    }

    /// Reads the emulator and the devices that libvirt supports.
    pub fn supported_devices(&self) -> Result<SupportedDevices> {
        supported_devices(&self.read("read the host's capabilities", &["domcapabilities"])?)
    }

    /// Returns a network; none if it does not exist.
    pub fn network(&self, name: &str) -> Result<Option<Network>> {
        let commands = [
            vec!["net-dumpxml", "--network", name],
            vec!["net-list", "--name"],
            vec!["net-list", "--all", "--autostart", "--name"],
        ];
        let sections = self.batch_tolerating("read the network", &commands, &[Code::NotFound])?;
        let has = |section: &str| section.lines().any(|line| line.trim_end() == name);
        match sections[0].trim() {
            "" => Ok(None),
            xml => Ok(Some(Network { active: has(&sections[1]), autostart: has(&sections[2]), ..network(xml)? })),
        }
    }

    /// Returns whether a pool starts with the host.
    pub fn pool_autostarts(&self, name: &str) -> Result<bool> {
        let text = self.read("list the storage pools", &["pool-list", "--all", "--autostart", "--name"])?;
        Ok(text.lines().any(|line| line.trim_end() == name))
    }
}

fn confinement(xml: &str) -> Result<Confinement> {
    #[derive(Deserialize)]
    struct Raw {
        host: Host,
    }
    #[derive(Deserialize)]
    struct Host {
        #[serde(rename = "secmodel", default)]
        models: Vec<Model>,
    }
    #[derive(Deserialize)]
    struct Model {
        model: String,
        #[serde(rename = "baselabel", default)]
        labels: Vec<String>,
    }
    let models = from_xml::<Raw>("capabilities", xml)?.host.models;
    let dac = models.iter().find(|model| model.model == "dac");
    let user = dac.and_then(|model| model.labels.first()).and_then(|label| label_numbers(label));
    Ok(Confinement { models: models.into_iter().map(|model| model.model).collect(), user })
}

/// Parses libvirt's label for a user and a group: `+64055:+993`.
fn label_numbers(label: &str) -> Option<(u32, u32)> {
    let (user, group) = label.split_once(':')?;
    let number = |text: &str| text.trim_start_matches('+').parse().ok();
    Some((number(user)?, number(group)?))
}

fn supported_devices(xml: &str) -> Result<SupportedDevices> {
    #[derive(Deserialize)]
    struct Raw {
        path: Option<String>,
        devices: Option<Devices>,
    }
    #[derive(Deserialize)]
    struct Devices {
        channel: Option<Channel>,
    }
    #[derive(Deserialize)]
    struct Channel {
        #[serde(rename = "enum", default)]
        enums: Vec<Enum>,
    }
    #[derive(Deserialize)]
    struct Enum {
        #[serde(rename = "value", default)]
        values: Vec<String>,
    }
    let raw: Raw = from_xml("domain capabilities", xml)?;
    let channel = raw.devices.and_then(|devices| devices.channel);
    let values = |channel: Channel| channel.enums.into_iter().flat_map(|kinds| kinds.values).collect();
    Ok(SupportedDevices { emulator: raw.path, channels: channel.map(values) })
}

#[derive(Deserialize)]
struct RawNetwork {
    forward: Option<RawForward>,
    bridge: Option<RawBridge>,
    #[serde(rename = "ip", default)]
    addresses: Vec<RawIp>,
}

#[derive(Deserialize)]
struct RawForward {
    #[serde(rename = "@mode")]
    mode: Option<String>,
}

#[derive(Deserialize)]
struct RawBridge {
    #[serde(rename = "@name")]
    name: Option<String>,
}

#[derive(Deserialize)]
struct RawIp {
    #[serde(rename = "@address")]
    address: Option<String>,
    #[serde(rename = "@netmask")]
    netmask: Option<Ipv4Addr>,
    #[serde(rename = "@prefix")]
    prefix: Option<u32>,
}

fn network(xml: &str) -> Result<Network> {
    let raw: RawNetwork = from_xml("network", xml)?;
    let range = |ip: RawIp| {
        let prefix = ip.netmask.map(|mask| mask.to_bits().count_ones()).or(ip.prefix);
        // IPv6 addresses are skipped. A missing prefix length means that of the address class, usually 24.
        Some((ip.address?.parse().ok()?, prefix.unwrap_or(24)))
    };
    Ok(Network {
        forward: raw.forward.map(|forward| forward.mode.unwrap_or_else(|| "nat".to_owned())),
        bridge: raw.bridge.and_then(|bridge| bridge.name),
        addresses: raw.addresses.into_iter().filter_map(range).collect(),
        ..Network::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_user_that_qemu_runs_as_comes_from_libvirts_capabilities() {
        // From libvirt 11.3.0.
        let xml = "<capabilities><host><cpu><arch>x86_64</arch></cpu>\
                   <secmodel><model>apparmor</model><doi>0</doi></secmodel>\
                   <secmodel><model>dac</model><doi>0</doi><baselabel type='kvm'>+64055:+993</baselabel>\
                   <baselabel type='qemu'>+64055:+993</baselabel></secmodel></host><guest/></capabilities>";
        let models = vec!["apparmor".to_owned(), "dac".to_owned()];
        assert_eq!(confinement(xml).unwrap(), Confinement { models, user: Some((64055, 993)) });
        assert_eq!(confinement("<capabilities><host/></capabilities>").unwrap(), Confinement::default());
        assert!(confinement("nonsense").is_err());
        assert_eq!(label_numbers("+x:+1"), None);
    }

    #[test]
    fn emulator_and_channels_are_parsed() {
        let xml = "<domainCapabilities><path>/usr/bin/q</path><domain>kvm</domain><devices>\
                   <channel supported='yes'><enum name='type'><value>pty</value><value>unix</value></enum></channel>\
                   </devices></domainCapabilities>";
        let offered = supported_devices(xml).unwrap();
        assert_eq!(offered.emulator.as_deref(), Some("/usr/bin/q"));
        assert_eq!(offered.channels.unwrap(), ["pty", "unix"]);
        let test =
            supported_devices("<domainCapabilities><domain>test</domain><devices/></domainCapabilities>").unwrap();
        assert_eq!(test, SupportedDevices::default());
    }

    #[test]
    fn a_networks_addresses_are_parsed() {
        let xml = "<network connections='1'><name>default</name><forward mode='nat'><nat/></forward>\
                   <bridge name='virbr0' stp='on' delay='0'/><mac address='52:54:00:1:2:3'/>\
                   <ip address='192.168.122.1' netmask='255.255.255.0'><dhcp/></ip>\
                   <ip family='ipv6' address='fd00::1' prefix='64'/><ip address='10.0.0.1' prefix='8'/></network>";
        let parsed = network(xml).unwrap();
        assert_eq!((parsed.forward.as_deref(), parsed.bridge.as_deref()), (Some("nat"), Some("virbr0")));
        assert_eq!(parsed.addresses, [(Ipv4Addr::new(192, 168, 122, 1), 24), (Ipv4Addr::new(10, 0, 0, 1), 8)]);
        assert_eq!(network("<network><name>x</name></network>").unwrap(), Network::default());
    }
}
