//! Pools, networks and packet filters.

use std::{fs, os::unix::fs::PermissionsExt};

use serde_json::{Value, json};

use super::{
    CONFLICT, DENIED, NOT_FOUND, POOL_OK, RestoreOnDrop, check, fixable, fixed, lab::Lab, run_inside, shell_inside,
    without_fix,
};

#[test]
fn an_inactive_pool_is_started() {
    let lab = Lab::warm();
    let before = lab.snapshot();
    lab.virsh(&["pool-destroy", "default"]);
    lab.virsh(&["pool-autostart", "--disable", "default"]);
    let start = "virsh -c qemu:///system pool-start --pool default";
    let found = fixable("pool.active", "warn", "the pool `default` is not started", start, true);
    assert_eq!(check(&lab, 0, "pool.active", &[]), found);
    assert_eq!(
        check(&lab, 0, "pool.space", &[]),
        without_fix("pool.space", "skip", "the pool `default` is not started")
    );
    let actions = ["started the pool `default`", "enabled autostart of the pool `default`"];
    assert_eq!(check(&lab, 0, "pool.active", &["--fix"]), fixed(without_fix("pool.active", "ok", POOL_OK), &actions));
    assert_eq!(check(&lab, 0, "pool.active", &["--fix"]), without_fix("pool.active", "ok", POOL_OK));
    assert_eq!(lab.virsh(&["pool-list", "--autostart", "--name"]).trim(), "default");
    lab.settles(&before, "after the pool was fixed");
}

/// A pool whose folder is not accessible to QEMU's user.
#[test]
fn a_folder_closed_to_qemu_is_named_by_check_and_error() {
    let lab = Lab::warm();
    let before = lab.snapshot();
    let closed = lab.pool_folder().with_file_name("closed");
    let pool = ["--pool", "closed", "--pool-path", "/var/lib/libvirt/closed/vms"];
    let in_pool = |words: &[&str]| lab.run(&[&pool, words].concat());
    in_pool(&["vm", "create", "web", "--no-start"]).succeeded();
    let chmod = |mode| fs::set_permissions(&closed, fs::Permissions::from_mode(mode)).unwrap();
    chmod(0o700);

    let observed = "QEMU's user `libvirt-qemu` may not enter /var/lib/libvirt/closed (0700 root:root) on the path to ";
    let fix = "sudo setfacl -m u:libvirt-qemu:x /var/lib/libvirt/closed";
    let ran = in_pool(&["doctor", "pool.reachable", "--fix", "-o", "json"]).failed_with(DENIED);
    let found = &ran.json()["checks"][0];
    let expected = json!({"id": "pool.reachable", "status": "fail",
        "observed": format!("{observed}/var/lib/libvirt/closed/vms"), "code": "denied", "fixCommand": fix,
        "safe": false, "fixed": false, "actions": []});
    assert_eq!(*found, expected, "opening a folder is not a safe fix");

    // Operations that fail for this reason give the same hint.
    let hint = format!("hint: {observed}/var/lib/libvirt/closed/vms/web.qcow2: {fix}\n");
    for words in [&["vm", "start", "web"][..], &["-q", "vm", "create", "web2", "--memory", "64", "--vcpus", "1"]] {
        let ran = in_pool(words).failed_with(NOT_FOUND);
        let hint = hint.replace("web.qcow2", if words.contains(&"web2") { "web2.qcow2" } else { "web.qcow2" });
        assert!(ran.stderr.starts_with("error: cannot start the VM\n  why: "), "{ran}");
        assert!(ran.stderr.contains("Cannot access storage file") && ran.stderr.ends_with(&hint), "{ran}");
    }
    let ran = in_pool(&["vm", "start", "web", "-o", "json"]).failed_with(NOT_FOUND);
    let error: Value = serde_json::from_str(&ran.stderr).unwrap();
    assert_eq!(error["hint"], hint.trim_start_matches("hint: ").trim_end(), "{error}");

    // The command in the hint fixes it.
    run_inside(&lab, &["setfacl", "-m", "u:libvirt-qemu:x", "/var/lib/libvirt/closed"]);
    in_pool(&["doctor", "pool.reachable"]).succeeded();
    in_pool(&["vm", "start", "web"]).succeeded();
    run_inside(&lab, &["setfacl", "-b", "/var/lib/libvirt/closed"]);
    in_pool(&["doctor", "pool.reachable"]).failed_with(DENIED);
    chmod(0o711);
    in_pool(&["doctor", "pool.reachable"]).succeeded();

    // A missing folder is created again.
    in_pool(&["vm", "delete", "web", "--yes"]).succeeded();
    fs::remove_dir(closed.join("vms")).unwrap();
    let ran = in_pool(&["doctor", "pool.reachable"]).failed_with(NOT_FOUND);
    assert!(
        ran.stdout.contains("the folder /var/lib/libvirt/closed/vms of the pool `closed` does not exist\n"),
        "{ran}"
    );
    let ran = in_pool(&["doctor", "pool.reachable", "--fix"]).succeeded();
    assert!(ran.stdout.contains("\n      fixed: created the folder of the pool `closed`\n"), "{ran}");
    assert!(closed.join("vms").is_dir());

    lab.virsh(&["pool-destroy", "closed"]);
    lab.virsh(&["pool-undefine", "closed"]);
    fs::remove_dir_all(&closed).unwrap();
    lab.settles_without(&before, |line| line.contains("home .cache/vmprov/"), "after the closed pool was removed");
}

