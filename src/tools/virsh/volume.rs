//! Storage pools and their volumes. libvirtd does the writing, so that it works without a right to the files.

use std::time::{Duration, Instant};

use camino::{Utf8Path, Utf8PathBuf};
use quick_xml::escape::escape;
use serde::Deserialize;

use super::{super::scratch::Scratch, Virsh, failure, from_xml};
use crate::error::{Code, Error, Result};

/// How long an upload may take: an image of tens of GiB over a slow line.
const UPLOAD_LIMIT: Duration = Duration::from_hours(2);

/// How long libvirt may take to finish a volume that is to be deleted.
const ALLOCATION_LIMIT: Duration = Duration::from_secs(20);

/// How often is looked whether it has.
const ALLOCATION_POLL: Duration = Duration::from_millis(100);

/// A storage pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pool {
    /// Its name.
    pub name: String,
    /// `dir`, `logical`, …
    pub kind: String,
    /// The folder that its volumes are in.
    pub path: Utf8PathBuf,
    /// The bytes that are left in it.
    pub available: u64,
    /// Whether it is started.
    pub active: bool,
}

#[derive(Deserialize)]
struct RawPool {
    #[serde(rename = "@type")]
    kind: String,
    name: String,
    available: u64,
    target: Option<RawTarget>,
}

#[derive(Deserialize)]
struct RawTarget {
    path: Option<Utf8PathBuf>,
}

impl Pool {
    pub(super) fn from_xml(xml: &str, active: bool) -> Result<Self> {
        let raw: RawPool = from_xml("storage pool", xml)?;
        Ok(Self {
            path: raw.target.and_then(|target| target.path).unwrap_or_default(),
            name: raw.name,
            kind: raw.kind,
            available: raw.available,
            active,
        })
    }

    /// The directory pool that will be there when it has been made.
    pub fn to_be_made(name: &str, path: &Utf8Path) -> Self {
        Self { name: name.to_owned(), kind: "dir".to_owned(), path: path.to_owned(), available: u64::MAX, active: true }
    }

    /// Where a volume of it is. For pools of files, which are all that qcow2 overlays can be in, libvirt joins the
    /// pool's target and the volume's name; knowing it beforehand lets a domain be defined before its volumes are.
    pub fn path_of(&self, volume: &str) -> String {
        self.path.join(volume).into_string()
    }

    /// Whether volumes are files in a folder.
    pub fn holds_files(&self) -> bool {
        matches!(self.kind.as_str(), "dir" | "fs" | "netfs")
    }
}

/// A volume as libvirt describes it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Volume {
    /// Its virtual size in bytes.
    pub capacity: u64,
    /// The bytes that it occupies.
    pub allocation: u64,
}

/// A volume to be made.
#[derive(Debug, Clone)]
pub enum NewVolume<'a> {
    /// A blank qcow2 disk of so many bytes.
    Blank(u64),
    /// A qcow2 overlay of so many bytes on a base volume.
    Overlay(u64, &'a str),
    /// Room for the content of a file of so many bytes.
    Content(u64),
    /// The same, but to be changed by nobody: a `blockcommit` into the wrong layer then fails instead of destroying
    /// what other VMs stand on.
    Immutable(u64),
}

fn first_words(table: &str) -> impl Iterator<Item = &str> {
    table.lines().filter_map(|line| line.split_whitespace().next())
}

/// Whether libvirt has not finished making a volume (11.3.0).
fn is_being_made(error: &Error) -> bool {
    error.cause.as_ref().is_some_and(|cause| cause.contains("is still being allocated"))
}

fn making(pool: &str) -> String {
    format!("make the storage pool `{pool}`")
}

impl Virsh {
    /// Makes a directory pool, starts it, and has it start with the host.
    pub fn make_pool(&self, name: &str, path: &Utf8Path) -> Result<()> {
        // `pool-define-as` puts its arguments into XML as they are (11.3.0).
        let (escaped, target) = (escape(name), escape(path.as_str()));
        let xml = format!("<pool type='dir'><name>{escaped}</name><target><path>{target}</path></target></pool>");
        self.change_with(&making(name), self.tool(&["pool-define", "/dev/stdin"]).stdin(xml))?;
        self.build_pool(name)?;
        self.start_pool(name)?;
        self.autostart_pool(name)
    }

    /// Has a pool start with the host.
    pub fn autostart_pool(&self, name: &str) -> Result<()> {
        let what = format!("make the storage pool `{name}` start with the host");
        self.change(&what, &["pool-autostart", "--pool", name])
    }

