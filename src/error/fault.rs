//! Known faults of the host, as codes: what reads a program's words names the fault, and what explains or repairs it looks no further.

use camino::Utf8PathBuf;

/// A fault behind an error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// A member of the request is missing, unknown or has a value that it cannot have.
    Member(String),
    /// A resource does not exist.
    Missing(ResourceKind),
    /// virsh could not connect to libvirt.
    NoConnection,
    /// libvirt could not reach virtlogd.
    NoLogDaemon,
    /// QEMU may not open a file.
    FileAccess(Utf8PathBuf),
    /// A network is not started.
    NetworkInactive(String),
    /// Another interface of the host has a network's addresses.
    SubnetInUse,
    /// dnsmasq did not start.
    Dnsmasq,
    /// A disk is full.
    DiskFull,
    /// QEMU may not use KVM.
    KvmAccess,
    /// A port to be forwarded is in use.
    PortInUse,
    /// passt did not start.
    Passt,
}

/// A kind of resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ResourceKind {
    /// A VM.
    Vm,
    /// An SSH key.
    Key,
    /// An image.
    Image,
    /// A libvirt network.
    Network,
    /// A storage pool.
    Pool,
}

impl ResourceKind {
    /// Returns its noun in an error.
    pub const fn noun(self) -> &'static str {
        match self {
            Self::Vm => "VM",
            Self::Key => "key",
            Self::Image => "image",
            Self::Network => "network",
            Self::Pool => "pool",
        }
    }

    /// Returns its word in the audit log.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Vm => "vm",
            Self::Key => "key",
            Self::Image => "image",
            Self::Network => "network",
            Self::Pool => "pool",
        }
    }
}
