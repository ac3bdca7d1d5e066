//! VMs: what is asked for, and what there is.

mod check;
mod report;

use std::fmt;

use clap::{ArgAction, Args, ValueEnum};
use serde::{Deserialize, Serialize, Serializer};
use utoipa::ToSchema;

use super::{
    image::Checksum,
    limit::Limit,
    name::Name,
    size::{DiskSize, Memory},
    specification::IfExists,
    ttl::Ttl,
};
use crate::error::Error;

pub use report::{Address, AddressSource, Disk, Interface, Known, Vm, VmInfo, VmKey, Vms};

/// The virtual CPUs that a VM gets when nobody says.
const DEFAULT_VCPUS: u32 = 2;

/// The network that a VM is attached to when nobody says: the one that libvirt's packages bring.
pub const DEFAULT_NETWORK: &str = "default";

/// The network of the user who runs libvirt. In a session, `default` means it too, since libvirt has no networks there.
pub const USER_NETWORK: &str = "user";

/// Describes the VM to create
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of its own on every face")]
#[derive(Debug, Clone, PartialEq, Eq, Args, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NewVm {
    /// Name of the VM, which is also its host name
    pub name: Name,

    /// Cloud image to start from: a name of `vmprov image search` or `image list`, a file, or an http(s) URL; without one
    /// the disk is blank
    #[arg(long, value_name = "NAME|PATH|URL")]
    #[serde(default)]
    #[schema(min_length = 1, pattern = r"^[^\x00-\x1f\x7f]+$")]
    pub image: Option<String>,

    /// Cloud image to start from, as a URL
    #[arg(long, value_name = "URL", conflicts_with = "image")]
    #[serde(default)]
    #[schema(min_length = 1, pattern = r"^[^\x00-\x1f\x7f]+$")]
    pub image_url: Option<String>,

    /// Checksum that the image must have
    #[arg(long, value_name = "sha256:SUM")]
    #[serde(default)]
    pub checksum: Option<Checksum>,

    /// Refuse an image that neither a checksum nor a signature speaks for
    #[arg(long)]
    #[serde(default)]
    pub require_verified: bool,

    /// Ask the image's publisher for a newer one first
    #[arg(long)]
    #[serde(default)]
    pub pull: bool,

    /// Installer to attach as a CD
    #[arg(long, value_name = "FILE")]
    #[serde(default)]
    #[schema(min_length = 1, pattern = r"^[^\x00-\x1f\x7f]+$")]
    pub iso: Option<String>,

    /// Memory; a number alone is MiB
    #[arg(long, value_name = "SIZE", default_value_t = Memory::DEFAULT)]
    #[serde(default)]
    pub memory: Memory,

    /// Virtual CPUs
    #[arg(long, value_name = "N", default_value_t = DEFAULT_VCPUS, value_parser = parse_vcpus)]
    #[serde(default = "default_vcpus")]
    #[schema(minimum = 1, maximum = 4_294_967_295_u32)]
    pub vcpus: u32,

    /// Disk size; a number alone is GiB
    #[arg(long, value_name = "SIZE", default_value_t = DiskSize::DEFAULT)]
    #[serde(default)]
    pub disk_size: DiskSize,

    /// libvirt network to attach to; user is that of the user who runs libvirt, which needs no privilege: a port of the
    /// host's loopback leads to the guest
    #[arg(long, value_name = "NETWORK", default_value = DEFAULT_NETWORK)]
    #[serde(default = "default_network")]
    pub network: String,

    /// Key of the key store that may log in (can be repeated)
    #[arg(long = "ssh-key", value_name = "KEY")]
    #[serde(default)]
    pub ssh_keys: Vec<Name>,

    /// User that the keys log in as [default: what the image is known to use]
    #[arg(long, value_name = "NAME")]
    #[serde(default)]
    #[schema(pattern = "^[a-z_][a-z0-9_-]{0,31}$")]
    pub user: Option<String>,

    /// User data for cloud-init, beside what vmprov needs itself; on the command line a file is named
    #[arg(skip)]
    #[serde(default)]
    pub user_data: Option<Bytes>,

    /// Start the VM as soon as it is there
    #[arg(long = "no-start", action = ArgAction::SetFalse, help = "Leave the VM stopped")]
    #[serde(default = "default_start")]
    pub start: bool,

    /// How long the VM is kept, from when it is there: 30m, 2h, 7d, 1h30m; fetching its image does not count, waiting for the
    /// guest does. Then `vmprov reap` deletes it, running or not
    #[arg(long, value_name = "TIME")]
    #[serde(default)]
    pub ttl: Option<Ttl>,

    /// Start the VM whenever the host starts
    #[arg(long)]
    #[serde(default)]
    pub autostart: bool,

    /// What becomes of a VM of the name that is there already
    #[arg(long, value_enum, value_name = "WHAT", default_value_t)]
    #[serde(default)]
    pub if_exists: IfExists,

    /// Wait until the guest is so far
    #[arg(long, value_enum, value_name = "FOR", num_args = 0..=1, require_equals = true, default_missing_value = "ssh")]
    #[serde(default)]
    pub wait: Option<WaitFor>,

    /// How long to wait at most
    #[arg(long, value_name = "TIME", default_value_t = Limit::WAIT)]
    #[serde(default = "default_timeout")]
    pub timeout: Limit,
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

const fn default_vcpus() -> u32 {
    DEFAULT_VCPUS
}

fn default_network() -> String {
    DEFAULT_NETWORK.to_owned()
}

const fn default_start() -> bool {
    true
}

const fn default_timeout() -> Limit {
    Limit::WAIT
}

/// What to wait for
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize, ToSchema)]
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
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

    /// libvirt's number (`virDomainState`, in whose order the states stand here).
    pub const fn number(self) -> u8 {
        self as u8
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

#[cfg(test)]
mod tests {
    use clap::{Command, FromArgMatches};

    use super::*;

    #[test]
    fn defaults_are_the_same_on_every_face() {
        let matches = NewVm::augment_args(Command::new("x")).get_matches_from(["x", "web"]);
        let typed = NewVm::from_arg_matches(&matches).unwrap();
        let minimal: NewVm = serde_json::from_str(r#"{"name": "web"}"#).unwrap();
        assert_eq!(typed, minimal);
        assert_eq!((typed.memory.mib(), typed.vcpus, typed.disk_size.bytes() >> 30), (2048, 2, 20));
    }
}
