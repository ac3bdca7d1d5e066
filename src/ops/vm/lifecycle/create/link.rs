//! The network that a new VM is attached to.

use crate::{
    error::{Error, Result},
    model::{record::PortForward, vm::NewVm},
    ops::{Host, prepare, vm::inspect::list::known},
    store::loopback,
    tools::virsh::{Capabilities, HostInventory, Link, UserMode},
};

/// What the VM's network interface is attached to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Attachment {
    /// A libvirt network.
    Network,
    /// User-mode networking, with SSH forwarded from a port.
    User(UserMode, PortForward),
}

impl Attachment {
    /// Chooses the attachment. Creates or starts a libvirt network if necessary.
    pub(super) fn choose(
        host: &Host,
        new: &NewVm,
        inventory: &HostInventory,
        capabilities: &Capabilities,
    ) -> Result<Self> {
        if !prepare::is_user_network(host, &new.network, inventory) {
            prepare::network(host, &new.network, inventory)?;
            return Ok(Self::Network);
        }
        let port = free_port(host, &[])?;
        // passt exits if the host has no route to the outside.
        let mode = if capabilities.passt && loopback::has_way_out() { UserMode::Passt } else { UserMode::Slirp };
        Ok(Self::User(mode, PortForward { address: loopback::ADDRESS, port }))
    }

    pub(super) const fn is_passt(&self) -> bool {
        matches!(self, Self::User(UserMode::Passt, _))
    }

    /// Returns the same attachment with QEMU's built-in user-mode networking.
    pub(super) const fn without_passt(self) -> Self {
        match self {
            Self::User(_, forward) => Self::User(UserMode::Slirp, forward),
            Self::Network => self,
        }
    }

    /// Returns the same attachment with another port than those `in_use`, which other processes have taken in the
    /// meantime.
    pub(super) fn with_other_port(self, host: &Host, in_use: &[u16]) -> Result<Self> {
        let Self::User(mode, forward) = self else { return Ok(self) };
        Ok(Self::User(mode, PortForward { port: free_port(host, in_use)?, ..forward }))
    }

    pub(super) const fn forward(&self) -> Option<PortForward> {
        match self {
            Self::Network => None,
            Self::User(_, forward) => Some(*forward),
        }
    }

    pub(super) fn link<'n>(&self, new: &'n NewVm) -> Link<'n> {
        match self {
            Self::Network => Link::Network(&new.network),
            Self::User(mode, forward) => Link::User(*mode, forward.port),
        }
    }
}

/// Returns a loopback port that no VM uses, that no process listens on, and that is not in `in_use`.
fn free_port(host: &Host, in_use: &[u16]) -> Result<u16> {
    let mut taken: Vec<_> = known(host)?.iter().filter_map(|(_, metadata)| Some(metadata.forward?.port)).collect();
    taken.extend(in_use);
    loopback::free_port(&taken).ok_or_else(|| Error::conflict("no free loopback port"))
}
