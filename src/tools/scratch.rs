//! [`Scratch`]: a file without a name, for handing content to a program and taking it back.
//!
//! Programs reach it through this process's `/proc/PID/fd`. Nothing is left behind however this process ends, and
//! what is secret (a guest's private host keys) never touches a disk.

use std::{
    fs::File,
    io::{Read, Seek, SeekFrom, Write},
    os::fd::AsRawFd,
};

use camino::{Utf8Path, Utf8PathBuf};
use rustix::fs::{MemfdFlags, memfd_create};

use crate::error::{Error, Result};

/// A file without a name.
#[derive(Debug)]
pub struct Scratch {
    file: File,
    path: Utf8PathBuf,
}

impl Scratch {
    /// A file in memory that holds `content`.
    pub fn memory(content: &[u8]) -> Result<Self> {
        let failed = |error: std::io::Error| Error::io("make a file in memory", &error);
        let fd = memfd_create("vmprov", MemfdFlags::CLOEXEC).map_err(|error| failed(error.into()))?;
        let mut file = File::from(fd);
        file.write_all(content).map_err(failed)?;
        Ok(Self::of(file))
    }

    /// A file on the disk of `folder`, for what may be larger than memory.
    pub fn on_disk(folder: &Utf8Path) -> Result<Self> {
        let make = || {
            std::fs::create_dir_all(folder)?;
            tempfile::tempfile_in(folder)
        };
        let file = make().map_err(|error| Error::io(format!("make a temporary file in `{folder}`"), &error))?;
        Ok(Self::of(file))
    }

    fn of(file: File) -> Self {
        let path = format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd());
        Self { file, path: path.into() }
    }

    /// The path by which a program that we start can open it.
    pub fn path(&self) -> &Utf8Path {
        &self.path
    }

    /// The file, for writing to it here.
    pub const fn file(&mut self) -> &mut File {
        &mut self.file
    }

    /// The file, opened anew at its beginning: for a program's standard input.
    pub fn reopened(&self) -> Result<File> {
        File::open(&self.path).map_err(|error| Error::io("open a temporary file", &error))
    }

    /// Its size in bytes.
    pub fn size(&self) -> Result<u64> {
        self.file
            .metadata()
            .map(|metadata| metadata.len())
            .map_err(|error| Error::io("look at a temporary file", &error))
    }

    /// Everything that it holds.
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
    fn a_program_reads_and_writes_it() {
        let mut scratch = Scratch::memory(b"before").unwrap();
        let seen = Tool::new("cat").args([scratch.path().as_str()]).read(&Runner::default()).unwrap();
        assert_eq!(seen.stdout, b"before");
        let script = format!("printf after > {}", scratch.path());
        Tool::new("sh").args(["-c", &script]).read(&Runner::default()).unwrap().text().unwrap();
        assert_eq!(scratch.content().unwrap(), b"after");
    }
}
