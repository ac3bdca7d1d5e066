//! `gpgv`: verifies OpenPGP signatures.

use std::time::Duration;

use camino::Utf8Path;

use super::{Runner, Tool, scratch::Scratch};
use crate::error::Result;

/// The time limit for reading a whole image.
const WHOLE_IMAGE: Duration = Duration::from_hours(1);

/// The hash algorithms that are not broken: SHA-256, SHA-384, SHA-512 and SHA-224 (RFC 9580, section 9.5).
const HASHES: [&str; 4] = ["8", "9", "10", "11"];

/// The types of signatures of data: of a binary document, and of a text (RFC 9580, section 5.2.1).
const OF_DATA: [&str; 2] = ["00", "01"];

/// Checks that a key of a keyring made a detached signature of a file. Both are binary.
///
/// Returns the fingerprint of the primary key, or why the signature is not accepted, as the end of a sentence.
pub fn verify(
    runner: &Runner,
    keyring: &[u8],
    signature: &[u8],
    file: &Utf8Path,
) -> Result<std::result::Result<String, String>> {
    let (keyring, signature) = (Scratch::memory(keyring)?, Scratch::memory(signature)?);
    // Without a home folder, it accepts no keys but those of the keyring.
    let args = ["--homedir", "/nonexistent", "--status-fd", "1", "--keyring", keyring.path().as_str(), "--"];
    let tool = Tool::new("gpgv").args(args).args([signature.path().as_str(), file.as_str()]).limit(WHOLE_IMAGE);
    let finished = tool.read(runner)?;
    // 1: a signature does not match. 2: one cannot be checked, which does not matter if another one is good.
    if !matches!(finished.status.code(), Some(0..=2)) {
        return Err(finished.failure());
    }
    let signed_by = signed_by(&String::from_utf8_lossy(&finished.stdout));
    Ok(signed_by.map_err(|why| why.unwrap_or_else(|| format!("it cannot be checked ({})", finished.stderr.trim()))))
}

/// Returns the fingerprint of the first key whose signature is good, or why the last signature is not.
fn signed_by(status: &str) -> std::result::Result<String, Option<String>> {
    let (mut is_good, mut why) = (false, None);
    for line in status.lines().filter_map(|line| line.strip_prefix("[GNUPG:] ")) {
        let words: Vec<_> = line.split(' ').collect();
        let reason = match words[..] {
            // Only a signature that GOODSIG has announced counts: VALIDSIG is printed for expired and revoked keys, too.
            ["NEWSIG", ..] => {
                is_good = false;
                continue;
            }
            ["GOODSIG", ..] => {
                is_good = true;
                continue;
            }
            ["VALIDSIG", _, _, _, _, _, _, _, hash, kind, primary_key] if is_good => {
                if HASHES.contains(&hash) && OF_DATA.contains(&kind) {
                    return Ok(primary_key.to_ascii_lowercase());
                }
                "it uses a broken hash algorithm, or is not a signature of data"
            }
            ["BADSIG", ..] => "it does not match",
            ["NO_PUBKEY", ..] => "it was made with another key, not the publisher's",
            ["EXPSIG", ..] => "it has expired",
            ["EXPKEYSIG", ..] => "the publisher's key has expired",
            ["REVKEYSIG", ..] => "the publisher has revoked the key",
            _ => continue,
        };
        why = Some(reason.to_owned());
    }
    Err(why)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FINGERPRINT: &str = "1DC1EC3E3FEF7942670469B9A0FF39B0AAD0A087";

    /// The output of gpgv 2.2.40.
    fn status(first: &str, hash: u8, kind: &str) -> String {
        format!(
            "[GNUPG:] NEWSIG\n[GNUPG:] KEY_CONSIDERED {FINGERPRINT} 0\n[GNUPG:] {first} A0FF39B0AAD0A087 A <a@x>\n\
             [GNUPG:] VALIDSIG {FINGERPRINT} 2026-11-28 1795831168 0 4 0 22 {hash} {kind} {FINGERPRINT}\n"
        )
    }

    const UNKNOWN: &str = "[GNUPG:] NEWSIG\n\
                           [GNUPG:] ERRSIG F157D6752B61CB8D 22 8 00 1795831168 9 5FDA6B632E3C07C370AA1BC1F157D6752B61CB8D\n\
                           [GNUPG:] NO_PUBKEY F157D6752B61CB8D\n";

    #[test]
    fn only_a_good_signature_of_data_is_accepted() {
        let good = status("GOODSIG", 8, "00");
        for accepted in [good.clone(), good.clone() + UNKNOWN, UNKNOWN.to_owned() + &good, status("GOODSIG", 10, "01")]
        {
            assert_eq!(signed_by(&accepted), Ok(FINGERPRINT.to_ascii_lowercase()), "{accepted}");
        }
        let after_good = format!("[GNUPG:] GOODSIG A0FF39B0AAD0A087 A\n{}", status("EXPKEYSIG", 8, "00"));
        for (refused, why) in [
            (UNKNOWN, "another key"),
            (&status("EXPKEYSIG", 8, "00"), "expired"),
            (&status("EXPSIG", 8, "00"), "expired"),
            (&status("REVKEYSIG", 8, "00"), "revoked"),
            (&status("GOODSIG", 1, "00"), "broken"),
            (&status("GOODSIG", 2, "00"), "broken"),
            (&status("GOODSIG", 3, "00"), "broken"),
            (&status("GOODSIG", 8, "10"), "not a signature of data"),
            (&after_good, "expired"),
            ("[GNUPG:] NEWSIG\n[GNUPG:] BADSIG A0FF39B0AAD0A087 A <a@x>\n", "does not match"),
        ] {
            assert!(signed_by(refused).unwrap_err().unwrap().contains(why), "{refused}");
        }
        assert_eq!(signed_by(""), Err(None));
        assert_eq!(signed_by("[GNUPG:] NODATA 1\n"), Err(None));
    }
}
