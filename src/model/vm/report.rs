//! What there is of VMs: in the list, and one by one.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
};

use jiff::Timestamp;
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use super::State;
use crate::model::image::Verification;

/// A VM, as the list has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
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

/// A list of VMs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Vms {
    /// They, in the order of their names.
    pub vms: Vec<Vm>,
}

/// What vmprov knows of a VM beyond libvirt's list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
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
    /// The name of the token on whose behalf it was created; none on the command line.
    pub owner: Option<String>,
    /// Its addresses.
    #[schema(value_type = Vec<String>)]
    pub addresses: Vec<IpAddr>,
    /// The port of ssh there, where it is not ssh's own.
    pub ssh_port: Option<u16>,
}

/// Everything there is to know of a VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
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
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct VmKey {
    /// Its name in the key store at the time.
    pub name: String,
    /// Its fingerprint, `SHA256:…`.
    pub fingerprint: String,
}

/// A disk of a VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
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
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
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
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Address {
    /// The address.
    #[schema(value_type = String)]
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
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
