//! The XML of the domains that vmprov defines.
//!
//! Accelerator, machine and CPU come from `domcapabilities`. Values that libvirt chooses better itself are left out.

use std::io;

use quick_xml::{Writer, events::BytesText};
use uuid::Uuid;

use super::Capabilities;
use crate::{
    error::{Error, Result},
    model::record::VmRecord,
};

/// A domain to be defined.
#[derive(Debug)]
pub struct NewDomain<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its UUID. vmprov chooses it, so that an interrupted operation can be found again.
    pub uuid: Uuid,
    /// Its memory in MiB.
    pub memory_mib: u64,
    /// Its virtual CPUs.
    pub vcpus: u32,
    /// The host's capabilities.
    pub capabilities: &'a Capabilities,
    /// Its disks, in the guest's order.
    pub disks: Vec<DiskDevice>,
    /// Its network interface; a test domain has none.
    pub interface: Option<NewInterface<'a>>,
    /// The log file of its serial console. Each start overwrites it.
    pub console_log: Option<&'a str>,
    /// Whether it has a seed for cloud-init.
    pub seeded: bool,
    /// Whether it boots only with UEFI.
    pub uefi: bool,
    /// vmprov's record of it.
    pub metadata: &'a VmRecord,
}

/// A network interface to be attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NewInterface<'a> {
    /// Its MAC address.
    pub mac: &'a str,
    /// The network that it is attached to.
    pub link: Link<'a>,
}

/// The network that an interface is attached to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Link<'a> {
    /// A libvirt network.
    Network(&'a str),
    /// Unprivileged user-mode networking. This port of the host's loopback address is forwarded to the guest's SSH
    /// port.
    User(UserMode, u16),
}

/// The implementation of user-mode networking.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UserMode {
    /// passt, which libvirt starts for the VM.
    Passt,
    /// QEMU's own (slirp). libvirt cannot forward ports through it, so QEMU is configured directly.
    Slirp,
}

/// The SSH port in the guest.
const SSH: &str = "22";

/// A disk to be attached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DiskDevice {
    /// A qcow2 file that the guest writes to.
    Disk(String),
    /// A NoCloud seed, a read-only virtio-blk disk. Cloud kernels often have no driver for a SATA or IDE CD drive.
    Seed(String),
    /// The CD of an installer.
    Installer(String),
}

type Xml = Writer<Vec<u8>>;

