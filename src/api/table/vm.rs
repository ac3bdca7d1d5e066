//! Operations on VMs: their lifecycle and their lifetime.

use serde_json::json;

use super::{NOTHING, Nothing};
use crate::{
    api::{
        Effect, Kind, Operation,
        Resource::{Disk, Images, Memory, Vcpus, Vms},
        builder::{change, change_vm, read},
        constraints,
        tool::tool,
    },
    model::{change::Change, vm::NewVm},
    ops::vm::{self, DeleteOptions, ListOptions, NewCommit, NewInjection, NewTtl, NewVmName, StopOptions},
};

pub(super) fn lifecycle() -> Vec<Operation> {
    let web = || json!({"vm": "web"});
    vec![
        read("vm_list", "vm list", "/api/vms")
            .about("List VMs")
            .tool(tool("List VMs", "Lists the virtual machines with their state. Start here."))
            .shell(&[("List every VM", "vmprov vm list"), ("Print the names for a script", "vmprov vm list -o name")])
            .run(|host, options: ListOptions| vm::list(host, options)),
        change_vm("vm_create", "vm create", "POST", "/api/vms")
            .about("Create a VM and start it")
            .tool(
                tool(
                    "Create a VM",
                    "Creates a virtual machine and starts it. Give an image (such as debian:12; image_search lists \
                     published images, image_list local ones) or an imageUrl; without either the disk is blank and \
                     nothing boots. Give sshKeys (ssh_key_generate creates a key) to allow logins, and wait: \"ssh\" \
                     to return when a login works. Give a ttl to a temporary VM. Next: vm_wait, then vm_exec or \
                     vm_ssh_command.",
                )
                .open_world()
                .confirms(),
            )
            .shell(&[
                (
                    "Create a VM and wait until you can log in",
                    "vmprov vm create web --image debian:12 --ssh-key dev --wait",
                ),
                (
                    "Create a VM for two hours, from a script that may run again",
                    "vmprov vm create ci --image ubuntu:24.04 --ssh-key dev --ttl 2h --if-exists replace",
                ),
                ("Print what would be done", "vmprov vm create web --image debian:12 --ssh-key dev --dry-run"),
            ])
            .takes(&[Vms, Vcpus, Memory, Disk, Images])
            .creates(Kind::Vm, "name")
            .example(json!({"name": "web"}))
            .rules(&constraints::create(), NewVm::check)
            .names(Kind::Image, "image")
            .names(Kind::Network, "network")
            .names(Kind::Key, "sshKeys")
            .run(|host, new: NewVm| vm::create(host, &new)),
        read("vm_info", "vm info", "/api/vms/{vm}")
            .about("Show details of a VM")
            .tool(tool("Show a VM", "Shows the details of a virtual machine: state, addresses, disks, keys, expiry."))
            .shell(&[("Show a VM as JSON", "vmprov vm info web -o json")])
            .example(web())
            .on_vm(|host, vm, _: Nothing| vm::info(host, vm)),
        change_vm("vm_set", "vm set", "PATCH", "/api/vms/{vm}")
            .about("Change a VM's memory, virtual CPUs, disk size, autostart or description, live if possible")
            .tool(
                tool(
                    "Change a VM",
                    "Changes a virtual machine's memory, virtual CPUs, disk size (can only grow), autostart or \
                     description. The result says which changes are live and which ones need vm_restart.",
                )
                .idempotent(),
            )
            .shell(&[
                ("Give a VM more memory and CPUs", "vmprov vm set web --memory 4G --vcpus 4"),
                ("Grow its disk", "vmprov vm set web --disk-size 40G"),
            ])
            .takes(&[Vcpus, Memory, Disk])
            .example(json!({"vm": "web", "vcpus": 4}))
            .rules(&constraints::set(), Change::check)
            .run(|host, change: Change| vm::set(host, &change)),
        change_vm("vm_delete", "vm delete", "DELETE", "/api/vms/{vm}")
            .about("Delete a VM, running or not, and its volumes")
            .tool(
                tool(
                    "Delete a VM",
                    "Deletes a virtual machine, running or not, and its disks. This cannot be undone. Repeat its name \
                     in confirm.",
                )
                .idempotent()
                .confirms()
                .without(&["unmanaged"]),
            )
            .shell(&[("Delete a VM and its disks without confirmation", "vmprov vm delete web --yes")])
            .takes(NOTHING)
            .effect(Effect::Destroy)
            .admin_switch("unmanaged", "delete unmanaged VMs")
            .example(web())
            .on_vm(|host, vm, options: DeleteOptions| vm::delete(host, vm, options)),
    ]
}

