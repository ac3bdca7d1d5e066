//! Prepares what a new VM needs: the storage pool and the network. For the accelerator see `accelerator.rs`.

use std::time::Duration;

use super::{Host, missing, undo::undoing};
use crate::{
    error::{Code, Error, Hint, ResourceKind, Result},
    model::vm::{DEFAULT_NETWORK, USER_NETWORK},
    store::lock::Lock,
    tools::virsh::{HostInventory, Pool},
};

/// The third octets to try for a new `default` network. The first is libvirt's own.
const SUBNETS: [u8; 5] = [122, 123, 124, 142, 222];

/// How long another vmprov may take to create the storage pool.
const POOL_WAIT: Duration = Duration::from_mins(1);

/// Returns the storage pool, after creating or starting it if needed.
pub(super) fn pool(host: &Host, found: Option<&Pool>) -> Result<Pool> {
    let name = &host.settings.pool;
    let Some(pool) = found else { return create_pool(host) };
    if !pool.holds_files() {
        return Err(Error::conflict(format!(
            "the storage pool `{name}` is of type `{}`, which cannot hold overlays",
            pool.kind
        ))
        .hint("Set `pool` in the settings to a pool that holds files, or to a new name for vmprov to create"));
    }
    if !pool.active {
        start_pool(host, pool)?;
        note(host, "started", &format!("the storage pool `{name}`"), "inactive");
    }
    Ok(Pool { active: true, ..pool.clone() })
}

/// Creates the storage pool completely, or not at all.
fn create_pool(host: &Host) -> Result<Pool> {
    let (name, path) = (&host.settings.pool, &host.settings.pool_path);
    let what = format!("the storage pool `{name}` at {}", host.hypervisor()?);
    let _lock = Lock::take(&what, POOL_WAIT, &host.runner.cancel)?;
    if let Some(created) = host.virsh.pool(name)? {
        return pool(host, Some(&created)); // another vmprov was first
    }
    undoing(|undo| {
        let undoer = host.uncancellable();
        let claim = undo.push(format!("storage pool `{name}`"), move || undoer.virsh.remove_pool(name));
        let created = host.virsh.make_pool(name, path);
        if created.as_ref().is_err_and(|error| error.code == Code::AlreadyExists) {
            // A process that does not share our lock created it first.
            claim.waive();
        }
        created
    })?;
    note(host, "created", &format!("the storage pool `{name}` in {path}"), "missing");
    if host.is_dry_run() {
        return Ok(Pool::planned(name, path));
    }
    let created = host.virsh.pool(name)?;
    created.ok_or_else(|| Error::internal(format!("the storage pool `{name}` disappeared after it was created")))
}

/// Starts a storage pool. If its creation was interrupted, its folder is created first. Another process may start it at
/// the same time, which makes our own calls fail.
pub(super) fn start_pool(host: &Host, pool: &Pool) -> Result<()> {
    let started = match host.virsh.start_pool(&pool.name) {
        Err(error) if error.code == Code::ToolFailed && pool.kind == "dir" => {
            host.virsh.build_pool(&pool.name).and_then(|()| host.virsh.start_pool(&pool.name))
        }
        result => result,
    };
    match started {
        Err(_) if host.virsh.pool(&pool.name)?.is_some_and(|now| now.active) => Ok(()),
        result => result,
    }
}

/// Reports what was done, or would be done, in addition to the request.
fn note(host: &Host, done: &str, what: &str, because: &str) {
    if host.is_dry_run() {
        host.progress.note(&format!("{what} is {because}: it would be {done}"));
    } else {
        host.progress.note(&format!("{done} {what}, which was {because}"));
    }
}

/// Returns whether a name means user-mode networking: by its own name, or as the default of a session, which has no
/// networks.
pub(super) fn is_user_network(host: &Host, name: &str, inventory: &HostInventory) -> bool {
    let is_user = name == USER_NETWORK || name == DEFAULT_NETWORK && host.virsh.is_session();
    is_user && !inventory.networks.iter().any(|known| known == name)
}

/// Refuses a network that does not exist and that [`network`] would not create.
pub(super) fn check_network(host: &Host, name: &str, inventory: &HostInventory) -> Result<()> {
    if is_user_network(host, name, inventory) {
        if host.virsh.is_local() {
            return Ok(());
        }
        return Err(Error::conflict("a VM with user-mode networking is reachable only from the machine it runs on")
            .hint("Run vmprov on that machine")
            .hint(Hint::set("Choose a libvirt network", "network")));
    }
    if name == DEFAULT_NETWORK || inventory.networks.iter().any(|known| known == name) {
        return Ok(());
    }
    let known = inventory.networks.iter().map(String::as_str);
    Err(missing(ResourceKind::Network, name, known, Hint::run("List the networks", "virsh net-list --all")))
}

/// Creates or starts the network if needed. Only `default` is created: the operator must define any other.
pub(super) fn network(host: &Host, name: &str, inventory: &HostInventory) -> Result<()> {
    if inventory.active_networks.iter().any(|active| active == name) {
        return Ok(());
    }
    if inventory.networks.iter().any(|known| known == name) {
        host.virsh.start_network(name)?;
        note(host, "started", &format!("the network `{name}`"), "inactive");
        return Ok(());
    }
    for subnet in SUBNETS {
        let created = undoing(|undo| {
            let undoer = host.uncancellable();
            let claim = undo.push(format!("network `{name}`"), move || undoer.virsh.remove_network(name));
            match host.virsh.define_network(name, subnet) {
                // Another vmprov created it first.
                Err(error) if error.code == Code::AlreadyExists => claim.waive(),
                result => result?,
            }
            host.virsh.autostart_network(name)?;
            host.virsh.start_network(name)
        });
        match created {
            // "Network is already in use by interface …": another network of this machine uses the addresses.
            Err(error) if error.code == Code::AlreadyExists => {}
            Err(error) => return Err(error),
            Ok(()) => {
                note(host, "created", &format!("the network `{name}` (NAT, 192.168.{subnet}.0/24)"), "missing");
                return Ok(());
            }
        }
    }
    Err(Error::conflict("every address range for the network `default` is in use on this host")
        .hint(Hint::run("Define a network with a free address range", "virsh net-define FILE"))
        .hint(Hint::set("Choose that network", "network")))
}
