//! Image verification: the requested checksum, the publisher's checksum file, and its signature.
//!
//! All of these are read before the image is fetched, so that an image is refused without downloading it.

use std::io::Read;

use camino::Utf8Path;

use super::{location::Location, source::ImageSource};
use crate::{
    catalogue::{Catalogue, Form, Published, SignatureFile, Signs, checksum_list, signature},
    error::{Code, Error, Hint, Result},
    model::image::{Algorithm, Checksum, Verification},
    ops::Host,
    store::{
        checksum_file::Sums,
        http::{Text, UrlTrust},
    },
    tools::{Runner, gpgv, scratch::Scratch, version},
};

/// The checks that an image must pass, and the resulting proof.
#[derive(Debug, Default)]
pub(super) struct Expected {
    /// The checksums that the image must have, each with its source.
    checksums: Vec<(Checksum, String)>,
    /// A signature of the image itself.
    image_signature: Option<ImageSignature>,
    /// The proof, once the checks have passed.
    pub(super) proof: Proof,
    /// Warnings about the proof.
    pub(super) warnings: Vec<String>,
    /// Whether a failed request left it open if the publisher provides a checksum.
    pub(super) undecided: bool,
}

#[derive(Debug)]
struct ImageSignature {
    bytes: Vec<u8>,
    keyring: Vec<u8>,
    from: String,
}

/// How an image's content was verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Proof {
    pub(super) verification: Verification,
    /// The checksums from the publisher and from the request.
    pub(super) checksums: Vec<Checksum>,
    /// The fingerprint of the key that signed it.
    pub(super) signed_by: Option<String>,
}

impl Default for Proof {
    fn default() -> Self {
        Self { verification: Verification::None, checksums: Vec::new(), signed_by: None }
    }
}

/// The checksum files that publishers put beside an image, in the order in which they are requested.
const CHECKSUM_FILES: &[(&str, Form)] = &[
    ("SHA256SUMS", Form::Sha256Sums),
    ("SHA512SUMS", Form::Sha512Sums),
    ("{file}.sha256", Form::Sha256Sums),
    ("{file}.sha512", Form::Sha512Sums),
    ("{file}.SHA256SUM", Form::Bsd),
    ("{file}.CHECKSUM", Form::Bsd),
    ("CHECKSUM", Form::Bsd),
];

impl Expected {
    /// Returns the checks for an image of the catalogue. A missing checksum file or signature is an error, and never
    /// weakens the verification silently.
    pub(super) fn published(host: &Host, catalogue: &Catalogue, image: &Published) -> Result<Self> {
        let mut expected = Self::default();
        let Some((url, form)) = &image.checksum else {
            if let Some((url, file)) = &image.signature {
                expected.require_image_signature(host, catalogue, url, file)?;
            }
            return Ok(expected);
        };
        let location = Location::of(host, url, UrlTrust::Operator)?;
        host.step("fetching the checksum file");
        let text = location.text(host, host)?.ok_or_else(|| {
            Error::not_found(format!("checksum file `{location}` does not exist"))
                .hint("Check whether the publisher moved it, or the mirror lacks it")
                .hint(Hint::set("Fetch the image by its URL and provide a checksum", "checksum"))
        })?;
        let mut content = String::from_utf8_lossy(&text.bytes).into_owned();
        if let Some((url, file)) = &image.signature {
            if file.signs == Signs::Image {
                expected.require_image_signature(host, catalogue, url, file)?;
            } else if let Some((signed, by)) = signed(host, catalogue, &content, url, file)? {
                content = signed;
                expected.proof.signed_by = Some(by);
            }
        }
        let name = image.url.rsplit('/').next().unwrap_or_default();
        let is_own_file = url.rsplit('/').next().is_some_and(|file| file.starts_with(name));
        let sum = checksum_list::find(&content, *form, name, is_own_file).ok_or_else(|| {
            Error::invalid(format!("checksum file `{location}` has no checksum of `{name}`"))
                .hint("Check whether a login page or a proxy intercepts the request")
                .hint("Try again later, because the publisher may be updating its files")
        })?;
        expected.require(sum, location.to_string());
        if expected.proof.signed_by.is_some() {
            expected.proof.verification = Verification::Signature;
        } else if !text.tls {
            expected.warn_of_unprotected_checksum(&location);
        }
        Ok(expected)
    }

