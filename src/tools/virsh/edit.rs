//! Changes to a domain that exists: its memory, virtual CPUs, disks and description.

use uuid::Uuid;

use super::{Capabilities, Domain, Virsh, Volume, failure, from_xml, host, script::Script};
use crate::error::{Code, Error, Result};

/// What this host can give a VM, where libvirt tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The most virtual CPUs.
    pub vcpus: Option<u32>,
    /// The memory in MiB that the host has itself.
    pub memory_mib: Option<u64>,
}

impl Virsh {
    /// What this host can give a VM of a domain's kind.
    pub fn limits(&self, domain: &Domain) -> Result<Limits> {
        let mut capabilities = vec!["domcapabilities", "--virttype", &domain.kind, "--arch", &domain.arch];
        capabilities.extend(domain.machine.iter().flat_map(|machine| ["--machine", machine]));
        let commands = [capabilities, vec!["nodememstats"]];
        // libvirt's test driver knows no memory.
        let sections = self.batch_tolerating("look at the host", &commands, &[Code::Conflict])?;
        let vcpus = Capabilities::from_xml(&sections[0])?.max_vcpus;
        Ok(Limits { vcpus, memory_mib: host::total_memory(&sections[1]) })
    }

    /// Sets the memory of a domain's configuration, and its maximum where that must change with it. The maximum goes first:
    /// raised it makes room for the memory, lowered it takes the memory along.
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

    /// Has the guest give back memory, or take it again, as far as it has a driver for that.
    pub fn set_live_memory(&self, uuid: Uuid, mib: u64) -> Result<()> {
        let (uuid, size) = (uuid.to_string(), format!("{mib}MiB"));
        self.change("change the running VM's memory", &["setmem", "--domain", &uuid, "--size", &size, "--live"])
    }

    /// Sets the virtual CPUs of a domain's configuration, and their maximum where that must change with them; first, as that of
    /// the memory.
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

    /// Plugs virtual CPUs into a running domain, or takes them out again.
    pub fn set_live_vcpus(&self, uuid: Uuid, count: u32) -> Result<()> {
        let (uuid, count) = (uuid.to_string(), count.to_string());
        let args = ["setvcpus", "--domain", &uuid, "--count", &count, "--live"];
        self.change("change the running VM's virtual CPUs", &args)
    }

    /// Sets a domain's description; an empty one removes it.
    pub fn set_description(&self, uuid: Uuid, text: &str, live: bool) -> Result<()> {
        const WHAT: &str = "change the VM's description";
        let uuid = uuid.to_string();
        let which = if live { &["--config", "--live"][..] } else { &["--config"] };
        if self.runner.plan.is_some() {
            return self.change(WHAT, &[&["desc", "--domain", &uuid], which, &["--new-desc", text]].concat());
        }
        // virsh edits one of the two at a time.
        let edits: Vec<_> = which.iter().map(|which| ["desc", "--domain", &uuid, which, "--edit"]).collect();
        let batch = self.run_script(WHAT, &Script::new(&edits)?.editing(text)?, true)?;
        batch.complaints.first().map_or(Ok(()), |first| Err(failure::explain(WHAT, &self.uri, first)))
    }

    /// The bytes of the disk that a running domain's guest calls `target`.
    pub fn live_capacity(&self, uuid: Uuid, target: &str) -> Result<u64> {
        let args = ["domstats", "--raw", "--nowait", "--block", &uuid.to_string()];
        let text = self.read("ask for the size of the VM's disk", &args)?;
        capacity(&text, target).ok_or_else(|| {
            Error::new(Code::ToolFailed, format!("libvirt does not tell the size of the disk `{target}`"))
        })
    }

    /// The bytes of a volume, by its path; none where no active pool has it.
    pub fn capacity_at(&self, path: &str) -> Result<Option<u64>> {
        match self.read("ask for the size of the VM's disk", &["vol-dumpxml", "--vol", path]) {
            Ok(xml) => from_xml::<Volume>("volume", &xml).map(|volume| Some(volume.capacity)),
            Err(error) if error.code == Code::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Sets the size of a running domain's disk. QEMU makes it smaller, too, when it is told so.
    pub fn resize_live_disk(&self, uuid: Uuid, target: &str, bytes: u64) -> Result<()> {
        let (uuid, size) = (uuid.to_string(), format!("{bytes}B"));
        let args = ["blockresize", "--domain", &uuid, "--path", target, "--size", &size];
        self.change("change the size of the running VM's disk", &args)
    }

    /// Sets the size of a volume that nobody uses, by its path.
    pub fn resize_volume_at(&self, path: &str, bytes: u64) -> Result<()> {
        let size = format!("{bytes}B");
        self.change("change the size of the VM's disk", &["vol-resize", "--vol", path, "--capacity", &size])
    }

    /// Runs commands one after the other until one fails.
    fn change_in_order(&self, what: &str, commands: &[Vec<&str>]) -> Result<()> {
        commands.iter().try_for_each(|command| self.change(what, command))
    }
}

/// Reads `domstats --block`: `block.0.name=vda`, and `block.0.capacity=1073741824` further down.
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
    fn a_disk_is_found_by_its_name_in_the_guest() {
        let text = "Domain: 'vda'\n  block.count=2\n  block.0.name=vda\n  block.0.path=/a=b\n  block.0.capacity=7\n  block.1.name=vdb\n\
                    block.1.capacity=9\n";
        assert_eq!((capacity(text, "vda"), capacity(text, "vdb"), capacity(text, "vdc")), (Some(7), Some(9), None));
    }
}
