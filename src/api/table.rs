//! The table of all operations.

use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::ToSchema;

use super::{
    Effect, ExecutionMode, Kind, Operation, Report,
    Resource::{self, Disk, Images, Keys, Memory, Vcpus, Vms},
    Scope,
    builder::{change, change_vm, read},
    constraints,
};
use crate::{
    model::{change::Change, key::NewKey, name::Name, vm::NewVm},
    ops::{
        doctor::{self, DoctorOptions},
        gc::{self, GcOptions},
        image::{self, ImageChange, NewImport, NewPull, PruneOptions, SearchOptions},
        key,
        reap::{self, ReapOptions},
        vm::{
            self, DeleteOptions, ListOptions, LogOptions, NewCommit, NewExec, NewInjection, NewTtl, SshConfigOptions,
            StopOptions, Streams, WaitOptions,
        },
    },
};

/// For an operation that creates nothing that a quota limits.
const NOTHING: &[Resource] = &[];

/// A request without members.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
struct Nothing {}

/// A request about an image.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
struct OfImage {
    /// Image, by name, path, URL or ID
    image: String,
}

/// A request about a key.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
struct OfKey {
    /// Key
    name: Name,
}

/// The checks of the host to run.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(default)]
struct Checks {
    /// Checks to run, by ID or its beginning, such as `pool` or `pool.space`; all checks if empty
    checks: Vec<String>,
}

/// Every operation, in the order of the documentation.
pub(super) fn operations() -> Vec<Operation> {
    [vms(), lifetimes(), guests(), images(), keys(), hosts()].into_iter().flatten().collect()
}

fn vms() -> Vec<Operation> {
    let web = || json!({"vm": "web"});
    vec![
        read("vm_list", "vm list", "/api/vms")
            .about("List VMs")
            .run(|host, options: ListOptions| vm::list(host, options)),
        change_vm("vm_create", "vm create", "POST", "/api/vms")
            .about("Create a VM and start it")
            .takes(&[Vms, Vcpus, Memory, Disk, Images])
            .creates()
            .example(json!({"name": "web"}))
            .rules(&constraints::create(), NewVm::check)
            .names_new(Kind::Vm, "name")
            .names(Kind::Image, "image")
            .names(Kind::Network, "network")
            .names(Kind::Key, "sshKeys")
            .run(|host, new: NewVm| vm::create(host, &new)),
        read("vm_info", "vm info", "/api/vms/{vm}")
            .about("Show details of a VM")
            .example(web())
            .on_vm(|host, vm, _: Nothing| vm::info(host, vm)),
        change_vm("vm_set", "vm set", "PATCH", "/api/vms/{vm}")
            .about("Change a VM's memory, virtual CPUs, disk size, autostart or description, live if possible")
            .takes(&[Vcpus, Memory, Disk])
            .example(json!({"vm": "web", "vcpus": 4}))
            .rules(&constraints::set(), Change::check)
            .names(Kind::Vm, "vm")
            .run(|host, change: Change| vm::set(host, &change)),
        change_vm("vm_start", "vm start", "POST", "/api/vms/{vm}/start")
            .about("Start a VM")
            .takes(NOTHING)
            .example(web())
            .on_vm(|host, vm, _: Nothing| vm::start(host, vm)),
        change_vm("vm_stop", "vm stop", "POST", "/api/vms/{vm}/stop")
            .about("Shut a VM down and wait until it is off")
            .takes(NOTHING)
            .example(web())
            .on_vm(|host, vm, options: StopOptions| vm::stop(host, vm, options)),
        change_vm("vm_restart", "vm restart", "POST", "/api/vms/{vm}/restart")
            .about("Shut a VM down and start it with its current configuration")
            .takes(NOTHING)
            .example(web())
            .on_vm(|host, vm, options: StopOptions| vm::restart(host, vm, options)),
        change_vm("vm_delete", "vm delete", "DELETE", "/api/vms/{vm}")
            .about("Delete a VM, running or not, and its volumes")
            .takes(NOTHING)
            .effect(Effect::Destroy)
            .example(web())
            .on_vm(|host, vm, options: DeleteOptions| vm::delete(host, vm, options)),
    ]
}