impl NewDomain<'_> {
    /// Returns the domain's XML.
    pub fn to_xml(&self) -> Result<String> {
        let metadata = self.metadata.to_domain_xml()?;
        let mut xml = Writer::new_with_indent(Vec::new(), b' ', 2);
        self.write(&mut xml, &metadata)
            .and_then(|()| String::from_utf8(xml.into_inner()).map_err(io::Error::other))
            .map_err(|error| Error::internal("cannot write a domain's XML").because(error))
    }

    fn write(&self, xml: &mut Xml, metadata: &str) -> io::Result<()> {
        let host = self.capabilities;
        let domain = xml.create_element("domain").with_attribute(("type", host.kind.as_str()));
        let slirp = self.slirp();
        let namespace = slirp.as_ref().map(|_| ("xmlns:qemu", "http://libvirt.org/schemas/domain/qemu/1.0"));
        domain.with_attributes(namespace).write_inner_content(|xml| {
            text(xml, "name", self.name)?;
            text(xml, "uuid", &self.uuid.to_string())?;
            let raw = BytesText::from_escaped(metadata);
            xml.create_element("metadata").write_text_content(raw)?;
            let memory = xml.create_element("memory").with_attribute(("unit", "MiB"));
            memory.write_text_content(BytesText::new(&self.memory_mib.to_string()))?;
            text(xml, "vcpu", &self.vcpus.to_string())?;
            if self.seeded {
                xml.create_element("sysinfo").with_attribute(("type", "smbios")).write_inner_content(datasource)?;
            }
            self.write_os(xml)?;
            if host.has_acpi() {
                xml.create_element("features").write_inner_content(|xml| {
                    empty(xml, "acpi", &[])?;
                    if host.is_x86() { empty(xml, "apic", &[]) } else { Ok(()) }
                })?;
            }
            if let Some(mode) = &host.cpu_mode {
                empty(xml, "cpu", &[("mode", mode)])?;
            }
            empty(xml, "clock", &[("offset", "utc")])?;
            text(xml, "on_reboot", if self.interface.is_some() { "restart" } else { "destroy" })?;
            xml.create_element("devices").write_inner_content(|xml| self.write_devices(xml))?;
            let Some(args) = slirp else { return Ok(()) };
            let commandline = xml.create_element("qemu:commandline");
            commandline
                .write_inner_content(|xml| args.iter().try_for_each(|arg| empty(xml, "qemu:arg", &[("value", arg)])))?;
            Ok(())
        })?;
        Ok(())
    }

    /// Returns QEMU's arguments for an interface that is not in libvirt's configuration. libvirt uses its PCI slot
    /// last.
    fn slirp(&self) -> Option<[String; 4]> {
        let NewInterface { mac, link: Link::User(UserMode::Slirp, port) } = self.interface? else { return None };
        Some([
            "-netdev".to_owned(),
            format!("user,id=vmprov0,hostfwd=tcp:127.0.0.1:{port}-:{SSH}"),
            "-device".to_owned(),
            format!("virtio-net-pci,netdev=vmprov0,mac={mac},addr=0x1e,romfile="),
        ])
    }

    fn write_os(&self, xml: &mut Xml) -> io::Result<()> {
        let host = self.capabilities;
        let mut os = xml.create_element("os");
        if host.needs_uefi() || self.uefi {
            os = os.with_attribute(("firmware", "efi"));
        }
        os.write_inner_content(|xml| {
            let mut kind = xml.create_element("type").with_attribute(("arch", host.arch.as_str()));
            if let Some(machine) = &host.machine {
                kind = kind.with_attribute(("machine", machine.as_str()));
            }
            kind.write_text_content(BytesText::new("hvm"))?;
            empty(xml, "boot", &[("dev", "hd")])?;
            if self.disks.iter().any(|disk| matches!(disk, DiskDevice::Installer(_))) {
                empty(xml, "boot", &[("dev", "cdrom")])?;
            }
            if self.seeded && host.is_x86() {
                empty(xml, "smbios", &[("mode", "sysinfo")])?;
            }
            match self.interface {
                // A test domain has nothing to boot. Its firmware reboots at once, which proves that code runs.
                None if host.is_x86() => empty(xml, "bios", &[("rebootTimeout", "0")]),
                // The firmware then logs its boot attempts on the console. UEFI always does.
                Some(_) if host.is_x86() && !self.uefi => empty(xml, "bios", &[("useserial", "yes")]),
                _ => Ok(()),
            }
        })?;
        Ok(())
    }

    fn write_devices(&self, xml: &mut Xml) -> io::Result<()> {
        for (index, disk) in self.disks.iter().enumerate() {
            disk.write(xml, index, self.capabilities)?;
        }
        let Some(interface) = self.interface else { return Ok(()) };
        self.write_interface(xml, interface)?;
        xml.create_element("console").with_attribute(("type", "pty")).write_inner_content(|xml| {
            match self.console_log {
                Some(file) => empty(xml, "log", &[("file", file), ("append", "off")]),
                None => Ok(()),
            }
        })?;
        xml.create_element("channel").with_attribute(("type", "unix")).write_inner_content(|xml| {
            empty(xml, "target", &[("type", "virtio"), ("name", "org.qemu.guest_agent.0")])
        })?;
        xml.create_element("rng").with_attribute(("model", "virtio")).write_inner_content(|xml| {
            let backend = xml.create_element("backend").with_attribute(("model", "random"));
            backend.write_text_content(BytesText::new("/dev/urandom"))?;
            Ok(())
        })?;
        self.write_video(xml)
    }

    fn write_interface(&self, xml: &mut Xml, interface: NewInterface) -> io::Result<()> {
        let kind = match interface.link {
            Link::Network(_) => "network",
            Link::User(UserMode::Passt, _) => "user",
            Link::User(UserMode::Slirp, _) => return Ok(()),
        };
        xml.create_element("interface").with_attribute(("type", kind)).write_inner_content(|xml| {
            empty(xml, "mac", &[("address", interface.mac)])?;
            match interface.link {
                Link::Network(network) => empty(xml, "source", &[("network", network)])?,
                Link::User(_, port) => {
                    let forward = xml.create_element("portForward");
                    let forward = forward.with_attributes([("proto", "tcp"), ("address", "127.0.0.1")]);
                    forward
                        .write_inner_content(|xml| empty(xml, "range", &[("start", &port.to_string()), ("to", SSH)]))?;
                    empty(xml, "backend", &[("type", "passt")])?;
                }
            }
            empty(xml, "model", &[("type", "virtio")])?;
            // A VM whose image does not boot must not try the network instead.
            if self.seeded { empty(xml, "rom", &[("enabled", "no")]) } else { Ok(()) }
        })?;
        Ok(())
    }

    /// Writes the video device, which every guest has, so that screenshots can be taken. Installers and blank VMs are
    /// used on the screen, so they get a VNC server. A cloud image uses the serial console and needs none.
    fn write_video(&self, xml: &mut Xml) -> io::Result<()> {
        let Some(video) = &self.capabilities.video else { return Ok(()) };
        if !self.seeded {
            empty(xml, "graphics", &[("type", "vnc"), ("listen", "127.0.0.1"), ("autoport", "yes")])?;
        }
        xml.create_element("video").write_inner_content(|xml| empty(xml, "model", &[("type", video)]))?;
        Ok(())
    }
}

