//! [`Sums`]: a file's checksums, computed while the file is read or downloaded.

use std::io::Read;

use camino::Utf8Path;
use sha2::{Digest, Sha256, Sha512};

use crate::{
    cancel::Cancel,
    error::{Error, Result},
    model::{
        digest,
        image::{Algorithm, Checksum},
    },
};

/// The SHA-256 that identifies an image, and the SHA-512 if it was requested.
#[derive(Debug, Clone)]
pub struct Sums {
    sha256: Sha256,
    sha512: Option<Sha512>,
}

impl Sums {
    /// Returns the state before the first byte. SHA-256 is computed even if it is not in `algorithms`.
    pub fn new(algorithms: &[Algorithm]) -> Self {
        let sha512 = algorithms.contains(&Algorithm::Sha512).then(Sha512::new);
        Self { sha256: Sha256::new(), sha512 }
    }

    /// Returns the state before the first byte, for the same algorithms.
    #[must_use]
    pub fn restarted(&self) -> Self {
        Self { sha256: Sha256::new(), sha512: self.sha512.as_ref().map(|_| Sha512::new()) }
    }

    /// Adds the next bytes of the file.
    pub fn update(&mut self, bytes: &[u8]) {
        self.sha256.update(bytes);
        if let Some(sha512) = &mut self.sha512 {
            sha512.update(bytes);
        }
    }

    /// Computes the checksums of a whole file.
    pub fn of(file: &Utf8Path, algorithms: &[Algorithm], cancel: &Cancel) -> Result<Self> {
        let failed = |error: std::io::Error| Error::io(format!("read the image `{file}`"), &error);
        let mut sums = Self::new(algorithms);
        let mut opened = std::fs::File::open(file).map_err(failed)?;
        let mut buffer = vec![0; 1 << 20];
        loop {
            cancel.check()?;
            match opened.read(&mut buffer).map_err(failed)? {
                0 => return Ok(sums),
                read => sums.update(&buffer[..read]),
            }
        }
    }

    /// Returns the SHA-256 in hexadecimal.
    pub fn sha256(&self) -> String {
        digest::hex(&self.sha256.clone().finalize())
    }

    /// Returns the checksum of an algorithm, or `None` if it was not computed.
    pub fn get(&self, algorithm: Algorithm) -> Option<Checksum> {
        let hex = match algorithm {
            Algorithm::Sha256 => self.sha256(),
            Algorithm::Sha512 => digest::hex(&self.sha512.clone()?.finalize()),
        };
        Checksum::new(algorithm, &hex)
    }
}
