//! What must be there before a VM can be created: the storage pool and the network. The accelerator is `accelerator.rs`.

use std::time::Duration;

use super::{Host, missing, undo::undoing};
use crate::{
    error::{Code, Error, Hint, ResourceKind, Result},
    model::vm::{DEFAULT_NETWORK, USER_NETWORK},
    store::lock::Lock,
    tools::virsh::{HostInventory, Pool},
};

/// The third octets that a new `default` network is tried with: libvirt's own first.
const SUBNETS: [u8; 5] = [122, 123, 124, 142, 222];

/// How long another vmprov may take to make the storage pool.
const POOL_WAIT: Duration = Duration::from_mins(1);

/// The storage pool, made or started where that is needed.
pub(super) fn pool(host: &Host, found: Option<&Pool>) -> Result<Pool> {
    let name = &host.settings.pool;
    let Some(pool) = found else { return make_pool(host) };
    if !pool.holds_files() {
        return Err(Error::conflict(format!(
            "the storage pool `{name}` is of type `{}`, which cannot hold overlays",
            pool.kind
        ))
        .hint("Choose a pool of files with --pool, or let vmprov make one by naming one that is not there."));
    }
    if !pool.active {
        start_pool(host, pool)?;
        note(host, "started", &format!("the storage pool `{name}`"), "inactive");
    }
    Ok(Pool { active: true, ..pool.clone() })
}

/// Makes the storage pool, whole or not at all.
fn make_pool(host: &Host) -> Result<Pool> {
    let (name, path) = (&host.settings.pool, &host.settings.pool_path);
    let what = format!("the storage pool `{name}` at {}", host.hypervisor()?);
    let _one_maker = Lock::take(&what, POOL_WAIT, &host.runner.cancel)?;
    if let Some(made) = host.virsh.pool(name)? {
        return pool(host, Some(&made)); // another vmprov was first
    }
    undoing(|undo| {
        let undoer = host.uncancellable();
        let claim = undo.push(format!("storage pool `{name}`"), move || undoer.virsh.remove_pool(name));
        let made = host.virsh.make_pool(name, path);
        if made.as_ref().is_err_and(|error| error.code == Code::AlreadyExists) {
            // Somebody whom our lock does not reach was first.
            claim.waive();
        }
        made
    })?;
    note(host, "made", &format!("the storage pool `{name}` in {path}"), "missing");
    if host.is_dry_run() {
        return Ok(Pool::to_be_made(name, path));
    }
    let made = host.virsh.pool(name)?;
    made.ok_or_else(|| Error::internal(format!("the storage pool `{name}` is gone after it was made")))
}

/// Starts a storage pool. The folder of one whose making was cut short is made first.
pub(super) fn start_pool(host: &Host, pool: &Pool) -> Result<()> {
    match host.virsh.start_pool(&pool.name) {
        Err(error) if error.code == Code::ToolFailed && pool.kind == "dir" => {
            host.virsh.build_pool(&pool.name)?;
            host.virsh.start_pool(&pool.name)
        }
        result => result,
    }
}

/// Says what was done beside what was asked for, or would be.
fn note(host: &Host, done: &str, what: &str, because: &str) {
    if host.is_dry_run() {
        host.progress.note(&format!("{what} is {because}: it would be {done}"));
    } else {
        host.progress.note(&format!("{done} {what}, which was {because}"));
    }
}

/// Whether the network of the user who runs libvirt is meant: by its name, or because a session has no other.
pub(super) fn is_user_network(host: &Host, name: &str, survey: &HostInventory) -> bool {
    let is_meant = name == USER_NETWORK || name == DEFAULT_NETWORK && host.virsh.is_session();
    is_meant && !survey.networks.iter().any(|known| known == name)
}

/// Refuses a network that is neither there nor made by [`network`].
pub(super) fn check_network(host: &Host, name: &str, survey: &HostInventory) -> Result<()> {
    if is_user_network(host, name, survey) {
        if host.virsh.is_local() {
            return Ok(());
        }
        return Err(Error::conflict("a VM in the network of its user is reached on the machine that it runs on only")
            .hint("Run vmprov on that machine, or name a network of libvirt's with --network."));
    }
    if name == DEFAULT_NETWORK || survey.networks.iter().any(|known| known == name) {
        return Ok(());
    }
    let known = survey.networks.iter().map(String::as_str);
    Err(missing(ResourceKind::Network, name, known, Hint::run("List the networks", "virsh net-list --all")))
}

/// Makes or starts the network where that is needed. Only `default` is made: what another should look like is the
/// operator's to say.
pub(super) fn network(host: &Host, name: &str, survey: &HostInventory) -> Result<()> {
    if survey.active_networks.iter().any(|active| active == name) {
        return Ok(());
    }
    if survey.networks.iter().any(|known| known == name) {
        host.virsh.start_network(name)?;
        note(host, "started", &format!("the network `{name}`"), "inactive");
        return Ok(());
    }
    for subnet in SUBNETS {
        let made = undoing(|undo| {
            let undoer = host.uncancellable();
            let claim = undo.push(format!("network `{name}`"), move || undoer.virsh.remove_network(name));
            match host.virsh.define_network(name, subnet) {
                // Another vmprov made it first.
                Err(error) if error.code == Code::AlreadyExists => claim.waive(),
                result => result?,
            }
            host.virsh.autostart_network(name)?;
            host.virsh.start_network(name)
        });
        match made {
            // "Network is already in use by interface …": another network of this machine has the addresses.
            Err(error) if error.code == Code::AlreadyExists => {}
            Err(error) => return Err(error),
            Ok(()) => {
                note(host, "made", &format!("the network `{name}` (NAT, 192.168.{subnet}.0/24)"), "missing");
                return Ok(());
            }
        }
    }
    Err(Error::conflict("every address range that the network `default` could have is in use on this host")
        .hint("Define a network with a range that is free (virsh net-define) and name it with --network."))
}
