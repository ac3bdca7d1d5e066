//! [`Stage`]: how far a guest has come on its way up.

use std::fmt;

use serde::{Deserialize, Serialize};

/// How far a guest has come, named by what is missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stage {
    /// It does not run any more.
    Stopped,
    /// It runs, but its CPUs are stopped.
    Paused,
    /// Its firmware or boot loader has found nothing to boot.
    NoBootDevice,
    /// Its kernel has panicked.
    KernelPanic,
    /// It has ended up in a shell for repairs.
    EmergencyShell,
    /// It has sent nothing to its network, so no DHCP request either.
    NoDhcpRequest,
    /// It has sent something, but no DHCP server of libvirt's has given it an address.
    NoLease,
    /// It has an address, but nothing answers there.
    Silent,
    /// It answers, but not at the port of ssh.
    PortClosed,
    /// Its ssh server has another host key than it was given.
    HostKeyChanged,
    /// Its ssh server does not take the key.
    KeyRefused,
    /// Its ssh server does not let in, for another reason.
    LoginFailed,
    /// cloud-init is still at work.
    CloudInitRunning,
    /// cloud-init has ended with an error.
    CloudInitError,
    /// Its guest agent does not answer.
    AgentSilent,
    /// It runs, where it is to stop.
    Running,
}

impl Stage {
    /// The name, as in JSON.
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
