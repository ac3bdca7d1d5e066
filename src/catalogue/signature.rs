//! OpenPGP keys and signatures: reads their encoding, and the text of a signed message. Verifying them needs a program.

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use sha1::{Digest, Sha1};

use crate::model::digest::hex;

/// Why a key or signature is not accepted, as the end of a sentence.
pub type Refusal = String;

/// The type of a packet that is a primary public key (RFC 9580, section 5).
const PUBLIC_KEY: u8 = 6;
/// The type of a packet that is a signature.
const SIGNATURE: u8 = 2;

const BEGIN_SIGNED_TEXT: &str = "-----BEGIN PGP SIGNED MESSAGE-----";
const BEGIN_SIGNATURE: &str = "-----BEGIN PGP SIGNATURE-----";

/// Refuses a text that is not an armored public key.
pub fn check_key(armored: &str) -> Result<(), Refusal> {
    fingerprints(armored).map(drop)
}

/// Returns the fingerprints of armored public keys, in hexadecimal.
pub fn fingerprints(armored: &str) -> Result<Vec<String>, Refusal> {
    let bytes = key(armored)?;
    let packets = packets(&bytes).ok_or("it is not an OpenPGP public key (it is damaged)")?;
    if packets.first().is_none_or(|&(kind, _)| kind != PUBLIC_KEY) {
        return Err("it contains no OpenPGP public key".to_owned());
    }
    packets.iter().filter(|&&(kind, _)| kind == PUBLIC_KEY).map(|&(_, body)| fingerprint(body)).collect()
}

/// Returns the fingerprint of a key (RFC 9580, section 5.5.4.2).
fn fingerprint(body: &[u8]) -> Result<String, Refusal> {
    match (body.first(), u16::try_from(body.len())) {
        (Some(4), Ok(length)) => {
            let digest = Sha1::new().chain_update([0x99]).chain_update(length.to_be_bytes()).chain_update(body);
            Ok(hex(&digest.finalize()))
        }
        _ => Err("it is not an OpenPGP public key of version 4".to_owned()),
    }
}

/// Returns armored public keys as one binary keyring.
pub fn keyring(keys: &[&str]) -> Result<Vec<u8>, Refusal> {
    keys.iter().map(|armored| key(armored)).collect::<Result<Vec<_>, _>>().map(|keys| keys.concat())
}

fn key(armored: &str) -> Result<Vec<u8>, Refusal> {
    dearmored(armored, "PGP PUBLIC KEY BLOCK").ok_or_else(|| "it is not an OpenPGP public key".to_owned())
}

/// Returns the content of a file of detached signatures in binary form. The file may be armored or binary.
///
/// Nothing but signatures is accepted, so that no message in the file can replace the signed data.
pub fn detached(file: &[u8]) -> Result<Vec<u8>, Refusal> {
    let refused = || "it is not an OpenPGP signature".to_owned();
    let bytes = if file.trim_ascii_start().starts_with(b"-----BEGIN") {
        let armored = std::str::from_utf8(file).map_err(|_| refused())?;
        dearmored(armored, "PGP SIGNATURE").ok_or_else(refused)?
    } else {
        file.to_owned()
    };
    let packets = packets(&bytes).filter(|packets| !packets.is_empty()).ok_or_else(refused)?;
    if packets.iter().all(|&(kind, _)| kind == SIGNATURE) { Ok(bytes) } else { Err(refused()) }
}

/// Returns the text of a message with an inline signature, and its signatures in binary form (RFC 9580, section 7).
///
/// The signatures are those of exactly this text. Text before or after the signed part is not returned.
pub fn signed_text(message: &str) -> Result<(String, Vec<u8>), Refusal> {
    let mut lines = message.split('\n');
    if !lines.any(|line| line.trim_end() == BEGIN_SIGNED_TEXT) {
        return Err("it is not a signed text".to_owned());
    }
    let mut headers = lines.by_ref().map(str::trim_end).take_while(|line| !line.is_empty());
    if !headers.all(|header| header.starts_with("Hash: ")) {
        return Err("its signed text has an unknown header".to_owned());
    }
    let mut text = Vec::new();
    for line in lines.by_ref().take_while(|line| line.trim_end() != BEGIN_SIGNATURE) {
        let content = line.strip_prefix("- ").unwrap_or(line).trim_end_matches([' ', '\t', '\r']);
        // A carriage return alone ends a line for some programs and not for others.
        if line.starts_with('-') && !line.starts_with("- ") || content.contains('\r') {
            return Err("its signed text has an invalid line".to_owned());
        }
        text.push(content);
    }
    let armored = [BEGIN_SIGNATURE].into_iter().chain(lines).collect::<Vec<_>>().join("\n");
    Ok((text.join("\r\n"), detached(armored.as_bytes())?))
}

