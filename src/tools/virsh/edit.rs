//! Changes to an existing domain: its memory, virtual CPUs, disks and description.

use uuid::Uuid;

use super::{Capabilities, Domain, Virsh, Volume, from_xml, host, script::Script};
use crate::error::{Code, Error, Result};

/// The host's limits for a VM, as far as libvirt reports them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The maximum number of virtual CPUs.
    pub vcpus: Option<u32>,
    /// The host's memory in MiB.
    pub memory_mib: Option<u64>,
}

impl Virsh {
    /// Returns the host's limits for a VM of the domain's kind.
    pub fn limits(&self, domain: &Domain) -> Result<Limits> {
        let mut capabilities = vec!["domcapabilities", "--virttype", &domain.kind, "--arch", &domain.arch];
        capabilities.extend(domain.machine.iter().flat_map(|machine| ["--machine", machine]));
        let commands = [capabilities, vec!["nodememstats"]];
        // libvirt's test driver does not support `nodememstats`.
        let sections = self.batch_tolerating("read the host's limits", &commands, &[Code::Conflict])?;
        let vcpus = Capabilities::from_xml(&sections[0])?.max_vcpus;
        Ok(Limits { vcpus, memory_mib: host::total_memory(&sections[1]) })
    }

    /// Sets the memory in a domain's configuration, and its maximum if that must change too. The maximum is set first:
    /// raising it makes room for the memory, and lowering it lowers the memory as well.
    pub fn set_memory(&self, uuid: Uuid, max_mib: Option<u64>, mib: u64) -> Result<()> {
        let (uuid, size) = (uuid.to_string(), format!("{mib}MiB"));
        let max = max_mib.map(|max| format!("{max}MiB"));
        let mut commands: Vec<Vec<&str>> = Vec::new();
        if let Some(max) = &max {
            commands.push(vec!["setmaxmem", "--domain", &uuid, "--size", max, "--config"]);
        }
        commands.push(vec!["setmem", "--domain", &uuid, "--size", &size, "--config"]);
        self.change_in_order("change the VM's memory", &commands)
    }

    /// Changes the memory of a running domain. The guest needs a balloon driver.
    pub fn set_live_memory(&self, uuid: Uuid, mib: u64) -> Result<()> {
        let (uuid, size) = (uuid.to_string(), format!("{mib}MiB"));
        self.change("change the running VM's memory", &["setmem", "--domain", &uuid, "--size", &size, "--live"])
    }

    /// Sets the virtual CPUs in a domain's configuration, and their maximum if that must change too. The maximum is set
    /// first, as for the memory.
    pub fn set_vcpus(&self, uuid: Uuid, max: Option<u32>, count: u32) -> Result<()> {
        let (uuid, count) = (uuid.to_string(), count.to_string());
        let max = max.map(|max| max.to_string());
        let mut commands: Vec<Vec<&str>> = Vec::new();
        if let Some(max) = &max {
            commands.push(vec!["setvcpus", "--domain", &uuid, "--count", max, "--config", "--maximum"]);
        }
        commands.push(vec!["setvcpus", "--domain", &uuid, "--count", &count, "--config"]);
        self.change_in_order("change the VM's virtual CPUs", &commands)
    }

    /// Hot-plugs virtual CPUs into a running domain, or unplugs them.
    pub fn set_live_vcpus(&self, uuid: Uuid, count: u32) -> Result<()> {
        let (uuid, count) = (uuid.to_string(), count.to_string());
        let args = ["setvcpus", "--domain", &uuid, "--count", &count, "--live"];
        self.change("change the running VM's virtual CPUs", &args)
    }

    /// Sets a domain's description. An empty text removes it.
    pub fn set_description(&self, uuid: Uuid, text: &str, live: bool) -> Result<()> {
        const WHAT: &str = "change the VM's description";
        let uuid = uuid.to_string();
        let which = if live { &["--config", "--live"][..] } else { &["--config"] };
        if self.runner.plan.is_some() {
            return self.change(WHAT, &[&["desc", "--domain", &uuid], which, &["--new-desc", text]].concat());
        }
        // virsh edits either the configuration or the running domain.
        let edits: Vec<_> = which.iter().map(|which| ["desc", "--domain", &uuid, which, "--edit"]).collect();
        self.done(WHAT, Some(self.run_edits(WHAT, &Script::new(&edits), text)?))
    }

    /// Returns the size in bytes of a running domain's disk. `target` is its name in the guest.
    pub fn live_capacity(&self, uuid: Uuid, target: &str) -> Result<u64> {
        let args = ["domstats", "--raw", "--nowait", "--block", &uuid.to_string()];
        let text = self.read("read the size of the VM's disk", &args)?;
        capacity(&text, target).ok_or_else(|| {
            Error::new(Code::ToolFailed, format!("libvirt does not report the size of the disk `{target}`"))
        })
    }

    /// Returns the size in bytes of the volume at a path; none if no active pool contains it.
    pub fn capacity_at(&self, path: &str) -> Result<Option<u64>> {
        match self.read("read the size of the VM's disk", &["vol-dumpxml", "--vol", path]) {
            Ok(xml) => from_xml::<Volume>("volume", &xml).map(|volume| Some(volume.capacity)),
            Err(error) if error.code == Code::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Resizes a running domain's disk. QEMU also shrinks it if the size is smaller.
    pub fn resize_live_disk(&self, uuid: Uuid, target: &str, bytes: u64) -> Result<()> {
        let (uuid, size) = (uuid.to_string(), format!("{bytes}B"));
        let args = ["blockresize", "--domain", &uuid, "--path", target, "--size", &size];
        self.change("resize the running VM's disk", &args)
    }

    /// Resizes the volume at a path. It must not be in use.
    pub fn resize_volume_at(&self, path: &str, bytes: u64) -> Result<()> {
        let size = format!("{bytes}B");
        self.change("resize the VM's disk", &["vol-resize", "--vol", path, "--capacity", &size])
    }

    /// Runs commands one after another until one fails.
    fn change_in_order(&self, what: &str, commands: &[Vec<&str>]) -> Result<()> {
        commands.iter().try_for_each(|command| self.change(what, command))
    }
}

/// Parses `domstats --block`: `block.0.name=vda`, and `block.0.capacity=1073741824` further down.
fn capacity(text: &str, target: &str) -> Option<u64> {
    let pairs = || text.lines().filter_map(|line| line.trim().split_once('='));
    let (key, _) = pairs().find(|(key, value)| key.ends_with(".name") && *value == target)?;
    let wanted = format!("{}.capacity", key.strip_suffix(".name")?);
    pairs().find(|(key, _)| *key == wanted)?.1.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_capacity_is_found_by_the_disks_name_in_the_guest() {
        let text = "Domain: 'vda'\n  block.count=2\n  block.0.name=vda\n  block.0.path=/a=b\n  block.0.capacity=7\n  block.1.name=vdb\n\
                    block.1.capacity=9\n";
        assert_eq!((capacity(text, "vda"), capacity(text, "vdb"), capacity(text, "vdc")), (Some(7), Some(9), None));
    }
}
