//! Wrong calls as models make them. The error says what is wrong, what is valid, and what to call next.

use serde_json::{Value, json};

use super::{JSON, agent::HandshakeClient, error_of, serve, server, support::TestHost};

/// A tool, its arguments, the text of the error, and the tool to call next.
type Wrong = (&'static str, fn() -> Value, &'static str, &'static str);

/// The errors are the same over MCP and over HTTP.
const CALLS: &[Wrong] = &[
    (
        "vm_info",
        || json!({}),
        "missing member `name`. Check `name`: VM, by name or UUID, as in \"web\". Correct the arguments and call again: vm_info",
        "vm_info",
    ),
    (
        "vm_info",
        || json!({"name": "tset"}),
        "VM `tset` does not exist. Check the name; similar: `test`. List the VMs: vm_list",
        "vm_list",
    ),
    (
        "vm_info",
        || json!({"vm": "test"}),
        "unknown member `vm`. Use `name` instead, if that is what you meant. Correct the arguments and call again: vm_info",
        "vm_info",
    ),
    (
        "vm_start",
        || json!({"name": ["test"]}),
        "invalid member `name`: it must be text. Correct the arguments and call again: vm_start",
        "vm_start",
    ),
    (
        "vm_create",
        || json!({"name": "My VM"}),
        "invalid member `name`: invalid name `My VM`: it contains `M`. Check `name`: Name of the VM, also its host name, as \
         in \"web\". Correct the arguments and call again: vm_create",
        "vm_create",
    ),
    (
        "vm_create",
        || json!({"name": "web", "memory": "lots"}),
        "invalid member `memory`: invalid memory size `lots`: it must begin with a whole number. Check `memory`: Memory; a \
         number alone is MiB, as in \"2G\". Correct the arguments and call again: vm_create {\"name\":\"web\"}",
        "vm_create",
    ),
    (
        "vm_create",
        || json!({"name": "web", "disk_size": 20}),
        "unknown member `disk_size`. Use `diskSize` instead, if that is what you meant. Use the members name, image, \
         imageUrl, checksum, requireVerified, pull, iso, memory, vcpus, diskSize, network, sshKeys, user, userData, start, \
         ttl, autostart, ifExists, wait, timeout, confirm. Correct the arguments and call again: vm_create \
         {\"name\":\"web\"}",
        "vm_create",
    ),
    (
        "vm_create",
        || json!({"name": "web", "image": "debain:12"}),
        "image `debain:12` does not exist. Check the name; similar: `debian:12`, `debian:13`, `debian:11`. List the known \
         images: image_search",
        "image_search",
    ),
    (
        "vm_create",
        || json!({"name": "web", "image": "/etc/passwd"}),
        "cannot use the file `/etc/passwd`: it is outside the folders that the operator allows. Choose a published image \
         or an https:// URL: image_search. Ask the operator to allow its folder (on the host): \
         vmprov serve --allow-image-folder DIR",
        "image_search",
    ),
    (
        "vm_create",
        || json!({"name": "web", "imageUrl": "http://169.254.169.254/latest"}),
        "cannot fetch `http://169.254.169.254/latest`: images can only be fetched over https. Choose a published image: \
         image_search. Ask the operator to allow the host (on the host): vmprov serve --allow-image-host 169.254.169.254",
        "image_search",
    ),
    (
        "vm_create",
        || json!({"name": "web", "image": "debian:12", "sshKeys": ["dev"]}),
        "key `dev` does not exist. Generate it: ssh_key_generate {\"name\":\"dev\"}",
        "ssh_key_generate",
    ),
    (
        "vm_create",
        || json!({"name": "web", "wait": "ssh"}),
        "cannot wait for ssh without an image. Give a cloud image: `image`. Correct the arguments and call again: vm_create \
         {\"name\":\"web\"}",
        "vm_create",
    ),
    (
        "vm_create",
        || json!({"name": "test"}),
        "VM `test` already exists. Choose another name. Delete the existing VM: vm_delete. Check its state: vm_info \
         {\"name\":\"test\"}",
        "vm_info",
    ),
    (
        "vm_inject_ssh_key",
        || json!({"vmName": "test", "keyName": "dev"}),
        "key `dev` does not exist. Generate it: ssh_key_generate {\"name\":\"dev\"}",
        "ssh_key_generate",
    ),
    (
        "vm_inject_ssh_key",
        || json!({"name": "test", "key": "dev"}),
        "unknown member `key`. Use `keyName` instead, if that is what you meant. Correct the arguments and call again: \
         vm_inject_ssh_key",
        "vm_inject_ssh_key",
    ),
    (
        "vm_exec",
        || json!({"name": "test", "command": "uname -a"}),
        "invalid member `command`: text was given: \"uname -a\", expected a list. Check `command`: Command and its \
         arguments, run without a shell; to use one: sh -c '…', as in [\"uname\",\"-a\"]. Correct the arguments and call \
         again: vm_exec {\"name\":\"test\"}",
        "vm_exec",
    ),
    (
        "vm_exec",
        || json!({"name": "test", "command": []}),
        "invalid member `command`: too few items, the minimum is 1. Check `command`: Command and its arguments, run without \
         a shell; to use one: sh -c '…', as in [\"uname\",\"-a\"]. Correct the arguments and call again: vm_exec \
         {\"name\":\"test\"}",
        "vm_exec",
    ),
    (
        "vm_wait",
        || json!({"name": "test", "for": "login"}),
        "invalid member `for`: unknown word `login`, expected one of `running`, `ip`, `ssh`, `cloud-init`, `agent`, \
         `stopped`. Check `for`: State to wait for. Correct the arguments and call again: vm_wait {\"name\":\"test\"}",
        "vm_wait",
    ),
    (
        "vm_set",
        || json!({"name": "test"}),
        "no changes requested. Request a change: `memory`, `vcpus`, `diskSize`, `autostart`, `description`. Correct the \
         arguments and call again: vm_set {\"name\":\"test\"}",
        "vm_set",
    ),
    (
        "vm_logs",
        || json!({"name": "test"}),
        "libvirt keeps no console log of VM `test`. Attach to the console instead (on the host): vmprov vm console test. \
         Create the VM again with this version of vmprov, which keeps a log. Check its state: vm_info {\"name\":\"test\"}",
        "vm_info",
    ),
    (
        "vm_ssh_command",
        || json!({"name": "test"}),
        "cannot log in to VM `test`: cannot verify VM `test`: its host keys are not known. Wait for SSH: vm_wait \
         {\"name\":\"test\",\"for\":\"ssh\"}",
        "vm_wait",
    ),
    (
        "ssh_key_generate",
        || json!({"name": "dev", "type": "dsa"}),
        "invalid member `type`: unknown word `dsa`, expected `rsa` or `ed25519`. Check `type`: Type of the key. Correct the \
         arguments and call again: ssh_key_generate {\"name\":\"dev\"}",
        "ssh_key_generate",
    ),
    (
        "operation_get",
        || json!({"id": "3f2c2b1e-8a1d-4c43-9a55-0d6b7a1c9e10"}),
        "operation `3f2c2b1e-8a1d-4c43-9a55-0d6b7a1c9e10` does not exist. Check the ID: ended operations are forgotten after \
         a while and when the service restarts. List the existing VMs: vm_list",
        "vm_list",
    ),
    (
        "operation_get",
        || json!({"id": "3f2c2b1e-8a1d-4c43-9a55-0d6b7a1c9e10", "wait": 600}),
        "invalid member `wait`: the maximum is 50 seconds. Check `wait`: Maximum time to wait for the end of the operation, \
         in seconds. Correct the arguments and call again: operation_get {\"id\":\"3f2c2b1e-8a1d-4c43-9a55-0d6b7a1c9e10\"}",
        "operation_get",
    ),
    (
        "doctor",
        || json!({"checks": ["networks"]}),
        "check `networks` does not exist. Check the name; similar: `network.subnet`, `network.dnsmasq`, `network.active`. List \
         the checks (on the host): vmprov doctor --list. Run all checks: doctor",
        "doctor",
    ),
    (
        "vm_create",
        || json!({"name": "web", "image": "ubuntu-22.04"}),
        "image `ubuntu-22.04` does not exist. Check the name; similar: `ubuntu:22.04`, `ubuntu:26.04`, `ubuntu:24.04`. List the \
         known images: image_search",
        "image_search",
    ),
    (
        "vm_create",
        || json!({"name": "web", "memory": "2GB"}),
        "invalid member `memory`: `2GB`. Check `memory`: Memory; a number alone is MiB, as in \"2G\". Correct the arguments \
         and call again: vm_create {\"name\":\"web\"}",
        "vm_create",
    ),
    (
        "vm_wait",
        || json!({"name": "test", "timeout": "1 min"}),
        "invalid member `timeout`: `1 min`. Check `timeout`: Time limit of the wait, as in \"5m\". Correct the arguments and \
         call again: vm_wait {\"name\":\"test\"}",
        "vm_wait",
    ),
];

#[test]
fn the_error_of_a_wrong_call_suggests_the_next_call() {
    let host = TestHost::new();
    let mut client = HandshakeClient::connect(&server(&host, &[]));
    let service = serve(&host, &[]);
    for (tool, arguments, text, next) in CALLS {
        let arguments = arguments();
        let (error, suggested) = error_of(&client.call(tool, &arguments));
        assert_eq!((error.as_str(), suggested["tool"].as_str()), (*text, Some(*next)), "{tool} {arguments}");
        let answer = service.client.send("POST", &format!("/api/tools/{tool}"), &[JSON], &arguments.to_string());
        let problem = answer.value();
        assert!((400..500).contains(&answer.status), "{tool} {arguments}: {answer}");
        assert_eq!((problem["detail"].as_str(), &problem["next"]), (Some(*text), &suggested), "{tool} {arguments}");
    }
    service.end().end().succeeds();
}

#[test]
fn deleting_a_vm_requires_a_confirmation() {
    let host = TestHost::new();
    let mut client = HandshakeClient::connect(&server(&host, &[]));
    let unconfirmed = "deleting a VM requires a confirmation: `confirm` must equal `name`. Repeat the name in `confirm`: \
                       test. Correct the arguments and call again:";
    for (tool, arguments, text) in [
        ("vm_delete", json!({"name": "test"}), format!("{unconfirmed} vm_delete {{\"name\":\"test\"}}")),
        ("vm_create", json!({"name": "test", "ifExists": "replace"}), format!("{unconfirmed} vm_create {{\"name\":\"test\"}}")),
        (
            "vm_delete",
            json!({"name": "test", "confirm": "tset"}),
            "`confirm` does not equal `name`. Repeat the name of the VM in `confirm`. Correct the arguments and call again: \
             vm_delete".to_owned(),
        ),
        (
            "vm_delete",
            json!({"name": "test", "confirm": "test"}),
            "VM `test` is not managed by vmprov. Delete it but keep its disks (on the host): vmprov vm delete test --unmanaged. \
             Check its state: vm_info {\"name\":\"test\"}".to_owned(),
        ),
        (
            "vm_delete",
            json!({"name": "test", "confirm": "test", "unmanaged": true}),
            "unknown member `unmanaged`. Use the members name, ignoreMissing, confirm. Correct the arguments and call again: \
             vm_delete {\"name\":\"test\"}".to_owned(),
        ),
    ] {
        let (error, next) = error_of(&client.call(tool, &arguments));
        assert_eq!(error, text, "{tool} {arguments}");
        assert!(next["tool"] == tool || next["tool"] == "vm_info", "{next}");
    }
}
