//! The parsers on the output of several versions of libvirt (`fixtures/libvirt-*`), whole and spoilt.

mod spoilt;

use std::{collections::HashMap, fs, net::IpAddr, ops::ControlFlow, time::Duration};

use camino::Utf8Path;
use uuid::{Uuid, uuid};

use super::{
    super::fixture_tests::{Captured, SPOILT, fixtures, folders, is_replay, manifest},
    Capabilities, Domain, Pool, Runner, Virsh, Volume, complaints, domain, failure, from_xml, host, metadata,
};
use crate::{
    error::{Code, Fault, Result},
    model::{
        image::Verification,
        record::{Phase, VmRecord, VolumeRole},
        vm::{Address, AddressSource, Disk, Interface, State},
    },
};

const WEB: Uuid = uuid!("6695eb01-f6a4-4304-b9aa-97f2502e193f");
const OFF: Uuid = uuid!("0b7e1f52-6c1d-4f0e-9a55-3d2f4c5b6a79");
const FOREIGN: Uuid = uuid!("c0ffee00-1111-4222-8333-444455556666");
const ABSENT: Uuid = uuid!("deadbeef-dead-4eef-8ead-beefdeadbeef");
const LEASE: Uuid = uuid!("1ea5e000-0000-4000-8000-000000000001");
const OTHER_LEASE: Uuid = uuid!("1ea5e000-0000-4000-8000-000000000002");

const OFF_NAME: &str = "it's a 'name': <&> é";
const MAC: &str = "52:54:00:0a:0b:0c";
const POOL: &str = "/var/lib/libvirt/images";

fn sha() -> String {
    "5e".repeat(32)
}

fn virsh(folder: &str, variant: &str) -> Virsh {
    Virsh::new(format!("qemu:///@{folder}@{variant}@system"), Runner::default())
}

fn libvirts() -> Vec<String> {
    let folders = folders("libvirt");
    assert!(folders.len() >= 3, "{folders:?}");
    folders
}

fn read(folder: &str, name: &str) -> String {
    fs::read_to_string(fixtures().join(folder).join(name)).unwrap()
}

fn disk(target: &str, device: &str, source: Option<&str>) -> Disk {
    Disk { target: target.to_owned(), device: device.to_owned(), source: source.map(str::to_owned) }
}

