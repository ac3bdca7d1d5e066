//! What must be there before a VM can be created: the storage pool, the network, an accelerator that works.

use std::time::{Duration, Instant};

use uuid::Uuid;

use super::{Host, undo::undoing, unknown};
use crate::{
    error::{Code, Error, Result},
    model::vm::{DEFAULT_NETWORK, USER_NETWORK},
    store::{
        kvm::{self, Verdict},
        lock::Lock,
    },
    tools::virsh::{Capabilities, Metadata, NewDomain, Phase, Pool, Survey},
};

/// The third octets that a new `default` network is tried with: libvirt's own first.
const SUBNETS: [u8; 5] = [122, 123, 124, 142, 222];

/// How long another vmprov may take to make the storage pool.
const POOL_WAIT: Duration = Duration::from_mins(1);

/// How long firmware may take to show that it runs. With KVM that works it takes about a second.
const PROBE_LIMIT: Duration = Duration::from_secs(15);

/// How often the test domain is looked at.
const PROBE_POLL: Duration = Duration::from_millis(200);

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
pub(super) fn is_user_network(host: &Host, name: &str, survey: &Survey) -> bool {
    let is_meant = name == USER_NETWORK || name == DEFAULT_NETWORK && host.virsh.is_session();
    is_meant && !survey.networks.iter().any(|known| known == name)
}

/// Refuses a network that is neither there nor made by [`network`].
pub(super) fn check_network(host: &Host, name: &str, survey: &Survey) -> Result<()> {
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
    Err(unknown("network", name, known, "`virsh net-list --all` shows the networks there are."))
}

/// Makes or starts the network where that is needed. Only `default` is made: what another should look like is the
/// operator's to say.
pub(super) fn network(host: &Host, name: &str, survey: &Survey) -> Result<()> {
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

/// What is known of KVM on this host without trying.
pub(super) fn verdict(host: &Host) -> Option<Verdict> {
    kvm::read(&host.settings.cache_dir, &host.settings.uri)
}

/// What to ask libvirt's capabilities for: its own preference, unless that is known to fail.
pub(super) const fn virttype(verdict: Option<&Verdict>) -> Option<&'static str> {
    match verdict {
        Some(Verdict::Fails(_)) => Some("qemu"),
        _ => None,
    }
}

/// What guests will be run with: KVM where it works, else emulation with a warning. KVM that is present proves
/// nothing: it has been met refusing to start guests, and running guests that never execute. So it is tried, once for
/// each boot of the host.
pub(super) fn accelerator(
    host: &Host,
    verdict: Option<Verdict>,
    offered: Capabilities,
    warnings: &mut Vec<String>,
) -> Result<Capabilities> {
    let slow = "VMs are emulated, which is many times slower";
    let verdict = match verdict {
        None if offered.is_kvm() && !host.is_dry_run() => Some(find_out(host, &offered)?),
        verdict => verdict,
    };
    if let Some(Verdict::Fails(reason)) = verdict {
        host.warn(warnings, format!("KVM is there but does not work ({reason}): {slow}"));
        return if offered.is_kvm() { host.virsh.emulation() } else { Ok(offered) };
    }
    if offered.kind == "qemu" {
        let why = "this host offers no KVM (is /dev/kvm there, and virtualisation on in the firmware?)";
        host.warn(warnings, format!("{why}: {slow}"));
    }
    Ok(offered)
}

/// Tries KVM, whatever is known of it, and remembers what came of it.
pub(super) fn find_out(host: &Host, offered: &Capabilities) -> Result<Verdict> {
    host.step("trying whether KVM works");
    let verdict = try_kvm(host, offered)?;
    kvm::write(&host.settings.cache_dir, &host.settings.uri, &verdict);
    Ok(verdict)
}

/// Runs a domain whose firmware finds nothing to boot and reboots at once, upon which libvirt ends it: that it ends
/// proves that its CPU executes.
fn try_kvm(host: &Host, offered: &Capabilities) -> Result<Verdict> {
    let uuid = Uuid::new_v4();
    let metadata = Metadata { phase: Phase::Probe, ..Metadata::begun() };
    let domain = NewDomain {
        name: &format!("vmprov-kvm-test-{}", uuid.simple()),
        uuid,
        memory_mib: 64,
        vcpus: 1,
        capabilities: offered,
        disks: Vec::new(),
        interface: None,
        console_log: None,
        seeded: false,
        uefi: false,
        metadata: &metadata,
    };
    undoing(|undo| {
        let undoer = host.uncancellable();
        let end = move || match undoer.virsh.destroy(uuid) {
            Err(error) if !matches!(error.code, Code::NotFound | Code::Conflict) => Err(error),
            _ => Ok(()),
        };
        undo.push("the domain that tries KVM", end.clone());
        match host.virsh.create_transient(&domain.to_xml()?) {
            Err(error) if error.code == Code::ToolFailed => {
                end()?; // it failed, but there may be something of it
                return Ok(Verdict::Fails(qemus_word(&error.cause.unwrap_or(error.message)).to_owned()));
            }
            result => result?,
        }
        let deadline = Instant::now() + PROBE_LIMIT;
        while Instant::now() < deadline {
            match host.virsh.state(uuid) {
                Err(error) if error.code == Code::NotFound => return Ok(Verdict::Works),
                Ok(state) if !state.is_active() => return Ok(Verdict::Works),
                Err(error) => return Err(error),
                Ok(_) => std::thread::sleep(PROBE_POLL),
            }
        }
        end()?;
        Ok(Verdict::Fails("a guest starts but its CPU never executes".to_owned()))
    })
}

/// QEMU's own complaint inside libvirt's: `… qemu-system-x86_64: error: failed to set MSR …: qemu-system-x86_64: …`.
fn qemus_word(cause: &str) -> &str {
    let is_program = |word: &str| word.starts_with("qemu-system-") || word.contains(" qemu-system-");
    let mut parts = cause.split(": ").skip_while(|part| !is_program(part)).skip(1);
    parts.find(|part| *part != "error").unwrap_or(cause)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_warning_has_qemus_own_words() {
        let cause = "Failed to create domain from /dev/stdin: internal error: QEMU unexpectedly closed the monitor (vm='x'): \
                     2026-11-23T04:03:13.6Z qemu-system-x86_64: error: failed to set MSR 0x10a: qemu-system-x86_64: \
                     target/i386/kvm/kvm.c:3849: kvm_buf_set_msrs: Assertion failed.";
        assert_eq!(qemus_word(cause), "failed to set MSR 0x10a");
        assert_eq!(qemus_word("something: else"), "something: else");
    }
}
