//! What a new VM's network interface leads to.

use crate::{
    error::{Error, Result},
    model::{record::PortForward, vm::NewVm},
    ops::{Host, prepare, vm::inspect::list::known},
    store::loopback,
    tools::virsh::{Capabilities, HostInventory, Link, UserMode},
};

/// What the interface leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Attachment {
    /// A network of libvirt's.
    Network,
    /// The network of the user who runs the VM.
    User(UserMode, PortForward),
}

impl Attachment {
    /// Chooses it; a network of libvirt's is made or started where that is needed.
    pub(super) fn choose(
        host: &Host,
        new: &NewVm,
        survey: &HostInventory,
        capabilities: &Capabilities,
    ) -> Result<Self> {
        if !prepare::is_user_network(host, &new.network, survey) {
            prepare::network(host, &new.network, survey)?;
            return Ok(Self::Network);
        }
        let port = free_port(host, &[])?;
        // passt ends where the host itself has no way out.
        let mode = if capabilities.passt && loopback::has_way_out() { UserMode::Passt } else { UserMode::Slirp };
        Ok(Self::User(mode, PortForward { address: loopback::ADDRESS, port }))
    }

    pub(super) const fn is_passt(&self) -> bool {
        matches!(self, Self::User(UserMode::Passt, _))
    }

    /// The same with QEMU's own means.
    pub(super) const fn without_passt(self) -> Self {
        match self {
            Self::User(_, forward) => Self::User(UserMode::Slirp, forward),
            Self::Network => self,
        }
    }

    /// The same with a port that is none of these, which other processes have taken since they were chosen.
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

/// A port of the loopback that no VM has, nobody listens at, and that is none of these.
fn free_port(host: &Host, in_use: &[u16]) -> Result<u16> {
    let mut taken: Vec<_> = known(host)?.iter().filter_map(|(_, metadata)| Some(metadata.forward?.port)).collect();
    taken.extend(in_use);
    loopback::free_port(&taken).ok_or_else(|| Error::conflict("no port of the loopback is free"))
}
