//! VMs: what is asked for, and what there is.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
};

use clap::{ArgAction, Args, ValueEnum};
use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use uuid::Uuid;

use super::{
    image::{Checksum, Verification},
    name::Name,
    size::{DiskSize, Memory},
    specification::IfExists,
    ttl::Ttl,
};
use crate::error::Error;

/// The virtual CPUs that a VM gets when nobody says.
const DEFAULT_VCPUS: u32 = 2;

/// The network that a VM is attached to when nobody says: the one that libvirt's packages bring.
pub const DEFAULT_NETWORK: &str = "default";

/// The network of the user who runs libvirt. In a session, `default` means it too, since libvirt has no networks there.
pub const USER_NETWORK: &str = "user";

/// Describes the VM to create
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of its own on every face")]
#[derive(Debug, Clone, PartialEq, Eq, Args, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NewVm {
    /// Name of the VM, which is also its host name
    pub name: Name,

    /// Cloud image to start from: a name of `vmprov image search` or `image list`, a file, or an http(s) URL; without one
    /// the disk is blank
    #[arg(long, value_name = "NAME|PATH|URL")]
    #[serde(default)]
    pub image: Option<String>,

    /// Cloud image to start from, as a URL
    #[arg(long, value_name = "URL", conflicts_with = "image")]
    #[serde(default)]
    pub image_url: Option<String>,

    /// Checksum that the image must have
    #[arg(long, value_name = "sha256:SUM")]
    #[serde(default)]
    pub checksum: Option<Checksum>,

    /// Refuse an image that neither a checksum nor a signature speaks for
    #[arg(long)]
    #[serde(default, deserialize_with = "null_as_default")]
    pub require_verified: bool,

    /// Ask the image's publisher for a newer one first
    #[arg(long)]
    #[serde(default, deserialize_with = "null_as_default")]
    pub pull: bool,

    /// Installer to attach as a CD
    #[arg(long, value_name = "FILE")]
    #[serde(default)]
    pub iso: Option<String>,

    /// Memory; a number alone is MiB
    #[arg(long, value_name = "SIZE", default_value_t = Memory::DEFAULT)]
    #[serde(default = "default_memory", deserialize_with = "null_as_default_memory")]
    pub memory: Memory,

    /// Virtual CPUs
    #[arg(long, value_name = "N", default_value_t = DEFAULT_VCPUS, value_parser = parse_vcpus)]
    #[serde(default = "default_vcpus", deserialize_with = "null_as_default_vcpus")]
    pub vcpus: u32,

    /// Disk size; a number alone is GiB
    #[arg(long, value_name = "SIZE", default_value_t = DiskSize::DEFAULT)]
    #[serde(default = "default_disk_size", deserialize_with = "null_as_default_disk_size")]
    pub disk_size: DiskSize,

    /// libvirt network to attach to; user is that of the user who runs libvirt, which needs no privilege: a port of the
    /// host's loopback leads to the guest
    #[arg(long, value_name = "NETWORK", default_value = DEFAULT_NETWORK)]
    #[serde(default = "default_network", deserialize_with = "null_as_default_network")]
    pub network: String,

    /// Key of the key store that may log in (can be repeated)
    #[arg(long = "ssh-key", value_name = "KEY")]
    #[serde(default, deserialize_with = "null_as_default")]
    pub ssh_keys: Vec<Name>,

    /// User that the keys log in as [default: what the image is known to use]
    #[arg(long, value_name = "NAME")]
    #[serde(default)]
    pub user: Option<String>,

    /// User data for cloud-init, beside what vmprov needs itself; on the command line a file is named
    #[arg(skip)]
    #[serde(default)]
    pub user_data: Option<Bytes>,

    /// Leave the VM stopped
    #[arg(long = "no-start", action = ArgAction::SetFalse)]
    #[serde(default = "default_start")]
    pub start: bool,

    /// How long the VM is kept, from when it is there: 30m, 2h, 7d, 1h30m; fetching its image does not count, waiting for the
    /// guest does. Then `vmprov reap` deletes it, running or not
    #[arg(long, value_name = "TIME")]
    #[serde(default)]
    pub ttl: Option<Ttl>,

    /// Start the VM whenever the host starts
    #[arg(long)]
    #[serde(default, deserialize_with = "null_as_default")]
    pub autostart: bool,

    /// What becomes of a VM of the name that is there already
    #[arg(long, value_enum, value_name = "WHAT", default_value_t)]
    #[serde(default, deserialize_with = "null_as_default")]
    pub if_exists: IfExists,
}

