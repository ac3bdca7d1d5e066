//! Reports about VMs: as a list, and one by one.

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

/// A VM in the list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Vm {
    /// Its name; for an unmanaged VM, anything that libvirt allows.
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
    /// The properties that libvirt's own list does not have; absent if only that list was requested.
    #[serde(flatten)]
    pub known: Option<Known>,
}

/// A list of VMs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Vms {
    /// The VMs, ordered by name.
    pub vms: Vec<Vm>,
}

/// The properties of a VM that libvirt's own list does not have.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Known {
    /// Whether it is managed by vmprov.
    pub managed: bool,
    /// Whether a create or delete of it is running or was interrupted.
    pub incomplete: bool,
    /// The image that its disk was created from.
    pub image: Option<String>,
    /// How that image's content was verified when the VM was created.
    pub image_verification: Option<Verification>,
    /// Its login user.
    pub user: Option<String>,
    /// When `reap` may delete it (RFC 3339, UTC); null if it does not expire.
    pub expires: Option<Timestamp>,
    /// Whether it is protected from deletion.
    pub protected: bool,
    /// The name of the token that created it; null if it was created on the command line.
    pub owner: Option<String>,
    /// Its addresses.
    #[schema(value_type = Vec<String>)]
    pub addresses: Vec<IpAddr>,
    /// The SSH port at these addresses, if it is not 22.
    pub ssh_port: Option<u16>,
}

/// The details of a VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct VmInfo {
    /// The members that the list has.
    #[serde(flatten)]
    pub vm: Vm,
    /// `kvm`, or `qemu` for emulation.
    pub accelerator: String,
    /// The processor architecture.
    pub arch: String,
    /// The machine type.
    pub machine: Option<String>,
    /// The boot-time maximum of its memory in MiB, up to which memory can be hot-plugged.
    pub max_memory: u64,
    /// The boot-time maximum of its virtual CPUs, up to which CPUs can be hot-plugged.
    pub max_vcpus: u32,
    /// Its description, which libvirt stores.
    pub description: Option<String>,
    /// When it was created (RFC 3339, UTC); null for an unmanaged VM.
    pub created: Option<String>,
    /// The SHA-256 of the original image file.
    pub image_sha256: Option<String>,
    /// cloud-init's instance-id.
    pub instance_id: Option<String>,
    /// Whether its guest agent responds.
    pub agent: bool,
    /// The SSH keys that were given to it.
    pub ssh_keys: Vec<VmKey>,
    /// Its public SSH host keys.
    pub host_keys: Vec<String>,
    /// Its disks.
    pub disks: Vec<Disk>,
    /// Its network interfaces.
    pub interfaces: Vec<Interface>,
    /// The volumes that are deleted with it, as `pool/volume`.
    pub volumes: Vec<String>,
}

/// A key that was given to a VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct VmKey {
    /// Its name in the key store at that time.
    pub name: String,
    /// Its fingerprint, `SHA256:…`.
    pub fingerprint: String,
}

/// A disk of a VM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Disk {
    /// Its name in the domain: `vda`.
    pub target: String,
    /// `disk`, `cdrom`, …
    pub device: String,
    /// The file, block device or `pool/volume` behind it; null for an empty drive.
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
    /// The SSH port at this address, if it is not 22.
    pub port: Option<u16>,
    /// The interface's MAC address, in lower case.
    pub mac: String,
    /// How it was found.
    pub source: AddressSource,
    /// When its lease ends.
    pub expires: Option<Timestamp>,
}

/// How an address was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema, strum::Display)]
#[serde(rename_all = "lowercase")]
#[strum(serialize_all = "lowercase")]
pub enum AddressSource {
    /// It is a DHCP lease of a libvirt network.
    Lease,
    /// The guest agent reported it.
    Agent,
    /// It is in the host's neighbour table.
    Arp,
    /// It is an address of the host, where a port is forwarded to the guest.
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
