//! `qemu-img`: what an image file is, and turning one into qcow2.

use std::time::Duration;

use camino::Utf8Path;
use serde::Deserialize;

use super::{Runner, Tool};
use crate::error::{Code, Error, Result};

/// How long reading or writing a whole image may take.
const WHOLE_IMAGE: Duration = Duration::from_hours(1);

/// What `qemu-img info` says of a file (10.0.2).
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct ImageInfo {
    /// The format that QEMU takes it for; `raw` is what everything is that is nothing else.
    pub format: String,
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

/// Asks what a file is, following nothing that it refers to. The path must be absolute: QEMU takes `nbd:…` for a
/// protocol.
pub fn info(runner: &Runner, file: &Utf8Path) -> Result<ImageInfo> {
    let finished = Tool::new("qemu-img").args(["info", "--output=json", file.as_str()]).read(runner)?;
    if finished.status.code() == Some(1) {
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
    let first = finished.stderr.lines().find(|line| !line.trim().is_empty()).unwrap_or("qemu-img said nothing");
    Err(Error::invalid(format!("the image `{file}` is damaged or its end is missing"))
        .because(first)
        .hint("Fetch it again."))
}

/// Writes a file of format `format` into a new qcow2 file.
pub fn convert(runner: &Runner, format: &str, from: &Utf8Path, to: &Utf8Path) -> Result<()> {
    let args = ["convert", "-f", format, "-O", "qcow2", from.as_str(), to.as_str()];
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
        let plain: ImageInfo = serde_json::from_str(r#"{"virtual-size": 1, "format": "raw"}"#).unwrap();
        assert_eq!((plain.data_file(), plain.is_encrypted()), (None, false));
    }
}
