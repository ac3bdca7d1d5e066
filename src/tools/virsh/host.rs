//! What the host offers: one look at it before anything is changed.

use serde::Deserialize;
use uuid::Uuid;

use super::{Pool, Virsh, domain, from_xml, identity};
use crate::error::{Code, Error, Result};

/// What guests can be given on this host, from `domcapabilities`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Capabilities {
    /// The hypervisor type: `kvm`, `qemu` (emulation) or `test`.
    pub kind: String,
    /// The processor architecture.
    pub arch: String,
    /// The machine type that libvirt prefers; the test driver has none.
    pub machine: Option<String>,
    /// The CPU mode that gives the guest most; none where libvirt should choose.
    pub cpu_mode: Option<String>,
    /// The most virtual CPUs that the machine takes, where it is known.
    pub max_vcpus: Option<u32>,
    /// The video device that guests are given; none where there is none.
    pub video: Option<String>,
    /// Whether libvirt can give a guest a network of its user's through passt.
    pub passt: bool,
}

/// The video devices that a guest may be given, the best first: those that every firmware and kernel can write text to.
const VIDEO: [&str; 3] = ["virtio", "vga", "bochs"];

impl Capabilities {
    /// Whether guests run on the host's own CPU.
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

    /// These boards have no other firmware.
    pub(super) fn needs_uefi(&self) -> bool {
        matches!(self.arch.as_str(), "aarch64" | "riscv64" | "loongarch64")
    }

    pub(super) fn from_xml(xml: &str) -> Result<Self> {
        let raw: RawCapabilities = from_xml("domain capabilities", xml)?;
        // The emulated CPU with every feature that QEMU has; passing the host's through is refused at start.
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

/// What devices libvirt can give a guest: for each, its properties and the values that each can have.
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

/// What is there before a VM is created: one process's answer.
#[derive(Debug)]
pub struct HostInventory {
    /// Every domain.
    pub domains: Vec<(Uuid, String)>,
    /// The storage pool, if it is there.
    pub pool: Option<Pool>,
    /// The networks that are up.
    pub active_networks: Vec<String>,
    /// Every network.
    pub networks: Vec<String>,
    /// What guests can be given.
    pub capabilities: Capabilities,
    /// The host's memory in MiB, where libvirt tells.
    pub memory_mib: Option<u64>,
    /// Which of the volumes asked about are there.
    pub volumes: Vec<String>,
}

impl Virsh {
    /// Looks at the host, the pool `pool` and whether it holds `volumes`; `downloads` are small volumes of it, and the
    /// files to put their content into; `virttype` is the hypervisor type to ask about, if not the preferred. One process; what is missing is reported as missing.
    pub fn survey(
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
        // A pool that is not active answers for its volumes with a conflict; the test driver knows no memory.
        let tolerated = [Code::NotFound, Code::Conflict];
        let sections = self.batch_tolerating("look at the host", &commands, &tolerated)?;
        let [domains, pool_xml, active_pools, active_networks, networks, capabilities, memory, identity, found @ ..] =
            &sections[..]
        else {
            return Err(Error::internal("virsh printed another number of answers than asked for"));
        };
        self.remember_hypervisor(identity)?;
        let lines =
            |text: &str| text.lines().map(str::trim_end).filter(|line| !line.is_empty()).map(str::to_owned).collect();
        let active_pools: Vec<String> = lines(active_pools);
        let is_there = |(volume, path): (&&str, &String)| (!path.trim().is_empty()).then(|| (*volume).to_owned());
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
            volumes: volumes.iter().zip(found).filter_map(is_there).collect(),
        })
    }

    /// What guests can be given, as libvirt prefers it.
    pub fn offered(&self) -> Result<Capabilities> {
        Capabilities::from_xml(&self.read("ask what the host offers", &domcapabilities(None))?)
    }

    /// What guests can be given when they are emulated.
    pub fn emulation(&self) -> Result<Capabilities> {
        let xml = self.read("ask what the host can emulate", &["domcapabilities", "--virttype", "qemu"])?;
        Capabilities::from_xml(&xml)
    }
}

fn domcapabilities(virttype: Option<&str>) -> Vec<&str> {
    let mut command = vec!["domcapabilities"];
    command.extend(virttype.into_iter().flat_map(|virttype| ["--virttype", virttype]));
    command
}

/// Reads the total from `nodememstats`: `total  :  24689656 KiB`.
pub(super) fn total_memory(text: &str) -> Option<u64> {
    let (_, rest) = text.lines().find_map(|line| line.split_once(':').filter(|(key, _)| key.trim() == "total"))?;
    rest.trim().strip_suffix("KiB")?.trim().parse::<u64>().ok().map(|kib| kib / 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_accelerator_and_cpu_come_from_what_libvirt_offers() {
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
    fn memory_is_read_in_mib() {
        assert_eq!(total_memory("total  :             25282208 KiB\nfree   :  1 KiB\n"), Some(24_689));
        assert_eq!(total_memory(""), None);
    }
}
