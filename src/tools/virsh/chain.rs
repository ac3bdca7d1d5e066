//! What stands on what: the files that domains and their snapshots name, and the files that volumes build on.

use camino::{Utf8Path, Utf8PathBuf};
use quick_xml::{Reader, events::Event};
use serde::Deserialize;
use uuid::Uuid;

use super::{Pool, Virsh, domain, from_xml};
use crate::{
    error::{Code, Error, Result},
    model::record::VmRecord,
};

/// All that can use a volume of the active pools.
#[derive(Debug, Default)]
pub struct Storage {
    /// Every domain, each with its snapshots.
    pub domains: Vec<User>,
    /// Every volume of every active pool.
    pub volumes: Vec<StoredVolume>,
    /// The folders of the active pools that hold files.
    pub folders: Vec<Utf8PathBuf>,
}

/// A domain and the files that it uses.
#[derive(Debug)]
pub struct User {
    /// Its UUID.
    pub uuid: Uuid,
    /// Its name.
    pub name: String,
    /// What vmprov knows of it.
    pub metadata: Option<VmRecord>,
    /// The files that its XML names, running or not.
    pub files: Vec<NamedFile>,
    /// The files that its snapshots' XML names, by the snapshots' names.
    pub snapshots: Vec<(String, Vec<NamedFile>)>,
    /// The files that its external snapshots made: overlays on its disks, and saved memory.
    pub made_by_snapshots: Vec<String>,
}

/// A file that XML names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedFile {
    /// Its path, or its pool and name joined by `/`, without a `/` at the beginning.
    pub path: String,
    /// The format that the XML says.
    pub format: Option<String>,
}

/// A volume, and what it builds on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredVolume {
    /// The pool that it is in.
    pub pool: String,
    /// Its name.
    pub name: String,
    /// The bytes that it occupies.
    pub allocation: u64,
    /// Where it is.
    pub path: String,
    /// The file that it builds on.
    pub backing: Option<String>,
}

#[derive(Deserialize)]
struct RawVolume {
    allocation: u64,
    target: RawTarget,
    #[serde(rename = "backingStore")]
    backing: Option<RawBacking>,
}

#[derive(Deserialize)]
struct RawTarget {
    path: String,
}

#[derive(Deserialize)]
struct RawBacking {
    path: Option<String>,
}

impl Virsh {
    /// Reads what can use a volume: three processes, however many there are. With `refresh`, libvirt first looks for files
    /// that came into the pools without it.
    pub fn storage(&self, refresh: bool) -> Result<Storage> {
        const WHAT: &str = "look at what uses the images";
        let gone = [Code::NotFound];
        let commands = [vec!["list", "--all", "--uuid", "--name"], vec!["list", "--uuid"], vec!["pool-list", "--name"]];
        let sections = self.batch_tolerating(WHAT, &commands, &[])?;
        let [names, active, pools] = &sections[..] else { return Err(other_number()) };
        let domains: Vec<_> = domain::names(names)?.into_iter().map(|(uuid, name)| (uuid.to_string(), name)).collect();
        let is_active = |uuid: &str| active.lines().any(|line| line.trim() == uuid);
        let pools: Vec<_> = pools.lines().map(str::trim_end).filter(|pool| !pool.is_empty()).collect();

        let mut commands = Vec::new();
        for (uuid, _) in &domains {
            // What a domain that does not run uses is its only XML.
            let state: &[&str] = if is_active(uuid) { &["--inactive"] } else { &[] };
            commands.push(vec!["dumpxml", "--domain", uuid]);
            commands.push([&["dumpxml", "--domain", uuid][..], state].concat());
            commands.push(vec!["snapshot-list", "--domain", uuid, "--name"]);
        }
        for pool in &pools {
            let look = if refresh { "pool-refresh" } else { "pool-uuid" };
            commands.extend([vec![look, "--pool", pool], vec!["pool-dumpxml", "--pool", pool]]);
            commands.push(vec!["vol-list", "--pool", pool]);
        }
        let sections = self.batch_tolerating(WHAT, &commands, &gone)?;
        if sections.len() != commands.len() {
            return Err(other_number());
        }
        let (of_domains, of_pools) = sections.split_at(domains.len() * 3);
        let mut users = Vec::new();
        let mut snapshots = Vec::new();
        for ((uuid, name), sections) in domains.into_iter().zip(of_domains.chunks(3)) {
            let mut files = named_files(&sections[0])?;
            files.extend(named_files(&sections[1])?);
            let names = sections[2].lines().map(str::trim_end).filter(|name| !name.is_empty());
            snapshots.extend(names.map(|snapshot| (users.len(), uuid.clone(), snapshot.to_owned())));
            let metadata = VmRecord::from_domain_xml(&sections[0])?;
            users.push(User {
                uuid: uuid.parse().unwrap_or_default(),
                name,
                metadata,
                files,
                snapshots: Vec::new(),
                made_by_snapshots: Vec::new(),
            });
        }
        let (mut volumes, mut folders) = (Vec::new(), Vec::new());
        for (pool, sections) in pools.iter().zip(of_pools.chunks(3)) {
            if !sections[1].trim().is_empty() {
                let described = Pool::from_xml(&sections[1], true)?;
                let names = volume_names(&sections[2], &described.path);
                volumes.extend(names.map(|name| ((*pool).to_owned(), name)));
                folders.extend(described.holds_files().then_some(described.path));
            }
        }
        let storage = self.fill(WHAT, users, &snapshots, &volumes)?;
        Ok(Storage { folders, ..storage })
    }