    /// Returns the checks from the checksum files beside an image that is not in the catalogue. If a request fails, the
    /// result is undecided, or has a warning when this is the last attempt.
    pub(super) fn beside(host: &Host, image: &str, is_last_attempt: bool) -> Result<Self> {
        let mut expected = Self::default();
        let (folder, file) = match image.split(['?', '#']).next().unwrap_or(image).rsplit_once('/') {
            Some((folder, file)) if !file.is_empty() => (folder, file),
            _ => return Ok(expected),
        };
        for (name, form) in CHECKSUM_FILES {
            let beside = format!("{folder}/{}", name.replace("{file}", file));
            let location = if folder.contains("://") {
                Location::of(host, &beside, UrlTrust::Request)?
            } else {
                Location::File(beside.into(), UrlTrust::Request)
            };
            let text = match location.text_once(host) {
                Ok(Some(text)) => text,
                Ok(None) => continue,
                Err(error) if error.code == Code::Interrupted => return Err(error),
                // If a server does not respond, the image is fetched first, which retries for longer.
                Err(_) if !is_last_attempt => {
                    expected.undecided = true;
                    return Ok(expected);
                }
                Err(error) => {
                    let warning = format!("cannot determine whether `{image}` has a published checksum: {error}");
                    expected.warnings.push(warning);
                    return Ok(expected);
                }
            };
            if let Some(sum) =
                checksum_list::find(&String::from_utf8_lossy(&text.bytes), *form, file, name.starts_with("{file}"))
            {
                expected.require(sum, location.to_string());
                if !text.tls {
                    expected.warn_of_unprotected_checksum(&location);
                }
                return Ok(expected);
            }
        }
        Ok(expected)
    }

    fn warn_of_unprotected_checksum(&mut self, location: &Location) {
        self.warnings.push(format!(
            "`{location}` was fetched without TLS or a signature: it proves the image's integrity, not its publisher"
        ));
    }

    /// Requires the checksum from the request.
    pub(super) fn require_requested(&mut self, checksum: &Checksum) {
        self.require(checksum.clone(), "requested".to_owned());
    }

    fn require(&mut self, checksum: Checksum, from: String) {
        self.proof.verification = self.proof.verification.max(Verification::Checksum);
        self.proof.checksums.push(checksum.clone());
        self.checksums.push((checksum, from));
    }

    fn require_image_signature(
        &mut self,
        host: &Host,
        catalogue: &Catalogue,
        url: &str,
        file: &SignatureFile,
    ) -> Result<()> {
        let Some(text) = signature_file(host, url, file)? else { return Ok(()) };
        // If the program is missing, this is reported before the image is downloaded.
        version::of(&host.runner, "gpgv")?;
        let refused = |why: String| bad_signature("the image", url, &why);
        self.image_signature = Some(ImageSignature {
            bytes: signature::detached(&text.bytes).map_err(refused)?,
            keyring: signature::keyring(&catalogue.keys(&file.keys)).map_err(refused)?,
            from: url.to_owned(),
        });
        self.proof.verification = Verification::Signature;
        Ok(())
    }

    /// Returns the checksum algorithms to compute.
    pub(super) fn algorithms(&self) -> Vec<Algorithm> {
        self.checksums.iter().map(|(checksum, _)| checksum.algorithm).collect()
    }

