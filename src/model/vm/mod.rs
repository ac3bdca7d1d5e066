//! VMs: the request to create one, and the reports about them.

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

/// The default number of virtual CPUs.
const DEFAULT_VCPUS: u32 = 2;

/// The default network, which libvirt's packages define.
pub const DEFAULT_NETWORK: &str = "default";

/// User-mode networking. In a session, `default` means the same, because libvirt has no networks there.
pub const USER_NETWORK: &str = "user";

/// The VM to create
#[expect(clippy::struct_excessive_bools, reason = "each is an independent switch in every front end")]
#[derive(Debug, Clone, PartialEq, Eq, Args, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NewVm {
    /// Name of the VM, also its host name
    pub name: Name,

    /// Cloud image: catalogue or pool name, file, or http(s) URL; without one the disk is blank
    #[arg(long, value_name = "NAME|PATH|URL")]
    #[serde(default)]
    #[schema(min_length = 1, pattern = r"^[^\x00-\x1f\x7f]+$")]
    pub image: Option<String>,

    /// URL of the cloud image
    #[arg(long, value_name = "URL", conflicts_with = "image")]
    #[serde(default)]
    #[schema(min_length = 1, pattern = r"^[^\x00-\x1f\x7f]+$")]
    pub image_url: Option<String>,

    /// Required checksum of the image
    #[arg(long, value_name = "sha256:SUM")]
    #[serde(default)]
    pub checksum: Option<Checksum>,

    /// Require a checksum or signature
    #[arg(long)]
    #[serde(default)]
    pub require_verified: bool,

    /// Check for a newer image first
    #[arg(long)]
    #[serde(default)]
    pub pull: bool,

    /// Installer ISO file to attach as a CD
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

    /// libvirt network, or `user` for unprivileged user-mode networking with SSH forwarded from a loopback port
    #[arg(long, value_name = "NETWORK", default_value = DEFAULT_NETWORK)]
    #[serde(default = "default_network")]
    pub network: String,

    /// SSH key from the key store to authorize (can be repeated)
    #[arg(long = "ssh-key", value_name = "KEY")]
    #[serde(default)]
    pub ssh_keys: Vec<Name>,

    /// Login user [default: the image's default user]
    #[arg(long, value_name = "NAME")]
    #[serde(default)]
    #[schema(pattern = "^[a-z_][a-z0-9_-]{0,31}$")]
    pub user: Option<String>,

    /// cloud-init user data, merged with vmprov's own
    #[arg(skip)]
    #[serde(default)]
    pub user_data: Option<Bytes>,

    /// Start the VM after creating it
    #[arg(long = "no-start", action = ArgAction::SetFalse, help = "Do not start the VM")]
    #[serde(default = "default_start")]
    pub start: bool,

    /// Lifetime, counted from creation (image download excluded), such as 2h or 7d; `reap` deletes expired VMs
    #[arg(long, value_name = "TIME")]
    #[serde(default)]
    pub ttl: Option<Ttl>,

    /// Start the VM with the host
    #[arg(long)]
    #[serde(default)]
    pub autostart: bool,

    /// What to do if a VM with this name exists
    #[arg(long, value_enum, value_name = "WHAT", default_value_t)]
    #[serde(default)]
    pub if_exists: IfExists,

    /// Wait for the guest (ip, ssh, cloud-init)
    #[arg(long, value_enum, value_name = "FOR", num_args = 0..=1, require_equals = true, default_missing_value = "ssh")]
    #[serde(default)]
    pub wait: Option<WaitFor>,

    /// Maximum time to wait
    #[arg(long, value_name = "TIME", default_value_t = Limit::WAIT)]
    #[serde(default = "default_timeout")]
    pub timeout: Limit,
}

/// Refuses an invalid number of virtual CPUs.
pub fn check_vcpus(vcpus: u32) -> Result<u32, Error> {
    if vcpus == 0 {
        return Err(Error::invalid("invalid number of virtual CPUs `0`").hint("Use a whole number of at least 1"));
    }
    Ok(vcpus)
}

/// Reads a number of virtual CPUs.
pub fn parse_vcpus(text: &str) -> Result<u32, Error> {
    let refuse = |_| {
        Error::invalid(format!("invalid number of virtual CPUs `{}`", text.escape_debug()))
            .hint("Use a whole number of at least 1")
    };
    text.parse().map_err(refuse).and_then(check_vcpus)
}

/// Content that is text in JSON. Content from a file can be binary (cloud-init accepts gzip).
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(from = "String")]
pub struct Bytes(pub Vec<u8>);

impl From<String> for Bytes {
    fn from(text: String) -> Self {
        Self(text.into_bytes())
    }
}

impl Serialize for Bytes {
    /// Writes text. Bytes that are not UTF-8 are replaced.
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

/// The state to wait for
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize, ToSchema, strum::Display)]
#[serde(rename_all = "kebab-case")]
#[strum(serialize_all = "kebab-case")]
pub enum WaitFor {
    /// libvirt reports it as running
    Running,
    /// It has an IP address
    Ip,
    /// A key can log in over SSH
    Ssh,
    /// cloud-init has finished without an error
    CloudInit,
    /// Its guest agent responds
    Agent,
    /// It is shut off
    Stopped,
}

/// A VM's state, by virsh's names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub enum State {
    /// libvirt does not know its state.
    #[serde(rename = "no state")]
    NoState,
    /// It is running.
    #[serde(rename = "running")]
    Running,
    /// It is blocked on a resource (Xen).
    #[serde(rename = "idle")]
    Blocked,
    /// Its virtual CPUs are paused.
    #[serde(rename = "paused")]
    Paused,
    /// The guest has shut down and QEMU is terminating.
    #[serde(rename = "in shutdown")]
    ShuttingDown,
    /// It is not running.
    #[serde(rename = "shut off")]
    ShutOff,
    /// The guest crashed.
    #[serde(rename = "crashed")]
    Crashed,
    /// The guest is suspended.
    #[serde(rename = "pmsuspended")]
    Suspended,
}

impl State {
    /// Returns whether it has a process, and so a live configuration in addition to the persistent one.
    pub const fn is_active(self) -> bool {
        !matches!(self, Self::ShutOff | Self::Crashed | Self::NoState)
    }

    /// Returns whether its CPUs run, so that its guest can respond.
    pub const fn runs(self) -> bool {
        matches!(self, Self::Running | Self::Blocked | Self::ShuttingDown)
    }

    /// Returns libvirt's number for it. The variants are in the order of libvirt's `virDomainState`.
    pub const fn number(self) -> u8 {
        self as u8
    }

    /// Returns virsh's name for it.
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
    fn defaults_are_the_same_in_every_front_end() {
        let matches = NewVm::augment_args(Command::new("x")).get_matches_from(["x", "web"]);
        let typed = NewVm::from_arg_matches(&matches).unwrap();
        let minimal: NewVm = serde_json::from_str(r#"{"name": "web"}"#).unwrap();
        assert_eq!(typed, minimal);
        assert_eq!((typed.memory.mib(), typed.vcpus, typed.disk_size.bytes() >> 30), (2048, 2, 20));
    }
}