impl DiskDevice {
    /// Returns the XML of the device alone, for `update-device`. `target` is the disk's name in the guest.
    pub fn to_xml_at(&self, target: &str) -> Result<String> {
        let mut xml = Writer::new(Vec::new());
        let (device, format, path) = self.parts();
        self.write_as(&mut xml, device, format, path, (target, "virtio"))
            .and_then(|()| String::from_utf8(xml.into_inner()).map_err(io::Error::other))
            .map_err(|error| Error::internal("cannot write a disk's XML").because(error))
    }

    fn parts(&self) -> (&str, &str, &str) {
        match self {
            Self::Disk(path) => ("disk", "qcow2", path),
            Self::Seed(path) => ("disk", "raw", path),
            Self::Installer(path) => ("cdrom", "raw", path),
        }
    }

    fn write(&self, xml: &mut Xml, index: usize, capabilities: &Capabilities) -> io::Result<()> {
        let (prefix, bus) = match self {
            Self::Disk(_) | Self::Seed(_) => ("vd", "virtio"),
            // q35 has SATA, i440fx has IDE, and other machines have neither.
            Self::Installer(_) if capabilities.is_q35() => ("sd", "sata"),
            Self::Installer(_) if capabilities.is_x86() => ("hd", "ide"),
            Self::Installer(_) => ("sd", "scsi"),
        };
        let (device, format, path) = self.parts();
        self.write_as(xml, device, format, path, (&device_name(prefix, index), bus))
    }

    fn write_as(&self, xml: &mut Xml, device: &str, format: &str, path: &str, target: (&str, &str)) -> io::Result<()> {
        let disk = xml.create_element("disk").with_attributes([("type", "file"), ("device", device)]);
        disk.write_inner_content(|xml| {
            let mut driver = vec![("name", "qemu"), ("type", format)];
            if matches!(self, Self::Disk(_)) {
                driver.push(("discard", "unmap"));
            }
            empty(xml, "driver", &driver)?;
            empty(xml, "source", &[("file", path)])?;
            empty(xml, "target", &[("dev", target.0), ("bus", target.1)])?;
            if matches!(self, Self::Disk(_)) { Ok(()) } else { empty(xml, "readonly", &[]) }
        })?;
        Ok(())
    }
}

/// Returns the name of a disk as Linux numbers them: `vda` to `vdz`, then `vdaa`.
fn device_name(prefix: &str, index: usize) -> String {
    let mut letters = Vec::new();
    let mut rest = Some(index);
    while let Some(index) = rest {
        letters.push(('a'..='z').nth(index % 26));
        rest = (index / 26).checked_sub(1);
    }
    prefix.chars().chain(letters.into_iter().rev().flatten()).collect()
}

/// Tells cloud-init through the SMBIOS serial number that its data source is NoCloud.
fn datasource(xml: &mut Xml) -> io::Result<()> {
    xml.create_element("system").write_inner_content(|xml| {
        let entry = xml.create_element("entry").with_attribute(("name", "serial"));
        entry.write_text_content(BytesText::new("ds=nocloud"))?;
        Ok(())
    })?;
    Ok(())
}

fn text(xml: &mut Xml, name: &str, value: &str) -> io::Result<()> {
    xml.create_element(name).write_text_content(BytesText::new(value))?;
    Ok(())
}

fn empty(xml: &mut Xml, name: &str, attributes: &[(&str, &str)]) -> io::Result<()> {
    xml.create_element(name).with_attributes(attributes.iter().copied()).write_empty()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disk_names_are_numbered_as_in_linux() {
        let names = [0, 25, 26, 27, 51, 52, 701, 702].map(|index| device_name("vd", index));
        assert_eq!(names, ["vda", "vdz", "vdaa", "vdab", "vdaz", "vdba", "vdzz", "vdaaa"]);
    }
}
