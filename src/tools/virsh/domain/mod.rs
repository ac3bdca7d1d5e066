//! Domains: lists, descriptions and actions.

mod raw;

use std::collections::HashMap;

use uuid::Uuid;

use super::{Virsh, from_xml, metadata, unexpected_sections};
use crate::model::record::VmRecord;
use crate::{
    error::{Code, Error, Result},
    model::vm::{Disk, Interface, State},
};

/// A domain in the list of domains.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DomainSummary {
    /// Its UUID.
    pub uuid: Uuid,
    /// Its name, which may be any that libvirt allows.
    pub name: String,
    /// Its state.
    pub state: State,
    /// Its memory in MiB, if libvirt's statistics include it.
    pub memory_mib: Option<u64>,
    /// The number of its virtual CPUs, if libvirt's statistics include it.
    pub vcpus: Option<u32>,
    /// Whether it starts with the host.
    pub autostart: bool,
}

/// A domain as described by its XML.
#[derive(Debug, Clone, Default)]
pub struct Domain {
    /// Its UUID.
    pub uuid: Uuid,
    /// Its name, which may be any that libvirt allows.
    pub name: String,
    /// The hypervisor type: `kvm`, `qemu` (emulation), `test`, …
    pub kind: String,
    /// Its memory in MiB.
    pub memory_mib: u64,
    /// The boot-time memory in MiB, which is the maximum for the balloon.
    pub max_memory_mib: u64,
    /// Whether it has a balloon device.
    pub balloon: bool,
    /// The number of its virtual CPUs.
    pub vcpus: u32,
    /// The maximum number of virtual CPUs without a restart.
    pub max_vcpus: u32,
    /// Its description.
    pub description: Option<String>,
    /// Its processor architecture.
    pub arch: String,
    /// Its machine type.
    pub machine: Option<String>,
    /// Its disks.
    pub disks: Vec<Disk>,
    /// Its network interfaces.
    pub interfaces: Vec<Interface>,
    /// The log file of its serial console.
    pub console_log: Option<String>,
    /// Whether a guest agent is connected to its channel.
    pub agent_connected: bool,
    /// Whether a shutdown was requested.
    pub stopping: bool,
    /// vmprov's record of it. None if it is not managed by vmprov.
    pub metadata: Option<VmRecord>,
}

/// The description of a domain.
#[derive(Debug, Clone, Default)]
pub struct DomainDetails {
    /// The domain, if its XML was requested.
    pub domain: Option<Domain>,
    /// vmprov's record of it. None if it is not managed by vmprov.
    pub metadata: Option<VmRecord>,
}

impl Domain {
    /// Parses a domain's XML.
    pub(super) fn from_xml(xml: &str) -> Result<Self> {
        let raw: raw::Domain = from_xml("domain", xml)?;
        Ok(Self {
            uuid: raw.uuid,
            name: raw.name,
            kind: raw.kind,
            memory_mib: raw.current_memory.as_ref().unwrap_or(&raw.memory).mib(),
            max_memory_mib: raw.memory.mib(),
            balloon: raw.devices.balloon.is_some_and(|balloon| balloon.model != "none"),
            vcpus: raw.vcpu.current.unwrap_or(raw.vcpu.count),
            max_vcpus: raw.vcpu.count,
            description: raw.description,
            arch: raw.os.kind.arch.unwrap_or_default(),
            machine: raw.os.kind.machine,
            agent_connected: raw.devices.channels.iter().any(raw::Channel::is_connected_agent),
            disks: raw.devices.disks.into_iter().map(Disk::from).collect(),
            console_log: raw.devices.consoles.into_iter().find_map(|console| console.log?.file),
            interfaces: (raw.devices.interfaces.into_iter().filter_map(raw::Interface::into_known))
                .chain(raw.commandline.iter().flat_map(raw::Commandline::interfaces))
                .collect(),
            stopping: metadata::is_stopping(xml)?,
            metadata: VmRecord::from_domain_xml(xml)?,
        })
    }
}

impl Virsh {
    /// Returns all domains, sorted by name, in one process.
    pub fn domains(&self) -> Result<Vec<DomainSummary>> {
        // A domain may stop or be busy during the call. Missing statistics are then unknown, which is no error.
        let commands = LIST.map(<[&str]>::to_vec);
        let sections = self.batch_tolerating("list the VMs", &commands, &[Code::NotFound, Code::Busy])?;
        let [names, autostart, stats] = &sections[..] else {
            return Err(unexpected_sections());
        };
        listed(names, autostart, stats)
    }