    /// Makes the folder of a directory pool where it is missing; nothing in it is touched.
    pub fn build_pool(&self, name: &str) -> Result<()> {
        self.change(&format!("make the folder of the storage pool `{name}`"), &["pool-build", "--pool", name])
    }

    /// Stops a pool; its folder and volumes stay, and so do guests. One that is not active is fine.
    pub fn stop_pool(&self, name: &str) -> Result<()> {
        match self.change(&format!("stop the storage pool `{name}`"), &["pool-destroy", "--pool", name]) {
            Err(error) if error.code == Code::Conflict => Ok(()),
            result => result,
        }
    }

    /// Forgets a pool; its folder and volumes stay. One that is not there is fine.
    pub fn remove_pool(&self, name: &str) -> Result<()> {
        let what = format!("remove the storage pool `{name}`");
        for verb in ["pool-destroy", "pool-undefine"] {
            match self.change(&what, &[verb, "--pool", name]) {
                Err(error) if matches!(error.code, Code::NotFound | Code::Conflict) => {}
                result => result?,
            }
        }
        Ok(())
    }

    /// Starts a pool; one that is active already is fine.
    pub fn start_pool(&self, name: &str) -> Result<()> {
        match self.change(&format!("start the storage pool `{name}`"), &["pool-start", "--pool", name]) {
            Err(error) if error.code == Code::Conflict => Ok(()),
            result => result,
        }
    }

    /// A pool, and whether it is active; none when there is no such pool.
    pub fn pool(&self, name: &str) -> Result<Option<Pool>> {
        let commands = [vec!["pool-dumpxml", "--pool", name], vec!["pool-list", "--name"]];
        let sections = self.batch_tolerating("look at the storage pool", &commands, &[Code::NotFound])?;
        let active = sections[1].lines().any(|line| line.trim_end() == name);
        match sections[0].trim() {
            "" => Ok(None),
            xml => Pool::from_xml(xml, active).map(Some),
        }
    }

    /// Makes a volume; fails when there is one of that name.
    pub fn create_volume(&self, pool: &str, name: &str, volume: &NewVolume) -> Result<()> {
        let what = format!("make the volume `{name}` in pool `{pool}`");
        let make = |capacity: u64, more: &[&str]| {
            let capacity = capacity.to_string();
            let mut args = vec!["vol-create-as", "--pool", pool, "--name", name, "--capacity", &capacity];
            args.extend(more);
            self.change(&what, &args)
        };
        match *volume {
            NewVolume::Blank(size) => make(size, &["--format", "qcow2"]),
            NewVolume::Overlay(size, base) => {
                make(size, &["--format", "qcow2", "--backing-vol", base, "--backing-vol-format", "qcow2"])
            }
            NewVolume::Content(size) => make(size, &["--allocation", "0", "--format", "raw"]),
            NewVolume::Immutable(size) => {
                // A libvirt that is not root could not fill it then; whoever runs that has to see to it afterwards.
                let mode = if self.is_session() { "0600" } else { "0444" };
                let xml = format!(
                    "<volume><name>{name}</name><capacity>{size}</capacity><allocation>0</allocation>\
                     <target><format type='raw'/><permissions><mode>{mode}</mode></permissions></target></volume>"
                );
                let tool = self.tool(&["vol-create", "--pool", pool, "--file", "/dev/stdin"]).stdin(xml);
                self.change_with(&what, tool)
            }
        }
    }

    /// Writes a file's content into a volume.
    pub fn upload(&self, pool: &str, name: &str, file: &Utf8Path) -> Result<()> {
        let args = ["vol-upload", "--pool", pool, "--vol", name, "--file", file.as_str(), "--sparse"];
        let tool = self.tool(&args).limit(UPLOAD_LIMIT);
        self.change_with(&format!("upload into the volume `{name}` of pool `{pool}`"), tool)
    }

    /// Makes a volume of so many bytes and writes a file's content into it, in one process. virsh would go on and write
    /// into a volume that is there already, so this is for a name that nobody else can have.
    pub fn create_filled_volume(&self, pool: &str, name: &str, size: u64, file: &Utf8Path) -> Result<()> {
        let size = size.to_string();
        let create = [
            "vol-create-as",
            "--pool",
            pool,
            "--name",
            name,
            "--capacity",
            &size,
            "--allocation",
            "0",
            "--format",
            "raw",
        ];
        let upload = ["vol-upload", "--pool", pool, "--vol", name, "--file", file.as_str()];
        self.change_all(&format!("make the volume `{name}` in pool `{pool}`"), &[&create, &upload])
    }

