//! All checks, each after those that it depends on.

use serde::Serialize;

use super::{
    clock,
    context::{Context, Reach},
    daemon,
    finding::Finding,
    folders, kvm, network, pool, security, state, tools,
};
use crate::error::Result;

/// A check.
#[derive(Debug, Serialize)]
pub struct Check {
    /// Its ID. It never changes: scripts depend on it.
    pub id: &'static str,
    /// What it checks.
    pub about: &'static str,
    /// The checks that it depends on.
    #[serde(skip)]
    pub(super) needs: &'static [&'static str],
    /// Where it applies.
    #[serde(skip)]
    pub(super) scope: Reach,
    /// Runs the check.
    #[serde(skip)]
    pub(super) run: fn(&Context) -> Result<Finding>,
}

/// The check depends on no other.
const NOTHING: &[&str] = &[];
/// The check needs virsh.
const VIRSH: &[&str] = &["tools.virsh"];
/// The check needs a libvirt that answers.
const LIBVIRT: &[&str] = &["daemon.reachable"];
/// The check needs an active network.
const NETWORK: &[&str] = &["network.active"];

const fn check(id: &'static str, about: &'static str, run: fn(&Context) -> Result<Finding>) -> Check {
    Check { id, about, needs: &[], scope: Reach::Machine, run }
}

impl Check {
    /// Sets where the check applies, and what it depends on.
    const fn at(self, scope: Reach, needs: &'static [&'static str]) -> Self {
        Self { needs, scope, ..self }
    }
}

/// All checks.
pub const CHECKS: &[Check] = &[
    check("tools.virsh", "`virsh` is installed and new enough", tools::virsh),
    check("tools.qemu-img", "`qemu-img` is installed (inspects images)", tools::qemu_img),
    check("tools.genisoimage", "`genisoimage` is installed (writes seeds)", tools::genisoimage),
    check("tools.isoinfo", "`isoinfo` is installed (reads seeds for `inject`)", tools::isoinfo),
    check("tools.gpgv", "`gpgv` is installed (verifies signatures of images)", tools::gpgv),
    check("tools.ssh", "`ssh` is installed (for logins and for waiting for them)", tools::ssh),
    check("tools.virt-sysprep", "`virt-sysprep` is installed (needed only by `vm commit`)", tools::sysprep),
    check("tools.passt", "`passt` is installed (needed only by guests of `qemu:///session`)", tools::passt),
    check("daemon.reachable", "libvirt answers", |context| Ok(daemon::reachable(context))).at(Reach::Libvirt, VIRSH),
    check("daemon.permission", "the user may manage VMs", |context| Ok(daemon::permission(context)))
        .at(Reach::Libvirt, VIRSH),
    check("daemon.qemu", "libvirt finds QEMU", daemon::qemu).at(Reach::Libvirt, LIBVIRT),
    check("daemon.log", "virtlogd answers (needed to start guests)", |_| Ok(daemon::log())).at(Reach::System, LIBVIRT),
    check("kvm.device", "`/dev/kvm` exists and can be opened", |context| Ok(kvm::device(context)))
        .at(Reach::Here, NOTHING),
    check("kvm.works", "KVM executes guest code (tested with a short-lived domain)", kvm::works)
        .at(Reach::Libvirt, LIBVIRT),
    check("iommu", "an IOMMU is enabled (needed only for PCI passthrough)", |_| Ok(kvm::iommu()))
        .at(Reach::Here, NOTHING),
    check("agent", "libvirt offers a channel for the guest agent", daemon::agent).at(Reach::Libvirt, LIBVIRT),
    check("pool.active", "the pool is started, starts with the host, and holds files", pool::active)
        .at(Reach::Libvirt, LIBVIRT),
    check("pool.reachable", "QEMU's user may enter every folder on the path to the pool", pool::reachable)
        .at(Reach::Here, LIBVIRT),
    check("pool.space", "the pool has enough free space", pool::space).at(Reach::Libvirt, LIBVIRT),
    check("network.active", "the network `default` is started and starts with the host", network::active)
        .at(Reach::Networks, LIBVIRT),
    check("network.dnsmasq", "`dnsmasq` is installed (assigns addresses to guests)", network::dnsmasq)
        .at(Reach::System, NOTHING),
    check("network.subnet", "no other interface uses the network's addresses", network::subnet)
        .at(Reach::System, NETWORK),
    check("network.forwarding", "the kernel forwards guests' packets", network::forwarding).at(Reach::System, NETWORK),
    check("network.firewall", "no packet filter (of Docker or ufw, for example) drops them", network::firewall)
        .at(Reach::System, NETWORK),
    check("security.apparmor", "AppArmor, if enabled, confines guests", security::apparmor).at(Reach::System, LIBVIRT),
    check("security.selinux", "SELinux, if enforcing, confines guests", security::selinux).at(Reach::System, LIBVIRT),
    check("security.denials", "neither has denied a guest anything since the host booted", security::denials)
        .at(Reach::System, NOTHING),
    check("clock.time", "the clock is not behind this program's installation date", |_| Ok(clock::time())),
    check("clock.synchronised", "the clock is synchronized with a time server", clock::synchronised),
    check("keys.folder", "the key folder and every key in it are usable", |context| Ok(folders::keys(context))),
    check("cache.space", "the cache folder for downloaded images has enough free space", folders::cache),
    // This comes first of the state checks: those that test whether a VM is in use take over stale locks.
    check("state.locks", "no interrupted command has left a lock", |_| Ok(state::locks())),
    check("state.incomplete", "no interrupted create or delete has left a VM", state::incomplete)
        .at(Reach::Libvirt, LIBVIRT),
    check("state.unfinished", "no interrupted upload or commit has left a volume", state::unfinished)
        .at(Reach::Libvirt, LIBVIRT),
    check("state.volumes", "every disk, seed and log in the pool belongs to a VM", state::volumes)
        .at(Reach::Libvirt, LIBVIRT),
    check("state.downloads", "no partial download is older than a week", |context| Ok(state::old_downloads(context))),
];
