//! Decompresses user data.

use std::io::Read;

use flate2::read::MultiGzDecoder;

use crate::error::{Error, Result};

/// The size limit after decompression, so that a small file cannot fill the memory.
const MAX_PLAIN: usize = 16 << 20;

/// The first bytes of gzip data (RFC 1952, section 2.3.1).
pub(super) const MAGIC: &[u8] = b"\x1f\x8b";

/// Decompresses gzip data of at most [`MAX_PLAIN`] bytes. `what` is its name in errors.
pub(super) fn decompress(bytes: &[u8], what: &str) -> Result<Vec<u8>> {
    let mut plain = Vec::new();
    let limit = MAX_PLAIN as u64 + 1;
    MultiGzDecoder::new(bytes).take(limit).read_to_end(&mut plain).map_err(|error| {
        Error::invalid(format!("cannot decompress {what} as gzip"))
            .because(error)
            .hint("Compress it again or provide it uncompressed: it is damaged or truncated")
    })?;
    if plain.len() > MAX_PLAIN {
        return Err(Error::invalid(format!("{what} has more than {MAX_PLAIN} bytes when decompressed"))
            .hint("Let the guest download the rest, with `#include` or a script"));
    }
    Ok(plain)
}
