//! The metrics of libvirt's statistics.
//!
//! They have the names of the usual Prometheus exporters, so that existing dashboards and alerts work.

use std::time::Duration;

use prometheus_client::{metrics::MetricType, registry::Unit};

use super::{Family, Libvirt, Value};
use crate::model::stats::{CpuStats, DiskStats, InterfaceStats, PoolStats, Stats, VmStats};

type Number<T> = fn(&T) -> Option<u64>;
type Time<T> = fn(&T) -> Option<Duration>;

static BYTES: Unit = Unit::Bytes;
static SECONDS: Unit = Unit::Seconds;

const fn gauge<T>(name: &'static str, help: &'static str, of: Number<T>) -> Family<T> {
    Family { name, help, unit: None, kind: MetricType::Gauge, value: Value::Number(of) }
}

const fn bytes<T>(name: &'static str, help: &'static str, of: Number<T>) -> Family<T> {
    Family { name, help, unit: Some(&BYTES), kind: MetricType::Gauge, value: Value::Number(of) }
}

const fn total<T>(name: &'static str, help: &'static str, of: Number<T>) -> Family<T> {
    Family { name, help, unit: None, kind: MetricType::Counter, value: Value::Number(of) }
}

const fn bytes_total<T>(name: &'static str, help: &'static str, of: Number<T>) -> Family<T> {
    Family { name, help, unit: Some(&BYTES), kind: MetricType::Counter, value: Value::Number(of) }
}

const fn seconds_total<T>(name: &'static str, help: &'static str, of: Time<T>) -> Family<T> {
    Family { name, help, unit: Some(&SECONDS), kind: MetricType::Counter, value: Value::Time(of) }
}

pub(super) static UP: &[Family<Libvirt>] =
    &[gauge("libvirt_up", "Whether libvirt answered.", |libvirt| Some(u64::from(libvirt.0.is_some())))];

pub(super) static VMS: &[Family<Stats>] =
    &[gauge("libvirt_domains", "Number of domains, running or not.", |stats| u64::try_from(stats.vms.len()).ok())];

pub(super) static INFO: &[Family<VmStats>] =
    &[gauge("libvirt_domain_info", "Domain, described by the labels.", |_| Some(1))];

pub(super) static STATE: &[Family<VmStats>] =
    &[gauge("libvirt_domain_info_state", "State (virDomainState), with libvirt's name for it.", |vm| {
        Some(vm.state.number().into())
    })];

pub(super) static VM: &[Family<VmStats>] = &[
    gauge("libvirt_domain_info_vstate", "State (virDomainState).", |vm| Some(vm.state.number().into())),
    bytes("libvirt_domain_info_maximum_memory", "Maximum memory.", |vm| vm.memory.maximum),
    bytes("libvirt_domain_info_memory_usage", "Current memory.", |vm| vm.memory.current),
    gauge("libvirt_domain_info_virtual_cpus", "Current virtual CPUs.", |vm| vm.vcpus),
    seconds_total("libvirt_domain_info_cpu_time", "CPU time used since the start.", |vm| vm.cpu_time),
    gauge("libvirt_domain_vcpu_current", "Current virtual CPUs.", |vm| vm.vcpus),
    gauge("libvirt_domain_vcpu_maximum", "Maximum virtual CPUs.", |vm| vm.max_vcpus),
    bytes("libvirt_domain_memory_stats_current_balloon", "Current balloon size.", |vm| vm.memory.current),
    bytes("libvirt_domain_memory_stats_maximum", "Maximum balloon size.", |vm| vm.memory.maximum),
    bytes("libvirt_domain_memory_stats_rss", "Resident memory of the process on the host.", |vm| vm.memory.rss),
    bytes("libvirt_domain_memory_stats_unused", "Memory that the guest does not use.", |vm| vm.memory.unused),
    bytes("libvirt_domain_memory_stats_available", "Memory that the guest's system sees.", |vm| vm.memory.available),
    bytes("libvirt_domain_memory_stats_usable", "Memory reclaimable without swapping.", |vm| vm.memory.usable),
    bytes("libvirt_domain_memory_stats_swap_in", "Read from the guest's swap.", |vm| vm.memory.swap_in),
    bytes("libvirt_domain_memory_stats_swap_out", "Written to the guest's swap.", |vm| vm.memory.swap_out),
    bytes("libvirt_domain_memory_stats_disk_caches", "Disk cache of the guest.", |vm| vm.memory.disk_caches),
    total("libvirt_domain_memory_stats_major_fault", "Page faults with disk access.", |vm| vm.memory.major_faults),
    total("libvirt_domain_memory_stats_minor_fault", "Page faults without disk access.", |vm| vm.memory.minor_faults),
    Family {
        name: "libvirt_domain_memory_stats_used_percent",
        help: "Percentage of the guest's memory that cannot be reclaimed without swapping.",
        unit: None,
        kind: MetricType::Gauge,
        value: Value::Fraction(used_percent),
    },
];

