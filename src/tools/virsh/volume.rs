//! Storage pools and their volumes. libvirtd writes the files, so vmprov needs no permission to access them.

use std::time::{Duration, Instant};

use camino::{Utf8Path, Utf8PathBuf};
use quick_xml::escape::escape;
use serde::Deserialize;

use super::{super::scratch::Scratch, Virsh, failure, from_xml};
use crate::error::{Code, Error, Result};

/// The time limit for libvirt to finish allocating a volume that will be deleted.
const ALLOCATION_LIMIT: Duration = Duration::from_secs(20);

/// How often the deletion of such a volume is retried.
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
    /// The free space in bytes.
    pub available: u64,
    /// Whether it is active.
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

    /// Returns a directory pool that is to be created, as it will be then.
    pub fn planned(name: &str, path: &Utf8Path) -> Self {
        Self { name: name.to_owned(), kind: "dir".to_owned(), path: path.to_owned(), available: u64::MAX, active: true }
    }

    /// Returns the path of a volume in the pool. In a pool of files, the only kind that can hold qcow2 overlays,
    /// libvirt joins the pool's target and the volume's name. So a domain can be defined before its volumes exist.
    pub fn path_of(&self, volume: &str) -> String {
        self.path.join(volume).into_string()
    }

    /// Returns whether the pool's volumes are files in a folder.
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

/// A volume to be created.
#[derive(Debug, Clone)]
pub enum NewVolume<'a> {
    /// A blank qcow2 disk of this size in bytes.
    Blank(u64),
    /// A qcow2 overlay of this size in bytes on a base volume.
    Overlay(u64, &'a str),
    /// A raw volume for the content of a file of this size in bytes.
    Content(u64),
    /// The same, but read-only. A `blockcommit` into the wrong layer then fails instead of destroying the backing file
    /// of other VMs.
    Immutable(u64),
}

fn first_words(table: &str) -> impl Iterator<Item = &str> {
    table.lines().filter_map(|line| line.split_whitespace().next())
}

/// Returns whether libvirt has not finished allocating a volume (11.3.0).
fn is_being_made(error: &Error) -> bool {
    error.cause.as_ref().is_some_and(|cause| cause.contains("is still being allocated"))
}

impl Virsh {
    /// Creates a directory pool, starts it, and enables autostart for it.
    pub fn make_pool(&self, name: &str, path: &Utf8Path) -> Result<()> {
        // `pool-define-as` does not escape its arguments in the XML (11.3.0).
        let (escaped, target) = (escape(name), escape(path.as_str()));
        let xml = format!("<pool type='dir'><name>{escaped}</name><target><path>{target}</path></target></pool>");
        let what = format!("create the storage pool `{name}`");
        self.change_with(&what, self.tool(&["pool-define", "/dev/stdin"]).stdin(xml))?;
        self.build_pool(name)?;
        self.start_pool(name)?;
        self.autostart_pool(name)
    }

    /// Enables autostart for a pool, so that it starts with the host.
    pub fn autostart_pool(&self, name: &str) -> Result<()> {
        let what = format!("enable autostart for the storage pool `{name}`");
        self.change(&what, &["pool-autostart", "--pool", name])
    }

    /// Creates the folder of a directory pool if it is missing. An existing folder's content is not changed.
    pub fn build_pool(&self, name: &str) -> Result<()> {
        self.change(&format!("create the folder of the storage pool `{name}`"), &["pool-build", "--pool", name])
    }

    /// Stops a pool. Its folder and volumes are kept, and guests keep running. Does nothing if it is not active.
    pub fn stop_pool(&self, name: &str) -> Result<()> {
        match self.change(&format!("stop the storage pool `{name}`"), &["pool-destroy", "--pool", name]) {
            Err(error) if error.code == Code::Conflict => Ok(()),
            result => result,
        }
    }

    /// Undefines a pool. Its folder and volumes are kept. Does nothing if it does not exist.
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

    /// Starts a pool. Does nothing if it is already active.
    pub fn start_pool(&self, name: &str) -> Result<()> {
        match self.change(&format!("start the storage pool `{name}`"), &["pool-start", "--pool", name]) {
            Err(error) if error.code == Code::Conflict => Ok(()),
            result => result,
        }
    }

    /// Returns a pool; none if it does not exist.
    pub fn pool(&self, name: &str) -> Result<Option<Pool>> {
        let commands = [vec!["pool-dumpxml", "--pool", name], vec!["pool-list", "--name"]];
        let sections = self.batch_tolerating("read the storage pool", &commands, &[Code::NotFound])?;
        let active = sections[1].lines().any(|line| line.trim_end() == name);
        match sections[0].trim() {
            "" => Ok(None),
            xml => Pool::from_xml(xml, active).map(Some),
        }
    }

