//! libvirt's statistics of domains and pools.

use std::{collections::HashMap, time::Duration};

use serde::Deserialize;
use uuid::Uuid;

use super::{Virsh, domain, from_xml, unexpected_sections};
use crate::{
    error::{Code, Result},
    model::stats::{
        CpuStats, DiskStats, InterfaceStats, MemoryStats, PoolStats, Space, Stats, Traffic, Transfers, VmStats,
    },
};

/// A domain or pool may be removed or be busy during the call, and a driver may have no pools (`Conflict`). The missing
/// values are then unknown, which is no error.
const TOLERATED: [Code; 3] = [Code::NotFound, Code::Busy, Code::Conflict];

/// The command for the statistics. `--nowait` leaves out values that would have to wait for a busy QEMU.
const DOMSTATS: [&str; 9] =
    ["domstats", "--raw", "--nowait", "--state", "--cpu-total", "--balloon", "--vcpu", "--interface", "--block"];

impl Virsh {
    /// Returns the statistics of all domains and pools, and the space in `pool`, in one process.
    pub fn stats(&self, pool: &str) -> Result<Stats> {
        let commands = [
            vec!["list", "--all", "--uuid", "--name"],
            DOMSTATS.to_vec(),
            vec!["pool-list", "--all", "--name"],
            vec!["pool-list", "--name"],
            vec!["pool-dumpxml", "--pool", pool],
        ];
        let sections = self.batch_tolerating("read the VMs' statistics", &commands, &TOLERATED)?;
        let [names, stats, pools, active, xml] = &sections[..] else {
            return Err(unexpected_sections());
        };
        Ok(Stats { vms: vms(names, stats)?, pools: pool_stats(pools, active, &spaces([xml.as_str()])?) })
    }

    /// Returns the space in pools by name. Pools that no longer exist are left out.
    pub fn pool_spaces(&self, names: &[String]) -> Result<HashMap<String, Space>> {
        let commands: Vec<_> = names.iter().map(|name| vec!["pool-dumpxml", "--pool", name]).collect();
        let sections = self.batch_tolerating("read the storage pools' statistics", &commands, &TOLERATED)?;
        spaces(sections.iter().map(String::as_str))
    }
}

fn pool_stats(names: &str, active: &str, spaces: &HashMap<String, Space>) -> Vec<PoolStats> {
    let lines = |text: &'_ str| -> Vec<String> {
        text.lines().map(str::trim_end).filter(|line| !line.is_empty()).map(str::to_owned).collect()
    };
    let started = lines(active);
    let pool = |name: String| {
        let active = started.contains(&name);
        // The values of an inactive pool are outdated or 0.
        PoolStats { space: spaces.get(&name).copied().filter(|_| active), active, name }
    };
    lines(names).into_iter().map(pool).collect()
}

fn spaces<'a>(xmls: impl IntoIterator<Item = &'a str>) -> Result<HashMap<String, Space>> {
    #[derive(Deserialize)]
    struct Raw {
        name: String,
        // All three are in bytes, whatever unit the definition used.
        capacity: u64,
        allocation: u64,
        available: u64,
    }
    let space = |xml| {
        let raw: Raw = from_xml("storage pool", xml)?;
        let Raw { name, capacity, allocation, available } = raw;
        Ok((name, Space { capacity, allocation, available }))
    };
    xmls.into_iter().map(str::trim).filter(|xml| !xml.is_empty()).map(space).collect()
}

fn vms(names: &str, stats: &str) -> Result<Vec<VmStats>> {
    let stats = domain::statistics(stats);
    // A domain without statistics was removed after it was listed.
    let vm = |(uuid, name): (Uuid, String)| Some(DomainStats(stats.get(name.as_str())?).vm(uuid, name.clone()));
    Ok(domain::names(names)?.into_iter().filter_map(vm).collect())
}

/// A domain's `domstats`, by key.
#[derive(Clone, Copy)]
struct DomainStats<'a>(&'a HashMap<&'a str, &'a str>);