    /// Describes domains, in one process. Each UUID comes with whether to read the whole XML. Otherwise only vmprov's
    /// element is read, which is far cheaper. A domain that no longer exists is left out.
    pub fn describe(&self, domains: &[(Uuid, bool)]) -> Result<HashMap<Uuid, DomainDetails>> {
        let uuids: Vec<_> = domains.iter().map(|(uuid, _)| uuid.to_string()).collect();
        let command = |(uuid, &(_, whole)): (_, &(Uuid, bool))| -> Vec<&str> {
            if whole {
                vec!["dumpxml", "--domain", uuid]
            } else {
                vec!["metadata", "--domain", uuid, "--uri", metadata::NAMESPACE]
            }
        };
        let commands: Vec<_> = uuids.iter().map(String::as_str).zip(domains).map(command).collect();
        if commands.is_empty() {
            return Ok(HashMap::new());
        }
        let sections = self.batch_tolerating("read the VMs", &commands, &[Code::NotFound])?;
        let mut described = HashMap::new();
        for (&(uuid, whole), section) in domains.iter().zip(&sections) {
            let section = section.trim();
            let description = match (whole, section.is_empty()) {
                (true, true) => continue,
                (true, false) => {
                    let domain = Domain::from_xml(section)?;
                    DomainDetails { metadata: domain.metadata.clone(), domain: Some(domain) }
                }
                (false, true) => DomainDetails::default(),
                (false, false) => DomainDetails { metadata: Some(VmRecord::from_element(section)?), domain: None },
            };
            described.insert(uuid, description);
        }
        Ok(described)
    }

    /// Returns a domain's current XML, which is that of the running domain if it runs.
    pub fn domain(&self, uuid: Uuid) -> Result<Domain> {
        Domain::from_xml(&self.read("read the VM", &["dumpxml", "--domain", &uuid.to_string()])?)
    }

    /// Returns a domain's configuration, which applies at its next start.
    pub fn persistent_domain(&self, uuid: Uuid) -> Result<Domain> {
        Domain::from_xml(&self.read("read the VM", &["dumpxml", "--domain", &uuid.to_string(), "--inactive"])?)
    }

    /// Returns a domain's current state.
    pub fn state(&self, uuid: Uuid) -> Result<State> {
        let text =
            self.read("read the VM's state", &["domstats", "--raw", "--nowait", "--state", &uuid.to_string()])?;
        let number = text.lines().find_map(|line| line.trim().strip_prefix("state.state="));
        number.map(state).ok_or_else(|| Error::new(Code::ToolFailed, "libvirt does not report the VM's state"))
    }

    /// Returns whether a domain has a managed save image, from which its next start will resume.
    pub fn has_managed_save(&self, uuid: Uuid) -> Result<bool> {
        let text = self.read("list the saved VMs", &["list", "--all", "--with-managed-save", "--uuid"])?;
        Ok(text.lines().any(|line| line.trim() == uuid.to_string()))
    }

    /// Defines a domain. libvirt atomically refuses a second domain of the same name.
    pub fn define(&self, xml: &str) -> Result<()> {
        self.change_with("define the VM", self.tool(&["define", "/dev/stdin"]).stdin(xml))
    }

    /// Starts a transient domain with its CPUs paused. [`Self::resume`] lets them run.
    pub fn create_transient_paused(&self, xml: &str) -> Result<()> {
        self.change_with("start the test domain", self.tool(&["create", "/dev/stdin", "--paused"]).stdin(xml))
    }

    /// Starts a domain.
    pub fn start(&self, uuid: Uuid) -> Result<()> {
        self.change("start the VM", &["start", "--domain", &uuid.to_string()])
    }

    /// Resumes a domain that is paused or suspended.
    pub fn resume(&self, uuid: Uuid, state: State) -> Result<()> {
        let verb = if state == State::Suspended { "dompmwakeup" } else { "resume" };
        self.change("resume the VM", &[verb, "--domain", &uuid.to_string()])
    }

    /// Pauses a running domain.
    pub fn suspend(&self, uuid: Uuid) -> Result<()> {
        self.change("pause the VM", &["suspend", "--domain", &uuid.to_string()])
    }

    /// Resets a domain at once, without a shutdown of the guest.
    pub fn reset(&self, uuid: Uuid) -> Result<()> {
        self.change("reset the VM", &["reset", "--domain", &uuid.to_string()])
    }

