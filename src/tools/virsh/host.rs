//! The host's capabilities and inventory, read in one process before anything is changed.

use serde::Deserialize;
use uuid::Uuid;

use super::{Pool, Virsh, domain, from_xml, identity, unexpected_sections};
use crate::error::{Code, Result};

/// The host's capabilities for guests, from `domcapabilities`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Capabilities {
    /// The hypervisor type: `kvm`, `qemu` (emulation) or `test`.
    pub kind: String,
    /// The processor architecture.
    pub arch: String,
    /// The machine type that libvirt prefers. The test driver has none.
    pub machine: Option<String>,
    /// The CPU mode with the most features. None if libvirt should choose.
    pub cpu_mode: Option<String>,
    /// The machine's maximum number of virtual CPUs, if known.
    pub max_vcpus: Option<u32>,
    /// The video device for guests. None if no suitable one is supported.
    pub video: Option<String>,
    /// Whether libvirt supports user-mode networking with passt.
    pub passt: bool,
}

/// The possible video devices, the best first. Every firmware and kernel can write text to them.
const VIDEO: [&str; 3] = ["virtio", "vga", "bochs"];

impl Capabilities {
    /// Returns whether guests run with KVM.
    pub fn is_kvm(&self) -> bool {
        self.kind == "kvm"
    }

    pub(super) fn is_x86(&self) -> bool {
        self.arch == "x86_64" || self.arch == "i686"
    }

    pub(super) fn is_q35(&self) -> bool {
        self.machine.as_ref().is_some_and(|machine| machine.contains("q35"))
    }

    pub(super) fn has_acpi(&self) -> bool {
        self.is_x86() || self.needs_uefi()
    }

    /// Returns whether the architecture's machines have no other firmware than UEFI.
    pub(super) fn needs_uefi(&self) -> bool {
        matches!(self.arch.as_str(), "aarch64" | "riscv64" | "loongarch64")
    }

    pub(super) fn from_xml(xml: &str) -> Result<Self> {
        let raw: RawCapabilities = from_xml("domain capabilities", xml)?;
        // With emulation, `maximum` has every feature of QEMU. A domain with `host-passthrough` would not start.
        let wanted = if raw.domain == "kvm" { "host-passthrough" } else { "maximum" };
        let devices = raw.devices.unwrap_or_default();
        let video = devices.video.and_then(|video| VIDEO.into_iter().find(|model| video.offers("modelType", model)));
        let modes = raw.cpu.map(|cpu| cpu.modes).unwrap_or_default();
        let offered = modes.into_iter().find(|mode| mode.name == wanted && mode.supported == "yes");
        Ok(Self {
            kind: raw.domain,
            arch: raw.arch,
            machine: raw.machine,
            cpu_mode: offered.map(|mode| mode.name),
            max_vcpus: raw.vcpu.map(|vcpu| vcpu.max),
            video: video.map(str::to_owned),
            passt: devices.interface.is_some_and(|interface| interface.offers("backendType", "passt")),
        })
    }
}

#[derive(Deserialize)]
struct RawCapabilities {
    domain: String,
    arch: String,
    machine: Option<String>,
    vcpu: Option<MaxVcpus>,
    cpu: Option<CpuModes>,
    devices: Option<RawDevices>,
}

/// The devices that libvirt supports, with the possible values of their properties.
#[derive(Deserialize, Default)]
struct RawDevices {
    video: Option<RawDevice>,
    interface: Option<RawDevice>,
}

#[derive(Deserialize)]
struct RawDevice {
    #[serde(rename = "enum", default)]
    properties: Vec<RawProperty>,
}

#[derive(Deserialize)]
struct RawProperty {
    #[serde(rename = "@name")]
    name: String,
    #[serde(rename = "value", default)]
    values: Vec<String>,
}

impl RawDevice {
    fn offers(&self, property: &str, value: &str) -> bool {
        self.properties.iter().any(|known| known.name == property && known.values.iter().any(|known| known == value))
    }
}

#[derive(Deserialize)]
struct MaxVcpus {
    #[serde(rename = "@max")]
    max: u32,
}

#[derive(Deserialize)]
struct CpuModes {
    #[serde(rename = "mode", default)]
    modes: Vec<CpuMode>,
}

#[derive(Deserialize)]
struct CpuMode {
    #[serde(rename = "@name")]
    name: String,
    #[serde(rename = "@supported")]
    supported: String,
}

/// The host's state before a VM is created.
#[derive(Debug)]
pub struct HostInventory {
    /// All domains.
    pub domains: Vec<(Uuid, String)>,
    /// The storage pool, if it exists.
    pub pool: Option<Pool>,
    /// The active networks.
    pub active_networks: Vec<String>,
    /// All networks.
    pub networks: Vec<String>,
    /// The host's capabilities.
    pub capabilities: Capabilities,
    /// The host's memory in MiB, if libvirt reports it.
    pub memory_mib: Option<u64>,
    /// Those of the requested volumes that exist.
    pub volumes: Vec<String>,
}