pub(super) fn power() -> Vec<Operation> {
    let web = || json!({"vm": "web"});
    vec![
        change_vm("vm_start", "vm start", "POST", "/api/vms/{vm}/start")
            .about("Start a VM")
            .tool(tool("Start a VM", "Starts a virtual machine that is shut off. Next: vm_wait.").idempotent())
            .shell(&[("Start two VMs", "vmprov vm start web db")])
            .takes(NOTHING)
            .example(web())
            .on_vm(|host, vm, _: Nothing| vm::start(host, vm)),
        change_vm("vm_stop", "vm stop", "POST", "/api/vms/{vm}/stop")
            .about("Shut a VM down and wait until it is off")
            .tool(
                tool(
                    "Stop a VM",
                    "Shuts a virtual machine down and waits until it is off. With force it is powered off, which may \
                     lose unsaved data.",
                )
                .idempotent(),
            )
            .shell(&[
                ("Shut a VM down and wait until it is off", "vmprov vm stop web"),
                ("Power a VM off at once", "vmprov vm stop web --force"),
            ])
            .takes(NOTHING)
            .example(web())
            .on_vm(|host, vm, options: StopOptions| vm::stop(host, vm, options)),
        change_vm("vm_restart", "vm restart", "POST", "/api/vms/{vm}/restart")
            .about("Shut a VM down and start it with its current configuration")
            .tool(tool(
                "Restart a VM",
                "Shuts a virtual machine down and starts it with its current configuration. Next: vm_wait.",
            ))
            .takes(NOTHING)
            .example(web())
            .on_vm(|host, vm, options: StopOptions| vm::restart(host, vm, options)),
        change_vm("vm_pause", "vm pause", "POST", "/api/vms/{vm}/pause")
            .about("Pause a VM: stop its CPUs and keep its memory")
            .tool(
                tool(
                    "Pause a VM",
                    "Stops the CPUs of a running virtual machine and keeps its memory. Nothing in it responds until \
                     vm_resume.",
                )
                .idempotent(),
            )
            .takes(NOTHING)
            .example(web())
            .on_vm(|host, vm, _: Nothing| vm::pause(host, vm)),
        change_vm("vm_resume", "vm resume", "POST", "/api/vms/{vm}/resume")
            .about("Resume a paused VM")
            .tool(tool("Resume a VM", "Lets a paused virtual machine run again, where it was.").idempotent())
            .takes(NOTHING)
            .example(web())
            .on_vm(|host, vm, _: Nothing| vm::resume(host, vm)),
        change("vm_reset", "vm reset", "POST", "/api/vms/{vm}/reset")
            .about("Reset a VM at once, which may lose unsaved data")
            .tool(tool(
                "Reset a VM",
                "Resets a virtual machine at once, like the reset button of a computer. Its guest does not shut down, \
                 which may lose unsaved data; vm_restart shuts it down first. Next: vm_wait.",
            ))
            .takes(NOTHING)
            .example(web())
            .on_vm(|host, vm, _: Nothing| vm::reset(host, vm)),
    ]
}

pub(super) fn lifetime() -> Vec<Operation> {
    let web = || json!({"vm": "web"});
    vec![
        change_vm("vm_rename", "vm rename", "POST", "/api/vms/{vm}/rename")
            .about("Rename a VM that is shut off")
            .tool(tool(
                "Rename a VM",
                "Renames a virtual machine that is shut off. Its disks keep their names, and the host name inside its \
                 guest stays. Next: vm_start.",
            ))
            .takes(NOTHING)
            .example(json!({"vm": "web", "newName": "www"}))
            .names_new(Kind::Vm, "newName")
            .run(|host, new: NewVmName| vm::rename(host, &new)),
        change_vm("vm_ttl", "vm ttl", "PUT", "/api/vms/{vm}/ttl")
            .about("Change when a VM expires")
            .tool(tool(
                "Change when a VM expires",
                "Sets the remaining lifetime of a virtual machine, counted from now: 30m, 2h, 7d, or never. \
                     Expired VMs are deleted when the operator runs reap.",
            ))
            .shell(&[("Let a VM expire in two hours", "vmprov vm ttl web 2h"), ("Keep it", "vmprov vm ttl web never")])
            .takes(NOTHING)
            .example(json!({"vm": "web", "ttl": "2h"}))
            .run(|host, new: NewTtl| vm::set_ttl(host, &new)),
        change_vm("vm_protect", "vm protect", "POST", "/api/vms/{vm}/protect")
            .about("Protect a VM from deletion")
            .takes(NOTHING)
            .example(web())
            .on_vm(|host, vm, _: Nothing| vm::protect(host, vm, true)),
        change_vm("vm_unprotect", "vm unprotect", "POST", "/api/vms/{vm}/unprotect")
            .about("Remove deletion protection")
            .takes(NOTHING)
            .example(web())
            .on_vm(|host, vm, _: Nothing| vm::protect(host, vm, false)),
        change_vm("vm_commit", "vm commit", "POST", "/api/vms/{vm}/commit")
            .about("Create an image from a VM's disk, without its machine-specific data")
            .takes(&[Images, Disk])
            .creates(Kind::Image, "image")
            .example(json!({"vm": "web", "image": "golden"}))
            .run(|host, new: NewCommit| vm::commit(host, &new)),
        change_vm("vm_inject_ssh_key", "inject", "POST", "/api/vms/{vm}/ssh-keys/{key}")
            .about("Add an SSH key to an existing VM")
            .tool(
                tool(
                    "Add an SSH key to a VM",
                    "Adds a key from the key store to an existing virtual machine: immediately through the guest \
                     agent, or else through cloud-init at the next start. The result says which, and whether a \
                     restart is needed. With restart the VM is restarted if necessary and the login is tested.",
                )
                .names(&[("vmName", "vm"), ("keyName", "key")])
                .idempotent(),
            )
            .shell(&[("Let another key log in", "vmprov inject web dev")])
            .takes(NOTHING)
            .example(json!({"vm": "web", "key": "dev"}))
            .names(Kind::Key, "key")
            .run(|host, new: NewInjection| vm::inject(host, &new)),
    ]
}
