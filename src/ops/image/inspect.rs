//! Checking whether a file may become a base image. Every image is treated as hostile until it has passed.

use std::{fs::File, io::Read, os::unix::fs::FileExt};

use camino::Utf8Path;

use crate::{
    error::{Error, Hint, Result},
    ops::Host,
    store::unpack::Packing,
    tools::qemu_img::{self, Format, ImageInfo},
};

/// The size of a disk sector, and of the boot record at the start of a disk, in bytes.
const SECTOR: u64 = 512;

/// The number of bytes that are read to detect a file's format.
const HEAD: u64 = 1024;

/// Returns how a file is compressed; none if it is not.
pub(super) fn packing(file: &Utf8Path) -> Result<Option<Packing>> {
    Ok(Packing::of(&head(file)?))
}

/// Refuses a file that is not an image, is damaged, or would make QEMU open another file. `given` is its name in
/// messages. The format is detected from the first bytes. References to other files are found before QEMU opens the
/// image, and are never followed.
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
        return Err(refused(given, "is encrypted", Hint::run("Decrypt it first", "qemu-img convert -O qcow2 …")));
    }
    match format {
        Format::Qcow2 => qemu_img::check(&host.runner, file).map_err(named)?,
        Format::Raw => raw(&head, &info, given)?,
        // The conversion to qcow2 reads the whole image, and finds damage then.
        Format::Vmdk | Format::Vhdx | Format::Vdi | Format::Vpc => {}
    }
    Ok(info)
}

fn refused(given: &str, why: &str, hint: impl Into<Hint>) -> Error {
    Error::invalid(format!("`{given}` {why}")).hint(hint)
}

fn elsewhere_refused(given: &str, how: &str, elsewhere: &str) -> Error {
    refused(
        given,
        &format!("{how} (`{}`), which a guest could read", elsewhere.escape_debug()),
        Hint::run("Flatten it on the machine that has this file", "qemu-img convert -O qcow2 IMAGE FLAT"),
    )
}

fn head(file: &Utf8Path) -> Result<Vec<u8>> {
    let mut head = Vec::new();
    let read = File::open(file).and_then(|file| file.take(HEAD).read_to_end(&mut head));
    read.map_err(|error| Error::io(format!("read the image `{file}`"), &error))?;
    Ok(head)
}

/// Returns whether a file begins like a web page.
pub(super) fn is_page(head: &[u8]) -> bool {
    let text = String::from_utf8_lossy(head).trim_start().to_ascii_lowercase();
    ["<!doctype", "<html", "<?xml"].iter().any(|begin| text.starts_with(begin))
}

/// Detects a file's format from its first bytes. QEMU's detection is not used, because it falls back to raw, and opens
/// the files that a text descriptor refers to.
fn format(head: &[u8], given: &str) -> Result<Format> {
    let at = |offset: usize, magic: &[u8]| head.get(offset..).is_some_and(|rest| rest.starts_with(magic));
    let refuse = |why: &str| {
        Err(refused(given, why, "Use a cloud image in qcow2, raw, vmdk, vhdx or vdi format, or compressed"))
    };
    Ok(match head {
        [] => return refuse("is empty"),
        _ if at(0, b"QFI\xfb") => Format::Qcow2,
        _ if at(0, b"KDMV") => Format::Vmdk,
        _ if at(0, b"vhdxfile") => Format::Vhdx,
        _ if at(64, b"\x7f\x10\xda\xbe") => Format::Vdi,
        _ if at(0, b"conectix") => Format::Vpc,
        _ if is_page(head) => return refuse("is a web page, not a disk image"),
        _ if at(0, b"# Disk DescriptorFile") => {
            return refuse("is a VMDK descriptor without the content, which is in other files");
        }
        _ if at(0, b"COWD") => return refuse("is a VMDK image in an old format"),
        _ if at(257, b"ustar") => return refuse("is a tar archive, not a disk image"),
        _ if at(0, b"PK\x03\x04") => return refuse("is a zip archive, not a disk image"),
        _ if Packing::of(head).is_some() => return refuse("is compressed twice"),
        _ => Format::Raw,
    })
}

/// Refuses a qcow2 image whose header refers to another file (QEMU's docs/interop/qcow2.rst), without running QEMU.
fn qcow2(file: &Utf8Path, head: &[u8], given: &str) -> Result<()> {
    /// The maximum length of a backing file's name in the format, in bytes.
    const LONGEST_NAME: usize = 1023;
    /// The incompatible feature of an external data file.
    const DATA_FILE: u64 = 1 << 2;
    let word = |at: usize| head.get(at..at + 4).map_or(0, |b| u32::from_be_bytes([b[0], b[1], b[2], b[3]]));
    let long = |at: usize| u64::from(word(at)) << 32 | u64::from(word(at + 4));
    let version = word(4);
    if !matches!(version, 2 | 3) {
        return Err(refused(
            given,
            &format!("is a qcow image of version {version}, not qcow2"),
            Hint::run("Convert it", "qemu-img convert -O qcow2 …"),
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
        return Err(elsewhere_refused(given, "has its content in another file", &data_file(head)));
    }
    Ok(())
}

/// Returns the name of a qcow2 image's external data file, from the header extensions.
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

/// Refuses a sparse VMDK image of zero capacity, whose descriptor refers to other files (QEMU's block/vmdk.c).
fn vmdk(head: &[u8], given: &str) -> Result<()> {
    if head.get(12..20).is_none_or(|capacity| capacity == [0; 8]) {
        return Err(refused(
            given,
            "is a VMDK descriptor without the content, which is in other files",
            Hint::run("Convert it on the machine that has those files", "qemu-img convert -O qcow2 …"),
        ));
    }
    Ok(())
}

/// Refuses a VHD image that is not dynamic: it depends on another file, or QEMU would mistake its type (the disk type
/// in the footer, see the VHD specification).
fn vpc(head: &[u8], given: &str) -> Result<()> {
    const DYNAMIC: [u8; 4] = [0, 0, 0, 3];
    if head.get(60..64) != Some(&DYNAMIC) {
        return Err(refused(given, "is a VHD image that depends on another file", "Merge the files first"));
    }
    Ok(())
}

/// Refuses a raw file without a boot record whose partitions are complete, because every file of an unknown format
/// counts as raw.
fn raw(head: &[u8], info: &ImageInfo, given: &str) -> Result<()> {
    let refuse = |why: &str| Err(refused(given, why, "Use a cloud image in qcow2 or raw format"));
    if head.len() < 512 || head[510..512] != [0x55, 0xaa] {
        return refuse("is not a disk image: it is not qcow2 and has no boot record");
    }
    let ends = head[446..510].chunks(16).map(|entry| {
        let word = |at: usize| u64::from(u32::from_le_bytes([entry[at], entry[at + 1], entry[at + 2], entry[at + 3]]));
        (entry[4], word(8) + word(12))
    });
    // On disks above 2 TiB, the protective partition of a GPT has the maximum size instead of its real one.
    let end = ends.filter(|&(kind, end)| kind != 0 && end < u64::from(u32::MAX)).map(|(_, end)| end).max().unwrap_or(0);
    if end * SECTOR > info.virtual_size {
        return refuse(&format!(
            "is truncated: its partitions end at byte {}, but the file ends at byte {}",
            end * SECTOR,
            info.virtual_size
        ));
    }
    Ok(())
}