    /// Reads each snapshot's and each volume's XML.
    fn fill(
        &self,
        what: &str,
        mut users: Vec<User>,
        snapshots: &[(usize, String, String)],
        volumes: &[(String, String)],
    ) -> Result<Storage> {
        let of_snapshot = |(_, uuid, name): &'_ (usize, String, String)| {
            ["snapshot-dumpxml", "--domain", uuid.as_str(), "--snapshotname", name.as_str()].map(str::to_owned)
        };
        let of_volume = |(pool, name): &(String, String)| {
            ["vol-dumpxml", "--pool", pool.as_str(), "--vol", name.as_str()].map(str::to_owned)
        };
        let commands: Vec<_> = snapshots.iter().map(of_snapshot).chain(volumes.iter().map(of_volume)).collect();
        let commands: Vec<_> = commands.iter().map(|command| command.iter().map(String::as_str).collect()).collect();
        let sections = self.batch_tolerating(what, &commands, &[Code::NotFound])?;
        for ((user, _, name), section) in snapshots.iter().zip(&sections) {
            users[*user].snapshots.push((name.clone(), named_files(section)?));
            users[*user].made_by_snapshots.extend(made_by_snapshot(section)?);
        }
        let mut stored = Vec::new();
        for ((pool, name), section) in volumes.iter().zip(&sections[snapshots.len()..]) {
            if section.trim().is_empty() {
                continue; // it has gone since it was listed
            }
            let raw: RawVolume = from_xml("volume", section.trim())?;
            stored.push(StoredVolume {
                pool: pool.clone(),
                name: name.clone(),
                allocation: raw.allocation,
                path: raw.target.path,
                backing: raw.backing.and_then(|backing| backing.path),
            });
        }
        Ok(Storage { domains: users, volumes: stored, folders: Vec::new() })
    }

    /// The pool and the name of the volume at a path of the host; none where libvirt knows of none.
    pub fn volume_of(&self, path: &str) -> Result<Option<(String, String)>> {
        let commands = [vec!["vol-pool", "--vol", path], vec!["vol-name", "--vol", path]];
        let sections = self.batch_tolerating("look for the volume", &commands, &[Code::NotFound])?;
        let [pool, name] = &sections[..] else { return Err(other_number()) };
        let (pool, name) = (pool.trim_end_matches('\n'), name.trim_end_matches('\n'));
        Ok((!pool.is_empty() && !name.is_empty()).then(|| (pool.to_owned(), name.to_owned())))
    }

    /// The names of the pools that are started.
    pub fn active_pools(&self) -> Result<Vec<String>> {
        let text = self.read("list the storage pools", &["pool-list", "--name"])?;
        Ok(text.lines().map(str::trim_end).filter(|pool| !pool.is_empty()).map(str::to_owned).collect())
    }

    /// Lets libvirt look for files that came into the active pools without it.
    pub fn refresh_pools(&self) -> Result<()> {
        const WHAT: &str = "look for new files in the storage pools";
        let pools = self.active_pools()?;
        let commands: Vec<_> = pools.iter().map(|pool| vec!["pool-refresh", "--pool", pool]).collect();
        self.batch_tolerating(WHAT, &commands, &[Code::NotFound]).map(drop)
    }

    /// The architecture of libvirt's host.
    pub fn arch(&self) -> Result<String> {
        #[derive(Deserialize)]
        struct Capabilities {
            host: Host,
        }
        #[derive(Deserialize)]
        struct Host {
            cpu: Cpu,
        }
        #[derive(Deserialize)]
        struct Cpu {
            arch: String,
        }
        let xml = self.read("ask for the host's architecture", &["capabilities"])?;
        Ok(from_xml::<Capabilities>("capabilities", &xml)?.host.cpu.arch)
    }

    /// Whether a domain has snapshots, of any kind.
    pub fn has_snapshots(&self, uuid: Uuid) -> Result<bool> {
        let names =
            self.read("list the VM's snapshots", &["snapshot-list", "--domain", &uuid.to_string(), "--name"])?;
        Ok(!names.trim().is_empty())
    }
}

