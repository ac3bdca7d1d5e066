//! Uses of volumes: the files in the XML of domains and their snapshots, and the backing files of volumes.

use camino::{Utf8Path, Utf8PathBuf};
use quick_xml::{Reader, events::Event};
use serde::Deserialize;
use uuid::Uuid;

use super::{Pool, Virsh, domain, from_xml, unexpected_sections};
use crate::{
    error::{Code, Error, Result},
    model::record::VmRecord,
};

/// Everything that can use a volume of the active pools.
#[derive(Debug, Default)]
pub struct Storage {
    /// Every domain, each with its snapshots.
    pub domains: Vec<VolumeUser>,
    /// Every volume of every active pool.
    pub volumes: Vec<StoredVolume>,
    /// The folders of the active pools whose volumes are files.
    pub folders: Vec<Utf8PathBuf>,
}

/// A domain and the files that it uses.
#[derive(Debug)]
pub struct VolumeUser {
    /// Its UUID.
    pub uuid: Uuid,
    /// Its name.
    pub name: String,
    /// vmprov's record of it.
    pub metadata: Option<VmRecord>,
    /// The files in the XML of its configuration and of the running domain.
    pub files: Vec<NamedFile>,
    /// The files in the XML of each snapshot, by the snapshot's name.
    pub snapshots: Vec<(String, Vec<NamedFile>)>,
    /// The files that its external snapshots created: overlays of its disks, and saved memory.
    pub made_by_snapshots: Vec<String>,
}

/// A file that is named in XML.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedFile {
    /// Its path. For a volume of a pool, the pool's and the volume's name, joined by `/` and without a leading `/`.
    pub path: String,
    /// Its format according to the XML.
    pub format: Option<String>,
}