    /// Writes a volume's content into a file.
    pub fn download(&self, pool: &str, name: &str, file: &Utf8Path) -> Result<()> {
        let args = ["vol-download", "--pool", pool, "--vol", name, "--file", file.as_str(), "--sparse"];
        let finished = self.tool(&args).limit(UPLOAD_LIMIT).read(&self.runner)?;
        if finished.status.success() {
            return Ok(());
        }
        Err(failure::explain(&format!("read the volume `{name}` of pool `{pool}`"), &self.uri, &finished.stderr))
    }

    /// Writes the content of several small volumes into files; one that has gone leaves its file empty.
    pub fn download_all(&self, pool: &str, wanted: &[(&str, &str)]) -> Result<()> {
        let download = |&(name, file): &(&'_ str, &'_ str)| {
            ["vol-download", "--pool", pool, "--vol", name, "--file", file].map(str::to_owned)
        };
        let commands: Vec<_> = wanted.iter().map(download).collect();
        let commands: Vec<_> = commands.iter().map(|command| command.iter().map(String::as_str).collect()).collect();
        // libvirt's test driver does not have it.
        let tolerated = [Code::NotFound, Code::Conflict];
        self.batch_tolerating("read what is known of the images", &commands, &tolerated).map(drop)
    }

    /// Makes a volume that holds what another and all that it builds on hold together.
    pub fn clone_volume(&self, pool: &str, name: &str, clone: &str) -> Result<()> {
        let tool = self.tool(&["vol-clone", "--pool", pool, "--vol", name, "--newname", clone]).limit(UPLOAD_LIMIT);
        self.change_with(&format!("copy the volume `{name}` of pool `{pool}`"), tool)
    }

    /// A volume; none when there is no such volume.
    pub fn volume(&self, pool: &str, name: &str) -> Result<Option<Volume>> {
        match self.read(&format!("look at the volume `{name}`"), &["vol-dumpxml", "--pool", pool, "--vol", name]) {
            Ok(xml) => from_xml("volume", &xml).map(Some),
            Err(error) if error.code == Code::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Deletes a volume; true when it was there.
    pub fn delete_volume(&self, pool: &str, name: &str) -> Result<bool> {
        let deadline = Instant::now() + ALLOCATION_LIMIT;
        loop {
            match self.change(
                &format!("delete the volume `{name}` of pool `{pool}`"),
                &["vol-delete", "--pool", pool, "--vol", name],
            ) {
                Ok(()) => return Ok(true),
                Err(error) if error.code == Code::NotFound => return Ok(false),
                // libvirt goes on making a volume whose virsh was interrupted.
                Err(error) if is_being_made(&error) && Instant::now() < deadline => std::thread::sleep(ALLOCATION_POLL),
                Err(error) => return Err(error),
            }
        }
    }

    /// The names of a pool's volumes that begin with `prefix`, which must hold no space. virsh prints them in a table
    /// only; a name of ours is the first word of its row, wherever the columns are.
    pub fn volumes_like(&self, pool: &str, prefix: &str) -> Result<Vec<String>> {
        let text = self.read(&format!("list the volumes of pool `{pool}`"), &["vol-list", "--pool", pool])?;
        Ok(first_words(&text).filter(|name| name.starts_with(prefix)).map(str::to_owned).collect())
    }

    /// What was written to a log from a byte on, and how many bytes it has now.
    pub fn log_from(&self, pool: &str, log: &str, offset: u64) -> Result<(Vec<u8>, u64)> {
        const WHAT: &str = "read the console's log";
        let (mut file, offset) = (Scratch::memory(b"")?, offset.to_string());
        let size = vec!["vol-dumpxml", "--pool", pool, "--vol", log];
        let content =
            vec!["vol-download", "--pool", pool, "--vol", log, "--offset", &offset, "--file", file.path().as_str()];
        let batch = self.batch(WHAT, &[size, content])?;
        match batch.complaints.first() {
            Some(complaint) => Err(failure::explain(WHAT, &self.uri, complaint)),
            None => Ok((file.content()?, from_xml::<Volume>("volume", &batch.sections[0])?.capacity)),
        }
    }

    /// Whether libvirt knows a file of the host as a volume of an active pool.
    pub fn volume_at(&self, path: &str) -> Result<bool> {
        match self.read("look for the volume", &["vol-path", "--vol", path]) {
            Ok(_) => Ok(true),
            Err(error) if error.code == Code::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }
}