    /// Renames a domain that is shut off. libvirt refuses a name that is taken.
    pub fn rename(&self, uuid: Uuid, name: &str) -> Result<()> {
        self.change("rename the VM", &["domrename", "--domain", &uuid.to_string(), "--new-name", name])
    }

    /// Requests a shutdown of the guest, like its power button.
    pub fn shutdown(&self, uuid: Uuid) -> Result<()> {
        let (what, uuid) = ("request a shutdown of the VM", uuid.to_string());
        match self.change(what, &["shutdown", "--domain", &uuid, "--mode", "acpi"]) {
            // Drivers other than QEMU's have only one method and refuse the option.
            Err(error) if error.cause.as_ref().is_some_and(|cause| is_unsupported(cause)) => {
                self.change(what, &["shutdown", "--domain", &uuid])
            }
            result => result,
        }
    }

    /// Powers a domain off at once, without a shutdown of the guest.
    pub fn destroy(&self, uuid: Uuid) -> Result<()> {
        self.change("power off the VM", &["destroy", "--domain", &uuid.to_string()])
    }

    /// Sets whether a domain starts with the host.
    pub fn set_autostart(&self, uuid: Uuid, wanted: bool) -> Result<()> {
        let uuid = uuid.to_string();
        let mut args = vec!["autostart", "--domain", &uuid];
        args.extend((!wanted).then_some("--disable"));
        self.change("change the VM's autostart setting", &args)
    }

    /// Undefines a domain, including its NVRAM, TPM state, saved state, and the metadata of its snapshots and
    /// checkpoints. Its volumes are kept.
    pub fn undefine(&self, uuid: Uuid) -> Result<()> {
        let uuid = uuid.to_string();
        let undefine = |more: &[&str]| {
            let args = ["undefine", "--domain", &uuid, "--managed-save", "--snapshots-metadata"];
            self.change("remove the VM's definition", &[&args, more].concat())
        };
        let has = |error: &Error, text: &str| error.cause.as_ref().is_some_and(|cause| cause.contains(text));
        match undefine(&["--checkpoints-metadata", "--nvram", "--tpm"]) {
            // virsh before 8.9 does not have this option.
            Err(error) if has(&error, "support option --tpm") => undefine(&["--checkpoints-metadata", "--nvram"]),
            // Some drivers have none of these, such as libvirt's test driver.
            Err(error) if has(&error, "unsupported flags") => undefine(&[]),
            result => result,
        }
    }

    /// Replaces the file of a disk in a domain's configuration. This takes effect at its next start.
    pub fn replace_disk(&self, uuid: Uuid, disk_xml: &str) -> Result<()> {
        let uuid = uuid.to_string();
        let tool = self.tool(&["update-device", "--domain", &uuid, "--file", "/dev/stdin", "--config"]).stdin(disk_xml);
        self.change_with("replace the VM's seed", tool)
    }

    /// Adds a public key to a user's `authorized_keys` through the guest agent. `file` holds the key.
    pub fn set_user_sshkeys(&self, uuid: Uuid, user: &str, file: &str) -> Result<()> {
        let uuid = uuid.to_string();
        let args = ["set-user-sshkeys", "--domain", &uuid, "--user", user, "--file", file];
        self.change("add the key through the guest agent", &args)
    }
}

/// Returns whether virsh or the driver does not support an option. Nothing was changed then.
fn is_unsupported(cause: &str) -> bool {
    cause.contains("unsupported flags") || cause.contains("support option --")
}

/// The commands that list the names and UUIDs of all domains, the domains with autostart, and the statistics.
const LIST: [&[&str]; 3] = [
    LIST_NAMES,
    &["list", "--all", "--autostart", "--uuid"],
    &["domstats", "--raw", "--nowait", "--state", "--balloon", "--vcpu"],
];
const LIST_NAMES: &[&str] = &["list", "--all", "--uuid", "--name"];

/// Converts the number of a state in `domstats` (`virDomainState`).
pub(super) fn state(number: &str) -> State {
    match number {
        "1" => State::Running,
        "2" => State::Blocked,
        "3" => State::Paused,
        "4" => State::ShuttingDown,
        "5" => State::ShutOff,
        "6" => State::Crashed,
        "7" => State::Suspended,
        _ => State::NoState,
    }
}