fn other_number() -> Error {
    Error::internal("virsh printed another number of answers than asked for")
}

/// The names in `vol-list`'s table. A row is a name, spaces and a path; in a pool of files the path ends with the name,
/// which may hold spaces itself. Elsewhere names hold none.
fn volume_names<'t>(table: &'t str, target: &'t Utf8Path) -> impl Iterator<Item = String> + 't {
    table.lines().map(str::trim).filter(|row| !row.is_empty()).map(move |row| {
        let by_path = row.rsplit_once('/').map(|(_, name)| name).filter(|name| {
            let path: Utf8PathBuf = target.join(name);
            row.ends_with(path.as_str()) && row.starts_with(name)
        });
        by_path.unwrap_or_else(|| row.split_whitespace().next().unwrap_or(row)).to_owned()
    })
}

/// Every file that a domain's or a snapshot's XML names: sources of disks, what they build on, the targets of running
/// block jobs. Which element is which is not asked: one too many keeps an image, one too few would destroy it.
fn named_files(xml: &str) -> Result<Vec<NamedFile>> {
    let failed =
        |error: &dyn std::fmt::Display| Error::new(Code::ToolFailed, "cannot read libvirt's domain XML").because(error);
    let mut files = Vec::new();
    let (mut in_disk, mut format) = (false, None);
    let mut reader = Reader::from_str(xml);
    loop {
        let tag = match reader.read_event().map_err(|error| failed(&error))? {
            Event::Start(tag) | Event::Empty(tag) => tag,
            Event::End(tag) if tag.local_name().as_ref() == "disk" => {
                in_disk = false;
                continue;
            }
            Event::Eof => return Ok(files),
            _ => continue,
        };
        let attribute = |name: &str| -> Result<Option<String>> {
            let found = tag.try_get_attribute(name).map_err(|error| failed(&error))?;
            let value = found.map(|attribute| attribute.normalized_value(quick_xml::XmlVersion::Implicit1_0));
            Ok(value.transpose().map_err(|error| failed(&error))?.map(std::borrow::Cow::into_owned))
        };
        match tag.local_name().as_ref() {
            "disk" => (in_disk, format) = (true, None),
            // The sources of networks and consoles are no images.
            _ if !in_disk => {}
            "driver" | "format" => format = attribute("type")?.or(format),
            "source" => {
                let volume = attribute("pool")?.zip(attribute("volume")?).map(|(pool, name)| format!("{pool}/{name}"));
                let path = attribute("file")?.or(attribute("dev")?).or(volume).or(attribute("name")?);
                files.extend(path.map(|path| NamedFile { path, format: format.clone() }));
            }
            _ => {}
        }
    }
}