fn lifetimes() -> Vec<Operation> {
    let web = || json!({"vm": "web"});
    vec![
        change_vm("vm_ttl", "vm ttl", "PUT", "/api/vms/{vm}/ttl")
            .about("Change when a VM expires")
            .takes(NOTHING)
            .example(json!({"vm": "web", "ttl": "2h"}))
            .names(Kind::Vm, "vm")
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
            .creates()
            .example(json!({"vm": "web", "image": "golden"}))
            .names(Kind::Vm, "vm")
            .names_new(Kind::Image, "image")
            .run(|host, new: NewCommit| vm::commit(host, &new)),
        change_vm("vm_inject_ssh_key", "inject", "POST", "/api/vms/{vm}/ssh-keys/{key}")
            .about("Add an SSH key to an existing VM")
            .takes(NOTHING)
            .example(json!({"vm": "web", "key": "dev"}))
            .names(Kind::Vm, "vm")
            .names(Kind::Key, "key")
            .run(|host, new: NewInjection| vm::inject(host, &new)),
    ]
}

fn guests() -> Vec<Operation> {
    let web = || json!({"vm": "web"});
    vec![
        read("vm_ip", "vm ip", "/api/vms/{vm}/addresses")
            .about("Show a running VM's addresses, the best for a login first")
            .example(web())
            .on_vm(|host, vm, _: Nothing| vm::addresses(host, vm, vm::AddressOptions::default())),
        change("vm_wait", "vm wait", "POST", "/api/vms/{vm}/wait")
            .about("Wait for a VM to reach a state")
            .takes(NOTHING)
            .mode(ExecutionMode::Guest)
            .effect(Effect::Read)
            .scope(Scope::Read)
            .example(web())
            .on_vm(|host, vm, options: WaitOptions| vm::wait(host, vm, options)),
        change("vm_exec", "vm exec", "POST", "/api/vms/{vm}/exec")
            .about("Run a command in a VM, over SSH or through its guest agent")
            .takes(NOTHING)
            .mode(ExecutionMode::Guest)
            .effect(Effect::Destroy)
            .example(json!({"vm": "web", "command": ["uname", "-a"]}))
            .names(Kind::Vm, "vm")
            .run(|host, new: NewExec| {
                let stdin = new.stdin.clone().unwrap_or_default().into_bytes();
                vm::exec(host, &new, Streams::Captured(stdin))
            }),
        read("vm_logs", "vm logs", "/api/vms/{vm}/logs")
            .about("Show a VM's serial console output since its last start")
            .example(web())
            .on_vm(|host, vm, options: LogOptions| vm::logs(host, vm, options)),
        read("vm_screenshot", "vm screenshot", "/api/vms/{vm}/screenshot")
            .about("Take a screenshot of a VM as a PNG image")
            .example(web())
            .answer_on_vm(|host, vm, _: Nothing| Ok(Report::Png(vm::picture(host, vm)?.png))),
        read("vm_ssh_command", "vm ssh-command", "/api/vms/{vm}/ssh-command")
            .about("Show the ssh command that logs in to a VM from the host of the service")
            .example(web())
            .on_vm(|host, vm, _: Nothing| vm::ssh_command(host, vm)),
        read("ssh_config", "ssh-config", "/api/ssh-config")
            .about("Show an ssh configuration for the VMs, for the host of the service")
            .names(Kind::Vm, "vm")
            .run(|host, options: SshConfigOptions| vm::ssh_config(host, &options)),
    ]
}

