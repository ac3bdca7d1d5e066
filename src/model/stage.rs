//! [`Stage`]: the boot stage of a guest.

use serde::{Deserialize, Serialize};

/// The boot stage of a guest, named by what keeps it from being ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, strum::Display)]
#[serde(rename_all = "kebab-case")]
#[strum(serialize_all = "kebab-case")]
pub enum Stage {
    /// It is not running any more.
    Stopped,
    /// Its CPUs are paused.
    Paused,
    /// Its firmware or boot loader found nothing to boot.
    NoBootDevice,
    /// Its kernel panicked.
    KernelPanic,
    /// It booted into an emergency shell.
    EmergencyShell,
    /// It has sent nothing to its network, not even a DHCP request.
    NoDhcpRequest,
    /// It has sent packets, but none of libvirt's DHCP servers has given it an address.
    NoLease,
    /// It has an address, but does not respond there.
    Silent,
    /// It responds, but its SSH port is closed.
    PortClosed,
    /// Its SSH server has a different host key than the one it was given.
    HostKeyChanged,
    /// Its SSH server rejects the key.
    KeyRefused,
    /// Its SSH server refuses the login for another reason.
    LoginFailed,
    /// cloud-init is still running.
    CloudInitRunning,
    /// cloud-init has finished with an error.
    CloudInitError,
    /// Its guest agent does not respond.
    AgentSilent,
    /// It is still running, although it is expected to stop.
    Running,
}
