//! Signatures of GnuPG are accepted. Changed data, and signatures by another, an expired or a revoked key are refused.
#![expect(clippy::unwrap_used, reason = "clippy knows only the functions marked as tests")]

#[path = "support/gpg.rs"]
mod gpg;

use std::{fs, time::Duration};

use gpg::Signer;
use vmprov::{
    catalogue::signature::{Refusal, detached, fingerprints, keyring, signed_text},
    tools::{Runner, gpgv, scratch::Scratch},
};

const TEXT: &[u8] = b"# disk.img: 5 bytes\nSHA256 (disk.img) = abcd\n- dashed\n\ntrailing space \n";

/// Verifies signatures in binary form.
fn verify(signature: &[u8], keys: &[&str], data: &[u8]) -> Result<String, Refusal> {
    let data = Scratch::memory(data).unwrap();
    gpgv::verify(&Runner::default(), &keyring(keys)?, signature, data.path()).unwrap()
}

/// Verifies a file of detached signatures.
fn check(file: &[u8], keys: &[&str], data: &[u8]) -> Result<String, Refusal> {
    verify(&detached(file)?, keys, data)
}

/// Returns the text of a message, and the fingerprint of the key that signed it.
fn open(message: &str, keys: &[&str]) -> Result<(String, String), Refusal> {
    let (text, signature) = signed_text(message)?;
    let fingerprint = verify(&signature, keys, text.as_bytes())?;
    Ok((text, fingerprint))
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
        // One of several signatures suffices.
        let both = [other.detached(TEXT), signer.detached(TEXT)].concat();
        assert_eq!(check(&both, &[&public], TEXT), Ok(fingerprint.clone()));
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
        // A signed message contains its own data, which would be verified instead of the given data.
        &signer.gpg(&["--sign"], TEXT),
        &[signer.gpg(&["--sign"], b"other"), signer.detached(b"other")].concat(),
    ] {
        assert!(check(unsigned, &[&public], TEXT).is_err(), "{}", String::from_utf8_lossy(unsigned));
        assert!(open(&String::from_utf8_lossy(unsigned), &[&public]).is_err());
    }
    assert!(fingerprints("no key").is_err());
}

#[test]
fn a_signature_with_a_broken_hash_algorithm_is_refused() {
    let signer = Signer::new("ed25519");
    for algorithm in ["SHA1", "RIPEMD160"] {
        let signature = signer.gpg(&["--digest-algo", algorithm, "--detach-sign"], TEXT);
        assert!(check(&signature, &[&signer.public()], TEXT).unwrap_err().contains("broken hash algorithm"));
    }
}

#[test]
fn an_expired_signature_and_an_expired_or_revoked_key_are_refused() {
    let (expiring, revoked) = (Signer::new("ed25519"), Signer::new("ed25519"));
    let fingerprint = |signer: &Signer| fingerprints(&signer.public()).unwrap().remove(0).to_uppercase();
    let brief = revoked.gpg(&["--default-sig-expire", "seconds=1", "--detach-sign"], TEXT);
    let [by_expiring, by_revoked] = [&expiring, &revoked].map(|signer| {
        let signature = signer.detached(TEXT);
        assert!(check(&signature, &[&signer.public()], TEXT).is_ok());
        signature
    });
    expiring.gpg(&["--quick-set-expire", &fingerprint(&expiring), "seconds=1"], b"");
    std::thread::sleep(Duration::from_secs(2));
    assert!(check(&by_expiring, &[&expiring.public()], TEXT).unwrap_err().contains("key has expired"));
    assert!(check(&brief, &[&revoked.public()], TEXT).unwrap_err().contains("it has expired"));

    // gpg has put a colon before the armor, so that the key is not revoked by accident.
    let file = revoked.home.path().join(format!("openpgp-revocs.d/{}.rev", fingerprint(&revoked)));
    let revocation = fs::read_to_string(file).unwrap().replace(":-----BEGIN", "-----BEGIN");
    revoked.gpg(&["--import"], revocation.as_bytes());
    assert!(check(&by_revoked, &[&revoked.public()], TEXT).unwrap_err().contains("revoked"));
}