/// Refuses a number of virtual CPUs that no machine has.
pub fn check_vcpus(vcpus: u32) -> Result<u32, Error> {
    if vcpus == 0 {
        return Err(Error::invalid("a VM cannot have 0 virtual CPUs").hint("Give at least 1."));
    }
    Ok(vcpus)
}

/// Reads a number of virtual CPUs.
pub fn parse_vcpus(text: &str) -> Result<u32, Error> {
    let refuse = |_| {
        Error::invalid(format!("`{}` is no number of virtual CPUs", text.escape_debug()))
            .hint("Give a whole number, at least 1.")
    };
    text.parse().map_err(refuse).and_then(check_vcpus)
}

/// Content that is text in JSON, but need not be text where a file is read (cloud-init takes gzip).
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(from = "String")]
pub struct Bytes(pub Vec<u8>);

impl From<String> for Bytes {
    fn from(text: String) -> Self {
        Self(text.into_bytes())
    }
}

impl Serialize for Bytes {
    /// As text; what is none is shown as well as it can be.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&String::from_utf8_lossy(&self.0))
    }
}

fn null_as_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(deserializer: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// Defines a field's default, and the same default for an explicit null, which the first API's client sends.
macro_rules! default {
    ($default:ident, $null:ident, $type:ty, $value:expr) => {
        fn $default() -> $type {
            $value
        }

        fn $null<'de, D: Deserializer<'de>>(deserializer: D) -> Result<$type, D::Error> {
            Ok(Option::deserialize(deserializer)?.unwrap_or_else($default))
        }
    };
}

default!(default_memory, null_as_default_memory, Memory, Memory::DEFAULT);
default!(default_vcpus, null_as_default_vcpus, u32, DEFAULT_VCPUS);
default!(default_disk_size, null_as_default_disk_size, DiskSize, DiskSize::DEFAULT);
default!(default_network, null_as_default_network, String, DEFAULT_NETWORK.to_owned());

const fn default_start() -> bool {
    true
}

/// What to wait for
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WaitFor {
    /// libvirt says that it runs
    Running,
    /// It has an address
    Ip,
    /// It lets a key log in
    Ssh,
    /// cloud-init has finished without an error
    CloudInit,
    /// Its guest agent answers
    Agent,
    /// It is shut off
    Stopped,
}

impl fmt::Display for WaitFor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Running => "running",
            Self::Ip => "ip",
            Self::Ssh => "ssh",
            Self::CloudInit => "cloud-init",
            Self::Agent => "agent",
            Self::Stopped => "stopped",
        })
    }
}

/// A VM's state, in virsh's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum State {
    /// libvirt does not know.
    #[serde(rename = "no state")]
    NoState,
    /// It runs.
    #[serde(rename = "running")]
    Running,
    /// It waits for a resource (Xen).
    #[serde(rename = "idle")]
    Blocked,
    /// Its virtual CPUs are stopped.
    #[serde(rename = "paused")]
    Paused,
    /// The guest has gone down and QEMU is ending.
    #[serde(rename = "in shutdown")]
    ShuttingDown,
    /// It does not run.
    #[serde(rename = "shut off")]
    ShutOff,
    /// The guest crashed.
    #[serde(rename = "crashed")]
    Crashed,
    /// The guest sleeps.
    #[serde(rename = "pmsuspended")]
    Suspended,
}

impl State {
    /// Whether a process of it exists, so that it has a live configuration beside the persistent one.
    pub const fn is_active(self) -> bool {
        !matches!(self, Self::ShutOff | Self::Crashed | Self::NoState)
    }

    /// virsh's word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NoState => "no state",
            Self::Running => "running",
            Self::Blocked => "idle",
            Self::Paused => "paused",
            Self::ShuttingDown => "in shutdown",
            Self::ShutOff => "shut off",
            Self::Crashed => "crashed",
            Self::Suspended => "pmsuspended",
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A VM, as the list has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Vm {
    /// Its name: anything that libvirt allows, for one that vmprov did not make.
    pub name: String,
    /// Its UUID.
    pub uuid: Uuid,
    /// Its state.
    pub state: State,
    /// Its memory in MiB.
    pub memory: u64,
    /// Its virtual CPUs.
    pub vcpus: u32,
    /// Whether it starts with the host.
    pub autostart: bool,
    /// What vmprov knows beyond libvirt's own list; absent when only that was asked for.
    #[serde(flatten)]
    pub known: Option<Known>,
}

/// What vmprov knows of a VM beyond libvirt's list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Known {
    /// Whether vmprov made it.
    pub managed: bool,
    /// Whether a create or delete of it was killed half-way, or is at it now.
    pub incomplete: bool,
    /// The image that its disk came from.
    pub image: Option<String>,
    /// What spoke for that image's content when the VM was created.
    pub image_verification: Option<Verification>,
    /// The user that its keys log in as.
    pub user: Option<String>,
    /// When `vmprov reap` may delete it (RFC 3339, UTC); none for a VM that does not expire.
    pub expires: Option<Timestamp>,
    /// Whether it is protected from being deleted.
    pub protected: bool,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// The port of ssh there, where it is not ssh's own.
    pub ssh_port: Option<u16>,
}