/// Parses `list --uuid --name`: a UUID, a space, and a name that may contain anything but a line break. Any other line
/// is an error, so that no VM is missing from a list because its line could not be parsed.
pub(super) fn names(text: &str) -> Result<Vec<(Uuid, String)>> {
    let split = |line: &str| Some((Uuid::parse_str(line.get(..36)?).ok()?, line.get(37..)?.to_owned()));
    let unreadable = |line: &str| {
        Error::new(Code::ToolFailed, "cannot parse libvirt's list of VMs").because(format!("`{}`", line.escape_debug()))
    };
    let lines = text.lines().filter(|line| !line.trim().is_empty());
    let mut names = lines.map(|line| split(line).ok_or_else(|| unreadable(line))).collect::<Result<Vec<_>>>()?;
    names.sort_by(|(_, a), (_, b)| a.cmp(b));
    Ok(names)
}

fn listed(names_text: &str, autostart: &str, stats: &str) -> Result<Vec<DomainSummary>> {
    let autostart: Vec<_> = autostart.lines().filter_map(|line| Uuid::parse_str(line.trim()).ok()).collect();
    let stats = statistics(stats);
    let row = |(uuid, name): (Uuid, String)| {
        let of = |key: &str| stats.get(name.as_str()).and_then(|stats| stats.get(key)).copied();
        DomainSummary {
            uuid,
            state: state(of("state.state").unwrap_or_default()),
            memory_mib: of("balloon.current").and_then(|kib| kib.parse::<u64>().ok()).map(|kib| kib / 1024),
            vcpus: of("vcpu.current").and_then(|count| count.parse().ok()),
            autostart: autostart.contains(&uuid),
            name,
        }
    };
    Ok(names(names_text)?.into_iter().map(row).collect())
}

/// Parses `domstats --raw`: a line `Domain: 'NAME'`, then indented `key=value` lines.
pub(super) fn statistics(text: &str) -> HashMap<&str, HashMap<&str, &str>> {
    let mut domains: HashMap<&str, HashMap<&str, &str>> = HashMap::new();
    let mut current = None;
    for line in text.lines() {
        if let Some(name) = line.strip_prefix("Domain: '").and_then(|rest| rest.strip_suffix('\'')) {
            current = Some(domains.entry(name).or_default());
        } else if let (Some(domain), Some((key, value))) = (&mut current, line.trim_start().split_once('=')) {
            domain.insert(key, value);
        }
    }
    domains
}

#[cfg(test)]
mod tests {
    use super::*;

    const UUID: &str = "6695eb01-f6a4-8304-79aa-97f2502e193f";

    #[test]
    fn an_interface_in_qemus_arguments_is_found() {
        let xml = format!(
            "<domain type='qemu' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'><name>s</name><uuid>{UUID}</uuid>\
             <memory unit='KiB'>65536</memory><vcpu>1</vcpu><os><type arch='x86_64'>hvm</type></os><devices><interface \
             type='user'><mac address='52:54:00:00:00:01'/></interface></devices><qemu:commandline><qemu:arg \
             value='-device'/><qemu:arg value='virtio-net-pci,netdev=n,mac=52:54:00:00:00:02,addr=0x1e'/>\
             </qemu:commandline></domain>"
        );
        let macs: Vec<_> = Domain::from_xml(&xml).unwrap().interfaces.into_iter().map(|known| known.mac).collect();
        assert_eq!(macs, ["52:54:00:00:00:01", "52:54:00:00:00:02"]);
    }

    #[test]
    fn states_have_libvirts_numbers() {
        for number in 0..=7 {
            assert_eq!(state(&number.to_string()).number(), number);
        }
    }

    #[test]
    fn any_name_is_parsed_from_the_list() {
        let other = "6695eb01-f6a4-8304-79aa-97f2502e1930";
        let text = format!("{UUID} it's a 'name' \n{other} {UUID}\n");
        let autostart = format!("{UUID}\n");
        let stats = "Domain: 'it's a 'name' '\n  state.state=1\n  balloon.current=2097152\n  vcpu.current=2\n\
                     Domain: '6695eb01-f6a4-8304-79aa-97f2502e193f'\n  state.state=5\n";
        let rows = listed(&text, &autostart, stats).unwrap();
        assert_eq!(rows.len(), 2);
        assert_eq!((rows[0].name.as_str(), rows[0].state, rows[0].autostart), (UUID, State::ShutOff, false));
        assert_eq!((rows[0].memory_mib, rows[0].vcpus), (None, None));
        assert_eq!((rows[1].name.as_str(), rows[1].state, rows[1].autostart), ("it's a 'name' ", State::Running, true));
        assert_eq!((rows[1].memory_mib, rows[1].vcpus), (Some(2048), Some(2)));
        assert!(listed("nonsense\n", "", "").unwrap_err().to_string().contains("`nonsense`"));
    }
}
