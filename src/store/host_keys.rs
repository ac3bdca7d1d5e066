//! SSH host keys for a guest, made before it exists so that the first connection can be strict. Touches no file.

use ssh_key::{Algorithm, EcdsaCurve, LineEnding, PrivateKey, rand_core::OsRng};
use zeroize::Zeroizing;

use crate::error::{Error, Result};

/// One host key pair. It has neither `Debug` nor `Serialize`, so that it cannot get into a log or an answer.
pub struct HostKey {
    /// What cloud-init's `ssh_keys` calls it: `ed25519_private`, `ecdsa_public`, ….
    pub algorithm: &'static str,
    /// The private key in the format of OpenSSH.
    pub private: Zeroizing<String>,
    /// The public key as one line.
    pub public: String,
}

/// Makes the host keys of a guest; `comment` ends their public lines.
///
/// Two kinds: every client of the last ten years takes Ed25519, and one in FIPS mode takes only the other.
pub fn generate(comment: &str) -> Result<Vec<HostKey>> {
    let kinds = [("ed25519", Algorithm::Ed25519), ("ecdsa", Algorithm::Ecdsa { curve: EcdsaCurve::NistP256 })];
    let make = |(name, algorithm)| host_key(name, algorithm, comment);
    kinds
        .into_iter()
        .map(make)
        .collect::<ssh_key::Result<_>>()
        .map_err(|error| Error::internal("cannot make host keys").because(error))
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
    fn both_halves_of_a_host_key_belong_together() {
        let keys = generate("web").unwrap();
        assert_eq!(keys.iter().map(|key| key.algorithm).collect::<Vec<_>>(), ["ed25519", "ecdsa"]);
        for key in keys {
            let private = PrivateKey::from_openssh(&*key.private).unwrap();
            assert_eq!(private.public_key().to_openssh().unwrap(), key.public);
            assert!(key.public.ends_with(" web"), "{}", key.public);
        }
    }
}