fn images() -> Vec<Operation> {
    vec![
        read("image_search", "image search", "/api/catalogue")
            .about("Search the catalogue of published images")
            .run(|host, options: SearchOptions| image::search(host, &options)),
        read("image_list", "image list", "/api/images")
            .about("List the images in the storage pool and the VMs that use them")
            .run(|host, _: Nothing| image::list(host)),
        change("image_pull", "image pull", "POST", "/api/images")
            .about("Fetch an image, or update it")
            .takes(&[Images, Disk])
            .example(json!({"image": "debian:12"}))
            .names(Kind::Image, "image")
            .run(|host, new: NewPull| image::pull(host, &new)),
        change("image_import", "image import", "POST", "/api/images/import")
            .about("Import an image")
            .takes(&[Images, Disk])
            .creates()
            .scope(Scope::Admin)
            .example(json!({"file": "https://example.org/golden.qcow2", "name": "golden"}))
            .names_new(Kind::Image, "name")
            .run(|host, new: NewImport| image::import(host, &new)),
        change("image_prune", "image prune", "POST", "/api/images/prune")
            .about("Remove unused fetched images and partial downloads and uploads")
            .takes(NOTHING)
            .effect(Effect::Destroy)
            .scope(Scope::Admin)
            .run(|host, options: PruneOptions| image::prune(host, options)),
        read("image_info", "image info", "/api/images/{image}")
            .about("Show details of an image")
            .example(json!({"image": "debian:12"}))
            .names(Kind::Image, "image")
            .run(|host, of: OfImage| image::info(host, &of.image)),
        change("image_set", "image set", "PATCH", "/api/images/{image}")
            .about("Change the visibility of an image")
            .takes(NOTHING)
            .example(json!({"image": "golden", "visibility": "shared"}))
            .names(Kind::Image, "image")
            .run(|host, change: ImageChange| image::set(host, &change)),
        change("image_delete", "image delete", "DELETE", "/api/images/{image}")
            .about("Delete an unused image")
            .takes(NOTHING)
            .effect(Effect::Destroy)
            .scope(Scope::Admin)
            .example(json!({"image": "debian:12"}))
            .names(Kind::Image, "image")
            .run(|host, of: OfImage| image::delete(host, &of.image)),
    ]
}

fn keys() -> Vec<Operation> {
    let dev = || json!({"name": "dev"});
    vec![
        read("ssh_key_list", "key list", "/api/ssh-keys")
            .about("List SSH keys")
            .run(|host, _: Nothing| key::list(host)),
        change("ssh_key_generate", "key generate", "POST", "/api/ssh-keys")
            .about("Generate an SSH key pair; the private key stays on the host")
            .takes(&[Keys])
            .mode(ExecutionMode::Compute)
            .creates()
            .example(dev())
            .rules(&constraints::key(), NewKey::check)
            .names_new(Kind::Key, "name")
            .run(|host, new: NewKey| key::generate(host, &new)),
        read("ssh_key_info", "key show", "/api/ssh-keys/{name}")
            .about("Show an SSH key")
            .example(dev())
            .names(Kind::Key, "name")
            .run(|host, of: OfKey| key::get(host, &of.name)),
        read("ssh_key_public", "key show", "/api/ssh-keys/{name}/public")
            .about("Show a public SSH key as a line of authorized_keys")
            .example(dev())
            .names(Kind::Key, "name")
            .answer(|host, of: OfKey| Ok(Report::Text(key::get(host, &of.name)?.public_key))),
        change("ssh_key_delete", "key delete", "DELETE", "/api/ssh-keys/{name}")
            .about("Delete an SSH key from the key store; VMs keep it")
            .takes(NOTHING)
            .effect(Effect::Destroy)
            .example(dev())
            .names(Kind::Key, "name")
            .run(|host, of: OfKey| key::delete(host, &of.name)),
    ]
}

fn hosts() -> Vec<Operation> {
    vec![
        read("doctor", "doctor", "/api/doctor")
            .about("Check the host for problems")
            .mode(ExecutionMode::Long)
            .run(|host, Checks { checks }: Checks| doctor::examine(host, &DoctorOptions { checks, fix: false })),
        change("doctor_fix", "doctor", "POST", "/api/doctor")
            .about("Apply safe fixes to the host and check it again")
            .takes(NOTHING)
            .scope(Scope::Admin)
            .run(|host, options: DoctorOptions| doctor::examine(host, &options)),
        change("gc", "gc", "POST", "/api/gc")
            .about("Remove leftovers of interrupted operations")
            .takes(NOTHING)
            .effect(Effect::Destroy)
            .scope(Scope::Admin)
            .run(|host, options: GcOptions| gc::collect(host, options)),
        change("reap", "reap", "POST", "/api/reap")
            .about("Delete expired VMs, running or not")
            .takes(NOTHING)
            .effect(Effect::Destroy)
            .scope(Scope::Admin)
            .run(|host, options: ReapOptions| reap::reap(host, options)),
    ]
}