/// Everything there is to know of a VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct VmInfo {
    /// What the list has.
    #[serde(flatten)]
    pub vm: Vm,
    /// `kvm`, or `qemu` for emulation.
    pub accelerator: String,
    /// The processor architecture.
    pub arch: String,
    /// The machine type.
    pub machine: Option<String>,
    /// The memory in MiB up to which it can be given more while it runs.
    pub max_memory: u64,
    /// The virtual CPUs up to which it can be given more while it runs.
    pub max_vcpus: u32,
    /// What it is for, in libvirt's own description.
    pub description: Option<String>,
    /// When vmprov created it (RFC 3339, UTC).
    pub created: Option<String>,
    /// The SHA-256 of the image as it was given.
    pub image_sha256: Option<String>,
    /// cloud-init's instance-id.
    pub instance_id: Option<String>,
    /// Whether its guest agent answers.
    pub agent: bool,
    /// The ssh keys that it was given.
    pub ssh_keys: Vec<VmKey>,
    /// The public halves of its ssh host keys.
    pub host_keys: Vec<String>,
    /// Its disks.
    pub disks: Vec<Disk>,
    /// Its network interfaces.
    pub interfaces: Vec<Interface>,
    /// The volumes that are deleted with it, as `pool/volume`.
    pub volumes: Vec<String>,
}

/// A key that a VM was given.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct VmKey {
    /// Its name in the key store at the time.
    pub name: String,
    /// Its fingerprint, `SHA256:…`.
    pub fingerprint: String,
}

/// A disk of a VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Disk {
    /// The name in the guest's order: `vda`.
    pub target: String,
    /// `disk`, `cdrom`, …
    pub device: String,
    /// The file, block device or `pool/volume` behind it; none for an empty drive.
    pub source: Option<String>,
}

/// A network interface of a VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Interface {
    /// Its MAC address, in lower case.
    pub mac: String,
    /// `network`, `bridge`, `user`, …
    #[serde(rename = "type")]
    pub kind: String,
    /// The network or bridge that it is attached to.
    pub source: Option<String>,
}

/// An address of a VM's interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Address {
    /// The address.
    pub address: IpAddr,
    /// The port of ssh there, where it is not ssh's own.
    pub port: Option<u16>,
    /// The interface's MAC address, in lower case.
    pub mac: String,
    /// Where it is known from.
    pub source: AddressSource,
    /// When its lease ends.
    pub expires: Option<Timestamp>,
}

/// Where an address is known from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum AddressSource {
    /// The DHCP server of a libvirt network gave it.
    Lease,
    /// The guest agent says so.
    Agent,
    /// The host's neighbour table has it.
    Arp,
    /// It is the host's own: a port there leads to the guest.
    Forward,
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port {
            Some(port) => write!(f, "{}", SocketAddr::new(self.address, port)),
            None => write!(f, "{}", self.address),
        }
    }
}

impl fmt::Display for AddressSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Lease => "lease",
            Self::Agent => "agent",
            Self::Arp => "arp",
            Self::Forward => "forward",
        })
    }
}

#[cfg(test)]
mod tests {
    use clap::{Command, FromArgMatches};

    use super::*;

    /// The command line and JSON have the same defaults, and JSON's explicit nulls mean them too.
    #[test]
    fn defaults_are_the_same_on_every_face() {
        let matches = NewVm::augment_args(Command::new("x")).get_matches_from(["x", "web"]);
        let typed = NewVm::from_arg_matches(&matches).unwrap();
        let minimal: NewVm = serde_json::from_str(r#"{"name": "web"}"#).unwrap();
        let nulls: NewVm = serde_json::from_str(
            r#"{"name": "web", "image": null, "imageUrl": null, "checksum": null,
                "requireVerified": null, "pull": null, "memory": null, "vcpus": null, "diskSize": null,
                "network": null, "sshKeys": null, "user": null, "userData": null, "ttl": null,
                "autostart": null, "ifExists": null}"#,
        )
        .unwrap();
        assert_eq!(typed, minimal);
        assert_eq!(typed, nulls);
        assert_eq!((typed.memory.mib(), typed.vcpus, typed.disk_size.bytes() >> 30), (2048, 2, 20));
    }
}
