//! What speaks for an image's content: the operator's checksum, the publisher's file of checksums, its signature.
//!
//! All of it is looked for before the image is fetched, so that what is refused costs nothing.

use std::io::Read;

use camino::Utf8Path;

use super::{location::Location, source::ImageSource};
use crate::{
    cancel::Cancel,
    catalogue::{Catalogue, Form, Published, SignatureFile, Signs, checksum_list, signature},
    error::{Code, Error, Result},
    model::image::{Algorithm, Checksum, Verification},
    ops::Host,
    store::{
        checksum_file::Sums,
        http::{Text, UrlTrust},
    },
};

/// What content must be to be taken, and what then speaks for it.
#[derive(Debug, Default)]
pub(super) struct Expected {
    /// The checksums that it must have, and who says so.
    checksums: Vec<(Checksum, String)>,
    /// A signature of the image itself.
    image_signature: Option<ImageSignature>,
    /// What will have been proven.
    pub(super) proof: Proof,
    /// What the operator should know of it.
    pub(super) warnings: Vec<String>,
    /// Whether it could not be found out if there is a checksum.
    pub(super) undecided: bool,
}

#[derive(Debug)]
struct ImageSignature {
    bytes: Vec<u8>,
    keys: Vec<String>,
    from: String,
}

/// What speaks for an image's content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Proof {
    pub(super) verification: Verification,
    /// The checksums that its publisher and the operator gave.
    pub(super) checksums: Vec<Checksum>,
    /// The fingerprint of the key that signed it.
    pub(super) signed_by: Option<String>,
}

impl Default for Proof {
    fn default() -> Self {
        Self { verification: Verification::None, checksums: Vec::new(), signed_by: None }
    }
}

/// The files that publishers put beside an image, in the order in which they are looked for.
const BESIDE: &[(&str, Form)] = &[
    ("SHA256SUMS", Form::Sha256Sums),
    ("SHA512SUMS", Form::Sha512Sums),
    ("{file}.sha256", Form::Sha256Sums),
    ("{file}.sha512", Form::Sha512Sums),
    ("{file}.SHA256SUM", Form::Bsd),
    ("{file}.CHECKSUM", Form::Bsd),
    ("CHECKSUM", Form::Bsd),
];

impl Expected {
    /// What a publisher of the catalogue says. What it should say and does not is an error, never a silent step down.
    pub(super) fn published(host: &Host, catalogue: &Catalogue, image: &Published) -> Result<Self> {
        let mut expected = Self::default();
        let Some((url, form)) = &image.checksum else {
            if let Some((url, file)) = &image.signature {
                expected.take_image_signature(host, catalogue, url, file)?;
            }
            return Ok(expected);
        };
        let missing = |url: &str, what: &str| {
            Error::not_found(format!("the {what} `{url}` is not there"))
                .hint("Its publisher may have moved it, or the mirror may lack it. With --checksum SUM and the image's URL it can be fetched without.")
        };
        let place = Location::of(host, url, UrlTrust::Operator)?;
        host.step("fetching the list of checksums");
        let text = place.text(host, host)?.ok_or_else(|| missing(&place.to_string(), "file of checksums"))?;
        let mut content = String::from_utf8_lossy(&text.bytes).into_owned();
        if let Some((url, file)) = &image.signature {
            if file.signs == Signs::Image {
                expected.take_image_signature(host, catalogue, url, file)?;
            } else if let Some((signed, by)) = signed(host, catalogue, &text, &content, url, file)? {
                content = signed;
                expected.proof.signed_by = Some(by);
            }
        }
        let name = image.url.rsplit('/').next().unwrap_or_default();
        let alone = url.rsplit('/').next().is_some_and(|file| file.starts_with(name));
        let sum = checksum_list::find(&content, *form, name, alone).ok_or_else(|| {
            Error::invalid(format!("`{place}` has no checksum of `{name}`")).hint(
                "The publisher may be in the middle of a release, or a login page may be in the way. Try again later.",
            )
        })?;
        expected.require(sum, place.to_string());
        if expected.proof.signed_by.is_some() {
            expected.proof.verification = Verification::Signature;
        } else if !text.tls {
            expected.warn_of_plain_checksums(&place);
        }
        Ok(expected)
    }

    /// What stands beside an image that is in no catalogue. `again`: nobody will look a third time.
    pub(super) fn beside(host: &Host, image: &str, again: bool) -> Result<Self> {
        let mut expected = Self::default();
        let (folder, file) = match image.split(['?', '#']).next().unwrap_or(image).rsplit_once('/') {
            Some((folder, file)) if !file.is_empty() => (folder, file),
            _ => return Ok(expected),
        };
        for (name, form) in BESIDE {
            let beside = format!("{folder}/{}", name.replace("{file}", file));
            let place = if folder.contains("://") {
                Location::of(host, &beside, UrlTrust::Request)?
            } else {
                Location::File(beside.into(), UrlTrust::Request)
            };
            let text = match place.text_once(host) {
                Ok(Some(text)) => text,
                Ok(None) => continue,
                Err(error) if error.code == Code::Interrupted => return Err(error),
                // A server that does not answer is asked for the image first, with more patience.
                Err(_) if !again => {
                    expected.undecided = true;
                    return Ok(expected);
                }
                Err(error) => {
                    let warning = format!("nobody can tell whether there is a checksum of `{image}`: {error}");
                    expected.warnings.push(warning);
                    return Ok(expected);
                }
            };
            if let Some(sum) =
                checksum_list::find(&String::from_utf8_lossy(&text.bytes), *form, file, name.starts_with("{file}"))
            {
                expected.require(sum, place.to_string());
                if !text.tls {
                    expected.warn_of_plain_checksums(&place);
                }
                return Ok(expected);
            }
        }
        Ok(expected)
    }

