//! `image export`: writing an image to a file.

use camino::{Utf8Path, Utf8PathBuf};
use serde::Serialize;

use super::{list, usage::Usage};
use crate::{
    error::{Code, Error, Result},
    ops::Host,
    store::{checksum_file::Sums, disk_space},
};

/// An image that was written to a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Exported {
    /// The image's name.
    pub image: String,
    /// The file.
    pub file: Utf8PathBuf,
    /// The file's size in bytes.
    pub size: u64,
    /// The file's SHA-256. It equals that of the original image if that was uncompressed qcow2.
    pub sha256: String,
}

/// Writes an image to a new file, as qcow2. After a failure, the file does not exist.
pub fn export(host: &Host, reference: &str, file: &Utf8Path) -> Result<Exported> {
    let failed = |error: &std::io::Error| Error::io(format!("write `{file}`"), error);
    if file.symlink_metadata().is_ok() {
        return Err(exists(file));
    }
    let file = &Utf8PathBuf::from_path_buf(std::path::absolute(file).map_err(|error| failed(&error))?)
        .map_err(|_| Error::invalid(format!("invalid path `{file}`: it is not valid UTF-8")))?;
    let folder = file.parent().unwrap_or(Utf8Path::new("/"));
    let Some(pool) = list::active_pool(host)? else { return Err(super::unknown_image(host, reference)?) };
    let usage = Usage::read(host, &pool, false)?;
    let image = list::find(host, &list::read(host, &pool, &usage)?, reference)?;
    disk_space::require(folder, image.size)?;
    let part = tempfile::Builder::new().prefix(".vmprov-").suffix(".part").tempfile_in(folder);
    let part = part.map_err(|error| failed(&error))?;
    let path = Utf8Path::from_path(part.path())
        .ok_or_else(|| Error::invalid(format!("invalid path `{file}`: it is not valid UTF-8")))?;
    host.step(format!("writing {file}"));
    host.virsh.download(&pool.name, image.volume_name(), path)?;
    host.step("computing the file's checksum");
    let sha256 = Sums::of(path, &[], &host.runner.cancel)?.sha256();
    part.as_file().sync_all().map_err(|error| failed(&error))?;
    let size = part.as_file().metadata().map_err(|error| failed(&error))?.len();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o644);
    part.as_file().set_permissions(mode).map_err(|error| failed(&error))?;
    part.persist_noclobber(file).map_err(|error| match error.error.kind() {
        std::io::ErrorKind::AlreadyExists => exists(file),
        _ => failed(&error.error),
    })?;
    Ok(Exported { image: image.name, file: file.clone(), size, sha256 })
}

fn exists(file: &Utf8Path) -> Error {
    Error::new(Code::AlreadyExists, format!("file `{file}` already exists"))
        .hint("Choose another name, or remove the file")
}
