//! Signatures of GnuPG are accepted. Changed data and signatures by another key are refused.
#![expect(clippy::unwrap_used, reason = "clippy knows only the functions marked as tests")]

#[path = "support/gpg.rs"]
mod gpg;

use std::io::{Cursor, Read};

use gpg::Signer;
use vmprov::catalogue::signature::{fingerprints, open, verify};

const TEXT: &[u8] = b"# disk.img: 5 bytes\nSHA256 (disk.img) = abcd\n- dashed\n\ntrailing space \n";

fn check(signature: &[u8], keys: &[&str], data: &[u8]) -> Result<String, String> {
    let data = data.to_owned();
    verify(signature, keys, &move || Ok(Box::new(Cursor::new(data.clone())) as Box<dyn Read>))
}

#[test]
fn only_unchanged_data_signed_by_a_given_key_is_accepted() {
    for algorithm in ["rsa3072", "ed25519"] {
        let (signer, other) = (Signer::new(algorithm), Signer::new("ed25519"));
        let (public, foreign) = (signer.public(), other.public());
        let fingerprint = fingerprints(&public).unwrap().remove(0);
        // Any of several keys may have signed, and the result says which one did.
        for signature in [signer.detached(TEXT), signer.armoured(TEXT)] {
            assert_eq!(check(&signature, &[&foreign, &public], TEXT), Ok(fingerprint.clone()));
            let wrong = check(&signature, &[&foreign], TEXT).unwrap_err();
            assert!(wrong.contains("another key"), "{wrong}");
            let changed = [TEXT, b"x"].concat();
            assert!(check(&signature, &[&public], &changed).unwrap_err().contains("does not match"));
            assert!(check(&signature, &[], TEXT).is_err());
            assert!(check(&signature[..signature.len() / 2], &[&public], TEXT).is_err());
        }
        let message = String::from_utf8(signer.inline(TEXT)).unwrap();
        let (text, signed_by) = open(&message, &[&public]).unwrap();
        assert_eq!(signed_by, fingerprint);
        assert!(text.contains("SHA256 (disk.img) = abcd") && text.contains("\n- dashed"), "{text}");
        assert!(open(&message, &[&foreign]).unwrap_err().contains("another key"));
        assert!(open(&message.replace("abcd", "abce"), &[&public]).unwrap_err().contains("does not match"));
        // Text outside the signed part is not accepted.
        let around = format!("SHA256 (disk.img) = evil\n{message}SHA256 (disk.img) = evil\n");
        assert!(open(&around, &[&public]).map_or(true, |(text, _)| !text.contains("evil")));
    }
}

#[test]
fn data_without_a_signature_is_refused() {
    let signer = Signer::new("ed25519");
    let public = signer.public();
    for unsigned in [
        &b""[..],
        b"<!DOCTYPE html>",
        b"-----BEGIN PGP SIGNATURE-----\n\nAAAA\n-----END PGP SIGNATURE-----\n",
        public.as_bytes(),
    ] {
        assert!(check(unsigned, &[&public], TEXT).is_err(), "{}", String::from_utf8_lossy(unsigned));
        assert!(open(&String::from_utf8_lossy(unsigned), &[&public]).is_err());
    }
    assert!(fingerprints("no key").is_err());
}
