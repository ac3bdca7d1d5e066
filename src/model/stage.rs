//! [`Stage`]: the boot stage of a guest.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The boot stage of a guest, named by what keeps it from being ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
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

impl Stage {
    /// Returns the name, as in JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Stopped => "stopped",
            Self::Paused => "paused",
            Self::NoBootDevice => "no-boot-device",
            Self::KernelPanic => "kernel-panic",
            Self::EmergencyShell => "emergency-shell",
            Self::NoDhcpRequest => "no-dhcp-request",
            Self::NoLease => "no-lease",
            Self::Silent => "silent",
            Self::PortClosed => "port-closed",
            Self::HostKeyChanged => "host-key-changed",
            Self::KeyRefused => "key-refused",
            Self::LoginFailed => "login-failed",
            Self::CloudInitRunning => "cloud-init-running",
            Self::CloudInitError => "cloud-init-error",
            Self::AgentSilent => "agent-silent",
            Self::Running => "running",
        }
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
