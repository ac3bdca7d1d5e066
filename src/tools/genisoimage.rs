//! `genisoimage` and `isoinfo`: writes NoCloud seeds and reads files from them.

use camino::Utf8Path;

use super::{Runner, Tool, scratch::Scratch};
use crate::error::{Error, Result};

/// The volume label by which cloud-init finds a NoCloud seed.
const LABEL: &str = "cidata";

/// Writes files into an ISO image, in which root owns them.
pub fn write_seed(runner: &Runner, files: &[(&str, Vec<u8>)]) -> Result<Scratch> {
    let iso = Scratch::memory(b"")?;
    let contents = files.iter().map(|(_, content)| Scratch::memory(content)).collect::<Result<Vec<_>>>()?;
    let grafts = files.iter().zip(&contents).map(|((name, _), content)| format!("{name}={}", content.path()));
    // -f: the sources are symbolic links in /proc, which must be followed.
    let args =
        ["-quiet", "-f", "-joliet", "-rational-rock", "-volid", LABEL, "-output", iso.path().as_str(), "-graft-points"];
    Tool::new("genisoimage").args(args).args(grafts).read(runner)?.text()?;
    Ok(iso)
}

/// Reads a file from an ISO image.
pub fn read_file(runner: &Runner, iso: &Utf8Path, name: &str) -> Result<Vec<u8>> {
    let path = format!("/{name}");
    let finished = Tool::new("isoinfo").args(["-i", iso.as_str(), "-R", "-x", &path]).read(runner)?;
    if !finished.status.success() {
        return Err(finished.failure());
    }
    if finished.stdout.is_empty() {
        return Err(Error::not_found(format!("the ISO image does not contain `{name}`")));
    }
    Ok(finished.stdout)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_a_written_seed_can_be_read() {
        let runner = Runner::default();
        let files = [("meta-data", b"{}".to_vec()), ("user-data", b"#cloud-config\n".to_vec())];
        let iso = write_seed(&runner, &files).unwrap();
        for (name, content) in files {
            assert_eq!(read_file(&runner, iso.path(), name).unwrap(), content);
        }
        assert!(read_file(&runner, iso.path(), "vmprov.json").is_err());
    }
}
