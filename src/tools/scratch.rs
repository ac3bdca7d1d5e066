//! [`Scratch`]: an unnamed temporary file, for passing content to a program and reading it back.
//!
//! Programs open it through this process's `/proc/PID/fd`. It leaves nothing behind, however this process ends.
//! Secrets (a guest's private host keys) are kept in memory and never written to a disk.

use std::{
    fs::File,
    io::{Read, Seek, SeekFrom, Write},
    os::fd::AsRawFd,
};

use camino::{Utf8Path, Utf8PathBuf};
use rustix::fs::{MemfdFlags, memfd_create};

use crate::error::{Error, Result};

/// An unnamed temporary file.
#[derive(Debug)]
pub struct Scratch {
    file: File,
    path: Utf8PathBuf,
}

impl Scratch {
    /// Creates a file in memory that contains `content`.
    pub fn memory(content: &[u8]) -> Result<Self> {
        let failed = |error: std::io::Error| Error::io("create a file in memory", &error);
        let fd = memfd_create("vmprov", MemfdFlags::CLOEXEC).map_err(|error| failed(error.into()))?;
        let mut file = File::from(fd);
        file.write_all(content).map_err(failed)?;
        Ok(Self::of(file))
    }

    /// Creates a file on the disk of `folder`, for content that may not fit in memory.
    pub fn on_disk(folder: &Utf8Path) -> Result<Self> {
        let make = || {
            std::fs::create_dir_all(folder)?;
            tempfile::tempfile_in(folder)
        };
        let file = make().map_err(|error| Error::io(format!("create a temporary file in `{folder}`"), &error))?;
        Ok(Self::of(file))
    }

    fn of(file: File) -> Self {
        let path = format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd());
        Self { file, path: path.into() }
    }

    /// Returns the path at which a child process can open it.
    pub fn path(&self) -> &Utf8Path {
        &self.path
    }

    /// Returns the file, for writing to it in this process.
    pub const fn file(&mut self) -> &mut File {
        &mut self.file
    }

    /// Opens the file again at its beginning, for the standard input of a program.
    pub fn reopened(&self) -> Result<File> {
        File::open(&self.path).map_err(|error| Error::io("open a temporary file", &error))
    }

    /// Returns its size in bytes.
    pub fn size(&self) -> Result<u64> {
        self.file
            .metadata()
            .map(|metadata| metadata.len())
            .map_err(|error| Error::io("read the size of a temporary file", &error))
    }

    /// Reads its whole content.
    pub fn content(&mut self) -> Result<Vec<u8>> {
        let mut content = Vec::new();
        let mut read = || {
            self.file.seek(SeekFrom::Start(0))?;
            self.file.read_to_end(&mut content)
        };
        read().map_err(|error| Error::io("read a temporary file", &error))?;
        Ok(content)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tools::{Runner, Tool};

    #[test]
    fn a_program_can_read_and_write_it() {
        let mut scratch = Scratch::memory(b"before").unwrap();
        let cat = Tool::new("cat").args([scratch.path().as_str()]).read(&Runner::default()).unwrap();
        assert_eq!(cat.stdout, b"before");
        let script = format!("printf after > {}", scratch.path());
        Tool::new("sh").args(["-c", &script]).read(&Runner::default()).unwrap().text().unwrap();
        assert_eq!(scratch.content().unwrap(), b"after");
    }
}
