//! What GnuPG signs is taken; what anybody has changed, or somebody else has signed, is not.
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
fn what_gpg_signs_is_taken_and_nothing_else() {
    for algorithm in ["rsa3072", "ed25519"] {
        let (ours, other) = (Signer::new(algorithm), Signer::new("ed25519"));
        let (public, foreign) = (ours.public(), other.public());
        let fingerprint = fingerprints(&public).unwrap().remove(0);
        // Any of several keys will do; who it was is said.
        for signature in [ours.detached(TEXT), ours.armoured(TEXT)] {
            assert_eq!(check(&signature, &[&foreign, &public], TEXT), Ok(fingerprint.clone()));
            let wrong = check(&signature, &[&foreign], TEXT).unwrap_err();
            assert!(wrong.contains("another key"), "{wrong}");
            let changed = [TEXT, b"x"].concat();
            assert!(check(&signature, &[&public], &changed).unwrap_err().contains("does not match"));
            assert!(check(&signature, &[], TEXT).is_err());
            assert!(check(&signature[..signature.len() / 2], &[&public], TEXT).is_err());
        }
        let message = String::from_utf8(ours.inline(TEXT)).unwrap();
        let (text, by) = open(&message, &[&public]).unwrap();
        assert_eq!(by, fingerprint);
        assert!(text.contains("SHA256 (disk.img) = abcd") && text.contains("\n- dashed"), "{text}");
        assert!(open(&message, &[&foreign]).unwrap_err().contains("another key"));
        assert!(open(&message.replace("abcd", "abce"), &[&public]).unwrap_err().contains("does not match"));
        // What stands around the signed text is not signed.
        let around = format!("SHA256 (disk.img) = evil\n{message}SHA256 (disk.img) = evil\n");
        assert!(open(&around, &[&public]).map_or(true, |(text, _)| !text.contains("evil")));
    }
}

#[test]
fn what_is_no_signature_is_refused() {
    let ours = Signer::new("ed25519");
    let public = ours.public();
    for nothing in [
        &b""[..],
        b"<!DOCTYPE html>",
        b"-----BEGIN PGP SIGNATURE-----\n\nAAAA\n-----END PGP SIGNATURE-----\n",
        public.as_bytes(),
    ] {
        assert!(check(nothing, &[&public], TEXT).is_err(), "{}", String::from_utf8_lossy(nothing));
        assert!(open(&String::from_utf8_lossy(nothing), &[&public]).is_err());
    }
    assert!(fingerprints("no key").is_err());
}