    /// Applies the checks to a fetched image. `sums` are its checksums, `file` is its path.
    pub(super) fn check(mut self, given: &str, sums: &Sums, file: &Utf8Path, runner: &Runner) -> Result<Proof> {
        for (expected, from) in &self.checksums {
            // The algorithm may not have been known yet when the file was fetched.
            let compute =
                || Ok::<_, Error>(Sums::of(file, &[expected.algorithm], &runner.cancel)?.get(expected.algorithm));
            let got = sums.get(expected.algorithm).map_or_else(compute, |got| Ok(Some(got)))?;
            let got = got.ok_or_else(|| Error::internal("a checksum was not computed"))?;
            if got != *expected {
                let error = Error::invalid(format!("checksum mismatch for `{given}`"))
                    .because(format!("expected {expected} ({from}), got {got}"));
                return Err(if is_page(file) {
                    error.hint(
                        "Check whether a login page or a proxy intercepts the request, because the file is a web page",
                    )
                } else {
                    error
                        .hint("Try again, because the image may have been replaced during the download")
                        .hint("Do not use the image if the mismatch persists")
                });
            }
        }
        if let Some(ImageSignature { bytes, keyring, from }) = &self.image_signature {
            let by = gpgv::verify(runner, keyring, bytes, file)?.map_err(|why| bad_signature(given, from, &why))?;
            self.proof.signed_by = Some(by);
        }
        Ok(self.proof)
    }
}

/// Returns the signed content of a checksum file and the key's fingerprint; none if an optional signature is missing.
fn signed(
    host: &Host,
    catalogue: &Catalogue,
    content: &str,
    url: &str,
    file: &SignatureFile,
) -> Result<Option<(String, String)>> {
    let refused = |why: String| bad_signature("the checksum file", url, &why);
    let (content, signature) = if file.signs == Signs::Inline {
        signature::signed_text(content).map_err(refused)?
    } else {
        let Some(found) = signature_file(host, url, file)? else { return Ok(None) };
        (content.to_owned(), signature::detached(&found.bytes).map_err(refused)?)
    };
    let keyring = signature::keyring(&catalogue.keys(&file.keys)).map_err(refused)?;
    let data = Scratch::memory(content.as_bytes())?;
    let by = gpgv::verify(&host.runner, &keyring, &signature, data.path())?.map_err(refused)?;
    Ok(Some((content, by)))
}

fn signature_file(host: &Host, url: &str, file: &SignatureFile) -> Result<Option<Text>> {
    let location = Location::of(host, url, UrlTrust::Operator)?;
    let found = location.text(host, host)?;
    if found.is_none() && file.optional {
        host.progress.note(&format!("signature `{location}` does not exist: verifying the checksum only"));
    } else if found.is_none() {
        return Err(Error::not_found(format!("signature `{location}` does not exist"))
            .hint("Check whether the mirror lacks it, because the publisher signs this image"));
    }
    Ok(found)
}

fn bad_signature(what: &str, from: &str, why: &str) -> Error {
    Error::invalid(format!("invalid signature of {what}"))
        .because(format!("{from}: {why}"))
        .hint("Try again later or from another network, because the data may have been modified in transit")
}

/// Returns whether a file is a web page.
fn is_page(file: &Utf8Path) -> bool {
    let mut head = [0; 256];
    let read = std::fs::File::open(file).and_then(|mut file| file.read(&mut head)).unwrap_or(0);
    super::inspect::is_page(&head[..read])
}

/// Refuses an image without a checksum or signature if `required`, otherwise warns of it.
pub(super) fn require_verified(
    host: &Host,
    source: &ImageSource,
    verification: Verification,
    required: bool,
    warnings: &mut Vec<String>,
) -> Result<()> {
    let given = source.given();
    if verification >= Verification::Checksum {
        return Ok(());
    }
    let why = match (verification, source) {
        (Verification::Tls, _) => {
            format!("`{given}` is verified by TLS only; the publisher provides no checksum")
        }
        (_, ImageSource::File { .. } | ImageSource::Stored(_)) => format!("`{given}` has no checksum or signature"),
        _ => format!("`{given}` is not protected by TLS, a checksum or a signature"),
    };
    if required {
        return Err(Error::invalid(format!("image `{given}` is not verified"))
            .because(format!("{why} (verification: {verification})"))
            .hint(Hint::set("Provide its checksum", "checksum"))
            .hint(Hint::call_any("Choose a verified image", "image_search")));
    }
    host.warn(warnings, format!("{why} (verification: {verification}); provide its checksum to verify it"));
    Ok(())
}
