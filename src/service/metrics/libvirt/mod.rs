//! libvirt's statistics, encoded anew for each scrape, so that no value is older than the statistics.

mod families;

use std::{borrow::Cow, fmt, time::Duration};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet},
    metrics::MetricType,
    registry::Unit,
};

use crate::model::stats::{DiskStats, Stats, VmStats};

/// The statistics of one query; none if libvirt did not answer.
#[derive(Debug)]
pub(super) struct Libvirt(pub(super) Option<Stats>);

/// A metric family, and how its value is read from an object.
struct Family<T> {
    /// The name without the unit, and without the `_total` that the format gives to every counter.
    name: &'static str,
    help: &'static str,
    unit: Option<&'static Unit>,
    kind: MetricType,
    value: Value<T>,
}

/// How a value is read from an object. An object without the value has no row.
enum Value<T> {
    Number(fn(&T) -> Option<u64>),
    Fraction(fn(&T) -> Option<f64>),
    Time(fn(&T) -> Option<Duration>),
}

/// The labels of a row.
type Labels<'a> = Vec<(&'static str, Cow<'a, str>)>;

/// Objects and their labels, which several families share.
type Rows<'a, T> = Vec<(Labels<'a>, &'a T)>;

impl Collector for Libvirt {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let encoder = &mut encoder;
        write(encoder, families::UP, &[(Vec::new(), self)])?;
        let Some(stats) = &self.0 else { return Ok(()) };
        write(encoder, families::VMS, &[(Vec::new(), stats)])?;
        write_vms(encoder, &stats.vms)?;
        write(encoder, families::POOL, &rows(&stats.pools, |pool| vec![("storage_pool", Cow::from(&pool.name))]))
    }
}

fn write_vms(encoder: &mut DescriptorEncoder, vms: &[VmStats]) -> fmt::Result {
    write(encoder, families::INFO, &rows(vms, |vm| vec![domain(vm), ("uuid", vm.uuid.to_string().into())]))?;
    write(encoder, families::STATE, &rows(vms, |vm| vec![domain(vm), ("state_desc", vm.state.as_str().into())]))?;
    write(encoder, families::VM, &rows(vms, |vm| vec![domain(vm)]))?;
    write(encoder, families::CPU, &parts(vms, |vm| &vm.cpus, |cpu| vec![("vcpu", cpu.number.to_string().into())]))?;
    let source = |disk: &DiskStats| ("source_file", disk.source.clone().unwrap_or_default().into());
    write(encoder, families::DISK_INFO, &parts(vms, |vm| &vm.disks, |disk| vec![target(&disk.target), source(disk)]))?;
    write(encoder, families::DISK, &parts(vms, |vm| &vm.disks, |disk| vec![target(&disk.target)]))?;
    write(encoder, families::INTERFACE, &parts(vms, |vm| &vm.interfaces, |interface| vec![target(&interface.target)]))
}

fn domain(vm: &VmStats) -> (&'static str, Cow<'_, str>) {
    ("domain", Cow::from(&vm.name))
}

fn target(device: &str) -> (&'static str, Cow<'_, str>) {
    ("target_device", Cow::from(device))
}

fn rows<'a, T>(objects: &'a [T], labels: impl Fn(&'a T) -> Labels<'a>) -> Rows<'a, T> {
    objects.iter().map(|object| (labels(object), object)).collect()
}

/// Returns the parts of every VM. `labels` returns the labels of a part without the label of its VM.
fn parts<'a, T>(
    vms: &'a [VmStats],
    of: impl Fn(&'a VmStats) -> &'a [T],
    labels: impl Fn(&'a T) -> Labels<'a>,
) -> Rows<'a, T> {
    let with_domain = |vm, part| std::iter::once(domain(vm)).chain(labels(part)).collect();
    vms.iter()
        .flat_map(|vm| of(vm).iter().map(move |part| (vm, part)))
        .map(|(vm, part)| (with_domain(vm, part), part))
        .collect()
}

/// Writes families one after the other, each with a row for every object that has the value.
fn write<T>(encoder: &mut DescriptorEncoder, families: &[Family<T>], rows: &[(Labels, &T)]) -> fmt::Result {
    for family in families {
        let values: Vec<_> =
            rows.iter().filter_map(|(labels, object)| Some((labels, family.value.of(object)?))).collect();
        if values.is_empty() {
            continue;
        }
        let mut encoder = encoder.encode_descriptor(family.name, family.help, family.unit, family.kind)?;
        for (labels, value) in values {
            // An empty set of labels would be written as empty braces.
            if labels.is_empty() {
                value.write(family.kind, &mut encoder)?;
            } else {
                value.write(family.kind, &mut encoder.encode_family(labels)?)?;
            }
        }
    }
    Ok(())
}

/// A value to write. Integers are not written as floats, because a float is exact only up to 2^53.
enum Number {
    Integer(u64),
    Float(f64),
}