fn check_record(folder: &str, record: &VmRecord) {
    assert_eq!(
        (record.phase, record.by.as_str(), record.host.as_str()),
        (Phase::Ready, "0.1.0", "fixtures"),
        "{folder}"
    );
    assert_eq!((record.protected, record.owner.as_deref()), (true, Some("agent1")), "{folder}");
    assert_eq!(record.expires, Some("2099-11-24T03:00:00Z".parse().unwrap()), "{folder}");
    let image = record.image.as_ref().unwrap();
    assert_eq!(image.source, "/srv/a \"b\" <c>&'d'ü.qcow2", "{folder}");
    assert_eq!(
        (image.base.clone(), image.verification),
        (format!("base-{}.qcow2", sha()), Some(Verification::Signature))
    );
    let specification = record.specification.as_ref().unwrap();
    assert_eq!(specification.json, r#"{"image":"debian:12","note":"<&> ü"}"#, "{folder}");
    assert_eq!(
        (record.user.as_deref(), record.instance_id.as_deref()),
        (Some("debian"), Some("i-fixture")),
        "{folder}"
    );
    assert_eq!((record.keys.len(), record.keys[0].name.as_str()), (1, "dev"), "{folder}");
    let volumes: Vec<_> = record.volumes.iter().map(|volume| (volume.name.as_str(), volume.role)).collect();
    let expected = [
        ("web.qcow2", VolumeRole::Disk),
        ("web-seed-1.iso", VolumeRole::Seed),
        ("web-console.log", VolumeRole::Console),
    ];
    assert_eq!(volumes, expected, "{folder}");
}

/// Checks what is the same in the XML of the guest that runs and in that of its configuration.
fn check_web(folder: &str, web: &Domain) {
    assert_eq!((web.uuid, web.name.as_str(), web.kind.as_str(), web.arch.as_str()), (WEB, "web", "qemu", "x86_64"));
    assert_eq!((web.memory_mib, web.max_memory_mib, web.vcpus, web.max_vcpus), (512, 512, 1, 2), "{folder}");
    assert!(web.balloon && web.description.is_none(), "{folder}");
    assert!(web.machine.as_ref().unwrap().starts_with("pc-i440fx-"), "{folder}: {:?}", web.machine);
    assert_eq!(web.console_log, Some(format!("{POOL}/web-console.log")), "{folder}");
    let interface = Interface { mac: MAC.to_owned(), kind: "network".to_owned(), source: Some("default".to_owned()) };
    assert_eq!(web.interfaces, [interface], "{folder}");
    check_record(folder, web.metadata.as_ref().unwrap());
}

fn check_web_disks(folder: &str, web: &Domain, file: &str) {
    let (file, seed) = (format!("{POOL}/{file}"), format!("{POOL}/web-seed-1.iso"));
    let expected = [disk("vda", "disk", Some(&file)), disk("vdb", "disk", Some(&seed)), disk("hda", "cdrom", None)];
    assert_eq!(web.disks, expected, "{folder}");
}

#[test]
fn domains_are_parsed_in_every_state_of_every_version() {
    for folder in &libvirts() {
        let parse = |name: &str| Domain::from_xml(&read(folder, name)).unwrap();
        for (name, connected, stopping, file) in [
            ("dumpxml-started.xml", false, false, "web.qcow2"),
            ("dumpxml-running.xml", true, false, "web.qcow2"),
            ("dumpxml-running-inactive.xml", false, false, "web.qcow2"),
            ("dumpxml-stopping.xml", true, true, "web.qcow2"),
            ("dumpxml-overlay.xml", true, false, "web.whole.qcow2"),
        ] {
            let web = parse(name);
            check_web(folder, &web);
            check_web_disks(folder, &web, file);
            assert_eq!((web.agent_connected, web.stopping), (connected, stopping), "{folder} {name}");
        }
        for name in ["dumpxml-off.xml", "dumpxml-off-inactive.xml"] {
            let off = parse(name);
            assert_eq!((off.uuid, off.name.as_str()), (OFF, OFF_NAME), "{folder}");
            assert_eq!(off.description, Some("first line\nsecond <line> & é".to_owned()), "{folder}");
            // Without a balloon, it has the maximum when it runs, which only the statistics say.
            assert_eq!((off.memory_mib, off.max_memory_mib, off.vcpus, off.max_vcpus), (128, 256, 1, 1), "{folder}");
            assert!(!off.balloon && off.metadata.is_none() && off.console_log.is_none(), "{folder}");
            assert_eq!(off.disks, [disk("vda", "disk", Some(&format!("{POOL}/my disk (1).qcow2")))], "{folder}");
        }
        for name in ["dumpxml-foreign.xml", "dumpxml-foreign-inactive.xml"] {
            let foreign = parse(name);
            assert_eq!((foreign.uuid, foreign.metadata.as_ref()), (FOREIGN, None), "{folder}");
            assert!(foreign.machine.unwrap().starts_with("pc-q35-"), "{folder}");
            assert_eq!(foreign.disks, [disk("vda", "disk", Some("default/foreign.qcow2"))], "{folder}");
        }
        let slirp = parse("dumpxml-slirp.xml");
        let interface = Interface { mac: "52:54:00:0a:0b:0e".to_owned(), kind: "user".to_owned(), source: None };
        assert_eq!(slirp.interfaces, [interface], "{folder}");
        let test = parse("test-dumpxml.xml");
        assert_eq!((test.kind.as_str(), test.name.as_str(), test.memory_mib, test.vcpus), ("test", "test", 2048, 2));
        check_record(folder, &VmRecord::from_element(&read(folder, "metadata.xml")).unwrap());
        // Some versions print an empty line instead of an error.
        let part = format!("metadata --domain {FOREIGN}");
        let none = manifest(folder).into_iter().find(|entry| entry.command.contains(&part)).unwrap();
        let printed = none.output.map_or(String::new(), |name| read(folder, &name));
        let known = none.status == 0 || failure::classify(&none.stderr) == Code::NotFound;
        assert!(printed.trim().is_empty() && known, "{folder}: {printed:?} {}", none.stderr);
    }
}

#[test]
fn capabilities_are_parsed_in_every_version() {
    for folder in &libvirts() {
        let parse = |name: &str| Capabilities::from_xml(&read(folder, name)).unwrap();
        let emulated = parse("domcapabilities-qemu.xml");
        assert_eq!((emulated.kind.as_str(), emulated.arch.as_str()), ("qemu", "x86_64"), "{folder}");
        assert_eq!(
            (emulated.cpu_mode.as_deref(), emulated.video.as_deref()),
            (Some("maximum"), Some("virtio")),
            "{folder}"
        );
        assert!(emulated.machine.as_ref().unwrap().starts_with("pc-"), "{folder}");
        assert!(emulated.max_vcpus.unwrap() >= 255, "{folder}: {emulated:?}");
        // The first release that reports the network backends in the capabilities is newer than 9.0.
        assert_eq!(emulated.passt, folder != "libvirt-9.0.0", "{folder}");
        assert_eq!(parse("domcapabilities-machine.xml"), emulated, "{folder}");
        let preferred = parse("domcapabilities.xml");
        assert!(preferred.is_kvm() || preferred.kind == "qemu", "{folder}: {preferred:?}");
        // The test driver of libvirt 9.0 does not support this.
        if folder != "libvirt-9.0.0" {
            let test = parse("test-domcapabilities.xml");
            assert_eq!((test.kind.as_str(), test.machine, test.video), ("test", None, None), "{folder}");
        }
        assert!(host::total_memory(&read(folder, "nodememstats.txt")).unwrap() > 512, "{folder}");
        let pool = Pool::from_xml(&read(folder, "test-pool-dumpxml.xml"), true).unwrap();
        assert_eq!(
            (pool.name.as_str(), pool.kind.as_str(), pool.path.as_str()),
            ("default-pool", "dir", "/default-pool")
        );
    }
}

/// Calls `each` for every version, with the programs of `fixtures/replay`.
fn replay(test: &str, each: impl Fn(&str, &Virsh)) {
    if is_replay(&format!("tools::virsh::fixture_tests::{test}")) {
        for folder in libvirts() {
            each(&folder, &virsh(&folder, "whole"));
        }
    }
}

#[test]
fn the_host_is_described_in_every_version() {
    replay("the_host_is_described_in_every_version", |folder, virsh| {
        let versions = virsh.versions().unwrap();
        assert_eq!(versions.daemon.as_deref(), folder.strip_prefix("libvirt-"));
        assert!(versions.hypervisor.unwrap().starts_with("QEMU "), "{folder}");
        assert_eq!((versions.host.as_deref(), versions.complaint), (Some("fixtures"), None), "{folder}");
        let confinement = virsh.confinement().unwrap();
        assert_eq!(confinement.models, ["none", "dac"], "{folder}");
        assert!(confinement.user.unwrap().0 > 0, "{folder}");
        let offer = virsh.supported_devices().unwrap();
        assert_eq!(offer.emulator.as_deref(), Some("/usr/bin/qemu-system-x86_64"), "{folder}");
        assert!(offer.channels.is_none_or(|channels| channels.iter().any(|channel| channel == "unix")), "{folder}");
        assert_eq!(virsh.arch().unwrap(), "x86_64", "{folder}");
        assert!(virsh.hypervisor().unwrap().starts_with("qemu 4d3c2b1a-0f1e-4d2c-8b3a-495867768594 "), "{folder}");
        assert_eq!(virsh.emulation().unwrap().kind, "qemu", "{folder}");
        virsh.capabilities().unwrap();

        let default = virsh.network("default").unwrap().unwrap();
        assert_eq!(
            (default.active, default.autostart, default.forward.as_deref()),
            (true, true, Some("nat")),
            "{folder}"
        );
        assert_eq!(default.bridge.as_deref(), Some("virbr0"), "{folder}");
        assert_eq!(default.addresses, [("192.168.122.1".parse().unwrap(), 24)], "{folder}");
        let isolated = virsh.network("isolated").unwrap().unwrap();
        assert_eq!((isolated.active, isolated.autostart, isolated.forward), (false, false, None), "{folder}");
        assert_eq!(virsh.network("nosuch").unwrap(), None, "{folder}");

        let inventory = virsh.inventory("default", &["web.qcow2", "nosuch"], &[], Some("qemu")).unwrap();
        let names: Vec<_> = inventory.domains.iter().map(|(uuid, name)| (*uuid, name.as_str())).collect();
        assert_eq!(names, [(FOREIGN, "foreign"), (OFF, OFF_NAME), (WEB, "web")], "{folder}");
        assert_eq!(inventory.active_networks, ["default"], "{folder}");
        assert_eq!(inventory.networks, ["default", "isolated"], "{folder}");
        assert_eq!(inventory.volumes, ["web.qcow2"], "{folder}");
        assert!(inventory.memory_mib.is_some() && inventory.pool.is_some_and(|pool| pool.active), "{folder}");
    });
}

#[test]
fn vms_are_read_in_every_version() {
    replay("vms_are_read_in_every_version", |folder, virsh| {
        let rows: Vec<_> = virsh.domains().unwrap();
        let facts: Vec<_> = rows
            .iter()
            .map(|row| (row.uuid, row.name.as_str(), row.state, row.memory_mib, row.vcpus, row.autostart))
            .collect();
        let expected = [
            (FOREIGN, "foreign", State::ShutOff, Some(64), Some(1), false),
            (OFF, OFF_NAME, State::ShutOff, Some(256), Some(1), false),
            (WEB, "web", State::Running, Some(512), Some(1), true),
        ];
        assert_eq!(facts, expected, "{folder}");
        assert_eq!(virsh.state(WEB).unwrap(), State::Running, "{folder}");
        assert_eq!(virsh.state(FOREIGN).unwrap(), State::Paused, "{folder}");
        assert!(!virsh.has_managed_save(WEB).unwrap(), "{folder}");

        let all = virsh.describe(&[(WEB, false), (OFF, true), (FOREIGN, false), (ABSENT, true)]).unwrap();
        assert_eq!(all.len(), 3, "{folder}: an absent domain is left out");
        check_record(folder, all[&WEB].metadata.as_ref().unwrap());
        assert!(all[&WEB].domain.is_none() && all[&OFF].domain.is_some(), "{folder}");
        assert!(all[&OFF].metadata.is_none() && all[&FOREIGN].metadata.is_none(), "{folder}");

        let web = virsh.domain(WEB).unwrap();
        assert!(web.agent_connected && !virsh.persistent_domain(WEB).unwrap().agent_connected, "{folder}");
        assert_eq!(virsh.domain(ABSENT).unwrap_err().code, Code::NotFound, "{folder}");
        let limits = virsh.limits(&web).unwrap();
        assert!(limits.vcpus.unwrap() >= 255 && limits.memory_mib.unwrap() > 512, "{folder}: {limits:?}");
        assert_eq!(virsh.live_capacity(WEB, "vda").unwrap(), 3 << 30, "{folder}");
        virsh.live_capacity(WEB, "vdz").unwrap_err();
    });
}

#[test]
fn addresses_and_statistics_are_read_in_every_version() {
    replay("addresses_and_statistics_are_read_in_every_version", |folder, virsh| {
        let guest = virsh.guest_status(&virsh.domain(WEB).unwrap()).unwrap();
        assert_eq!(guest.state, State::Running, "{folder}");
        assert!(guest.sent.unwrap() > 0, "{folder}");
        let subnet = |address: IpAddr| matches!(address, IpAddr::V4(v4) if v4.octets()[..3] == [192, 168, 122]);
        // libvirt 9.0 could not read the neighbor table of the kernel. The other sources are enough.
        let arp = manifest(folder).into_iter().find(|entry| entry.command.ends_with("--source arp")).unwrap();
        let sources = [AddressSource::Agent, AddressSource::Lease].into_iter();
        for source in sources.chain((arp.status == 0).then_some(AddressSource::Arp)) {
            let found = |found: &&Address| found.source == source && subnet(found.address) && found.mac == MAC;
            let found: Vec<_> = guest.addresses.iter().filter(found).collect();
            assert!(!found.is_empty(), "{folder}: no address from {source:?}");
            // Of the two commands for leases, only one prints when they end.
            let ends = found.iter().any(|found| found.expires.is_some());
            assert_eq!(ends, source == AddressSource::Lease, "{folder}: {found:?}");
        }
        // The guest agent also reports the loopback interface and IPv6 addresses.
        let agents = guest.addresses.iter().filter(|found| found.source == AddressSource::Agent);
        assert!(agents.clone().any(|found| found.address.is_ipv6()), "{folder}");
        let leases = virsh.leases().unwrap();
        assert_eq!((leases.len(), leases[0].mac.as_str()), (1, MAC), "{folder}: {leases:?}");

        let stats = virsh.stats("default").unwrap();
        let names: Vec<_> = stats.vms.iter().map(|vm| (vm.name.as_str(), vm.state)).collect();
        assert_eq!(
            names,
            [("foreign", State::ShutOff), (OFF_NAME, State::ShutOff), ("web", State::Running)],
            "{folder}"
        );
        let web = &stats.vms[2];
        assert!(web.cpu_time.unwrap() > Duration::from_secs(1), "{folder}");
        assert_eq!(
            (web.vcpus, web.max_vcpus, web.cpus.len(), web.cpus[0].number),
            (Some(1), Some(2), 1, 0),
            "{folder}"
        );
        assert_eq!(web.memory.current, Some(512 << 20), "{folder}");
        assert!(web.memory.usable.unwrap() > 0 && web.memory.rss.unwrap() > 0, "{folder}: {:?}", web.memory);
        let targets: Vec<_> = web.disks.iter().map(|disk| (disk.target.as_str(), disk.capacity.is_some())).collect();
        assert_eq!(targets, [("vda", true), ("vdb", true), ("hda", false)], "{folder}");
        assert!(web.disks[0].reads.bytes.unwrap() > 1 << 20 && web.disks[0].writes.requests.unwrap() > 0, "{folder}");
        assert_eq!((web.interfaces.len(), web.interfaces[0].target.as_str()), (1, "vnet0"), "{folder}");
        assert!(web.interfaces[0].received.packets.unwrap() > 0, "{folder}");
        let off = &stats.vms[1];
        assert_eq!((off.cpu_time, off.cpus.len(), off.disks[0].capacity), (None, 0, Some(1 << 30)), "{folder}");
        let pools: Vec<_> =
            stats.pools.iter().map(|pool| (pool.name.as_str(), pool.active, pool.space.is_some())).collect();
        assert_eq!(pools, [("default", true, true), ("other pool", false, false)], "{folder}");
        let spaces = virsh.pool_spaces(&["default".to_owned(), "nosuch".to_owned()]).unwrap();
        assert!(spaces.len() == 1 && spaces["default"].capacity > spaces["default"].available, "{folder}");
    });
}

#[test]
fn storage_is_read_in_every_version() {
    replay("storage_is_read_in_every_version", |folder, virsh| {
        let storage = virsh.storage(false).unwrap();
        assert_eq!(storage.folders, [Utf8Path::new(POOL)], "{folder}");
        let base = format!("base-{}.qcow2", sha());
        let names: Vec<_> = storage.volumes.iter().map(|volume| volume.name.as_str()).collect();
        assert_eq!(
            names,
            [base.as_str(), "foreign.qcow2", "my disk (1).qcow2", "web-seed-1.iso", "web.qcow2"],
            "{folder}"
        );
        let backing: HashMap<_, _> =
            storage.volumes.iter().map(|volume| (&*volume.name, volume.backing.clone())).collect();
        assert_eq!(backing["web.qcow2"], Some(format!("{POOL}/{base}")), "{folder}");
        assert_eq!((&backing[&*base], &backing["my disk (1).qcow2"]), (&None, &None), "{folder}");
        let of = |name: &str| storage.domains.iter().find(|user| user.name == name).unwrap();
        let web = of("web");
        check_record(folder, web.metadata.as_ref().unwrap());
        for (path, format) in [("web.qcow2", "qcow2"), (&base, "qcow2"), ("web-seed-1.iso", "raw")] {
            let path = format!("{POOL}/{path}");
            let file = web.files.iter().find(|file| file.path == path).unwrap_or_else(|| panic!("{folder}: {path}"));
            assert_eq!(file.format.as_deref(), Some(format), "{folder}: {path}");
        }
        let [(name, files)] = &web.snapshots[..] else { panic!("{folder}: {:?}", web.snapshots) };
        assert_eq!(name, "whole");
        assert!(files.iter().any(|file| file.path == format!("{POOL}/web.qcow2")), "{folder}: {files:?}");
        let made = [format!("{POOL}/web.whole.qcow2"), format!("{POOL}/web.whole.mem")];
        assert_eq!(web.made_by_snapshots, made, "{folder}");
        let off = of(OFF_NAME);
        assert_eq!((off.snapshots[0].0.as_str(), off.made_by_snapshots.len()), ("internal one", 0), "{folder}");
        assert_eq!(of("foreign").files[0].path, "default/foreign.qcow2", "{folder}");
        assert!(virsh.has_snapshots(WEB).unwrap() && !virsh.has_snapshots(FOREIGN).unwrap(), "{folder}");

        assert_eq!(virsh.active_pools().unwrap(), ["default"], "{folder}");
        let pool = virsh.pool("default").unwrap().unwrap();
        assert_eq!((pool.kind.as_str(), pool.path.as_str(), pool.active), ("dir", POOL, true), "{folder}");
        let other = virsh.pool("other pool").unwrap().unwrap();
        assert_eq!((other.path.as_str(), other.active), ("/srv/other pool", false), "{folder}");
        assert_eq!(virsh.pool("nosuch").unwrap(), None, "{folder}");
        assert!(virsh.pool_autostarts("default").unwrap() && !virsh.pool_autostarts("other pool").unwrap(), "{folder}");
        let (disk, spaced) = (format!("{POOL}/web.qcow2"), format!("{POOL}/my disk (1).qcow2"));
        assert_eq!(virsh.volume("default", "web.qcow2").unwrap().unwrap().capacity, 3 << 30, "{folder}");
        assert_eq!(virsh.volume("default", "nosuch").unwrap(), None, "{folder}");
        assert_eq!(virsh.capacity_at(&disk).unwrap(), Some(3 << 30), "{folder}");
        assert!(virsh.volume_at(&disk).unwrap() && !virsh.volume_at("/nosuch").unwrap(), "{folder}");
        let expected = Some(("default".to_owned(), "my disk (1).qcow2".to_owned()));
        assert_eq!(virsh.volume_of(&spaced).unwrap(), expected, "{folder}");
        assert_eq!(virsh.volumes_like("default", "base-").unwrap(), [base], "{folder}");
        let overlay: Volume = from_xml("volume", &read(folder, "vol-dumpxml-overlay.xml")).unwrap();
        assert_eq!(overlay.capacity, 3 << 30, "{folder}");
    });
}

#[test]
fn the_guest_agent_is_called_in_every_version() {
    replay("the_guest_agent_is_called_in_every_version", |folder, virsh| {
        let sh = |script: &str, stdin: &[u8]| {
            virsh.guest_exec(WEB, "/bin/sh", &["-c".to_owned(), script.to_owned()], stdin).unwrap()
        };
        virsh.agent(WEB, &serde_json::json!({ "execute": "guest-ping" })).unwrap();
        let ended = sh("echo out; echo err >&2; exit 3", b"");
        assert_eq!(virsh.guest_exit_status(WEB, ended).unwrap(), Some(3), "{folder}");
        assert_eq!(virsh.guest_exit_status(WEB, sh("kill -9 $$", b"in")).unwrap(), Some(128 + 9), "{folder}");
        let sleeping = virsh.guest_exec(WEB, "/bin/sleep", &["600".to_owned()], b"").unwrap();
        assert_eq!(virsh.guest_exit_status(WEB, sleeping).unwrap(), None, "{folder}");
        let files = virsh.guest_open(WEB, "/etc/hostname", "/etc/shells").unwrap();
        let progress = virsh.guest_progress(WEB, Some(ended), files).unwrap();
        assert_eq!((progress.stdout.as_slice(), progress.status), (&b"web\n"[..], Some(3)), "{folder}");
        assert!(progress.stderr.starts_with(b"# /etc/shells: valid login shells\n"), "{folder}");
        assert_eq!(virsh.guest_progress(WEB, None, files).unwrap().status, None, "{folder}");
        virsh.guest_close(WEB, files).unwrap();
        let missing = virsh.guest_open(WEB, "/nonexistent", "/etc/shells").unwrap_err();
        assert!(missing.to_string().contains("No such file or directory"), "{folder}: {missing}");
        let unknown = virsh.agent(WEB, &serde_json::json!({ "execute": "guest-nonsense" })).unwrap_err();
        assert_eq!(unknown.code, Code::ToolFailed, "{folder}: {unknown}");
        // This domain is not running.
        assert_eq!(virsh.agent(OFF, &serde_json::json!({ "execute": "guest-ping" })).unwrap_err().code, Code::Conflict);
    });
}

#[test]
fn leases_and_events_are_read_in_every_version() {
    replay("leases_and_events_are_read_in_every_version", |folder, virsh| {
        let leases = virsh.operation_leases().unwrap();
        assert_eq!(leases.len(), 1, "{folder}");
        assert_eq!(
            (leases[0].uuid, leases[0].description.as_str()),
            (LEASE, "{\"pid\":1,\"what\":\"<web> é\"}"),
            "{folder}"
        );
        assert_eq!(virsh.operation_lease(OTHER_LEASE).unwrap(), None, "{folder}");

        let (mut connected, mut events) = (false, Vec::new());
        let on_event = |event: super::Event| {
            events.push((event.kind, event.domain, event.detail));
            Ok(ControlFlow::Continue(()))
        };
        virsh.events(None, None, || connected = true, on_event).unwrap();
        assert!(connected, "{folder}");
        let has = |kind: &str, domain: &str, detail: &str| {
            let expected = (kind.to_owned(), domain.to_owned(), detail.to_owned());
            assert!(events.contains(&expected), "{folder}: {expected:?} is missing in {events:#?}");
        };
        has("lifecycle", "web", "Started Booted");
        has("lifecycle", "foreign", "Suspended Paused");
        has("lifecycle", "foreign", "Stopped Destroyed");
        has("agent-lifecycle", "web", "state: 'connected' reason: 'channel event'");
        // Every line is an event; none is skipped silently.
        let lines = read(folder, "event.txt").lines().filter(|line| line.contains(": event '")).count();
        assert_eq!(events.len(), lines, "{folder}");
    });
}

/// Commands that failed, by a part of the command line, with the code and the fault that their error has.
fn failures() -> Vec<(&'static str, Code, Option<Fault>)> {
    vec![
        ("dumpxml --domain deadbeef", Code::NotFound, None),
        ("metadata --domain deadbeef", Code::NotFound, None),
        ("domstate no-such-vm", Code::NotFound, None),
        ("start --domain 6695eb01", Code::Conflict, None),
        ("destroy --domain 0b7e1f52", Code::Conflict, None),
        ("net-dumpxml --network nosuch", Code::NotFound, None),
        ("pool-dumpxml --pool nosuch", Code::NotFound, None),
        ("vol-dumpxml --pool default --vol nosuch", Code::NotFound, None),
        ("vol-path --pool default --vol nosuch", Code::NotFound, None),
        ("vol-path --vol /nosuch", Code::NotFound, None),
        ("vol-path --pool other", Code::Conflict, None),
        ("vol-delete --pool default --vol nosuch", Code::NotFound, None),
        ("vol-create-as --pool default --name a/b", Code::InvalidInput, None),
        ("pool-start --pool default", Code::Conflict, None),
        ("net-start --network default", Code::Conflict, None),
        ("net-start --network isolated", Code::AlreadyExists, Some(Fault::SubnetInUse)),
        ("pool-destroy --pool other", Code::Conflict, None),
        ("qemu:///system define /dev/stdin", Code::AlreadyExists, None),
        ("start --domain 0b7e1f52", Code::Conflict, Some(Fault::NetworkInactive("isolated".to_owned()))),
        ("snapshot-create-as", Code::AlreadyExists, None),
        ("qemu-agent-command --domain 0b7e1f52", Code::Conflict, None),
        ("qemu-agent-command --domain c0ffee00", Code::Conflict, None),
        ("qemu-agent-command --domain 51155155", Code::Conflict, None),
        ("--full --source agent", Code::Conflict, None),
        ("secret-dumpxml", Code::NotFound, None),
        ("secret-undefine", Code::NotFound, None),
        ("set-user-sshkeys", Code::NotFound, None),
        ("socket=/nosuch", Code::Unreachable, Some(Fault::NoConnection)),
        ("socket=/run/libvirt/stale", Code::Unreachable, Some(Fault::NoConnection)),
        ("setpriv", Code::Denied, Some(Fault::NoConnection)),
        ("test:///default nodememstats", Code::Conflict, None),
        ("test:///default secret-list", Code::Conflict, None),
    ]
}

#[test]
fn errors_have_the_same_code_in_every_version() {
    for folder in libvirts() {
        let failed: Vec<_> = manifest(&folder).into_iter().filter(|entry| entry.status != 0).collect();
        for (part, code, fault) in failures() {
            let found: Vec<&Captured> = failed.iter().filter(|entry| entry.command.contains(part)).collect();
            assert!(!found.is_empty(), "{folder}: no failure of `{part}` was captured");
            // The disk of the guest is missing in one of its failed starts.
            for entry in found.into_iter().filter(|entry| !entry.stderr.contains("Cannot access storage file")) {
                let error = failure::explain("x", "qemu:///system", &entry.stderr);
                assert_eq!((error.code, error.fault.as_deref()), (code, fault.as_ref()), "{folder}: {entry:?}");
                let first = complaints(&entry.stderr).into_iter().next().unwrap();
                assert!(code == Code::Denied || failure::classify(&first) == code, "{folder}: {first}");
            }
        }
        let find = |text: &str| {
            let found = failed.iter().find(|entry| entry.stderr.contains(text));
            found.unwrap_or_else(|| panic!("{folder}: no error with `{text}` was captured"))
        };
        let of = |text: &str| failure::explain("x", "qemu:///system", &find(text).stderr);
        assert_eq!(of("Cannot access storage file").code, Code::NotFound, "{folder}");
        assert_eq!(of("forwarding rule").fault.as_deref(), Some(&Fault::PortInUse), "{folder}");
        let (_, holder) = find("a secret with UUID ").stderr.split_once("a secret with UUID ").unwrap();
        assert_eq!(holder.split_whitespace().next().unwrap().parse(), Ok(LEASE), "{folder}");
        let unsupported = &find("unsupported flags").command;
        assert!(unsupported.contains("shutdown --domain test --mode acpi"), "{folder}: {unsupported}");
        let option =
            failed.iter().find(|entry| entry.command.contains("undefine") && entry.command.contains("nonsense"));
        assert!(option.unwrap().stderr.contains("support option --nonsense"), "{folder}");
    }
}

#[test]
fn a_volume_that_exists_has_the_same_code_in_every_version() {
    for folder in libvirts() {
        let part = "vol-create-as --pool default --name web.qcow2";
        let exists = manifest(&folder).into_iter().find(|entry| entry.command.contains(part)).unwrap();
        assert_eq!(failure::classify(&exists.stderr), Code::AlreadyExists, "{folder}: {}", exists.stderr);
    }
}
