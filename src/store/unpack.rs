//! Decompression of xz, gzip, zstd and bzip2.

use std::{
    fs::File,
    io::{BufReader, Read, Seek, SeekFrom, Write},
};

use camino::Utf8Path;
use liblzma::stream::{CONCATENATED, Stream};

use super::disk_space;
use crate::{
    cancel::Cancel,
    error::{Error, Result},
};

/// How a file is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Packing {
    /// `.xz`
    Xz,
    /// `.gz`
    Gzip,
    /// `.zst`
    Zstd,
    /// `.bz2`
    Bzip2,
}

/// The memory limit of the xz decoder. The strongest preset needs 65 MiB.
const XZ_MEMORY: u64 = 512 << 20;

/// The number of bytes decompressed at once. Blocks of zeros become holes, because disk images contain many of them.
const BLOCK: usize = 1 << 16;

/// The largest decompressed size. Holes take no space, but they take time.
const MAX_SIZE: u64 = 2 << 40;

/// The number of blocks after which the free space is checked again.
const CHECK_INTERVAL: u64 = 1024;

impl Packing {
    /// Returns how a file is compressed that begins with these bytes, or `None` if it is not compressed.
    pub fn of(head: &[u8]) -> Option<Self> {
        const MAGIC: [(&[u8], Packing); 4] = [
            (b"\xfd7zXZ\0", Packing::Xz),
            (b"\x1f\x8b\x08", Packing::Gzip),
            (b"\x28\xb5\x2f\xfd", Packing::Zstd),
            (b"BZh", Packing::Bzip2),
        ];
        MAGIC.iter().find(|(magic, _)| head.starts_with(magic)).map(|&(_, packing)| packing)
    }

    fn decoder(self, packed: File) -> std::io::Result<Box<dyn Read>> {
        let packed = BufReader::with_capacity(1 << 20, packed);
        Ok(match self {
            Self::Xz => {
                let stream = Stream::new_stream_decoder(XZ_MEMORY, CONCATENATED).map_err(std::io::Error::other)?;
                Box::new(liblzma::bufread::XzDecoder::new_stream(packed, stream))
            }
            Self::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(packed)),
            Self::Zstd => Box::new(zstd::Decoder::with_buffer(packed)?),
            Self::Bzip2 => Box::new(bzip2::bufread::MultiBzDecoder::new(packed)),
        })
    }

    /// Decompresses `packed` into a file on the disk of `folder`. Fails when the disk runs out of space.
    ///
    /// `given` is the operator's name for the file, for messages. `progress` is called with the bytes written.
    pub fn unpack(
        self,
        packed: &Utf8Path,
        given: &str,
        into: &mut File,
        folder: &Utf8Path,
        cancel: &Cancel,
        mut progress: impl FnMut(u64),
    ) -> Result<()> {
        let opened = File::open(packed).map_err(|error| Error::io(format!("read `{given}`"), &error))?;
        let damaged = |error: std::io::Error| {
            Error::invalid(format!("cannot decompress `{given}`: the file is damaged or truncated"))
                .because(error)
                .hint("Fetch it again")
        };
        let write_failed = |error: std::io::Error| Error::io(format!("decompress `{given}` into `{folder}`"), &error);
        let mut decoder = self.decoder(opened).map_err(damaged)?;
        let mut block = Vec::with_capacity(BLOCK);
        let mut size = 0;
        for count in 0_u64.. {
            cancel.check()?;
            if count.is_multiple_of(CHECK_INTERVAL) && disk_space::left(folder)? < CHECK_INTERVAL * BLOCK as u64 {
                let message = format!("not enough space in `{folder}` to decompress `{given}`");
                let cause = format!("{size} bytes are decompressed, and more follow");
                return Err(disk_space::with_hints(Error::conflict(message).because(cause)));
            }
            block.clear();
            (&mut decoder).take(BLOCK as u64).read_to_end(&mut block).map_err(damaged)?;
            if block.is_empty() {
                break;
            }
            if block.iter().all(|&byte| byte == 0) {
                into.seek(SeekFrom::Current(block.len().cast_signed() as i64)).map_err(write_failed)?;
            } else {
                into.write_all(&block).map_err(write_failed)?;
            }
            size += block.len() as u64;
            if size > MAX_SIZE {
                return Err(Error::invalid(format!("`{given}` is larger than 2 TiB when decompressed"))
                    .hint("Choose a cloud image"));
            }
            progress(size);
        }
        into.set_len(size).map_err(write_failed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each input has two members and zeros between text.
    #[test]
    fn every_format_is_decompressed_and_truncated_input_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = Utf8Path::from_path(folder.path()).unwrap();
        let mut content = b"begin".repeat(30_000);
        content.extend(vec![0; 3 * BLOCK]);
        content.extend(b"end");
        for (packing, pack) in [
            (Packing::Gzip, gzip as fn(&[u8]) -> Vec<u8>),
            (Packing::Xz, xz),
            (Packing::Zstd, |data| zstd::encode_all(data, 3).unwrap()),
            (Packing::Bzip2, bzip2),
        ] {
            let packed = [pack(&content), pack(b"more")].concat();
            assert_eq!(Packing::of(&packed), Some(packing));
            let unpack = |bytes: &[u8]| {
                let file = path.join("packed");
                std::fs::write(&file, bytes).unwrap();
                let mut into = tempfile::tempfile_in(path).unwrap();
                packing.unpack(&file, "x", &mut into, path, &Cancel::default(), |_| ())?;
                let mut got = Vec::new();
                into.seek(SeekFrom::Start(0)).unwrap();
                into.read_to_end(&mut got).unwrap();
                Ok::<_, Error>(got)
            };
            assert!(unpack(&packed).unwrap() == [&content[..], b"more"].concat(), "{packing:?}");
            let error = unpack(&packed[..packed.len() / 2]).unwrap_err();
            assert!(error.message.contains("damaged or truncated"), "{packing:?}: {error}");
        }
    }

    fn gzip(data: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(data).unwrap();
        encoder.finish().unwrap()
    }

    fn xz(data: &[u8]) -> Vec<u8> {
        let mut encoder = liblzma::write::XzEncoder::new(Vec::new(), 1);
        encoder.write_all(data).unwrap();
        encoder.finish().unwrap()
    }

    fn bzip2(data: &[u8]) -> Vec<u8> {
        let mut encoder = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
        encoder.write_all(data).unwrap();
        encoder.finish().unwrap()
    }
}