impl DomainStats<'_> {
    fn vm(self, uuid: Uuid, name: String) -> VmStats {
        let state = domain::state(self.0.get("state.state").copied().unwrap_or_default());
        VmStats {
            name,
            uuid,
            state,
            // For an inactive domain, libvirt returns the time of its own process (11.3.0).
            cpu_time: self.time("cpu.time").filter(|_| state.is_active()),
            vcpus: self.number("vcpu.current"),
            max_vcpus: self.number("vcpu.maximum"),
            memory: self.memory(),
            cpus: self.each("vcpu.maximum", Self::cpu),
            disks: self.each("block.count", Self::disk),
            interfaces: self.each("net.count", Self::interface),
        }
    }

    fn memory(self) -> MemoryStats {
        let bytes = |key: &str| self.number(key)?.checked_mul(1024);
        MemoryStats {
            current: bytes("balloon.current"),
            maximum: bytes("balloon.maximum"),
            rss: bytes("balloon.rss"),
            unused: bytes("balloon.unused"),
            available: bytes("balloon.available"),
            usable: bytes("balloon.usable"),
            swap_in: bytes("balloon.swap_in"),
            swap_out: bytes("balloon.swap_out"),
            disk_caches: bytes("balloon.disk_caches"),
            major_faults: self.number("balloon.major_fault"),
            minor_faults: self.number("balloon.minor_fault"),
        }
    }

    /// Returns all items of a kind. The value of the key `count` is the maximum number of items.
    fn each<T>(self, count: &str, one: impl Fn(Self, u64) -> Option<T>) -> Vec<T> {
        (0..self.number(count).unwrap_or_default()).filter_map(|number| one(self, number)).collect()
    }

    /// Returns the statistics of a virtual CPU; none if it is not plugged in, as it then has no state.
    fn cpu(self, number: u64) -> Option<CpuStats> {
        let time = |key: &str| self.time(&format!("vcpu.{number}.{key}"));
        let state = Some(self.number(&format!("vcpu.{number}.state"))?);
        Some(CpuStats { number, state, time: time("time"), wait: time("wait"), delay: time("delay") })
    }

    fn disk(self, number: u64) -> Option<DiskStats> {
        let key = |key: &str| format!("block.{number}.{key}");
        let transfers = |kind: &str| Transfers {
            bytes: self.number(&key(&format!("{kind}.bytes"))),
            requests: self.number(&key(&format!("{kind}.reqs"))),
            time: self.time(&key(&format!("{kind}.times"))),
        };
        Some(DiskStats {
            target: self.text(&key("name"))?,
            source: self.text(&key("path")),
            capacity: self.number(&key("capacity")),
            reads: transfers("rd"),
            writes: transfers("wr"),
            flushes: transfers("fl"),
        })
    }

    fn interface(self, number: u64) -> Option<InterfaceStats> {
        let key = |key: &str| format!("net.{number}.{key}");
        let traffic = |direction: &str| Traffic {
            bytes: self.number(&key(&format!("{direction}.bytes"))),
            packets: self.number(&key(&format!("{direction}.pkts"))),
            errors: self.number(&key(&format!("{direction}.errs"))),
            drops: self.number(&key(&format!("{direction}.drop"))),
        };
        let target = self.text(&key("name"))?;
        Some(InterfaceStats { target, received: traffic("rx"), transmitted: traffic("tx") })
    }

    fn text(self, key: &str) -> Option<String> {
        self.0.get(key).map(|&text| text.to_owned())
    }

    fn number(self, key: &str) -> Option<u64> {
        self.0.get(key)?.parse().ok()
    }

    /// Returns a time. libvirt reports times in nanoseconds.
    fn time(self, key: &str) -> Option<Duration> {
        self.number(key).map(Duration::from_nanos)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::vm::State;

    /// Output of libvirt 11.3.0 for a running VM without an operating system and for an inactive VM.
    const DOMSTATS: &str = "Domain: 'web'
  state.state=1
  state.reason=1
  cpu.time=550000000
  cpu.user=280000000
  cpu.system=270000000
  cpu.cache.monitor.count=0
  cpu.haltpoll.success.time=0
  cpu.haltpoll.fail.time=0
  balloon.current=131072
  balloon.maximum=131072
  balloon.last-update=0
  balloon.rss=50440
  vcpu.current=1
  vcpu.maximum=2
  vcpu.0.state=1
  vcpu.0.time=190000000
  vcpu.0.wait=0
  vcpu.0.delay=159377734
  net.count=1
  net.0.name=vnet0
  net.0.rx.bytes=90
  net.0.rx.pkts=1
  net.0.rx.errs=0
  net.0.rx.drop=0
  net.0.tx.bytes=0
  net.0.tx.pkts=0
  net.0.tx.errs=0
  net.0.tx.drop=0
  block.count=2
  block.0.name=vda
  block.0.path=/var/lib/libvirt/images/web.qcow2
  block.0.backingIndex=2
  block.0.rd.reqs=1
  block.0.rd.bytes=512
  block.0.rd.times=3117556
  block.0.wr.reqs=0
  block.0.wr.bytes=0
  block.0.wr.times=0
  block.0.fl.reqs=0
  block.0.fl.times=0
  block.0.allocation=0
  block.0.capacity=1073741824
  block.0.physical=204800
  block.1.name=sda
  block.1.rd.reqs=3
  block.1.rd.bytes=54
  block.1.rd.times=3107
  block.1.wr.reqs=0
  block.1.wr.bytes=0
  block.1.wr.times=0
  block.1.fl.reqs=0
  block.1.fl.times=0

Domain: 'off'
  state.state=5
  state.reason=0
  cpu.time=560000000
  cpu.user=270000000
  cpu.system=290000000
  balloon.current=131072
  balloon.maximum=131072
  vcpu.current=1
  vcpu.maximum=2
  block.count=2
  block.0.name=vda
  block.0.path=/var/lib/libvirt/images/off.qcow2
  block.0.allocation=200704
  block.0.capacity=1073741824
  block.0.physical=196624
  block.1.name=sda

";

    const POOL: &str = "<pool type='dir'>
  <name>default</name>
  <uuid>88538a81-bf72-46d1-91f0-5b64b6d9a2f4</uuid>
  <capacity unit='bytes'>270553174016</capacity>
  <allocation unit='bytes'>18872881152</allocation>
  <available unit='bytes'>251680292864</available>
  <source>
  </source>
  <target>
    <path>/var/lib/libvirt/images</path>
  </target>
</pool>
";

    /// Returns the statistics of the VM of that name.
    fn parse(name: &str) -> VmStats {
        let uuid = "6695eb01-f6a4-8304-79aa-97f2502e193f";
        let vms = vms(&format!("{uuid} gone\n{uuid} off\n{uuid} web\n"), DOMSTATS).unwrap();
        let names: Vec<_> = vms.iter().map(|vm| vm.name.as_str()).collect();
        assert_eq!(names, ["off", "web"], "a VM without statistics is left out");
        vms.into_iter().find(|vm| vm.name == name).unwrap()
    }

    #[test]
    fn values_of_a_running_vm_are_converted_to_bytes_and_durations() {
        let web = parse("web");
        assert_eq!((web.state, web.vcpus, web.max_vcpus), (State::Running, Some(1), Some(2)));
        assert_eq!(web.cpu_time, Some(Duration::from_millis(550)));
        assert_eq!(
            web.memory,
            MemoryStats {
                current: Some(128 << 20),
                maximum: Some(128 << 20),
                rss: Some(50440 << 10),
                ..MemoryStats::default()
            }
        );
        let (time, wait, delay) = (Duration::from_millis(190), Duration::ZERO, Duration::from_nanos(159_377_734));
        let cpu = CpuStats { number: 0, state: Some(1), time: Some(time), wait: Some(wait), delay: Some(delay) };
        assert_eq!(web.cpus, [cpu]);
        let (none, some) = (Traffic { bytes: Some(0), packets: Some(0), errors: Some(0), drops: Some(0) }, Some(1));
        let received = Traffic { bytes: Some(90), packets: some, ..none };
        assert_eq!(web.interfaces, [InterfaceStats { target: "vnet0".to_owned(), received, transmitted: none }]);
    }

    #[test]
    fn a_drive_without_a_medium_is_a_disk_without_a_source() {
        let [disk, drive] = &parse("web").disks[..] else { panic!("there must be two disks") };
        let reads = Transfers { bytes: Some(512), requests: Some(1), time: Some(Duration::from_nanos(3_117_556)) };
        assert_eq!((disk.target.as_str(), disk.capacity, disk.reads), ("vda", Some(1 << 30), reads));
        assert_eq!(disk.source.as_deref(), Some("/var/lib/libvirt/images/web.qcow2"));
        assert_eq!(disk.flushes, Transfers { bytes: None, requests: Some(0), time: Some(Duration::ZERO) });
        assert_eq!((drive.target.as_str(), &drive.source, drive.capacity), ("sda", &None, None));
    }

    #[test]
    fn an_inactive_vm_has_no_cpu_time() {
        let off = parse("off");
        assert_eq!((off.state, off.cpu_time, off.cpus.len(), off.interfaces.len()), (State::ShutOff, None, 0, 0));
        assert_eq!((off.memory.current, off.disks[0].capacity), (Some(128 << 20), Some(1 << 30)));
        assert_eq!(off.disks[0].reads, Transfers::default());
    }

    #[test]
    fn only_an_active_pool_has_a_known_space() {
        let spaces = spaces(["", POOL]).unwrap();
        let space = Space { capacity: 270_553_174_016, allocation: 18_872_881_152, available: 251_680_292_864 };
        assert_eq!(spaces, HashMap::from([("default".to_owned(), space)]));
        let parse = |active: &str| {
            let pools = pool_stats("default\nother pool\n\n", active, &spaces);
            pools.into_iter().map(|pool| (pool.name, pool.active, pool.space.is_some())).collect::<Vec<_>>()
        };
        let pool = |name: &str, active, measured| (name.to_owned(), active, measured);
        assert_eq!(parse("other pool\n"), [pool("default", false, false), pool("other pool", true, false)]);
        assert_eq!(parse("default\n"), [pool("default", true, true), pool("other pool", false, false)]);
    }
}