    /// Creates a volume. Fails if the name exists.
    pub fn create_volume(&self, pool: &str, name: &str, volume: &NewVolume) -> Result<()> {
        let what = format!("create the volume `{name}` in pool `{pool}`");
        let create = |capacity: u64, more: &[&str]| {
            let capacity = capacity.to_string();
            let mut args = vec!["vol-create-as", "--pool", pool, "--name", name, "--capacity", &capacity];
            args.extend(more);
            self.change(&what, &args)
        };
        match *volume {
            NewVolume::Blank(size) => create(size, &["--format", "qcow2"]),
            NewVolume::Overlay(size, base) => {
                create(size, &["--format", "qcow2", "--backing-vol", base, "--backing-vol-format", "qcow2"])
            }
            NewVolume::Content(size) => create(size, &["--allocation", "0", "--format", "raw"]),
            NewVolume::Immutable(size) => {
                // A libvirt that is not root cannot write to a read-only file. The caller must make it read-only
                // afterwards.
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

    /// Writes a file's content to a volume.
    pub fn upload(&self, pool: &str, name: &str, file: &Utf8Path) -> Result<()> {
        let args = ["vol-upload", "--pool", pool, "--vol", name, "--file", file.as_str(), "--sparse"];
        self.transfer(&format!("upload to the volume `{name}` of pool `{pool}`"), self.tool(&args).changes())
    }

    /// Creates a volume of `size` bytes and writes a file's content to it, in one process. virsh would continue and
    /// overwrite an existing volume, so the name must be unique.
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
        self.change_all(&format!("create the volume `{name}` in pool `{pool}`"), &[&create, &upload])
    }

    /// Writes a volume's content to a file.
    pub fn download(&self, pool: &str, name: &str, file: &Utf8Path) -> Result<()> {
        let args = ["vol-download", "--pool", pool, "--vol", name, "--file", file.as_str(), "--sparse"];
        self.transfer(&format!("read the volume `{name}` of pool `{pool}`"), self.tool(&args))
    }

    /// Writes the content of several small volumes to files. The file of a missing volume stays empty.
    pub fn download_all(&self, pool: &str, wanted: &[(&str, &str)]) -> Result<()> {
        let download = |&(name, file): &(&'_ str, &'_ str)| {
            ["vol-download", "--pool", pool, "--vol", name, "--file", file].map(str::to_owned)
        };
        let commands: Vec<_> = wanted.iter().map(download).collect();
        let commands: Vec<_> = commands.iter().map(|command| command.iter().map(String::as_str).collect()).collect();
        // libvirt's test driver does not support `vol-download`.
        let tolerated = [Code::NotFound, Code::Conflict];
        self.batch_tolerating("read the images' manifests", &commands, &tolerated).map(drop)
    }

    /// Creates a volume with the content of another volume, including that of its backing chain.
    pub fn clone_volume(&self, pool: &str, name: &str, clone: &str) -> Result<()> {
        let call = self.tool(&["vol-clone", "--pool", pool, "--vol", name, "--newname", clone]).changes();
        self.transfer(&format!("copy the volume `{name}` of pool `{pool}`"), call)
    }

    /// Returns a volume; none if it does not exist.
    pub fn volume(&self, pool: &str, name: &str) -> Result<Option<Volume>> {
        match self.read(&format!("read the volume `{name}`"), &["vol-dumpxml", "--pool", pool, "--vol", name]) {
            Ok(xml) => from_xml("volume", &xml).map(Some),
            Err(error) if error.code == Code::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Deletes a volume. Returns whether it existed.
    pub fn delete_volume(&self, pool: &str, name: &str) -> Result<bool> {
        let deadline = Instant::now() + ALLOCATION_LIMIT;
        loop {
            match self.change(
                &format!("delete the volume `{name}` of pool `{pool}`"),
                &["vol-delete", "--pool", pool, "--vol", name],
            ) {
                Ok(()) => return Ok(true),
                Err(error) if error.code == Code::NotFound => return Ok(false),
                // libvirt continues to allocate a volume after the virsh that requested it was interrupted.
                Err(error) if is_being_made(&error) && Instant::now() < deadline => std::thread::sleep(ALLOCATION_POLL),
                Err(error) => return Err(error),
            }
        }
    }

    /// Returns the names of a pool's volumes that begin with `prefix`, which must contain no space. virsh prints only a
    /// table, in which a name without spaces is the first word of its row.
    pub fn volumes_like(&self, pool: &str, prefix: &str) -> Result<Vec<String>> {
        let text = self.read(&format!("list the volumes of pool `{pool}`"), &["vol-list", "--pool", pool])?;
        Ok(first_words(&text).filter(|name| name.starts_with(prefix)).map(str::to_owned).collect())
    }

    /// Returns the content of a log from `offset` on, and the log's size in bytes.
    pub fn log_from(&self, pool: &str, log: &str, offset: u64) -> Result<(Vec<u8>, u64)> {
        const WHAT: &str = "read the console log";
        let (mut file, offset) = (Scratch::memory(b"")?, offset.to_string());
        let size = vec!["vol-dumpxml", "--pool", pool, "--vol", log];
        let content =
            vec!["vol-download", "--pool", pool, "--vol", log, "--offset", &offset, "--file", file.path().as_str()];
        let batch = self.batch(WHAT, &[size, content])?;
        match batch.failure() {
            Some(errors) => Err(failure::explain(WHAT, &self.uri, errors)),
            None => Ok((file.content()?, from_xml::<Volume>("volume", &batch.sections[0])?.capacity)),
        }
    }

    /// Returns whether a file of the host is a volume of an active pool.
    pub fn volume_at(&self, path: &str) -> Result<bool> {
        match self.read("find the volume", &["vol-path", "--vol", path]) {
            Ok(_) => Ok(true),
            Err(error) if error.code == Code::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }
}
