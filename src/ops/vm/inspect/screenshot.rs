//! `screenshot`: what a VM's screen shows, as a PNG image.

use camino::{Utf8Path, Utf8PathBuf};
use serde::Serialize;

use crate::{
    error::{Code, Error, Result},
    ops::{Host, vm::look_up},
};

/// A picture of a VM's screen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Screenshot {
    /// The VM's name.
    pub vm: String,
    /// Where it was written to.
    pub file: Utf8PathBuf,
    /// Its width in pixels.
    pub width: u32,
    /// Its height in pixels.
    pub height: u32,
}

/// A PNG image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Picture {
    /// The VM's name.
    pub vm: String,
    /// The image, as a file has it.
    pub png: Vec<u8>,
    /// Its width in pixels.
    pub width: u32,
    /// Its height in pixels.
    pub height: u32,
}

/// Takes a picture of a VM's screen.
pub fn picture(host: &Host, reference: &str) -> Result<Picture> {
    let (listed, _) = look_up(host, reference)?;
    let name = &listed.name;
    if !listed.state.is_active() {
        return Err(Error::conflict(format!("the VM `{name}` is {}, so its screen shows nothing", listed.state))
            .hint(format!("Start it: vmprov vm start {}", shell_words::quote(name))));
    }
    let image = host.virsh.screenshot(listed.uuid).map_err(|error| {
        let has_none = error.cause.as_ref().is_some_and(|cause| cause.contains("no screens to take screenshot from"));
        if has_none { Error::conflict(format!("the VM `{name}` has no screen")).because(error.message) } else { error }
    })?;
    let (png, (width, height)) = image;
    Ok(Picture { vm: listed.name, png, width, height })
}

/// Takes a picture of a VM's screen and writes it to a file: `file`, or one named after the VM in the working folder. One
/// that is there is replaced when it was named.
pub fn screenshot(host: &Host, reference: &str, file: Option<&Utf8Path>) -> Result<Screenshot> {
    let Picture { vm, png, width, height } = picture(host, reference)?;
    let (path, may_replace) = match file {
        Some(file) => (file.to_owned(), true),
        // What libvirt takes for a name may be no file's.
        None => (Utf8PathBuf::from(format!("{}.png", vm.replace(['/', '\0'], "_"))), false),
    };
    let failed = |error: &std::io::Error| Error::io(format!("write the picture to `{path}`"), error);
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
            let other = format!("Name another file: vmprov vm screenshot {} -o FILE.png", shell_words::quote(&vm));
            error.hint(other)
        }
        error => error,
    })?;
    Ok(Screenshot { vm, file: path, width, height })
}
