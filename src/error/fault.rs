//! Known causes of errors, as codes.
//!
//! The code that parses a program's output names the fault. The code that explains or repairs it reads only the fault.

use camino::Utf8PathBuf;

/// A known cause of an error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// A member of the request is missing, unknown or has an invalid value.
    Member(String),
    /// A resource does not exist.
    Missing(ResourceKind),
    /// virsh could not connect to libvirt.
    NoConnection,
    /// libvirt could not reach virtlogd.
    NoLogDaemon,
    /// QEMU has no permission to open a file.
    FileAccess(Utf8PathBuf),
    /// A network is not started.
    NetworkInactive(String),
    /// Another interface of the host uses the network's subnet.
    SubnetInUse,
    /// dnsmasq did not start.
    Dnsmasq,
    /// A disk is full.
    DiskFull,
    /// QEMU has no permission to use KVM.
    KvmAccess,
    /// The host's port of a port forward is in use.
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
    /// Returns its noun in error messages.
    pub const fn noun(self) -> &'static str {
        match self {
            Self::Vm => "VM",
            Self::Key => "key",
            Self::Image => "image",
            Self::Network => "network",
            Self::Pool => "pool",
        }
    }

    /// Returns its name in the audit log.
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
