//! OpenPGP signatures of checksum files and images.

use std::io::Read;

use pgp::{
    composed::{CleartextSignedMessage, Deserializable, DetachedSignature, SignedPublicKey, SignedPublicSubKey},
    packet::{Signature, SignatureType},
    types::KeyDetails,
};

/// Why a signature is not accepted, as the end of a sentence.
pub type Refusal = String;

/// Refuses a text that is not an armored public key.
pub fn check_key(armored: &str) -> Result<(), Refusal> {
    fingerprints(armored).map(drop)
}

/// Returns the fingerprints of armored public keys, in hexadecimal.
pub fn fingerprints(armored: &str) -> Result<Vec<String>, Refusal> {
    Ok(parse(armored)?.iter().map(|key| key.primary_key.fingerprint().to_string()).collect())
}

fn parse(armored: &str) -> Result<Vec<SignedPublicKey>, Refusal> {
    let failed = |error: pgp::errors::Error| format!("it is not an OpenPGP public key ({error})");
    let (keys, _) = SignedPublicKey::from_string_many(armored).map_err(failed)?;
    let keys = keys.collect::<Result<Vec<_>, _>>().map_err(failed)?;
    if keys.is_empty() { Err("it contains no OpenPGP public key".to_owned()) } else { Ok(keys) }
}

/// Checks that one of the armored `keys` made a detached signature of the data. The signature may be armored or binary.
///
/// Each call of `data` must return the data from its beginning. Returns the fingerprint of the key.
pub fn verify(
    signature: &[u8],
    keys: &[&str],
    data: &dyn Fn() -> std::io::Result<Box<dyn Read>>,
) -> Result<String, Refusal> {
    let signatures = detached(signature)?;
    by_any(keys, signatures.iter().map(|detached| &detached.signature), data)
}

/// Returns the text of a message that one of the armored `keys` must have signed, and that key's fingerprint.
///
/// Text before or after the message is not signed, so it is not returned.
pub fn open(message: &str, keys: &[&str]) -> Result<(String, String), Refusal> {
    let (message, _) =
        CleartextSignedMessage::from_string(message).map_err(|error| format!("it is not a signed text ({error})"))?;
    let text = message.signed_text();
    let bytes = text.clone().into_bytes();
    let data = || Ok(Box::new(std::io::Cursor::new(bytes.clone())) as Box<dyn Read>);
    let fingerprint = by_any(keys, message.signatures().iter(), &data)?;
    Ok((text, fingerprint))
}

fn detached(bytes: &[u8]) -> Result<Vec<DetachedSignature>, Refusal> {
    let failed = |error: pgp::errors::Error| format!("it is not an OpenPGP signature ({error})");
    let all = if bytes.trim_ascii_start().starts_with(b"-----BEGIN") {
        let (signatures, _) = DetachedSignature::from_armor_many(bytes).map_err(failed)?;
        signatures.collect::<Result<Vec<_>, _>>()
    } else {
        let signatures = DetachedSignature::from_bytes_many(bytes).map_err(failed)?;
        signatures.collect::<Result<Vec<_>, _>>()
    };
    all.map_err(failed)
}

/// Tries each signature with each key and subkey. Returns the fingerprint of the primary key of the first match.
fn by_any<'s>(
    keys: &[&str],
    signatures: impl Iterator<Item = &'s Signature>,
    data: &dyn Fn() -> std::io::Result<Box<dyn Read>>,
) -> Result<String, Refusal> {
    // Only signatures of data count. The library itself refuses broken hash algorithms.
    let of_data = |signature: &&Signature| matches!(signature.typ(), Some(SignatureType::Binary | SignatureType::Text));
    let signatures: Vec<_> = signatures.filter(of_data).collect();
    let mut why = "it contains no signature of data".to_owned();
    for armored in keys {
        for key in parse(armored)? {
            for signature in &signatures {
                let read = || data().map_err(|error| format!("cannot read the signed data: {error}"));
                let by_subkey = |subkey: &SignedPublicSubKey| Some(signature.verify(&subkey.key, read().ok()?).is_ok());
                let verified = match signature.verify(&key.primary_key, read()?) {
                    Err(_) if key.public_subkeys.iter().filter_map(by_subkey).any(|is_valid| is_valid) => Ok(()),
                    result => result,
                };
                match verified {
                    Ok(()) => return Ok(key.primary_key.fingerprint().to_string()),
                    Err(error) if error.to_string().contains("No matching issuer") => {
                        "it was made with another key, not the publisher's".clone_into(&mut why);
                    }
                    Err(error) => why = format!("it does not match ({error})"),
                }
            }
        }
    }
    Err(why)
}
