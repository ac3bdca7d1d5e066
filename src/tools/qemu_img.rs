//! `qemu-img`: inspects image files and converts them to qcow2.

use std::time::Duration;

use camino::Utf8Path;
use serde::Deserialize;

use super::{Runner, Tool};
use crate::error::{Code, Error, Result};

/// The time limit for reading or writing a whole image.
const WHOLE_IMAGE: Duration = Duration::from_hours(1);

/// A format of disk images. It is always passed to QEMU, which therefore never guesses it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, strum::Display, strum::AsRefStr)]
#[serde(rename_all = "lowercase")]
#[strum(serialize_all = "lowercase")]
pub enum Format {
    /// QEMU's format.
    Qcow2,
    /// The disk's content without any metadata.
    Raw,
    /// VMware's format.
    Vmdk,
    /// Hyper-V's format.
    Vhdx,
    /// VirtualBox's format.
    Vdi,
    /// VHD, the format of Virtual PC and Azure.
    Vpc,
}

/// The output of `qemu-img info` for a file (10.0.2).
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct ImageInfo {
    /// The format that was passed to QEMU.
    pub format: Format,
    /// The size of the disk that a guest sees, in bytes.
    pub virtual_size: u64,
    /// The backing file.
    pub backing_filename: Option<String>,
    #[serde(default)]
    format_specific: Option<FormatSpecific>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
struct FormatSpecific {
    #[serde(default)]
    data: FormatData,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct FormatData {
    data_file: Option<String>,
    encrypt: Option<serde_json::Value>,
}

impl ImageInfo {
    /// Returns the external data file, which holds the content.
    pub fn data_file(&self) -> Option<&str> {
        self.format_specific.as_ref()?.data.data_file.as_deref()
    }

    /// Returns whether the image is encrypted.
    pub fn is_encrypted(&self) -> bool {
        self.format_specific.as_ref().is_some_and(|specific| specific.data.encrypt.is_some())
    }
}

/// Reads the metadata of an image file. The path must be absolute, because QEMU takes `nbd:…` for a protocol.
pub fn info(runner: &Runner, format: Format, file: &Utf8Path) -> Result<ImageInfo> {
    let args = ["info", "-f", format.as_ref(), "--output=json", file.as_str()];
    let finished = Tool::new("qemu-img").args(args).read(runner)?;
    let is_host_fault =
        ["Permission denied", "Cannot allocate memory"].iter().any(|text| finished.stderr.contains(text));
    if finished.status.code() == Some(1) && !is_host_fault {
        return Err(Error::invalid(format!("image `{file}` is not a valid {format} file"))
            .because(finished.stderr.trim())
            .hint("Download it again"));
    }
    let text = finished.text()?;
    serde_json::from_str(&text)
        .map_err(|error| Error::new(Code::ToolFailed, "cannot parse qemu-img's JSON").because(error))
}

/// Checks the structure of a qcow2 file, which also detects a truncated file. Repairs nothing.
pub fn check(runner: &Runner, file: &Utf8Path) -> Result<()> {
    let tool = Tool::new("qemu-img").args(["check", "-q", "-f", "qcow2", file.as_str()]).limit(WHOLE_IMAGE);
    let finished = tool.read(runner)?;
    // 3: the file has leaked clusters, which only waste space.
    if matches!(finished.status.code(), Some(0 | 3)) {
        return Ok(());
    }
    // 1: the check could not complete, as for a truncated file. 2: the image is corrupt. Any other status, such as a
    // signal, says nothing about the image.
    if !matches!(finished.status.code(), Some(1 | 2)) {
        return Err(finished.failure());
    }
    let first = finished.stderr.lines().find(|line| !line.trim().is_empty()).unwrap_or("qemu-img printed no error");
    Err(Error::invalid(format!("image `{file}` is damaged or truncated")).because(first).hint("Download it again"))
}

/// Returns the files of a file's backing chain, the file itself first. This works even while a guest writes to it.
/// `format` is the format in the domain's XML, so a backing file that a guest wrote into a raw disk is not followed.
pub fn chain(runner: &Runner, format: Option<&str>, file: &Utf8Path) -> Result<Vec<String>> {
    #[derive(Deserialize)]
    #[serde(rename_all = "kebab-case")]
    struct Link {
        filename: String,
        full_backing_filename: Option<String>,
        backing_filename: Option<String>,
    }
    let format = format.map(|format| ["-f", format]);
    let args = ["info", "--force-share", "--backing-chain", "--output=json"];
    let tool = Tool::new("qemu-img").args(args).args(format.iter().flatten().copied()).args([file.as_str()]);
    let text = tool.read(runner)?.text()?;
    let links: Vec<Link> = serde_json::from_str(&text)
        .map_err(|error| Error::new(Code::ToolFailed, "cannot parse qemu-img's JSON").because(error))?;
    let of = |link: Link| [Some(link.filename), link.full_backing_filename, link.backing_filename];
    Ok(links.into_iter().flat_map(of).flatten().collect())
}

/// Converts a file of format `format` to a new qcow2 file.
pub fn convert(runner: &Runner, format: Format, from: &Utf8Path, to: &Utf8Path) -> Result<()> {
    let args = ["convert", "-f", format.as_ref(), "-O", "qcow2", from.as_str(), to.as_str()];
    Tool::new("qemu-img").args(args).limit(WHOLE_IMAGE).read(runner)?.text().map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backing_files_and_data_files_are_parsed() {
        let json = r#"{"virtual-size": 1048576, "filename": "x", "format": "qcow2", "actual-size": 1,
            "backing-filename": "/etc/passwd", "format-specific": {"type": "qcow2",
            "data": {"compat": "1.1", "data-file": "/dev/sda", "data-file-raw": true}}, "dirty-flag": false}"#;
        let info: ImageInfo = serde_json::from_str(json).unwrap();
        assert_eq!(info.backing_filename.as_deref(), Some("/etc/passwd"));
        assert_eq!(info.data_file(), Some("/dev/sda"));
        let plain: ImageInfo = serde_json::from_str(r#"{"virtual-size": 1, "format": "vhdx"}"#).unwrap();
        assert_eq!((plain.data_file(), plain.is_encrypted()), (None, false));
    }
}