/// A volume and its backing file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredVolume {
    /// The pool that it is in.
    pub pool: String,
    /// Its name.
    pub name: String,
    /// The bytes that it occupies.
    pub allocation: u64,
    /// Its path.
    pub path: String,
    /// Its backing file.
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
    /// Reads everything that can use a volume, in three processes, independent of its amount. With `refresh`, libvirt
    /// first scans the pools for files that were added without it.
    pub fn storage(&self, refresh: bool) -> Result<Storage> {
        const WHAT: &str = "determine which volumes are in use";
        let gone = [Code::NotFound];
        let commands = [vec!["list", "--all", "--uuid", "--name"], vec!["list", "--uuid"], vec!["pool-list", "--name"]];
        let sections = self.batch_tolerating(WHAT, &commands, &[])?;
        let [names, active, pools] = &sections[..] else { return Err(unexpected_sections()) };
        let domains: Vec<_> = domain::names(names)?.into_iter().map(|(uuid, name)| (uuid.to_string(), name)).collect();
        let is_active = |uuid: &str| active.lines().any(|line| line.trim() == uuid);
        let pools: Vec<_> = pools.lines().map(str::trim_end).filter(|pool| !pool.is_empty()).collect();

        let mut commands = Vec::new();
        for (uuid, _) in &domains {
            // A domain that is not running has only one XML.
            let state: &[&str] = if is_active(uuid) { &["--inactive"] } else { &[] };
            commands.push(vec!["dumpxml", "--domain", uuid]);
            commands.push([&["dumpxml", "--domain", uuid][..], state].concat());
            commands.push(vec!["snapshot-list", "--domain", uuid, "--name"]);
        }
        for pool in &pools {
            // `pool-uuid` only keeps the number of commands the same.
            let first = if refresh { "pool-refresh" } else { "pool-uuid" };
            commands.extend([vec![first, "--pool", pool], vec!["pool-dumpxml", "--pool", pool]]);
            commands.push(vec!["vol-list", "--pool", pool]);
        }
        let sections = self.batch_tolerating(WHAT, &commands, &gone)?;
        if sections.len() != commands.len() {
            return Err(unexpected_sections());
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
            users.push(VolumeUser {
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

    /// Reads the XML of each snapshot and each volume.
    fn fill(
        &self,
        what: &str,
        mut users: Vec<VolumeUser>,
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
                continue; // it was deleted after it was listed
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

    /// Returns the pool and the name of the volume at a path of the host; none if libvirt knows no volume there.
    pub fn volume_of(&self, path: &str) -> Result<Option<(String, String)>> {
        let commands = [vec!["vol-pool", "--vol", path], vec!["vol-name", "--vol", path]];
        let sections = self.batch_tolerating("find the volume", &commands, &[Code::NotFound])?;
        let [pool, name] = &sections[..] else { return Err(unexpected_sections()) };
        let (pool, name) = (pool.trim_end_matches('\n'), name.trim_end_matches('\n'));
        Ok((!pool.is_empty() && !name.is_empty()).then(|| (pool.to_owned(), name.to_owned())))
    }

    /// Returns the names of the active pools.
    pub fn active_pools(&self) -> Result<Vec<String>> {
        let text = self.read("list the storage pools", &["pool-list", "--name"])?;
        Ok(text.lines().map(str::trim_end).filter(|pool| !pool.is_empty()).map(str::to_owned).collect())
    }

    /// Makes libvirt scan the active pools for files that were added without it.
    pub fn refresh_pools(&self) -> Result<()> {
        const WHAT: &str = "refresh the storage pools";
        let pools = self.active_pools()?;
        let commands: Vec<_> = pools.iter().map(|pool| vec!["pool-refresh", "--pool", pool]).collect();
        self.batch_tolerating(WHAT, &commands, &[Code::NotFound]).map(drop)
    }

    /// Returns the architecture of libvirt's host.
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
        let xml = self.read("read the host's architecture", &["capabilities"])?;
        Ok(from_xml::<Capabilities>("capabilities", &xml)?.host.cpu.arch)
    }

    /// Returns whether a domain has snapshots of any kind.
    pub fn has_snapshots(&self, uuid: Uuid) -> Result<bool> {
        let names =
            self.read("list the VM's snapshots", &["snapshot-list", "--domain", &uuid.to_string(), "--name"])?;
        Ok(!names.trim().is_empty())
    }
}

/// Returns the names in the table of `vol-list`. A row is a name, spaces and a path. In a pool of files, the path ends
/// with the name, which may contain spaces. In other pools, names contain no spaces.
fn volume_names<'t>(table: &'t str, target: &'t Utf8Path) -> impl Iterator<Item = String> + 't {
    table.lines().map(str::trim).filter(|row| !row.is_empty()).map(move |row| {
        let by_path = row.rsplit_once('/').map(|(_, name)| name).filter(|name| {
            let path: Utf8PathBuf = target.join(name);
            row.ends_with(path.as_str()) && row.starts_with(name)
        });
        by_path.unwrap_or_else(|| row.split_whitespace().next().unwrap_or(row)).to_owned()
    })
}

/// Returns every file in a domain's or a snapshot's XML: sources of disks, their backing files, and the targets of
/// running block jobs. It does not distinguish these elements: a file too many only keeps an image, whereas a file too
/// few would destroy one.
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
            // The sources of networks and consoles are not images.
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

/// Returns the files that an external snapshot created. The `<domain>` in its XML also names all other files of the VM,
/// so only the snapshot's own elements are read.
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
        return Ok(Vec::new()); // it was deleted after it was listed
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
    fn every_file_in_the_xml_is_found() {
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
    fn only_files_that_a_snapshot_created_are_returned() {
        let xml = "<domainsnapshot><name>e1</name><memory snapshot='external' file='/p/e1.mem'/><disks>\
                   <disk name='vda' snapshot='external' type='file'><driver type='qcow2'/><source file='/p/web.e1'/></disk>\
                   <disk name='vdb' snapshot='no'/></disks><domain><memory unit='KiB'>1</memory><devices>\
                   <disk type='file'><source file='/p/data.qcow2'/></disk></devices></domain></domainsnapshot>";
        assert_eq!(made_by_snapshot(xml).unwrap(), ["/p/web.e1", "/p/e1.mem"]);
        assert_eq!(made_by_snapshot("").unwrap(), Vec::<String>::new());
    }

    #[test]
    fn names_with_spaces_are_complete() {
        let table = " web.qcow2        /p/web.qcow2\n my disk (1).img   /p/my disk (1).img\n lv   /dev/vg/lv\n\n";
        let names: Vec<_> = volume_names(table, Utf8Path::new("/p")).collect();
        assert_eq!(names, ["web.qcow2", "my disk (1).img", "lv"]);
    }
}