#[test]
fn an_inactive_network_is_started_and_named_in_the_error() {
    let lab = Lab::warm();
    let before = lab.snapshot();
    lab.run(&["vm", "create", "web", "--no-start", "--memory", "64", "--vcpus", "1"]).succeeded();
    lab.virsh(&["net-destroy", "default"]);
    lab.virsh(&["net-autostart", "--disable", "default"]);
    let start = "virsh -c qemu:///system net-start --network default";
    let found = fixable("network.active", "warn", "the network `default` is not started", start, true);
    assert_eq!(check(&lab, 0, "network.active", &[]), found);
    for id in ["network.forwarding", "network.firewall"] {
        assert_eq!(check(&lab, 0, id, &[]), without_fix(id, "skip", "the network `default` is not started"));
    }
    let ran = lab.run(&["vm", "start", "web"]).failed_with(CONFLICT);
    assert!(ran.stderr.ends_with(&format!("hint: the network `default` is not started: {start}\n")), "{ran}");
    let actions = ["started the network `default`", "enabled autostart of the network `default`"];
    let passed = without_fix("network.active", "ok", "`default` (nat) 192.168.122.1/24 on virbr0");
    assert_eq!(check(&lab, 0, "network.active", &["--fix"]), fixed(passed.clone(), &actions));
    assert_eq!(check(&lab, 0, "network.active", &["--fix"]), passed);
    lab.run(&["vm", "delete", "web", "--yes"]).succeeded();
    lab.settles_without(&before, |line| line.contains("dnsmasq"), "after the network was fixed");
}

#[test]
fn a_subnet_that_another_interface_routes_is_reported() {
    let lab = Lab::warm();
    let edit = "virsh -c qemu:///system net-edit --network default";
    let observed = "the network `default` uses 192.168.122.1/24, but taken0 already routes 192.168.122.64/26";
    shell_inside(
        &lab,
        "ip link add taken0 type bridge && ip link set taken0 up && ip address add 192.168.122.77/26 dev taken0",
    );
    assert_eq!(check(&lab, 0, "network.subnet", &[]), fixable("network.subnet", "warn", observed, edit, false));
    lab.virsh(&["net-destroy", "default"]);
    assert_eq!(check(&lab, CONFLICT, "network.subnet", &[]), fixable("network.subnet", "fail", observed, edit, false));
    shell_inside(&lab, "ip link delete taken0");
    lab.virsh(&["net-start", "default"]);
    check(&lab, 0, "network.subnet", &[]);
}

#[test]
fn a_packet_filter_that_drops_packets_is_reported_with_a_fix() {
    let lab = Lab::warm();
    let passed = without_fix("network.firewall", "ok", "no chain drops packets from or to virbr0");
    let accept = "sudo iptables -I CHAIN -i virbr0 -j ACCEPT && sudo iptables -I CHAIN -o virbr0 -j ACCEPT";
    let observed = "ip filter FORWARD drops packets from or to virbr0";
    // Like a program that starts after libvirt and replaces the whole chain, including libvirt's rules.
    let drop_all = "iptables -F FORWARD && iptables -P FORWARD DROP";
    let rules = lab.write("rules", "");
    shell_inside(&lab, &format!("iptables-save -t filter >{rules}"));
    let undo = format!("iptables-restore {rules}");
    let undo = undo.as_str();
    let forward = "echo 1 >/proc/sys/net/ipv4/ip_forward";
    let _restore =
        RestoreOnDrop(&lab, format!("{undo}; iptables-legacy -P FORWARD ACCEPT; iptables-legacy -F; {forward}"));
    for (setup, observed, fix, teardown) in [
        (drop_all, observed.to_owned(), accept.replace("CHAIN", "FORWARD"), undo),
        (
            &format!("{drop_all} && iptables -N DOCKER-USER && iptables -I FORWARD -j DOCKER-USER"),
            format!("{observed} (a chain of Docker)"),
            accept.replace("CHAIN", "DOCKER-USER"),
            undo,
        ),
        (
            "iptables-legacy -P FORWARD DROP",
            observed.to_owned(),
            accept.replace("CHAIN", "FORWARD").replace("iptables", "iptables-legacy"),
            "iptables-legacy -P FORWARD ACCEPT; iptables-legacy -F",
        ),
        (
            "nft add table inet own && nft 'add chain inet own in { type filter hook input priority 0; policy drop; }'",
            "inet own in drops packets from or to virbr0".to_owned(),
            "sudo nft insert rule inet own in iifname virbr0 accept".to_owned(),
            "nft delete table inet own",
        ),
    ] {
        shell_inside(&lab, setup);
        let found = check(&lab, 0, "network.firewall", &["--fix"]);
        assert_eq!(found, fixable("network.firewall", "warn", &observed, &fix, false), "{setup}");
        shell_inside(&lab, &fix);
        assert_eq!(check(&lab, 0, "network.firewall", &[]), passed, "{fix}");
        shell_inside(&lab, teardown);
        assert_eq!(check(&lab, 0, "network.firewall", &[]), passed, "{teardown}");
    }

    // With libvirt's rules, the same chain does not drop the packets.
    shell_inside(&lab, "iptables -P FORWARD DROP");
    assert_eq!(check(&lab, 0, "network.firewall", &[]), passed);
    shell_inside(&lab, undo);

    shell_inside(&lab, "echo 0 >/proc/sys/net/ipv4/ip_forward");
    let observed = "the kernel does not forward IPv4 packets: this was disabled after libvirt enabled it";
    let fix = "sudo sysctl -w net.ipv4.ip_forward=1";
    assert_eq!(check(&lab, 0, "network.forwarding", &[]), fixable("network.forwarding", "warn", observed, fix, false));
    shell_inside(&lab, forward);
    check(&lab, 0, "network.forwarding", &[]);
}
