//! OpenPGP signatures of checksum files and images.

use std::io::Read;

use pgp::{
    composed::{CleartextSignedMessage, Deserializable, DetachedSignature, SignedPublicKey, SignedPublicSubKey},
    packet::{Signature, SignatureType},
    types::KeyDetails,
};

/// Why a signature does not count, as the end of a sentence.
pub type Refusal = String;

/// Refuses what is no armoured public key.
pub fn check_key(armoured: &str) -> Result<(), Refusal> {
    fingerprints(armoured).map(drop)
}

/// The fingerprints of armoured public keys, in hexadecimal.
pub fn fingerprints(armoured: &str) -> Result<Vec<String>, Refusal> {
    Ok(parse(armoured)?.iter().map(|key| key.primary_key.fingerprint().to_string()).collect())
}

fn parse(armoured: &str) -> Result<Vec<SignedPublicKey>, Refusal> {
    let failed = |error: pgp::errors::Error| format!("it is no OpenPGP public key ({error})");
    let (keys, _) = SignedPublicKey::from_string_many(armoured).map_err(failed)?;
    let keys = keys.collect::<Result<Vec<_>, _>>().map_err(failed)?;
    if keys.is_empty() { Err("it holds no OpenPGP public key".to_owned()) } else { Ok(keys) }
}

/// Whether one of the armoured `keys` made a detached signature, armoured or not, of what `data` gives anew each time.
/// Returns the fingerprint of the key that did.
pub fn verify(
    signature: &[u8],
    keys: &[&str],
    data: &dyn Fn() -> std::io::Result<Box<dyn Read>>,
) -> Result<String, Refusal> {
    let signatures = detached(signature)?;
    by_any(keys, signatures.iter().map(|detached| &detached.signature), data)
}

/// The text of a signed message, which one of the armoured `keys` must have signed, and that key's fingerprint.
/// Anything before or behind the message is not signed, and not returned.
pub fn open(message: &str, keys: &[&str]) -> Result<(String, String), Refusal> {
    let (message, _) =
        CleartextSignedMessage::from_string(message).map_err(|error| format!("it is no signed text ({error})"))?;
    let text = message.signed_text();
    let bytes = text.clone().into_bytes();
    let data = || Ok(Box::new(std::io::Cursor::new(bytes.clone())) as Box<dyn Read>);
    let fingerprint = by_any(keys, message.signatures().iter(), &data)?;
    Ok((text, fingerprint))
}

fn detached(bytes: &[u8]) -> Result<Vec<DetachedSignature>, Refusal> {
    let failed = |error: pgp::errors::Error| format!("it is no OpenPGP signature ({error})");
    let all = if bytes.trim_ascii_start().starts_with(b"-----BEGIN") {
        let (signatures, _) = DetachedSignature::from_armor_many(bytes).map_err(failed)?;
        signatures.collect::<Result<Vec<_>, _>>()
    } else {
        let signatures = DetachedSignature::from_bytes_many(bytes).map_err(failed)?;
        signatures.collect::<Result<Vec<_>, _>>()
    };
    all.map_err(failed)
}

/// Tries each signature with each key and subkey; the first that fits names itself by its primary key.
fn by_any<'s>(
    keys: &[&str],
    signatures: impl Iterator<Item = &'s Signature>,
    data: &dyn Fn() -> std::io::Result<Box<dyn Read>>,
) -> Result<String, Refusal> {
    // Only signatures of data count; the library itself refuses broken hashes.
    let of_data = |signature: &&Signature| matches!(signature.typ(), Some(SignatureType::Binary | SignatureType::Text));
    let signatures: Vec<_> = signatures.filter(of_data).collect();
    let mut why = "it holds no signature of data".to_owned();
    for armoured in keys {
        for key in parse(armoured)? {
            for signature in &signatures {
                let read = || data().map_err(|error| format!("what it signs cannot be read: {error}"));
                let by_subkey = |subkey: &SignedPublicSubKey| Some(signature.verify(&subkey.key, read().ok()?).is_ok());
                let made = match signature.verify(&key.primary_key, read()?) {
                    Err(_) if key.public_subkeys.iter().filter_map(by_subkey).any(|made| made) => Ok(()),
                    result => result,
                };
                match made {
                    Ok(()) => return Ok(key.primary_key.fingerprint().to_string()),
                    Err(error) if error.to_string().contains("No matching issuer") => {
                        "it was made with another key than the publisher's".clone_into(&mut why);
                    }
                    Err(error) => why = format!("it does not fit ({error})"),
                }
            }
        }
    }
    Err(why)
}
