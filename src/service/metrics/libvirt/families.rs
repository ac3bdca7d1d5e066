//! Which figures there are, under the names that the usual exporters for Prometheus give them, so that existing dashboards
//! and alerts find them.

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
    &[gauge("libvirt_up", "Whether libvirt answered this scrape.", |libvirt| Some(u64::from(libvirt.0.is_some())))];

pub(super) static VMS: &[Family<Stats>] =
    &[gauge("libvirt_domains", "Domains, whether they run or not.", |stats| u64::try_from(stats.vms.len()).ok())];

pub(super) static INFO: &[Family<VmStats>] =
    &[gauge("libvirt_domain_info", "What the domain is, in its labels.", |_| Some(1))];

pub(super) static STATE: &[Family<VmStats>] =
    &[gauge("libvirt_domain_info_state", "Its state (virDomainState), and libvirt's word for it.", |vm| {
        Some(vm.state.number().into())
    })];

pub(super) static VM: &[Family<VmStats>] = &[
    gauge("libvirt_domain_info_vstate", "Its state (virDomainState).", |vm| Some(vm.state.number().into())),
    bytes("libvirt_domain_info_maximum_memory", "Memory that it can have.", |vm| vm.memory.maximum),
    bytes("libvirt_domain_info_memory_usage", "Memory that it has.", |vm| vm.memory.current),
    gauge("libvirt_domain_info_virtual_cpus", "Virtual CPUs that it has.", |vm| vm.vcpus),
    seconds_total("libvirt_domain_info_cpu_time", "Processor time used since its start.", |vm| vm.cpu_time),
    gauge("libvirt_domain_vcpu_current", "Virtual CPUs that are plugged in.", |vm| vm.vcpus),
    gauge("libvirt_domain_vcpu_maximum", "Virtual CPUs that can be plugged in.", |vm| vm.max_vcpus),
    bytes("libvirt_domain_memory_stats_current_balloon", "Memory that its balloon leaves it.", |vm| vm.memory.current),
    bytes("libvirt_domain_memory_stats_maximum", "Memory that its balloon can leave it.", |vm| vm.memory.maximum),
    bytes("libvirt_domain_memory_stats_rss", "Memory of its process on the host.", |vm| vm.memory.rss),
    bytes("libvirt_domain_memory_stats_unused", "Memory that the guest uses for nothing.", |vm| vm.memory.unused),
    bytes("libvirt_domain_memory_stats_available", "Memory of the guest's system.", |vm| vm.memory.available),
    bytes("libvirt_domain_memory_stats_usable", "Memory the guest can give without swapping.", |vm| vm.memory.usable),
    bytes("libvirt_domain_memory_stats_swap_in", "Read from the guest's swap.", |vm| vm.memory.swap_in),
    bytes("libvirt_domain_memory_stats_swap_out", "Written to the guest's swap.", |vm| vm.memory.swap_out),
    bytes("libvirt_domain_memory_stats_disk_caches", "Guest's cache of its disks.", |vm| vm.memory.disk_caches),
    total("libvirt_domain_memory_stats_major_fault", "Page faults that read a disk.", |vm| vm.memory.major_faults),
    total("libvirt_domain_memory_stats_minor_fault", "Page faults that read none.", |vm| vm.memory.minor_faults),
    Family {
        name: "libvirt_domain_memory_stats_used_percent",
        help: "Share of the guest's memory that it cannot give without swapping.",
        unit: None,
        kind: MetricType::Gauge,
        value: Value::Fraction(used_percent),
    },
];

pub(super) static CPU: &[Family<CpuStats>] = &[
    gauge("libvirt_domain_vcpu_state", "What the virtual CPU does (virVcpuState).", |cpu| cpu.state),
    seconds_total("libvirt_domain_vcpu_time", "Time that the virtual CPU ran.", |cpu| cpu.time),
    seconds_total("libvirt_domain_vcpu_wait", "Time that it waited for input or output.", |cpu| cpu.wait),
    seconds_total("libvirt_domain_vcpu_delay", "Time that it waited for a processor of the host.", |cpu| cpu.delay),
];

pub(super) static DISK_INFO: &[Family<DiskStats>] =
    &[gauge("libvirt_domain_block_stats_info", "What the disk is, in its labels.", |_| Some(1))];

pub(super) static DISK: &[Family<DiskStats>] = &[
    bytes_total("libvirt_domain_block_stats_read", "Read from the disk.", |disk| disk.reads.bytes),
    total("libvirt_domain_block_stats_read_requests", "Requests to read.", |disk| disk.reads.requests),
    seconds_total("libvirt_domain_block_stats_read_time", "Time spent reading.", |disk| disk.reads.time),
    bytes_total("libvirt_domain_block_stats_write", "Written to the disk.", |disk| disk.writes.bytes),
    total("libvirt_domain_block_stats_write_requests", "Requests to write.", |disk| disk.writes.requests),
    seconds_total("libvirt_domain_block_stats_write_time", "Time spent writing.", |disk| disk.writes.time),
    total("libvirt_domain_block_stats_flush_requests", "Requests to flush.", |disk| disk.flushes.requests),
    seconds_total("libvirt_domain_block_stats_flush_time", "Time spent flushing.", |disk| disk.flushes.time),
    bytes("libvirt_domain_block_stats_capacity", "Virtual size of the disk.", |disk| disk.capacity),
];

pub(super) static INTERFACE: &[Family<InterfaceStats>] = &[
    bytes_total("libvirt_domain_interface_stats_receive", "Received by the guest.", |net| net.received.bytes),
    total("libvirt_domain_interface_stats_receive_packets", "Packets received.", |net| net.received.packets),
    total("libvirt_domain_interface_stats_receive_errors", "Errors in receiving.", |net| net.received.errors),
    total("libvirt_domain_interface_stats_receive_drops", "Packets to it dropped.", |net| net.received.drops),
    bytes_total("libvirt_domain_interface_stats_transmit", "Sent by the guest.", |net| net.transmitted.bytes),
    total("libvirt_domain_interface_stats_transmit_packets", "Packets sent.", |net| net.transmitted.packets),
    total("libvirt_domain_interface_stats_transmit_errors", "Errors in sending.", |net| net.transmitted.errors),
    total("libvirt_domain_interface_stats_transmit_drops", "Packets from it dropped.", |net| net.transmitted.drops),
];

pub(super) static POOL: &[Family<PoolStats>] = &[
    // libvirt's own drivers tell no other of its states (virStoragePoolState) of a pool that is not just being built.
    gauge("libvirt_storage_pool_state", "Its state: 0 inactive, 2 running.", |pool| {
        Some(if pool.active { 2 } else { 0 })
    }),
    bytes("libvirt_storage_pool_capacity", "Room in the pool.", |pool| Some(pool.space?.capacity)),
    bytes("libvirt_storage_pool_allocation", "Room that is used.", |pool| Some(pool.space?.allocation)),
    bytes("libvirt_storage_pool_available", "Room that is left.", |pool| Some(pool.space?.available)),
];

/// A guest's system that tells the one figure and not the other is none.
#[expect(clippy::cast_precision_loss, reason = "a share needs no 64 bits")]
fn used_percent(vm: &VmStats) -> Option<f64> {
    let (available, usable) = (vm.memory.available.filter(|bytes| *bytes > 0)?, vm.memory.usable?);
    Some(100.0 * available.saturating_sub(usable) as f64 / available as f64)
}