/// Returns the content of all armored blocks of this label (RFC 9580, section 6.2), or `None` if there is none or if
/// one is damaged. Checksums are ignored: what they protect has a fingerprint or a signature.
fn dearmored(text: &str, label: &str) -> Option<Vec<u8>> {
    let (begin, end) = (format!("-----BEGIN {label}-----"), format!("-----END {label}-----"));
    let mut lines = text.lines().map(str::trim);
    let mut bytes = Vec::new();
    while lines.any(|line| line == begin) {
        if !lines.by_ref().take_while(|line| !line.is_empty()).all(|header| header.contains(": ")) {
            return None;
        }
        let mut encoded = String::new();
        loop {
            match lines.next()? {
                line if line == end => break,
                line if line.starts_with('=') => {}
                line => encoded.push_str(line),
            }
        }
        bytes.extend(BASE64.decode(encoded).ok()?);
    }
    (!bytes.is_empty()).then_some(bytes)
}

/// A packet: its type and its body.
type Packet<'b> = (u8, &'b [u8]);

/// Returns the packets, or `None` if one is damaged.
fn packets(mut bytes: &[u8]) -> Option<Vec<Packet<'_>>> {
    let mut packets = Vec::new();
    while !bytes.is_empty() {
        let (packet, rest) = packet(bytes)?;
        packets.push(packet);
        bytes = rest;
    }
    Some(packets)
}

/// Returns the first packet and the bytes behind it. A packet must state its length, as keys and signatures do (RFC
/// 9580, section 4.2).
fn packet(bytes: &[u8]) -> Option<(Packet<'_>, &[u8])> {
    let (&header, rest) = bytes.split_first()?;
    let (kind, (length, rest)) = match header {
        0xc0.. => (header & 0x3f, new_length(rest)?),
        0x80.. if header & 3 < 3 => (header >> 2 & 0xf, number(rest, 1 << (header & 3))?),
        _ => return None,
    };
    let (body, rest) = rest.split_at_checked(length)?;
    Some(((kind, body), rest))
}

fn new_length(bytes: &[u8]) -> Option<(usize, &[u8])> {
    match *bytes.first()? {
        0..192 => number(bytes, 1),
        192..224 => number(bytes, 2).map(|(length, rest)| (length - (192 << 8) + 192, rest)),
        255 => number(&bytes[1..], 4),
        _ => None,
    }
}

/// Returns a number of `size` bytes, the highest first, and the bytes behind it.
fn number(bytes: &[u8], size: usize) -> Option<(usize, &[u8])> {
    let (number, rest) = bytes.split_at_checked(size)?;
    Some((number.iter().fold(0, |number, &byte| number << 8 | usize::from(byte)), rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_of_every_length_are_read() {
        for (header, length) in [
            (&[0x88, 3][..], 3),
            (&[0x89, 1, 0], 256),
            (&[0x8a, 0, 1, 0, 0], 65536),
            (&[0xc2, 191], 191),
            (&[0xc2, 192, 0], 192),
            (&[0xc2, 223, 255], 8383),
            (&[0xc2, 255, 0, 1, 0, 0], 65536),
        ] {
            let bytes = [header, &vec![7; length], &[0x88, 1, 9]].concat();
            assert_eq!(packets(&bytes).unwrap(), [(SIGNATURE, &vec![7; length][..]), (SIGNATURE, &[9][..])]);
            assert!(packets(&bytes[..bytes.len() - 1]).is_none() && packets(&bytes[..=header.len()]).is_none());
        }
        // A packet without a length, a part of a packet, and no packet.
        for damaged in [&[0x8b, 1][..], &[0xc2, 224, 1], &[0x42, 1, 1], &[0xc2], &[0xc2, 255, 0]] {
            assert!(packets(damaged).is_none(), "{damaged:?}");
        }
    }

    #[test]
    fn only_files_of_nothing_but_signatures_are_signatures() {
        assert!(detached(&[0x88, 1, 4]).is_ok());
        for refused in [&b""[..], b"<html>", &[0x88, 1, 4, 0xcb, 1, 0], &[0x98, 1, 4]] {
            assert!(detached(refused).unwrap_err().contains("not an OpenPGP signature"), "{refused:?}");
        }
    }

    #[test]
    fn a_signed_text_is_returned_as_it_was_signed() {
        let signature = "-----BEGIN PGP SIGNATURE-----\n\niAEE\n=abcd\n-----END PGP SIGNATURE-----\n";
        let message = |text: &str| format!("x\n{BEGIN_SIGNED_TEXT}\nHash: SHA256\n\n{text}\n{signature}y\n");
        let text = |given: &str| signed_text(&message(given)).map(|(text, _)| text);
        assert_eq!(text("a \t\r\n\n- - b\n- -----BEGIN x\nc").unwrap(), "a\r\n\r\n- b\r\n-----BEGIN x\r\nc");
        assert_eq!(signed_text(&message("a").replace('\n', "\r\n")).unwrap(), ("a".to_owned(), vec![0x88, 1, 4]));
        assert!(text("-a").unwrap_err().contains("invalid line"));
        assert!(text("a\rb").unwrap_err().contains("invalid line"));
        assert!(signed_text(&message("a").replace("Hash: ", "Comment: ")).unwrap_err().contains("header"));
        assert!(signed_text(signature).unwrap_err().contains("not a signed text"));
        assert!(signed_text(&message("a").replace("END", "BEGIN")).is_err());
        assert!(signed_text(BEGIN_SIGNED_TEXT).is_err());
    }
}