impl<T> Value<T> {
    fn of(&self, object: &T) -> Option<Number> {
        match self {
            Self::Number(of) => of(object).map(Number::Integer),
            Self::Fraction(of) => of(object).map(Number::Float),
            Self::Time(of) => of(object).map(|time| Number::Float(time.as_secs_f64())),
        }
    }
}

impl Number {
    fn write(&self, kind: MetricType, encoder: &mut MetricEncoder) -> fmt::Result {
        match (self, kind) {
            (Self::Integer(number), MetricType::Counter) => encoder.encode_counter::<NoLabelSet, _, u64>(number, None),
            (Self::Float(number), MetricType::Counter) => encoder.encode_counter::<NoLabelSet, _, u64>(number, None),
            (Self::Integer(number), _) => encoder.encode_gauge(number),
            (Self::Float(number), _) => encoder.encode_gauge(number),
        }
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::{encoding::text::encode, registry::Registry};
    use uuid::Uuid;

    use super::*;
    use crate::model::{
        stats::{CpuStats, InterfaceStats, MemoryStats, PoolStats, Space, Traffic, Transfers},
        vm::State,
    };

    /// Every metric, for the VM [`web`] and two pools.
    const ALL: &str = r#"
libvirt_up 1
libvirt_domains 1
libvirt_domain_info{domain="web",uuid="00000000-0000-0000-0000-000000000000"} 1
libvirt_domain_info_state{domain="web",state_desc="running"} 1
libvirt_domain_info_vstate{domain="web"} 1
libvirt_domain_info_maximum_memory_bytes{domain="web"} 12
libvirt_domain_info_memory_usage_bytes{domain="web"} 11
libvirt_domain_info_virtual_cpus{domain="web"} 1
libvirt_domain_info_cpu_time_seconds_total{domain="web"} 0.55
libvirt_domain_vcpu_current{domain="web"} 1
libvirt_domain_vcpu_maximum{domain="web"} 2
libvirt_domain_memory_stats_current_balloon_bytes{domain="web"} 11
libvirt_domain_memory_stats_maximum_bytes{domain="web"} 12
libvirt_domain_memory_stats_rss_bytes{domain="web"} 13
libvirt_domain_memory_stats_unused_bytes{domain="web"} 14
libvirt_domain_memory_stats_available_bytes{domain="web"} 2000
libvirt_domain_memory_stats_usable_bytes{domain="web"} 500
libvirt_domain_memory_stats_swap_in_bytes{domain="web"} 17
libvirt_domain_memory_stats_swap_out_bytes{domain="web"} 18
libvirt_domain_memory_stats_disk_caches_bytes{domain="web"} 19
libvirt_domain_memory_stats_major_fault_total{domain="web"} 20
libvirt_domain_memory_stats_minor_fault_total{domain="web"} 21
libvirt_domain_memory_stats_used_percent{domain="web"} 75.0
libvirt_domain_vcpu_state{domain="web",vcpu="3"} 1
libvirt_domain_vcpu_time_seconds_total{domain="web",vcpu="3"} 0.03
libvirt_domain_vcpu_wait_seconds_total{domain="web",vcpu="3"} 0.031
libvirt_domain_vcpu_delay_seconds_total{domain="web",vcpu="3"} 0.032
libvirt_domain_block_stats_info{domain="web",target_device="vda",source_file="/images/web.qcow2"} 1
libvirt_domain_block_stats_read_bytes_total{domain="web",target_device="vda"} 42
libvirt_domain_block_stats_read_requests_total{domain="web",target_device="vda"} 41
libvirt_domain_block_stats_read_time_seconds_total{domain="web",target_device="vda"} 0.043
libvirt_domain_block_stats_write_bytes_total{domain="web",target_device="vda"} 18446744073709551615
libvirt_domain_block_stats_write_requests_total{domain="web",target_device="vda"} 18446744073709551614
libvirt_domain_block_stats_write_time_seconds_total{domain="web",target_device="vda"} 0.044
libvirt_domain_block_stats_flush_requests_total{domain="web",target_device="vda"} 45
libvirt_domain_block_stats_flush_time_seconds_total{domain="web",target_device="vda"} 0.047
libvirt_domain_block_stats_capacity_bytes{domain="web",target_device="vda"} 40
libvirt_domain_interface_stats_receive_bytes_total{domain="web",target_device="vnet0"} 50
libvirt_domain_interface_stats_receive_packets_total{domain="web",target_device="vnet0"} 51
libvirt_domain_interface_stats_receive_errors_total{domain="web",target_device="vnet0"} 52
libvirt_domain_interface_stats_receive_drops_total{domain="web",target_device="vnet0"} 53
libvirt_domain_interface_stats_transmit_bytes_total{domain="web",target_device="vnet0"} 60
libvirt_domain_interface_stats_transmit_packets_total{domain="web",target_device="vnet0"} 61
libvirt_domain_interface_stats_transmit_errors_total{domain="web",target_device="vnet0"} 62
libvirt_domain_interface_stats_transmit_drops_total{domain="web",target_device="vnet0"} 63
libvirt_storage_pool_state{storage_pool="default"} 2
libvirt_storage_pool_state{storage_pool="idle"} 0
libvirt_storage_pool_capacity_bytes{storage_pool="default"} 73
libvirt_storage_pool_allocation_bytes{storage_pool="default"} 71
libvirt_storage_pool_available_bytes{storage_pool="default"} 72"#;

    fn vm(name: &str, state: State) -> VmStats {
        VmStats {
            name: name.to_owned(),
            uuid: Uuid::nil(),
            state,
            cpu_time: None,
            vcpus: None,
            max_vcpus: None,
            memory: MemoryStats::default(),
            cpus: Vec::new(),
            disks: Vec::new(),
            interfaces: Vec::new(),
        }
    }

    fn time(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    fn memory() -> MemoryStats {
        MemoryStats {
            current: Some(11),
            maximum: Some(12),
            rss: Some(13),
            unused: Some(14),
            available: Some(2000),
            usable: Some(500),
            swap_in: Some(17),
            swap_out: Some(18),
            disk_caches: Some(19),
            major_faults: Some(20),
            minor_faults: Some(21),
        }
    }

    fn transfers(bytes: u64, millis: u64) -> Transfers {
        Transfers { bytes: Some(bytes), requests: Some(bytes - 1), time: Some(time(millis)) }
    }

    fn traffic(bytes: u64) -> Traffic {
        let after = |more| Some(bytes + more);
        Traffic { bytes: after(0), packets: after(1), errors: after(2), drops: after(3) }
    }

    /// Returns a VM with every value, no two of them alike.
    fn web() -> VmStats {
        VmStats {
            cpu_time: Some(time(550)),
            vcpus: Some(1),
            max_vcpus: Some(2),
            memory: memory(),
            cpus: vec![CpuStats {
                number: 3,
                state: Some(1),
                time: Some(time(30)),
                wait: Some(time(31)),
                delay: Some(time(32)),
            }],
            disks: vec![DiskStats {
                target: "vda".to_owned(),
                source: Some("/images/web.qcow2".to_owned()),
                capacity: Some(40),
                reads: transfers(42, 43),
                writes: transfers(u64::MAX, 44),
                flushes: Transfers { bytes: None, ..transfers(46, 47) },
            }],
            interfaces: vec![InterfaceStats {
                target: "vnet0".to_owned(),
                received: traffic(50),
                transmitted: traffic(60),
            }],
            ..vm("web", State::Running)
        }
    }

    fn text(vms: Vec<VmStats>, pools: Vec<PoolStats>) -> String {
        let (mut registry, mut text) = (Registry::default(), String::new());
        registry.register_collector(Box::new(Libvirt(Some(Stats { vms, pools }))));
        encode(&mut text, &registry).unwrap();
        text
    }

    /// Returns the rows without the comments.
    fn rows(text: &str) -> Vec<&str> {
        text.lines().filter(|line| !line.starts_with('#')).collect()
    }

    #[test]
    fn every_metric_has_its_usual_name() {
        let space = Some(Space { capacity: 73, allocation: 71, available: 72 });
        let pool =
            |name: &str, space: Option<Space>| PoolStats { name: name.to_owned(), active: space.is_some(), space };
        let text = text(vec![web()], vec![pool("default", space), pool("idle", None)]);
        assert_eq!(rows(&text).join("\n"), ALL.trim_start());
    }

    #[test]
    fn each_family_is_described_once() {
        let text = text(vec![web(), vm("b", State::ShutOff)], Vec::new());
        let family = "# HELP libvirt_domain_block_stats_read_bytes Read from the disk.\n\
                      # TYPE libvirt_domain_block_stats_read_bytes counter\n\
                      # UNIT libvirt_domain_block_stats_read_bytes bytes\n\
                      libvirt_domain_block_stats_read_bytes_total{domain=\"web\",target_device=\"vda\"} 42\n";
        assert!(text.contains(family), "{text}");
        let family = "# TYPE libvirt_domain_info_vstate gauge\n\
                      libvirt_domain_info_vstate{domain=\"web\"} 1\nlibvirt_domain_info_vstate{domain=\"b\"} 5\n";
        assert!(text.contains(family), "{text}");
    }

    #[test]
    fn special_characters_in_a_name_are_escaped() {
        let text = text(vec![vm("a \"b\" \\c{d=\"e\"} 1", State::Paused)], Vec::new());
        let name = r#"a \"b\" \\c{d=\"e\"} 1"#;
        assert_eq!(rows(&text)[4], format!("libvirt_domain_info_vstate{{domain=\"{name}\"}} 3"));
    }

    #[test]
    fn a_value_that_libvirt_does_not_report_has_no_row() {
        let text = text(vec![vm("a", State::ShutOff)], Vec::new());
        let expected = r#"
libvirt_up 1
libvirt_domains 1
libvirt_domain_info{domain="a",uuid="00000000-0000-0000-0000-000000000000"} 1
libvirt_domain_info_state{domain="a",state_desc="shut off"} 5
libvirt_domain_info_vstate{domain="a"} 5"#;
        assert_eq!(rows(&text).join("\n"), expected.trim_start());
    }
}
