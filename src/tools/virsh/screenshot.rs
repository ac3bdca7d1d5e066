//! Pictures of screens.

use uuid::Uuid;

use super::{super::scratch::Scratch, Virsh};
use crate::error::{Code, Error, Result};

/// How a PNG file begins (PNG specification, 5.2).
const PNG: &[u8] = b"\x89PNG\r\n\x1a\n";

impl Virsh {
    /// A picture of a domain's first screen as a PNG file, and its width and height. QEMU before 7.1 writes PPM, which is
    /// made into PNG.
    pub fn screenshot(&self, uuid: Uuid) -> Result<(Vec<u8>, (u32, u32))> {
        let mut file = Scratch::memory(b"")?;
        let args = ["screenshot", "--domain", &uuid.to_string(), "--file", file.path().as_str()];
        self.read("take a picture of the VM's screen", &args)?;
        let image = file.content()?;
        match size_of_png(&image) {
            Some(size) => Ok((image, size)),
            None => from_ppm(&image).ok_or_else(|| {
                Error::new(Code::ToolFailed, "libvirt's picture of the VM's screen is neither PNG nor PPM")
            }),
        }
    }
}

/// Its header's chunk is the first, right behind the signature (PNG specification, 11.2.2).
fn size_of_png(image: &[u8]) -> Option<(u32, u32)> {
    let header = image.strip_prefix(PNG)?.get(8..16)?;
    let number = |bytes: &[u8]| bytes.try_into().ok().map(u32::from_be_bytes);
    Some((number(&header[..4])?, number(&header[4..])?))
}

/// Makes PNG of a binary PPM file of one byte a colour (`man 5 ppm`), as QEMU writes it.
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
    fn a_ppm_becomes_a_png_of_the_same_pixels() {
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
    fn what_is_no_picture_is_refused() {
        for image in [&b""[..], b"P6", b"P6 2 1 255\nxx", b"P6 2 1 65535\n123456", b"\x89PNG\r\n\x1a\n\0\0"] {
            assert!(size_of_png(image).is_none() && from_ppm(image).is_none());
        }
    }
}
