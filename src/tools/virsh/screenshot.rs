//! Screenshots.

use uuid::Uuid;

use super::{super::scratch::Scratch, Virsh};
use crate::error::{Code, Error, Result};

/// The signature of a PNG file (PNG specification, 5.2).
const PNG: &[u8] = b"\x89PNG\r\n\x1a\n";

impl Virsh {
    /// Returns a screenshot of a domain's first screen as a PNG file, and its width and height. QEMU before 7.1 writes
    /// PPM, which is converted to PNG.
    pub fn screenshot(&self, uuid: Uuid) -> Result<(Vec<u8>, (u32, u32))> {
        let mut file = Scratch::memory(b"")?;
        let args = ["screenshot", "--domain", &uuid.to_string(), "--file", file.path().as_str()];
        self.read("take a screenshot of the VM", &args)?;
        let image = file.content()?;
        match size_of_png(&image) {
            Some(size) => Ok((image, size)),
            None => from_ppm(&image)
                .ok_or_else(|| Error::new(Code::ToolFailed, "libvirt's screenshot of the VM is neither PNG nor PPM")),
        }
    }
}

/// Returns the width and height of a PNG image. The header is the first chunk after the signature (PNG specification,
/// 11.2.2).
fn size_of_png(image: &[u8]) -> Option<(u32, u32)> {
    let header = image.strip_prefix(PNG)?.get(8..16)?;
    let number = |bytes: &[u8]| bytes.try_into().ok().map(u32::from_be_bytes);
    Some((number(&header[..4])?, number(&header[4..])?))
}

/// Converts a binary PPM file with one byte per color (`man 5 ppm`), the kind that QEMU writes, to PNG.
fn from_ppm(image: &[u8]) -> Option<(Vec<u8>, (u32, u32))> {
    let mut rest = image.strip_prefix(b"P6")?;
    let mut number = || {
        let skipped = rest.trim_ascii_start();
        let digits = skipped.iter().take_while(|byte| byte.is_ascii_digit()).count();
        let number = std::str::from_utf8(&skipped[..digits]).ok()?.parse::<u32>().ok();
        rest = &skipped[digits..];
        number
    };
    let (width, height, most) = (number()?, number()?, number()?);
    let size = usize::try_from(u64::from(width) * u64::from(height) * 3).ok()?;
    let pixels = rest.get(1..)?.get(..size).filter(|_| most == 255)?;
    let mut png = Vec::new();
    let mut encoder = png::Encoder::new(&mut png, width, height);
    encoder.set_color(png::ColorType::Rgb);
    encoder.write_header().ok()?.write_image_data(pixels).ok()?;
    Some((png, (width, height)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ppm_is_converted_to_a_png_with_the_same_pixels() {
        let pixels = [255, 0, 0, 0, 255, 0];
        let ppm = [b"P6\n2 1\n255\n", &pixels[..]].concat();
        let (image, size) = from_ppm(&ppm).unwrap();
        assert_eq!((size, size_of_png(&image)), ((2, 1), Some((2, 1))));
        let mut reader = png::Decoder::new(std::io::Cursor::new(&image)).read_info().unwrap();
        let mut decoded = vec![0; 6];
        reader.next_frame(&mut decoded).unwrap();
        assert_eq!(decoded, pixels);
    }

    #[test]
    fn invalid_images_are_refused() {
        for image in [&b""[..], b"P6", b"P6 2 1 255\nxx", b"P6 2 1 65535\n123456", b"\x89PNG\r\n\x1a\n\0\0"] {
            assert!(size_of_png(image).is_none() && from_ppm(image).is_none());
        }
    }
}
