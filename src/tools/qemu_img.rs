//! `qemu-img`: what an image file is, and turning one into qcow2.

use std::time::Duration;

use camino::Utf8Path;
use serde::Deserialize;

use super::{Runner, Tool};
use crate::error::{Code, Error, Result};

/// How long reading or writing a whole image may take.
const WHOLE_IMAGE: Duration = Duration::from_hours(1);

/// A format of disk images, told to QEMU: it never guesses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// QEMU's own.
    Qcow2,
    /// The content alone.
    Raw,
    /// VMware's.
    Vmdk,
    /// Hyper-V's.
    Vhdx,
    /// VirtualBox'.
    Vdi,
    /// VHD: Virtual PC's, Azure's.
    Vpc,
}

impl Format {
    /// QEMU's word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Qcow2 => "qcow2",
            Self::Raw => "raw",
            Self::Vmdk => "vmdk",
            Self::Vhdx => "vhdx",
            Self::Vdi => "vdi",
            Self::Vpc => "vpc",
        }
    }
}

/// What `qemu-img info` says of a file (10.0.2).
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct ImageInfo {
    /// The format that QEMU was told.
    pub format: Format,
    /// The size of the disk that a guest sees, in bytes.
    pub virtual_size: u64,
    /// Another file that it builds on.
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
    /// Another file that the content is in.
    pub fn data_file(&self) -> Option<&str> {
        self.format_specific.as_ref()?.data.data_file.as_deref()
    }

    /// Whether nobody can read it without a secret.
    pub fn is_encrypted(&self) -> bool {
        self.format_specific.as_ref().is_some_and(|specific| specific.data.encrypt.is_some())
    }
}

/// Asks what a file of a format says of itself. The path must be absolute: QEMU takes `nbd:…` for a protocol.
pub fn info(runner: &Runner, format: Format, file: &Utf8Path) -> Result<ImageInfo> {
    let args = ["info", "-f", format.as_str(), "--output=json", file.as_str()];
    let finished = Tool::new("qemu-img").args(args).read(runner)?;
    let is_ours = ["Permission denied", "Cannot allocate memory"].iter().any(|text| finished.stderr.contains(text));
    if finished.status.code() == Some(1) && !is_ours {
        return Err(Error::invalid(format!("the image `{file}` cannot be read as one"))
            .because(finished.stderr.trim())
            .hint("Fetch it again."));
    }
    let text = finished.text()?;
    serde_json::from_str(&text)
        .map_err(|error| Error::new(Code::ToolFailed, "cannot read qemu-img's JSON").because(error))
}

/// Checks a qcow2 file's structure, which also finds that its end is missing. Nothing is repaired.
pub fn check(runner: &Runner, file: &Utf8Path) -> Result<()> {
    let tool = Tool::new("qemu-img").args(["check", "-q", "-f", "qcow2", file.as_str()]).limit(WHOLE_IMAGE);
    let finished = tool.read(runner)?;
    // 3: clusters are leaked, which wastes space and harms nothing.
    if matches!(finished.status.code(), Some(0 | 3)) {
        return Ok(());
    }
    // 1 is what it says of a file that it cannot read to its end, 2 of one that is damaged; a signal is nobody's fault.
    if !matches!(finished.status.code(), Some(1 | 2)) {
        return Err(finished.failure());
    }
    let first = finished.stderr.lines().find(|line| !line.trim().is_empty()).unwrap_or("qemu-img said nothing");
    Err(Error::invalid(format!("the image `{file}` is damaged or its end is missing"))
        .because(first)
        .hint("Fetch it again."))
}

/// The files that a file builds on, itself first, even while a guest writes to it. What its guest wrote into a raw disk
/// is not followed: `format` is what the domain says.
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
        .map_err(|error| Error::new(Code::ToolFailed, "cannot read qemu-img's JSON").because(error))?;
    let of = |link: Link| [Some(link.filename), link.full_backing_filename, link.backing_filename];
    Ok(links.into_iter().flat_map(of).flatten().collect())
}

/// Writes a file of format `format` into a new qcow2 file.
pub fn convert(runner: &Runner, format: Format, from: &Utf8Path, to: &Utf8Path) -> Result<()> {
    let args = ["convert", "-f", format.as_str(), "-O", "qcow2", from.as_str(), to.as_str()];
    Tool::new("qemu-img").args(args).limit(WHOLE_IMAGE).read(runner)?.text().map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_image_refers_to_is_seen() {
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
