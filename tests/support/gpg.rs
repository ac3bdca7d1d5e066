//! Signatures made with GnuPG, as publishers make them.

use std::{
    io::{Seek, Write},
    process::Command,
};

/// A temporary key ring with one key.
pub(crate) struct Signer {
    pub(crate) home: tempfile::TempDir,
}

impl Signer {
    /// Generates a key with an algorithm such as `rsa3072` or `ed25519`.
    pub(crate) fn new(algorithm: &str) -> Self {
        let signer = Self { home: tempfile::tempdir().unwrap() };
        signer.gpg(&["--quick-gen-key", "Images <images@example.org>", algorithm, "sign", "never"], b"");
        signer
    }

    /// Runs gpg with `input` and returns its output.
    pub(crate) fn gpg(&self, args: &[&str], input: &[u8]) -> Vec<u8> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(input).unwrap();
        file.rewind().unwrap();
        let mut command = Command::new("gpg");
        command.args(["--batch", "--quiet", "--pinentry-mode", "loopback", "--passphrase", ""]).args(args);
        command.env("GNUPGHOME", self.home.path()).stdin(file);
        let ended = command.output().unwrap_or_else(|error| panic!("gpg: {error}; run `apt-get install gnupg`"));
        assert!(ended.status.success(), "gpg {args:?}: {}", String::from_utf8_lossy(&ended.stderr));
        ended.stdout
    }

    /// Returns the armoured public key.
    pub(crate) fn public(&self) -> String {
        String::from_utf8(self.gpg(&["--armor", "--export"], b"")).unwrap()
    }

    /// Returns a detached binary signature.
    pub(crate) fn detached(&self, data: &[u8]) -> Vec<u8> {
        self.gpg(&["--detach-sign"], data)
    }

    /// Returns a detached armoured signature.
    pub(crate) fn armoured(&self, data: &[u8]) -> Vec<u8> {
        self.gpg(&["--armor", "--detach-sign"], data)
    }

    /// Returns `text` with an inline signature.
    pub(crate) fn inline(&self, text: &[u8]) -> Vec<u8> {
        self.gpg(&["--clear-sign"], text)
    }
}

impl Drop for Signer {
    /// Stops the agent that gpg leaves running.
    fn drop(&mut self) {
        let ended = Command::new("gpgconf").args(["--kill", "all"]).env("GNUPGHOME", self.home.path()).status();
        assert!(ended.unwrap().success() || std::thread::panicking());
    }
}