pub(super) static CPU: &[Family<CpuStats>] = &[
    gauge("libvirt_domain_vcpu_state", "State of the virtual CPU (virVcpuState).", |cpu| cpu.state),
    seconds_total("libvirt_domain_vcpu_time", "Time the virtual CPU ran.", |cpu| cpu.time),
    seconds_total("libvirt_domain_vcpu_wait", "Time spent waiting for I/O.", |cpu| cpu.wait),
    seconds_total("libvirt_domain_vcpu_delay", "Time spent waiting for a CPU of the host.", |cpu| cpu.delay),
];

pub(super) static DISK_INFO: &[Family<DiskStats>] =
    &[gauge("libvirt_domain_block_stats_info", "Disk, described by the labels.", |_| Some(1))];

pub(super) static DISK: &[Family<DiskStats>] = &[
    bytes_total("libvirt_domain_block_stats_read", "Read from the disk.", |disk| disk.reads.bytes),
    total("libvirt_domain_block_stats_read_requests", "Read requests.", |disk| disk.reads.requests),
    seconds_total("libvirt_domain_block_stats_read_time", "Time spent reading.", |disk| disk.reads.time),
    bytes_total("libvirt_domain_block_stats_write", "Written to the disk.", |disk| disk.writes.bytes),
    total("libvirt_domain_block_stats_write_requests", "Write requests.", |disk| disk.writes.requests),
    seconds_total("libvirt_domain_block_stats_write_time", "Time spent writing.", |disk| disk.writes.time),
    total("libvirt_domain_block_stats_flush_requests", "Flush requests.", |disk| disk.flushes.requests),
    seconds_total("libvirt_domain_block_stats_flush_time", "Time spent flushing.", |disk| disk.flushes.time),
    bytes("libvirt_domain_block_stats_capacity", "Virtual size of the disk.", |disk| disk.capacity),
];

pub(super) static INTERFACE: &[Family<InterfaceStats>] = &[
    bytes_total("libvirt_domain_interface_stats_receive", "Received by the guest.", |net| net.received.bytes),
    total("libvirt_domain_interface_stats_receive_packets", "Packets received.", |net| net.received.packets),
    total("libvirt_domain_interface_stats_receive_errors", "Receive errors.", |net| net.received.errors),
    total("libvirt_domain_interface_stats_receive_drops", "Incoming packets dropped.", |net| net.received.drops),
    bytes_total("libvirt_domain_interface_stats_transmit", "Sent by the guest.", |net| net.transmitted.bytes),
    total("libvirt_domain_interface_stats_transmit_packets", "Packets sent.", |net| net.transmitted.packets),
    total("libvirt_domain_interface_stats_transmit_errors", "Transmit errors.", |net| net.transmitted.errors),
    total("libvirt_domain_interface_stats_transmit_drops", "Outgoing packets dropped.", |net| net.transmitted.drops),
];

pub(super) static POOL: &[Family<PoolStats>] = &[
    // libvirt's drivers report no other state (virStoragePoolState), except while a pool is being built.
    gauge("libvirt_storage_pool_state", "State of the pool: 0 inactive, 2 running.", |pool| {
        Some(if pool.active { 2 } else { 0 })
    }),
    bytes("libvirt_storage_pool_capacity", "Size of the pool.", |pool| Some(pool.space?.capacity)),
    bytes("libvirt_storage_pool_allocation", "Used space.", |pool| Some(pool.space?.allocation)),
    bytes("libvirt_storage_pool_available", "Free space.", |pool| Some(pool.space?.available)),
];

/// Returns the used memory in percent; none if the guest does not report both values.
#[expect(clippy::cast_precision_loss, reason = "a percentage needs no 64 bits")]
fn used_percent(vm: &VmStats) -> Option<f64> {
    let (available, usable) = (vm.memory.available.filter(|bytes| *bytes > 0)?, vm.memory.usable?);
    Some(100.0 * available.saturating_sub(usable) as f64 / available as f64)
}