impl Virsh {
    /// Reads the host's inventory in one process, including the pool `pool` and which of `volumes` it contains.
    ///
    /// `downloads` are small volumes of the pool, each with the file to write its content to. `virttype` is the
    /// hypervisor type, if not the preferred one. Missing resources are no error.
    pub fn inventory(
        &self,
        pool: &str,
        volumes: &[&str],
        downloads: &[(String, String)],
        virttype: Option<&str>,
    ) -> Result<HostInventory> {
        let mut commands = vec![
            vec!["list", "--all", "--uuid", "--name"],
            vec!["pool-dumpxml", "--pool", pool],
            vec!["pool-list", "--name"],
            vec!["net-list", "--name"],
            vec!["net-list", "--all", "--name"],
            domcapabilities(virttype),
            vec!["nodememstats"],
            identity::CAPABILITIES.to_vec(),
        ];
        commands.extend(volumes.iter().map(|volume| vec!["vol-path", "--pool", pool, "--vol", volume]));
        commands.extend(
            downloads
                .iter()
                .map(|(volume, file)| vec!["vol-download", "--pool", pool, "--vol", volume, "--file", file]),
        );
        // Reading a volume of an inactive pool is a conflict, and so is `nodememstats` with the test driver.
        let tolerated = [Code::NotFound, Code::Conflict];
        let sections = self.batch_tolerating("read the host's inventory", &commands, &tolerated)?;
        let [domains, pool_xml, active_pools, active_networks, networks, capabilities, memory, identity, found @ ..] =
            &sections[..]
        else {
            return Err(unexpected_sections());
        };
        self.remember_hypervisor(identity)?;
        let lines =
            |text: &str| text.lines().map(str::trim_end).filter(|line| !line.is_empty()).map(str::to_owned).collect();
        let active_pools: Vec<String> = lines(active_pools);
        let existing = |(volume, path): (&&str, &String)| (!path.trim().is_empty()).then(|| (*volume).to_owned());
        Ok(HostInventory {
            domains: domain::names(domains)?,
            pool: match pool_xml.trim() {
                "" => None,
                xml => Some(Pool::from_xml(xml, active_pools.iter().any(|active| active == pool))?),
            },
            active_networks: lines(active_networks),
            networks: lines(networks),
            capabilities: Capabilities::from_xml(capabilities)?,
            memory_mib: total_memory(memory),
            volumes: volumes.iter().zip(found).filter_map(existing).collect(),
        })
    }

    /// Returns the capabilities for the hypervisor type that libvirt prefers.
    pub fn capabilities(&self) -> Result<Capabilities> {
        Capabilities::from_xml(&self.read("read the host's capabilities", &domcapabilities(None))?)
    }

    /// Returns the capabilities for emulated guests.
    pub fn emulation(&self) -> Result<Capabilities> {
        let xml = self.read("read the host's capabilities", &["domcapabilities", "--virttype", "qemu"])?;
        Capabilities::from_xml(&xml)
    }
}

fn domcapabilities(virttype: Option<&str>) -> Vec<&str> {
    let mut command = vec!["domcapabilities"];
    command.extend(virttype.into_iter().flat_map(|virttype| ["--virttype", virttype]));
    command
}

/// Parses the total in the output of `nodememstats`: `total  :  24689656 KiB`.
pub(super) fn total_memory(text: &str) -> Option<u64> {
    let (_, rest) = text.lines().find_map(|line| line.split_once(':').filter(|(key, _)| key.trim() == "total"))?;
    rest.trim().strip_suffix("KiB")?.trim().parse::<u64>().ok().map(|kib| kib / 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accelerator_and_cpu_come_from_libvirts_capabilities() {
        let xml = |domain: &str| {
            format!(
                "<domainCapabilities><path>/usr/bin/q</path><domain>{domain}</domain><machine>pc-1</machine><arch>x86_64</arch>\
                 <devices><video supported='yes'><enum name='modelType'><value>vga</value><value>virtio</value></enum></video>\
                 <interface supported='yes'><enum name='backendType'><value>default</value><value>passt</value></enum></interface></devices>\
                 <vcpu max='255'/><cpu><mode name='host-passthrough' supported='yes'><enum name='x'/></mode>\
                 <mode name='maximum' supported='yes'/></cpu></domainCapabilities>"
            )
        };
        let kvm = Capabilities::from_xml(&xml("kvm")).unwrap();
        assert_eq!((kvm.is_kvm(), kvm.cpu_mode.as_deref(), kvm.max_vcpus), (true, Some("host-passthrough"), Some(255)));
        assert_eq!((kvm.video.as_deref(), kvm.passt), (Some("virtio"), true));
        let emulated = Capabilities::from_xml(&xml("qemu")).unwrap();
        assert_eq!((emulated.is_kvm(), emulated.cpu_mode.as_deref()), (false, Some("maximum")));
    }

    #[test]
    fn total_memory_is_in_mib() {
        assert_eq!(total_memory("total  :             25282208 KiB\nfree   :  1 KiB\n"), Some(24_689));
        assert_eq!(total_memory(""), None);
    }
}