    fn warn_of_plain_checksums(&mut self, place: &Location) {
        self.warnings.push(format!(
            "`{place}` came without TLS or a signature: it proves that the image came whole, not who made it"
        ));
    }

    /// What the operator says.
    pub(super) fn given(&mut self, checksum: &Checksum) {
        self.require(checksum.clone(), "--checksum".to_owned());
    }

    fn require(&mut self, checksum: Checksum, from: String) {
        self.proof.verification = self.proof.verification.max(Verification::Checksum);
        self.proof.checksums.push(checksum.clone());
        self.checksums.push((checksum, from));
    }

    fn take_image_signature(
        &mut self,
        host: &Host,
        catalogue: &Catalogue,
        url: &str,
        file: &SignatureFile,
    ) -> Result<()> {
        let Some(text) = signature_file(host, url, file)? else { return Ok(()) };
        let keys = catalogue.keys(&file.keys).into_iter().map(str::to_owned).collect();
        self.image_signature = Some(ImageSignature { bytes: text.bytes, keys, from: url.to_owned() });
        self.proof.verification = Verification::Signature;
        Ok(())
    }

    /// The kinds of checksum that are to be computed.
    pub(super) fn algorithms(&self) -> Vec<Algorithm> {
        self.checksums.iter().map(|(checksum, _)| checksum.algorithm).collect()
    }

    /// Compares what came with what was expected; `sums` are its checksums, `file` is where it lies.
    pub(super) fn check(mut self, given: &str, sums: &Sums, file: &Utf8Path, cancel: &Cancel) -> Result<Proof> {
        for (expected, from) in &self.checksums {
            // It may not have been known when the file came that this kind would be asked for.
            let again = || Ok::<_, Error>(Sums::of(file, &[expected.algorithm], cancel)?.get(expected.algorithm));
            let got = sums.get(expected.algorithm).map_or_else(again, |got| Ok(Some(got)))?;
            let got = got.ok_or_else(|| Error::internal("a checksum was not computed"))?;
            if got != *expected {
                let error = Error::invalid(format!("`{given}` is not what it should be: its checksum is another one"))
                    .because(format!("expected {expected} ({from}), got {got}"));
                return Err(error.hint(if is_page(file) {
                    "What came is a web page: a login page or a proxy is in the way."
                } else {
                    "Nothing of it is kept. Try again: it may have been replaced while it was fetched. If it stays so, do not use it."
                }));
            }
        }
        if let Some(ImageSignature { bytes, keys, from }) = &self.image_signature {
            let keys: Vec<_> = keys.iter().map(String::as_str).collect();
            let read = || Ok(Box::new(std::fs::File::open(file)?) as Box<dyn Read>);
            let by = signature::verify(bytes, &keys, &read).map_err(|why| forged(given, from, &why))?;
            self.proof.signed_by = Some(by);
        }
        Ok(self.proof)
    }
}

/// What of a file of checksums is signed, and by whom; none where it is not signed and need not be.
fn signed(
    host: &Host,
    catalogue: &Catalogue,
    text: &Text,
    content: &str,
    url: &str,
    file: &SignatureFile,
) -> Result<Option<(String, String)>> {
    let keys = catalogue.keys(&file.keys);
    if file.signs == Signs::Inline {
        return signature::open(content, &keys).map(Some).map_err(|why| forged("the file of checksums", url, &why));
    }
    let Some(signature) = signature_file(host, url, file)? else { return Ok(None) };
    let bytes = text.bytes.clone();
    let read = move || Ok(Box::new(std::io::Cursor::new(bytes.clone())) as Box<dyn Read>);
    let by = signature::verify(&signature.bytes, &keys, &read);
    let by = by.map_err(|why| forged("the file of checksums", url, &why))?;
    Ok(Some((content.to_owned(), by)))
}

fn signature_file(host: &Host, url: &str, file: &SignatureFile) -> Result<Option<Text>> {
    let place = Location::of(host, url, UrlTrust::Operator)?;
    let found = place.text(host, host)?;
    if found.is_none() && file.optional {
        host.progress.note(&format!("the signature `{place}` is not there: the checksum alone is compared"));
    } else if found.is_none() {
        return Err(Error::not_found(format!("the signature `{place}` is not there"))
            .hint("Its publisher signs this image; without the signature it is not taken. The mirror may lack it."));
    }
    Ok(found)
}

fn forged(what: &str, from: &str, why: &str) -> Error {
    Error::invalid(format!("the signature of {what} does not hold")).because(format!("{from}: {why}")).hint(
        "Nothing of it is kept. Somebody on the way may have changed it: try again later, or from another network.",
    )
}

/// Whether a file is a web page.
fn is_page(file: &Utf8Path) -> bool {
    let mut head = [0; 256];
    let read = std::fs::File::open(file).and_then(|mut file| file.read(&mut head)).unwrap_or(0);
    super::inspect::is_page(&head[..read])
}

/// Refuses, or warns of, an image that nothing speaks for.
pub(super) fn judge(
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
            format!("`{given}` was secured on the way by TLS alone, and no checksum of it is published beside it")
        }
        (_, ImageSource::File { .. } | ImageSource::Stored(_)) => format!("nothing proves what is in `{given}`"),
        _ => format!("`{given}` comes without TLS: nothing proves that it is what its publisher made"),
    };
    if required {
        return Err(Error::invalid(format!("the image `{given}` is not verified, and must be"))
            .because(format!("{why} (verification: {verification})"))
            .hint("Give its checksum: --checksum sha256:SUM; or choose one of `vmprov image search`."));
    }
    host.warn(warnings, format!("{why} (verification: {verification}); give --checksum sha256:SUM to have it checked"));
    Ok(())
}
