//! Statistics of VMs and storage pools, as libvirt reports them at one moment. A value that libvirt does not report is
//! `None`, never 0.

use std::time::Duration;

use uuid::Uuid;

use super::vm::State;

/// The statistics of every VM and every storage pool.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stats {
    /// The VMs, ordered by name.
    pub vms: Vec<VmStats>,
    /// The pools, ordered by name.
    pub pools: Vec<PoolStats>,
}

/// The statistics of one VM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VmStats {
    /// Its name, which can be anything that libvirt allows.
    pub name: String,
    /// Its UUID.
    pub uuid: Uuid,
    /// Its state.
    pub state: State,
    /// The CPU time that it has used since its start.
    pub cpu_time: Option<Duration>,
    /// Its virtual CPUs.
    pub vcpus: Option<u64>,
    /// The virtual CPUs that it can have without a restart.
    pub max_vcpus: Option<u64>,
    /// Its memory.
    pub memory: MemoryStats,
    /// Its virtual CPUs one by one, if it is running.
    pub cpus: Vec<CpuStats>,
    /// Its disks, including drives without a medium.
    pub disks: Vec<DiskStats>,
    /// Its network interfaces, if it is running.
    pub interfaces: Vec<InterfaceStats>,
}

/// A VM's memory, in bytes. The values that the guest reports are known only if it has a balloon driver.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MemoryStats {
    /// The memory that it has now.
    pub current: Option<u64>,
    /// The memory that it can have at most.
    pub maximum: Option<u64>,
    /// The resident set size of its process on the host.
    pub rss: Option<u64>,
    /// The memory that the guest does not use at all.
    pub unused: Option<u64>,
    /// The memory that the guest's system can use in total.
    pub available: Option<u64>,
    /// The memory that the guest could give to programs without swapping.
    pub usable: Option<u64>,
    /// The bytes that the guest has read from its swap.
    pub swap_in: Option<u64>,
    /// The bytes that the guest has written to its swap.
    pub swap_out: Option<u64>,
    /// The memory that the guest uses to cache its disks.
    pub disk_caches: Option<u64>,
    /// The number of page faults that needed a read from a disk.
    pub major_faults: Option<u64>,
    /// The number of page faults that needed no read from a disk.
    pub minor_faults: Option<u64>,
}

/// The statistics of one virtual CPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CpuStats {
    /// Its number, from 0.
    pub number: u64,
    /// Its state, as a number of libvirt's `virVcpuState`: 0 offline, 1 running, 2 blocked.
    pub state: Option<u64>,
    /// How long it has run.
    pub time: Option<Duration>,
    /// How long it has waited for I/O.
    pub wait: Option<Duration>,
    /// How long it was ready to run, but the host had no CPU free for it.
    pub delay: Option<Duration>,
}

/// The statistics of one disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskStats {
    /// Its name in the domain: `vda`.
    pub target: String,
    /// The file, device or volume behind it.
    pub source: Option<String>,
    /// Its virtual size in bytes.
    pub capacity: Option<u64>,
    /// The reads.
    pub reads: Transfers,
    /// The writes.
    pub writes: Transfers,
    /// The flushes, which transfer no bytes.
    pub flushes: Transfers,
}

/// A disk's requests of one kind since the VM's start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Transfers {
    /// The number of bytes.
    pub bytes: Option<u64>,
    /// The number of requests.
    pub requests: Option<u64>,
    /// The total time that they took.
    pub time: Option<Duration>,
}

/// The statistics of one network interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InterfaceStats {
    /// The name of its device on the host: `vnet0`.
    pub target: String,
    /// The packets that the guest received.
    pub received: Traffic,
    /// The packets that the guest sent.
    pub transmitted: Traffic,
}

/// An interface's traffic in one direction since the VM's start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traffic {
    /// The number of bytes.
    pub bytes: Option<u64>,
    /// The number of packets.
    pub packets: Option<u64>,
    /// The number of packets with errors.
    pub errors: Option<u64>,
    /// The number of packets that were dropped.
    pub drops: Option<u64>,
}

/// The statistics of one storage pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolStats {
    /// Its name.
    pub name: String,
    /// Whether it is started.
    pub active: bool,
    /// Its space, if it is started.
    pub space: Option<Space>,
}

/// The space in a storage pool, in bytes, when libvirt last refreshed the pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// The total space.
    pub capacity: u64,
    /// The used space.
    pub allocation: u64,
    /// The free space.
    pub available: u64,
}
