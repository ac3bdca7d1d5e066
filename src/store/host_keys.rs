//! SSH host keys for a guest, generated before it exists so that its first connection can be verified. Does no I/O.

use ssh_key::{Algorithm, EcdsaCurve, LineEnding, PrivateKey, rand_core::OsRng};
use zeroize::Zeroizing;

use crate::error::{Error, Result};

/// A host key pair. It has neither `Debug` nor `Serialize`, so that it cannot end up in a log or a response.
pub struct HostKey {
    /// The algorithm, as in the member names of cloud-init's `ssh_keys`: `ed25519_private`, `ecdsa_public`, ….
    pub algorithm: &'static str,
    /// The private key in the format of OpenSSH.
    pub private: Zeroizing<String>,
    /// The public key, as one line.
    pub public: String,
}

/// Generates the host keys of a guest, with `comment` at the end of their public lines.
///
/// There are two kinds: every client of the last ten years accepts Ed25519, but a client in FIPS mode only ECDSA.
pub fn generate(comment: &str) -> Result<Vec<HostKey>> {
    let kinds = [("ed25519", Algorithm::Ed25519), ("ecdsa", Algorithm::Ecdsa { curve: EcdsaCurve::NistP256 })];
    let generate_one = |(name, algorithm)| host_key(name, algorithm, comment);
    kinds
        .into_iter()
        .map(generate_one)
        .collect::<ssh_key::Result<_>>()
        .map_err(|error| Error::internal("cannot generate host keys").because(error))
}

fn host_key(name: &'static str, algorithm: Algorithm, comment: &str) -> ssh_key::Result<HostKey> {
    let mut key = PrivateKey::random(&mut OsRng, algorithm)?;
    key.set_comment(comment);
    Ok(HostKey { algorithm: name, private: key.to_openssh(LineEnding::LF)?, public: key.public_key().to_openssh()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn private_and_public_key_match() {
        let keys = generate("web").unwrap();
        assert_eq!(keys.iter().map(|key| key.algorithm).collect::<Vec<_>>(), ["ed25519", "ecdsa"]);
        for key in keys {
            let private = PrivateKey::from_openssh(&*key.private).unwrap();
            assert_eq!(private.public_key().to_openssh().unwrap(), key.public);
            assert!(key.public.ends_with(" web"), "{}", key.public);
        }
    }
}
