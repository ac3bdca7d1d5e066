//! Whether a file may become a base image. An image from outside is hostile until shown otherwise.

use std::{fs::File, io::Read, os::unix::fs::FileExt};

use camino::Utf8Path;

use crate::{
    error::{Error, Result},
    ops::Host,
    store::unpack::Packing,
    tools::qemu_img::{self, Format, ImageInfo},
};

/// The size of a disk sector, and of the boot record at its start.
const SECTOR: u64 = 512;

/// How much of a file is looked at to tell what it is.
const HEAD: u64 = 1024;

/// How a file is compressed, if it is.
pub(super) fn packing(file: &Utf8Path) -> Result<Option<Packing>> {
    Ok(Packing::of(&head(file)?))
}

/// Refuses what is no image, is damaged, or would have QEMU open another file; `given` is what the operator called it.
/// What it is is told by its own first bytes; what it refers to is found before QEMU sees it, and never opened.
pub(super) fn inspect(host: &Host, file: &Utf8Path, given: &str) -> Result<ImageInfo> {
    host.step("inspecting the image");
    let head = head(file)?;
    let format = format(&head, given)?;
    match format {
        Format::Qcow2 => qcow2(file, &head, given)?,
        Format::Vmdk => vmdk(&head, given)?,
        Format::Vpc => vpc(&head, given)?,
        _ => {}
    }
    let named = |error: Error| {
        let name = |text: &str| text.replace(file.as_str(), given);
        Error { message: name(&error.message), cause: error.cause.as_deref().map(name), ..error }
    };
    let info = qemu_img::info(&host.runner, format, file).map_err(named)?;
    if let Some(elsewhere) = info.backing_filename.as_deref().or(info.data_file()) {
        return Err(elsewhere_refused(given, "refers to another file", elsewhere));
    }
    if info.is_encrypted() {
        return Err(refused(given, "is encrypted", "Decrypt it first: qemu-img convert -O qcow2 …"));
    }
    match format {
        Format::Qcow2 => qemu_img::check(&host.runner, file).map_err(named)?,
        Format::Raw => raw(&head, &info, given)?,
        // Converting reads all of it.
        Format::Vmdk | Format::Vhdx | Format::Vdi | Format::Vpc => {}
    }
    Ok(info)
}

fn refused(given: &str, why: &str, hint: &str) -> Error {
    Error::invalid(format!("`{given}` {why}")).hint(hint)
}

fn elsewhere_refused(given: &str, how: &str, elsewhere: &str) -> Error {
    refused(
        given,
        &format!("{how} (`{}`), which a guest could read", elsewhere.escape_debug()),
        "Flatten it where that file is: qemu-img convert -O qcow2 IMAGE FLAT",
    )
}

fn head(file: &Utf8Path) -> Result<Vec<u8>> {
    let mut head = Vec::new();
    let read = File::open(file).and_then(|file| file.take(HEAD).read_to_end(&mut head));
    read.map_err(|error| Error::io(format!("read the image `{file}`"), &error))?;
    Ok(head)
}

/// Whether a file begins as a web page does.
pub(super) fn is_page(head: &[u8]) -> bool {
    let text = String::from_utf8_lossy(head).trim_start().to_ascii_lowercase();
    ["<!doctype", "<html", "<?xml"].iter().any(|begin| text.starts_with(begin))
}

/// What a file is, by its first bytes. QEMU's own guess is not asked for: it takes everything for raw that is nothing
/// else, and opens what a text calls its parts.
fn format(head: &[u8], given: &str) -> Result<Format> {
    let at = |offset: usize, magic: &[u8]| head.get(offset..).is_some_and(|rest| rest.starts_with(magic));
    let refuse =
        |why: &str| Err(refused(given, why, "Give a cloud image: qcow2, raw, vmdk, vhdx or vdi, also compressed."));
    Ok(match head {
        [] => return refuse("is empty"),
        _ if at(0, b"QFI\xfb") => Format::Qcow2,
        _ if at(0, b"KDMV") => Format::Vmdk,
        _ if at(0, b"vhdxfile") => Format::Vhdx,
        _ if at(64, b"\x7f\x10\xda\xbe") => Format::Vdi,
        _ if at(0, b"conectix") => Format::Vpc,
        _ if is_page(head) => return refuse("is a web page and no disk image"),
        _ if at(0, b"# Disk DescriptorFile") => {
            return refuse("only names other files, in which a VMDK image's content is");
        }
        _ if at(0, b"COWD") => return refuse("is a VMDK image of an old kind"),
        _ if at(257, b"ustar") => return refuse("is a tar archive and no disk image"),
        _ if at(0, b"PK\x03\x04") => return refuse("is a zip archive and no disk image"),
        _ if Packing::of(head).is_some() => return refuse("is compressed twice"),
        _ => Format::Raw,
    })
}

