//! `screenshot`: a VM's screen as a PNG image.

use camino::{Utf8Path, Utf8PathBuf};
use serde::Serialize;

use crate::{
    error::{Code, Error, Hint, Result},
    ops::{
        Host,
        vm::{look_up, not_running},
    },
};

/// A screenshot that was written to a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Screenshot {
    /// The VM's name.
    pub vm: String,
    /// The file.
    pub file: Utf8PathBuf,
    /// The width in pixels.
    pub width: u32,
    /// The height in pixels.
    pub height: u32,
}

/// A screenshot as a PNG image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Picture {
    /// The VM's name.
    pub vm: String,
    /// The content of a PNG file.
    pub png: Vec<u8>,
    /// The width in pixels.
    pub width: u32,
    /// The height in pixels.
    pub height: u32,
}

/// Takes a screenshot of a VM.
pub fn picture(host: &Host, reference: &str) -> Result<Picture> {
    let (listed, _) = look_up(host, reference)?;
    let name = &listed.name;
    if !listed.state.is_active() {
        return Err(not_running(name, listed.state, "so it has no screen"));
    }
    let image = host.virsh.screenshot(listed.uuid).map_err(|error| {
        let has_none = error.cause.as_ref().is_some_and(|cause| cause.contains("no screens to take screenshot from"));
        if has_none { Error::conflict(format!("VM `{name}` has no screen")).because(error.message) } else { error }
    })?;
    let (png, (width, height)) = image;
    Ok(Picture { vm: listed.name, png, width, height })
}

/// Takes a screenshot and writes it to `file`, or to a file named after the VM in the working folder. Replaces an
/// existing file only if `file` names it.
pub fn screenshot(host: &Host, reference: &str, file: Option<&Utf8Path>) -> Result<Screenshot> {
    let Picture { vm, png, width, height } = picture(host, reference)?;
    let (path, may_replace) = match file {
        Some(file) => (file.to_owned(), true),
        // A VM's name may contain characters that a file name cannot.
        None => (Utf8PathBuf::from(format!("{}.png", vm.replace(['/', '\0'], "_"))), false),
    };
    let failed = |error: &std::io::Error| Error::io(format!("write the screenshot to `{path}`"), error);
    let folder = path.parent().filter(|folder| !folder.as_str().is_empty()).unwrap_or(Utf8Path::new("."));
    let write = || -> std::io::Result<()> {
        let mut new = tempfile::Builder::new().tempfile_in(folder)?;
        std::io::Write::write_all(&mut new, &png)?;
        if may_replace {
            new.persist(&path)?
        } else {
            new.persist_noclobber(&path)?
        };
        Ok(())
    };
    write().map_err(|error| match failed(&error) {
        error if error.code == Code::AlreadyExists => {
            let command = format!("vmprov vm screenshot {} -o FILE.png", shell_words::quote(&vm));
            error.hint(Hint::run("Choose another file", command))
        }
        error => error,
    })?;
    Ok(Screenshot { vm, file: path, width, height })
}
