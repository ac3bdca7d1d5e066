//! Calls as models get them wrong, and what they are told: what is wrong, what would be right, and what to call next.

use serde_json::{Value, json};

use super::{JSON, agent::Hand, serve, server, support::TestHost, told};

/// A tool, its arguments, what is told, and the tool to call next.
type Wrong = (&'static str, fn() -> Value, &'static str, &'static str);

/// The same over both transports.
const CALLS: &[Wrong] = &[
    (
        "vm_info",
        || json!({}),
        "the member `name` is missing. `name`: VM, by name or UUID, as in \"web\". Correct it, and call again: vm_info",
        "vm_info",
    ),
    (
        "vm_info",
        || json!({"name": "tset"}),
        "there is no VM `tset`. Did you mean `test`? `vm_list` shows the VMs there are.",
        "vm_list",
    ),
    (
        "vm_info",
        || json!({"vm": "test"}),
        "there is no member `vm` in this request. Did you mean `name`? Correct it, and call again: vm_info",
        "vm_info",
    ),
    (
        "vm_start",
        || json!({"name": ["test"]}),
        "the member `name` is no text. Correct it, and call again: vm_start",
        "vm_start",
    ),
    (
        "vm_create",
        || json!({"name": "My VM"}),
        "the member `name` cannot be used: `My VM` cannot be a name: it contains `M`. `name`: Name of the VM, which is also \
         its host name, as in \"web\". Correct it, and call again: vm_create",
        "vm_create",
    ),
    (
        "vm_create",
        || json!({"name": "web", "memory": "lots"}),
        "the member `memory` cannot be used: `lots` is no memory size: it does not begin with a whole number. `memory`: \
         Memory; a number alone is MiB, as in \"2G\". Correct it, and call again: vm_create {\"name\":\"web\"}",
        "vm_create",
    ),
    (
        "vm_create",
        || json!({"name": "web", "disk_size": 20}),
        "there is no member `disk_size` in this request. Did you mean `diskSize`? Its members are name, image, imageUrl, \
         checksum, requireVerified, pull, iso, memory, vcpus, diskSize, network, sshKeys, user, userData, start, ttl, \
         autostart, ifExists, wait, timeout, confirm. Correct it, and call again: vm_create {\"name\":\"web\"}",
        "vm_create",
    ),
    (
        "vm_create",
        || json!({"name": "web", "image": "debain:12"}),
        "there is no image `debain:12`. Did you mean `debian:12` or `debian:13` or `debian:11`? `image_search` and \
         `image_list` show the images there are.",
        "image_search",
    ),
    (
        "vm_create",
        || json!({"name": "web", "image": "/etc/passwd"}),
        "the file `/etc/passwd` may not be named: it is in no folder that the operator allows. Give a name of `image_search` \
         or an https:// URL. The operator may allow a folder with --allow-image-folder DIR.",
        "image_search",
    ),
    (
        "vm_create",
        || json!({"name": "web", "imageUrl": "http://169.254.169.254/latest"}),
        "cannot fetch `http://169.254.169.254/latest`: images are fetched over https alone. The operator may allow the host \
         with --allow-image-host 169.254.169.254. See what there is: image_search",
        "image_search",
    ),
    (
        "vm_create",
        || json!({"name": "web", "image": "debian:12", "sshKeys": ["dev"]}),
        "there is no key `dev`. Make it: ssh_key_generate {\"name\":\"dev\"}",
        "ssh_key_generate",
    ),
    (
        "vm_create",
        || json!({"name": "web", "wait": "ssh"}),
        "without an image there will be no ssh to wait for. Correct it, and call again: vm_create {\"name\":\"web\"}",
        "vm_create",
    ),
    (
        "vm_create",
        || json!({"name": "test"}),
        "there is a VM `test` already. Choose another name, or remove it: vm_delete. See how it is: vm_info \
         {\"name\":\"test\"}",
        "vm_info",
    ),
    (
        "vm_inject_ssh_key",
        || json!({"vmName": "test", "keyName": "dev"}),
        "there is no key `dev`. Make it: ssh_key_generate {\"name\":\"dev\"}",
        "ssh_key_generate",
    ),
    (
        "vm_inject_ssh_key",
        || json!({"name": "test", "key": "dev"}),
        "there is no member `key` in this request. Did you mean `keyName`? Correct it, and call again: vm_inject_ssh_key",
        "vm_inject_ssh_key",
    ),
    (
        "vm_exec",
        || json!({"name": "test", "command": "uname -a"}),
        "the member `command` cannot be used: text was given: \"uname -a\", expected a list. `command`: Command and its \
         arguments, which no shell looks at; for one: sh -c '…', as in [\"uname\",\"-a\"]. Correct it, and call again: vm_exec \
         {\"name\":\"test\"}",
        "vm_exec",
    ),
    (
        "vm_exec",
        || json!({"name": "test", "command": []}),
        "the member `command` has too few items. `command`: Command and its arguments, which no shell looks at; for one: sh -c \
         '…', as in [\"uname\",\"-a\"]. Correct it, and call again: vm_exec {\"name\":\"test\"}",
        "vm_exec",
    ),
    (
        "vm_wait",
        || json!({"name": "test", "for": "login"}),
        "the member `for` cannot be used: unknown word `login`, expected one of `running`, `ip`, `ssh`, `cloud-init`, `agent`, \
         `stopped`. `for`: What to wait for. Correct it, and call again: vm_wait {\"name\":\"test\"}",
        "vm_wait",
    ),
    (
        "vm_set",
        || json!({"name": "test"}),
        "nothing is said of what to change. Give at least one of `memory`, `vcpus`, `diskSize`, `autostart` and `description`. \
         Correct it, and call again: vm_set {\"name\":\"test\"}",
        "vm_set",
    ),
    (
        "vm_logs",
        || json!({"name": "test"}),
        "libvirt keeps no log of the console of the VM `test`. It keeps one of the VMs that this version of vmprov creates. \
         Look at the console itself: the operator's vmprov vm console VM. See how it is: vm_info {\"name\":\"test\"}",
        "vm_info",
    ),
    (
        "vm_ssh_command",
        || json!({"name": "test"}),
        "the VM `test` cannot be logged in to now: vmprov does not know the host keys of the VM `test`, so it cannot tell it \
         from another. Wait until it can: vm_wait {\"name\":\"test\",\"for\":\"ssh\"}",
        "vm_wait",
    ),
    (
        "ssh_key_generate",
        || json!({"name": "dev", "type": "dsa"}),
        "the member `type` cannot be used: unknown word `dsa`, expected `rsa` or `ed25519`. `type`: Type of the key. Correct \
         it, and call again: ssh_key_generate {\"name\":\"dev\"}",
        "ssh_key_generate",
    ),
    (
        "operation_get",
        || json!({"id": "3f2c2b1e-8a1d-4c43-9a55-0d6b7a1c9e10"}),
        "there is no operation `3f2c2b1e-8a1d-4c43-9a55-0d6b7a1c9e10`. What has ended is forgotten after a while, and when the \
         service is started again. See what there is: vm_list",
        "vm_list",
    ),
    (
        "operation_get",
        || json!({"id": "3f2c2b1e-8a1d-4c43-9a55-0d6b7a1c9e10", "wait": 600}),
        "the member `wait` cannot be used: 50 seconds are the most. `wait`: How many seconds to wait for its end before \
         answering how far it is. Correct it, and call again: operation_get {\"id\":\"3f2c2b1e-8a1d-4c43-9a55-0d6b7a1c9e10\"}",
        "operation_get",
    ),
    (
        "doctor",
        || json!({"checks": ["networks"]}),
        "there is no check `networks`. Did you mean `network.subnet` or `network.dnsmasq` or `network.active`? the operator's \
         `doctor --list` shows them. Leave them out to run all: doctor",
        "doctor",
    ),
    (
        "vm_create",
        || json!({"name": "web", "image": "ubuntu-22.04"}),
        "there is no image `ubuntu-22.04`. Did you mean `ubuntu:22.04` or `ubuntu:26.04` or `ubuntu:24.04`? `image_search` and \
         `image_list` show the images there are.",
        "image_search",
    ),
    (
        "vm_create",
        || json!({"name": "web", "memory": "2GB"}),
        "the member `memory` cannot be `2GB`. `memory`: Memory; a number alone is MiB, as in \"2G\". Correct it, and call \
         again: vm_create {\"name\":\"web\"}",
        "vm_create",
    ),
    (
        "vm_wait",
        || json!({"name": "test", "timeout": "1 min"}),
        "the member `timeout` cannot be `1 min`. `timeout`: How long at most, as in \"5m\". Correct it, and call again: \
         vm_wait {\"name\":\"test\"}",
        "vm_wait",
    ),
];

#[test]
fn a_model_that_calls_wrongly_is_told_what_to_call() {
    let host = TestHost::new();
    let mut hand = Hand::shake(&server(&host, &[]));
    let service = serve(&host, &[]);
    for (tool, arguments, text, next) in CALLS {
        let arguments = arguments();
        let (said, calls) = told(&hand.call(tool, &arguments));
        assert_eq!((said.as_str(), calls["tool"].as_str()), (*text, Some(*next)), "{tool} {arguments}");
        let answer = service.client.send("POST", &format!("/api/tools/{tool}"), &[JSON], &arguments.to_string());
        let problem = answer.value();
        assert!((400..500).contains(&answer.status), "{tool} {arguments}: {answer}");
        assert_eq!((problem["detail"].as_str(), &problem["next"]), (Some(*text), &calls), "{tool} {arguments}");
    }
    service.end().end().succeeds();
}

#[test]
fn nothing_is_deleted_by_mistake() {
    let host = TestHost::new();
    let mut hand = Hand::shake(&server(&host, &[]));
    let told_twice = "a VM is deleted only where its name is given again. Nothing was done. Give the same as `name` and as `confirm`: \
                      test. Correct it, and call again:";
    for (tool, arguments, text) in [
        ("vm_delete", json!({"name": "test"}), format!("{told_twice} vm_delete {{\"name\":\"test\"}}")),
        ("vm_create", json!({"name": "test", "ifExists": "replace"}), format!("{told_twice} vm_create {{\"name\":\"test\"}}")),
        (
            "vm_delete",
            json!({"name": "test", "confirm": "tset"}),
            "`confirm` is not the same as `name`. Nothing was done. Give the same as `name` and as `confirm`. Correct it, and \
             call again: vm_delete".to_owned(),
        ),
        (
            "vm_delete",
            json!({"name": "test", "confirm": "test"}),
            "vmprov did not make the VM `test`, so it does not delete it. To remove it and keep its disks: the operator's `vm delete \
             test --unmanaged`. See how it is: vm_info {\"name\":\"test\"}".to_owned(),
        ),
        (
            "vm_delete",
            json!({"name": "test", "confirm": "test", "unmanaged": true}),
            "there is no member `unmanaged` in this request. Its members are name, ignoreMissing, confirm. Correct it, and call \
             again: vm_delete {\"name\":\"test\"}".to_owned(),
        ),
    ] {
        let (said, next) = told(&hand.call(tool, &arguments));
        assert_eq!(said, text, "{tool} {arguments}");
        assert!(next["tool"] == tool || next["tool"] == "vm_info", "{next}");
    }
}
