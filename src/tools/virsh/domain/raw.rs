//! The parts of libvirt's domain XML that are read. The rest is ignored.

use serde::Deserialize;
use uuid::Uuid;

use crate::model::vm;

#[derive(Deserialize)]
pub(super) struct Domain {
    #[serde(rename = "@type")]
    pub(super) kind: String,
    pub(super) name: String,
    pub(super) uuid: Uuid,
    pub(super) description: Option<String>,
    pub(super) memory: Memory,
    #[serde(rename = "currentMemory")]
    pub(super) current_memory: Option<Memory>,
    pub(super) vcpu: Vcpu,
    pub(super) os: Os,
    #[serde(default)]
    pub(super) devices: Devices,
    /// Additional arguments for QEMU.
    #[serde(rename = "commandline")]
    pub(super) commandline: Option<Commandline>,
}

#[derive(Deserialize)]
pub(super) struct Commandline {
    #[serde(rename = "arg", default)]
    args: Vec<Argument>,
}

#[derive(Deserialize)]
struct Argument {
    #[serde(rename = "@value")]
    value: String,
}

impl Commandline {
    /// Returns the interfaces in the arguments: `-device virtio-net-pci,netdev=…,mac=…`. vmprov adds one if libvirt
    /// cannot configure it.
    pub(super) fn interfaces(&self) -> impl Iterator<Item = vm::Interface> {
        let options = self.args.iter().map(|arg| arg.value.as_str()).filter(|value| value.starts_with("virtio-net"));
        let mac = |options: &str| options.split(',').find_map(|option| option.strip_prefix("mac=")).map(str::to_owned);
        options.filter_map(mac).map(|mac| vm::Interface { mac, kind: "user".to_owned(), source: None })
    }
}

#[derive(Deserialize)]
pub(super) struct Memory {
    #[serde(rename = "@unit")]
    unit: Option<String>,
    #[serde(rename = "$text")]
    value: u64,
}

impl Memory {
    /// Returns the memory in MiB. libvirt writes KiB, and the other units are for future versions.
    pub(super) fn mib(&self) -> u64 {
        match self.unit.as_deref() {
            Some("b" | "bytes") => self.value >> 20,
            Some("MiB" | "M") => self.value,
            Some("GiB" | "G") => self.value << 10,
            _ => self.value >> 10,
        }
    }
}

#[derive(Deserialize)]
pub(super) struct Vcpu {
    #[serde(rename = "@current")]
    pub(super) current: Option<u32>,
    #[serde(rename = "$text")]
    pub(super) count: u32,
}

#[derive(Deserialize)]
pub(super) struct Os {
    #[serde(rename = "type")]
    pub(super) kind: OsType,
}

#[derive(Deserialize)]
pub(super) struct OsType {
    #[serde(rename = "@arch")]
    pub(super) arch: Option<String>,
    #[serde(rename = "@machine")]
    pub(super) machine: Option<String>,
}

#[derive(Deserialize, Default)]
pub(super) struct Devices {
    #[serde(rename = "disk", default)]
    pub(super) disks: Vec<Disk>,
    #[serde(rename = "interface", default)]
    pub(super) interfaces: Vec<Interface>,
    #[serde(rename = "console", default)]
    pub(super) consoles: Vec<Console>,
    #[serde(rename = "channel", default)]
    pub(super) channels: Vec<Channel>,
    #[serde(rename = "memballoon")]
    pub(super) balloon: Option<Balloon>,
}

#[derive(Deserialize)]
pub(super) struct Balloon {
    #[serde(rename = "@model")]
    pub(super) model: String,
}

#[derive(Deserialize)]
pub(super) struct Disk {
    #[serde(rename = "@device")]
    device: Option<String>,
    source: Option<Source>,
    target: Target,
}

#[derive(Deserialize)]
struct Source {
    #[serde(rename = "@file")]
    file: Option<String>,
    #[serde(rename = "@dev")]
    dev: Option<String>,
    #[serde(rename = "@pool")]
    pool: Option<String>,
    #[serde(rename = "@volume")]
    volume: Option<String>,
    #[serde(rename = "@network")]
    network: Option<String>,
    #[serde(rename = "@bridge")]
    bridge: Option<String>,
    #[serde(rename = "@name")]
    name: Option<String>,
}

impl From<Disk> for vm::Disk {
    fn from(raw: Disk) -> Self {
        let source = |source: Source| {
            let volume = source.pool.zip(source.volume).map(|(pool, volume)| format!("{pool}/{volume}"));
            source.file.or(source.dev).or(volume).or(source.name)
        };
        Self {
            target: raw.target.dev,
            device: raw.device.unwrap_or_else(|| "disk".to_owned()),
            source: raw.source.and_then(source),
        }
    }
}

#[derive(Deserialize)]
struct Target {
    #[serde(rename = "@dev")]
    dev: String,
}

#[derive(Deserialize)]
pub(super) struct Interface {
    #[serde(rename = "@type")]
    kind: String,
    mac: Option<Mac>,
    source: Option<Source>,
}

impl Interface {
    /// Returns the interface; none if it has no MAC address (a passed-through device in old XML), because then its IP
    /// address cannot be found.
    pub(super) fn into_known(self) -> Option<vm::Interface> {
        Some(vm::Interface {
            mac: self.mac?.address.to_ascii_lowercase(),
            kind: self.kind,
            source: self.source.and_then(|source| source.network.or(source.bridge).or(source.dev)),
        })
    }
}

#[derive(Deserialize)]
struct Mac {
    #[serde(rename = "@address")]
    address: String,
}

#[derive(Deserialize)]
pub(super) struct Console {
    pub(super) log: Option<Log>,
}

#[derive(Deserialize)]
pub(super) struct Log {
    #[serde(rename = "@file")]
    pub(super) file: Option<String>,
}

#[derive(Deserialize)]
pub(super) struct Channel {
    target: Option<ChannelTarget>,
}

#[derive(Deserialize)]
struct ChannelTarget {
    #[serde(rename = "@name")]
    name: Option<String>,
    #[serde(rename = "@state")]
    state: Option<String>,
}

impl Channel {
    pub(super) fn is_connected_agent(&self) -> bool {
        let is = |value: &Option<String>, wanted| value.as_deref() == Some(wanted);
        let target = self.target.as_ref();
        target.is_some_and(|target| is(&target.name, "org.qemu.guest_agent.0") && is(&target.state, "connected"))
    }
}