/// Reads what a qcow2 header refers to (QEMU's docs/interop/qcow2.rst), without QEMU.
fn qcow2(file: &Utf8Path, head: &[u8], given: &str) -> Result<()> {
    /// The longest name of a backing file that the format allows, in bytes.
    const LONGEST_NAME: usize = 1023;
    /// Incompatible feature: the content is in another file.
    const DATA_FILE: u64 = 1 << 2;
    let word = |at: usize| head.get(at..at + 4).map_or(0, |b| u32::from_be_bytes([b[0], b[1], b[2], b[3]]));
    let long = |at: usize| u64::from(word(at)) << 32 | u64::from(word(at + 4));
    let version = word(4);
    if !matches!(version, 2 | 3) {
        return Err(refused(
            given,
            &format!("is qcow of version {version}"),
            "Convert it: qemu-img convert -O qcow2 …",
        ));
    }
    let (offset, length) = (long(8), word(16) as usize);
    if offset != 0 {
        let mut name = vec![0; length.min(LONGEST_NAME)];
        let read = File::open(file).and_then(|file| file.read_exact_at(&mut name, offset));
        let name = if read.is_ok() { String::from_utf8_lossy(&name).into_owned() } else { "?".to_owned() };
        return Err(elsewhere_refused(given, "has a backing file", &name));
    }
    if version == 3 && long(72) & DATA_FILE != 0 {
        return Err(elsewhere_refused(given, "keeps its content in another file", &data_file(head)));
    }
    Ok(())
}

/// The name of the file that a qcow2's content is in, from the header extensions.
fn data_file(head: &[u8]) -> String {
    const DATA_FILE_NAME: u32 = 0x4441_5441;
    let word = |at: usize| head.get(at..at + 4).map_or(0, |b| u32::from_be_bytes([b[0], b[1], b[2], b[3]]));
    let mut at = word(100) as usize;
    while word(at) != 0 {
        let length = word(at + 4) as usize;
        if word(at) == DATA_FILE_NAME {
            return String::from_utf8_lossy(head.get(at + 8..at + 8 + length).unwrap_or(b"?")).into_owned();
        }
        at += 8 + length.next_multiple_of(8);
    }
    "?".to_owned()
}

/// A sparse VMDK of no capacity is one whose descriptor names other files (QEMU's block/vmdk.c).
fn vmdk(head: &[u8], given: &str) -> Result<()> {
    if head.get(12..20).is_none_or(|capacity| capacity == [0; 8]) {
        return Err(refused(
            given,
            "only names other files, in which a VMDK image's content is",
            "Convert it where they are: qemu-img convert -O qcow2 …",
        ));
    }
    Ok(())
}

/// A VHD that is not dynamic builds on another file, or is of a kind that QEMU takes for another (the footer's disk type
/// in the VHD specification).
fn vpc(head: &[u8], given: &str) -> Result<()> {
    const DYNAMIC: [u8; 4] = [0, 0, 0, 3];
    if head.get(60..64) != Some(&DYNAMIC) {
        return Err(refused(given, "is a VHD that builds on another file", "Merge it with that one first."));
    }
    Ok(())
}

/// `raw` is what everything is that is nothing else, so the file must show that it is a disk: a boot record whose
/// partitions are all there.
fn raw(head: &[u8], info: &ImageInfo, given: &str) -> Result<()> {
    let refuse = |why: &str| Err(refused(given, why, "Give a cloud image: qcow2, or a raw disk."));
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