/// The files that an external snapshot made. The `<domain>` in its XML names everything else that the VM had, too, so only
/// the snapshot's own elements are read.
fn made_by_snapshot(xml: &str) -> Result<Vec<String>> {
    #[derive(Deserialize, Default)]
    struct Snapshot {
        memory: Option<Memory>,
        #[serde(default)]
        disks: Disks,
    }
    #[derive(Deserialize)]
    struct Memory {
        #[serde(rename = "@file")]
        file: Option<String>,
    }
    #[derive(Deserialize, Default)]
    struct Disks {
        #[serde(rename = "disk", default)]
        disks: Vec<Disk>,
    }
    #[derive(Deserialize)]
    struct Disk {
        #[serde(rename = "@snapshot")]
        snapshot: Option<String>,
        source: Option<Source>,
    }
    #[derive(Deserialize)]
    struct Source {
        #[serde(rename = "@file")]
        file: Option<String>,
    }
    if xml.trim().is_empty() {
        return Ok(Vec::new()); // it has gone since it was listed
    }
    let snapshot: Snapshot = from_xml("snapshot", xml.trim())?;
    let external = |disk: &Disk| disk.snapshot.as_deref() == Some("external");
    let overlays = snapshot.disks.disks.into_iter().filter(external).filter_map(|disk| disk.source?.file);
    Ok(overlays.chain(snapshot.memory.and_then(|memory| memory.file)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_in_the_xml_is_seen() {
        let xml = "<domainsnapshot><domain><devices><serial type='file'><source file='/log'/></serial><disk type='file'><driver name='qemu' type='qcow2'/>\
                   <source file='/p/a &amp; b.qcow2'/><backingStore type='file'><format type='raw'/><source file='/p/base'/>\
                   </backingStore><mirror><source file='/p/mirror'/></mirror></disk>\
                   <disk type='volume'><driver type='raw'/><source pool='p' volume='v'/></disk>\
                   <disk type='block'><source dev='/dev/vg/lv'/></disk></devices></domain></domainsnapshot>";
        let found: Vec<_> = named_files(xml).unwrap().into_iter().map(|file| (file.path, file.format)).collect();
        let file = |path: &str, format: Option<&str>| (path.to_owned(), format.map(str::to_owned));
        assert_eq!(
            found,
            [
                file("/p/a & b.qcow2", Some("qcow2")),
                file("/p/base", Some("raw")),
                file("/p/mirror", Some("raw")),
                file("p/v", Some("raw")),
                file("/dev/vg/lv", None),
            ]
        );
    }

    #[test]
    fn what_a_snapshot_made_is_told_from_what_the_vm_had() {
        let xml = "<domainsnapshot><name>e1</name><memory snapshot='external' file='/p/e1.mem'/><disks>\
                   <disk name='vda' snapshot='external' type='file'><driver type='qcow2'/><source file='/p/web.e1'/></disk>\
                   <disk name='vdb' snapshot='no'/></disks><domain><memory unit='KiB'>1</memory><devices>\
                   <disk type='file'><source file='/p/data.qcow2'/></disk></devices></domain></domainsnapshot>";
        assert_eq!(made_by_snapshot(xml).unwrap(), ["/p/web.e1", "/p/e1.mem"]);
        assert_eq!(made_by_snapshot("").unwrap(), Vec::<String>::new());
    }

    #[test]
    fn names_with_spaces_are_whole() {
        let table = " web.qcow2        /p/web.qcow2\n my disk (1).img   /p/my disk (1).img\n lv   /dev/vg/lv\n\n";
        let names: Vec<_> = volume_names(table, Utf8Path::new("/p")).collect();
        assert_eq!(names, ["web.qcow2", "my disk (1).img", "lv"]);
    }
}
