//! What libvirt counts of VMs and storage pools: one look's figures. What it does not tell is none, never 0.

use std::time::Duration;

use uuid::Uuid;

use super::vm::State;

/// Every VM and every storage pool.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stats {
    /// The VMs, in the order of their names.
    pub vms: Vec<VmStats>,
    /// The pools, in the order of their names.
    pub pools: Vec<PoolStats>,
}

/// One VM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VmStats {
    /// Its name: anything that libvirt allows.
    pub name: String,
    /// Its UUID.
    pub uuid: Uuid,
    /// Its state.
    pub state: State,
    /// The processor time that it has used since its start.
    pub cpu_time: Option<Duration>,
    /// Its virtual CPUs.
    pub vcpus: Option<u64>,
    /// The virtual CPUs that it can have without another start.
    pub max_vcpus: Option<u64>,
    /// Its memory.
    pub memory: MemoryStats,
    /// Each virtual CPU of one that runs.
    pub cpus: Vec<CpuStats>,
    /// Its disks, drives without a medium among them.
    pub disks: Vec<DiskStats>,
    /// The network interfaces of one that runs.
    pub interfaces: Vec<InterfaceStats>,
}

/// A VM's memory, in bytes. What the guest itself must tell is known only where it drives its balloon.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MemoryStats {
    /// What it has now.
    pub current: Option<u64>,
    /// What it can have.
    pub maximum: Option<u64>,
    /// What its process has on the host.
    pub rss: Option<u64>,
    /// What the guest uses for nothing at all.
    pub unused: Option<u64>,
    /// What the guest's system can use.
    pub available: Option<u64>,
    /// What the guest could give to programs without swapping.
    pub usable: Option<u64>,
    /// What the guest has read from its swap.
    pub swap_in: Option<u64>,
    /// What the guest has written to its swap.
    pub swap_out: Option<u64>,
    /// What the guest keeps of its disks.
    pub disk_caches: Option<u64>,
    /// How often the guest had to read a page from a disk.
    pub major_faults: Option<u64>,
    /// How often the guest had a page that was not mapped yet.
    pub minor_faults: Option<u64>,
}

/// One virtual CPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CpuStats {
    /// Its number, from 0.
    pub number: u64,
    /// What it does, in libvirt's numbers (`virVcpuState`): 0 nothing, 1 it runs, 2 it is blocked.
    pub state: Option<u64>,
    /// How long it has run.
    pub time: Option<Duration>,
    /// How long it has waited for input or output.
    pub wait: Option<Duration>,
    /// How long it could have run, had the host had a processor for it.
    pub delay: Option<Duration>,
}

/// One disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskStats {
    /// What the guest's side of it is called: `vda`.
    pub target: String,
    /// The file, device or volume behind it.
    pub source: Option<String>,
    /// Its virtual size in bytes.
    pub capacity: Option<u64>,
    /// What was read.
    pub reads: Transfers,
    /// What was written.
    pub writes: Transfers,
    /// How often what was written was made safe; it has no bytes.
    pub flushes: Transfers,
}

/// What was done with a disk since the VM's start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Transfers {
    /// How many bytes.
    pub bytes: Option<u64>,
    /// In how many requests.
    pub requests: Option<u64>,
    /// For how long in all.
    pub time: Option<Duration>,
}

/// One network interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InterfaceStats {
    /// What the host's side of it is called: `vnet0`.
    pub target: String,
    /// What the guest was sent.
    pub received: Traffic,
    /// What the guest sent.
    pub transmitted: Traffic,
}

/// What went one way through an interface since the VM's start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traffic {
    /// How many bytes.
    pub bytes: Option<u64>,
    /// How many packets.
    pub packets: Option<u64>,
    /// How many were damaged.
    pub errors: Option<u64>,
    /// How many there was no room for.
    pub drops: Option<u64>,
}

/// One storage pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolStats {
    /// Its name.
    pub name: String,
    /// Whether it is started.
    pub active: bool,
    /// The room in one that is.
    pub space: Option<Space>,
}

/// The room in a storage pool, in bytes, as of libvirt's last look at it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// All that there is.
    pub capacity: u64,
    /// What is used.
    pub allocation: u64,
    /// What is left.
    pub available: u64,
}
