//! Every check, in the order in which they rest on each other.

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
    /// Its name, for good: scripts rest on it.
    pub id: &'static str,
    /// What it looks at.
    pub about: &'static str,
    /// The checks that it rests on.
    #[serde(skip)]
    pub(super) needs: &'static [&'static str],
    /// Where it can see anything.
    #[serde(skip)]
    pub(super) scope: Reach,
    /// Looks.
    #[serde(skip)]
    pub(super) look: fn(&Context) -> Result<Finding>,
}

/// Nothing.
const NOTHING: &[&str] = &[];
/// A virsh to ask libvirt with.
const ASKED: &[&str] = &["tools.virsh"];
/// A libvirt that answers.
const REACHED: &[&str] = &["daemon.reachable"];
/// A network that there is.
const NETWORK: &[&str] = &["network.active"];

const fn check(id: &'static str, about: &'static str, look: fn(&Context) -> Result<Finding>) -> Check {
    Check { id, about, needs: &[], scope: Reach::Machine, look }
}

impl Check {
    /// Says where it can see anything, and what it rests on.
    const fn at(self, scope: Reach, needs: &'static [&'static str]) -> Self {
        Self { needs, scope, ..self }
    }
}

/// Every check.
pub const CHECKS: &[Check] = &[
    check("tools.virsh", "`virsh` is installed, and not too old", tools::virsh),
    check("tools.qemu-img", "`qemu-img` is installed, which examines images", tools::qemu_img),
    check("tools.genisoimage", "`genisoimage` is installed, which writes seeds", tools::genisoimage),
    check("tools.isoinfo", "`isoinfo` is installed, with which `inject` reads seeds", tools::isoinfo),
    check("tools.ssh", "`ssh` is installed, for logins and for waiting for them", tools::ssh),
    check("tools.virt-sysprep", "`virt-sysprep` is installed, which only `vm commit` needs", tools::sysprep),
    check("tools.passt", "`passt` is installed, which only guests of a session need", tools::passt),
    check("daemon.reachable", "libvirt answers", |look| Ok(daemon::reachable(look))).at(Reach::Libvirt, ASKED),
    check("daemon.permission", "you may manage VMs", |look| Ok(daemon::permission(look))).at(Reach::Libvirt, ASKED),
    check("daemon.qemu", "libvirt finds QEMU", daemon::qemu).at(Reach::Libvirt, REACHED),
    check("daemon.log", "virtlogd answers, which guests start with", |_| Ok(daemon::log())).at(Reach::System, REACHED),
    check("kvm.device", "`/dev/kvm` is there and opens", |look| Ok(kvm::device(look))).at(Reach::Here, NOTHING),
    check("kvm.works", "KVM executes a guest's code: it is tried", kvm::works).at(Reach::Libvirt, REACHED),
    check("iommu", "an IOMMU is on, which only PCI passthrough needs", |_| Ok(kvm::iommu())).at(Reach::Here, NOTHING),
    check("agent", "guests can be given a channel for their agent", daemon::agent).at(Reach::Libvirt, REACHED),
    check("pool.active", "the pool is started, starts with the host, and holds files", pool::active)
        .at(Reach::Libvirt, REACHED),
    check("pool.reachable", "QEMU's user may enter each folder down to the pool", pool::reachable)
        .at(Reach::Here, REACHED),
    check("pool.space", "the pool has room", pool::space).at(Reach::Libvirt, REACHED),
    check("network.active", "the network `default` is started, and starts with the host", network::active)
        .at(Reach::Networks, REACHED),
    check("network.dnsmasq", "`dnsmasq` is installed, which gives guests their addresses", network::dnsmasq)
        .at(Reach::System, NOTHING),
    check("network.subnet", "the network's addresses are nobody else's", network::subnet).at(Reach::System, NETWORK),
    check("network.forwarding", "the kernel forwards guests' packets", network::forwarding).at(Reach::System, NETWORK),
    check("network.firewall", "no packet filter (Docker's, ufw's) drops them", network::firewall)
        .at(Reach::System, NETWORK),
    check("security.apparmor", "AppArmor, where it is on, confines guests", security::apparmor)
        .at(Reach::System, REACHED),
    check("security.selinux", "SELinux, where it is on, confines guests", security::selinux).at(Reach::System, REACHED),
    check("security.denials", "neither has refused a guest anything since the host's boot", security::denials)
        .at(Reach::System, NOTHING),
    check("clock.time", "the clock is not behind this program's own date", |_| Ok(clock::time())),
    check("clock.synchronised", "the clock follows a time server", clock::synchronised),
    check("keys.folder", "the key folder and each key in it can be used", |look| Ok(folders::keys(look))),
    check("cache.space", "the cache folder, into which images are fetched, has room", folders::cache),
    // First of these: whoever looks whether somebody is at a VM takes its lock over.
    check("state.locks", "no killed command has left a lock", |_| Ok(state::locks())),
    check("state.incomplete", "no killed create or delete has left a VM", state::incomplete)
        .at(Reach::Libvirt, REACHED),
    check("state.unfinished", "no killed upload or commit has left a volume", state::unfinished)
        .at(Reach::Libvirt, REACHED),
    check("state.volumes", "each disk, seed and log in the pool is a VM's", state::volumes).at(Reach::Libvirt, REACHED),
    check("state.downloads", "no download was left alone for a week", |look| Ok(state::downloads_left(look))),
];
