//! Whether a file may become a base image. An image from outside is hostile until shown otherwise.

use std::io::Read;

use camino::Utf8Path;

use crate::{
    error::{Error, Result},
    ops::Host,
    tools::qemu_img::{self, ImageInfo},
};

/// The size of a disk sector, and of the boot record at its start.
const SECTOR: u64 = 512;

/// Refuses what is no image, is damaged, or would have QEMU open another file; `given` is what the operator called it.
/// Nothing that the file refers to is opened.
pub(super) fn inspect(host: &Host, file: &Utf8Path, given: &str) -> Result<ImageInfo> {
    host.step("inspecting the image");
    let refuse = |why: &str, hint: &str| Err(Error::invalid(format!("`{given}` {why}")).hint(hint));
    let head = head(file)?;
    if head.is_empty() {
        return refuse("is empty", "Fetch the image again.");
    }
    if let Some(packed) = packed(&head) {
        return refuse(&format!("is compressed with {packed}"), "Decompress it first.");
    }
    let named = |error: Error| {
        let name = |text: &str| text.replace(file.as_str(), given);
        Error { message: name(&error.message), cause: error.cause.as_deref().map(name), ..error }
    };
    let info = qemu_img::info(&host.runner, file).map_err(named)?;
    if let Some(backing) = &info.backing_filename {
        return refuse(
            &format!("has a backing file (`{}`), which a guest could read", backing.escape_debug()),
            "Flatten it where its backing file is: qemu-img convert -O qcow2 IMAGE FLAT",
        );
    }
    if let Some(data) = info.data_file() {
        return refuse(
            &format!("keeps its content in another file (`{}`), which a guest could read", data.escape_debug()),
            "Flatten it where that file is: qemu-img convert -O qcow2 IMAGE FLAT",
        );
    }
    if info.is_encrypted() {
        return refuse("is encrypted", "Decrypt it first: qemu-img convert -O qcow2 …");
    }
    match info.format.as_str() {
        "qcow2" => qemu_img::check(&host.runner, file).map_err(named)?,
        "raw" => raw(&head, &info, given)?,
        other => {
            return refuse(
                &format!("is of the format {other}; qcow2 and raw are taken"),
                &format!("Convert it: qemu-img convert -f {other} -O qcow2 IMAGE CONVERTED"),
            );
        }
    }
    Ok(info)
}

fn head(file: &Utf8Path) -> Result<Vec<u8>> {
    let mut head = Vec::new();
    let read = std::fs::File::open(file).and_then(|file| file.take(SECTOR).read_to_end(&mut head));
    read.map_err(|error| Error::io(format!("read the image `{file}`"), &error))?;
    Ok(head)
}

fn packed(head: &[u8]) -> Option<&'static str> {
    const MAGIC: [(&[u8], &str); 4] =
        [(b"\xfd7zXZ\0", "xz"), (b"\x1f\x8b", "gzip"), (b"\x28\xb5\x2f\xfd", "zstd"), (b"BZh", "bzip2")];
    MAGIC.iter().find(|(magic, _)| head.starts_with(magic)).map(|&(_, name)| name)
}

/// `raw` is what QEMU takes everything for that is nothing else, so the file must show that it is a disk: a boot
/// record whose partitions are all there.
fn raw(head: &[u8], info: &ImageInfo, given: &str) -> Result<()> {
    let refuse =
        |why: &str| Err(Error::invalid(format!("`{given}` {why}")).hint("Give a cloud image: qcow2, or a raw disk."));
    let text = String::from_utf8_lossy(head).trim_start().to_ascii_lowercase();
    if text.starts_with("<!doctype") || text.starts_with("<html") || text.starts_with("<?xml") {
        return refuse("is a web page and no disk image");
    }
    if head.len() < 512 || head[510..512] != [0x55, 0xaa] {
        return refuse("is no disk image: it is not qcow2, and as a raw disk it has no boot record");
    }
    let ends = head[446..510].chunks(16).map(|entry| {
        let word = |at: usize| u64::from(u32::from_le_bytes([entry[at], entry[at + 1], entry[at + 2], entry[at + 3]]));
        (entry[4], word(8) + word(12))
    });
    // A protective partition (GPT) of the greatest size stands for "all of it" on disks above 2 TiB.
    let end = ends.filter(|&(kind, end)| kind != 0 && end < u64::from(u32::MAX)).map(|(_, end)| end).max().unwrap_or(0);
    if end * SECTOR > info.virtual_size {
        return refuse(&format!(
            "is truncated: its partitions end at byte {}, the file at {}",
            end * SECTOR,
            info.virtual_size
        ));
    }
    Ok(())
}
