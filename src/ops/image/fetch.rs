//! Fetching an image to a local file, and verifying its content.

use camino::{Utf8Path, Utf8PathBuf};
use url::Url;

use super::{
    base::{self, Base},
    catalogue, inspect,
    location::Location,
    proof::{self, Expected, Proof},
    source::{FileIdentity, ImageSource},
};
use crate::{
    catalogue::Published,
    error::{Code, Error, Result},
    model::image::{Checksum, Verification},
    ops::Host,
    store::{
        checksum_file::Sums,
        download::{Downloaded, Facts, download},
        http::{Conditions, Listener, UrlTrust},
        local_file::LocalFile,
        unpack::Packing,
    },
    tools::{scratch::Scratch, virsh::Pool},
};

/// The requirements on an image.
#[derive(Debug, Clone, Copy, Default)]
pub(in crate::ops) struct ImagePolicy<'a> {
    /// The checksum that the image must have.
    pub(in crate::ops) checksum: Option<&'a Checksum>,
    /// Whether a checksum or signature is required.
    pub(in crate::ops) verified: bool,
    /// Whether to check for a newer image.
    pub(in crate::ops) pull: bool,
}

impl ImagePolicy<'_> {
    /// Returns whether a base meets the requirements. A checksum of an algorithm that is not recorded for the base is
    /// not met, so the image is fetched again.
    pub(super) fn accepts(&self, base: &Base) -> bool {
        let is_verified = self.checksum.is_some() || base.verification >= Verification::Checksum;
        self.checksum.is_none_or(|wanted| base.has(wanted)) && (!self.verified || is_verified)
    }
}

/// An image that has been fetched, verified and decompressed.
pub(super) struct Fetched {
    file: ImageFile,
    unpacked: Option<Scratch>,
    pub(super) sha256: String,
    pub(super) proof: Proof,
    /// The URL of a download, and the server's metadata.
    pub(super) facts: Option<Facts>,
}

/// The file of an image.
enum ImageFile {
    /// A file of the operator's, and its identity when it was first read.
    InPlace(LocalFile, FileIdentity),
    /// A file in the download folder.
    Downloaded(Box<Downloaded>),
}

impl Fetched {
    /// Returns the path for reading the decompressed image.
    pub(super) fn path(&self) -> Utf8PathBuf {
        match (&self.unpacked, &self.file) {
            (Some(unpacked), _) => unpacked.path().to_owned(),
            (None, ImageFile::InPlace(file, _)) => file.access(),
            (None, ImageFile::Downloaded(downloaded)) => downloaded.path.clone(),
        }
    }

    /// Returns the path to show to a person.
    pub(super) fn shown_path(&self) -> Utf8PathBuf {
        match (&self.unpacked, &self.file) {
            (None, ImageFile::InPlace(file, _)) => file.path().to_owned(),
            _ => self.path(),
        }
    }

    /// Refuses a file of the operator's that has changed since it was first read, because its content was not verified.
    pub(super) fn check_unchanged(&self) -> Result<()> {
        let ImageFile::InPlace(file, identity) = &self.file else { return Ok(()) };
        if identity_of(file)? != *identity {
            return Err(Error::conflict(format!("image `{}` was changed while it was read", file.path()))
                .hint("Wait until the file is complete, and try again"));
        }
        Ok(())
    }

    /// Returns the disk space that the image occupies in bytes, which is about its size as qcow2.
    pub(super) fn allocated(&self) -> Result<u64> {
        let metadata = std::fs::metadata(self.path());
        let metadata = metadata.map_err(|error| Error::io("read the image", &error))?;
        Ok(std::os::unix::fs::MetadataExt::blocks(&metadata) * 512)
    }

    /// Removes a download that is in the pool now, or cannot be used.
    pub(super) fn discard(&self) {
        if let ImageFile::Downloaded(downloaded) = &self.file {
            downloaded.discard();
        }
    }
}

impl Listener for Host {
    fn bytes(&self, done: u64, total: Option<u64>) {
        self.progress.bytes(done, total);
    }

    fn received(&self, bytes: u64) {
        if let Some(observer) = &self.runner.observer {
            observer.received(bytes);
        }
    }

    fn retry(&self, error: &Error, pause: std::time::Duration) {
        self.progress.note(&format!("{error}; retrying in {:.1} s", pause.as_secs_f32()));
    }
}

/// Fetches an image and verifies its content. Removes a download that fails verification. `pool` must have enough space
/// for it.
pub(super) fn fetch(
    host: &Host,
    source: &ImageSource,
    policy: ImagePolicy,
    pool: Option<&Pool>,
    warnings: &mut Vec<String>,
) -> Result<Fetched> {
    let given = source.given();
    let fetched = match source {
        ImageSource::File { file, .. } => {
            let expected =
                if policy.checksum.is_some() { Expected::default() } else { Expected::beside(host, given, true)? };
            let expected = apply_policy(host, source, expected, policy, false, warnings)?;
            in_place(host, source, file.clone(), expected)?
        }
        ImageSource::Url(url) => {
            let location = Location::of(host, url, UrlTrust::Request)?;
            let expected =
                if policy.checksum.is_some() { Expected::default() } else { Expected::beside(host, url, false)? };
            let tls = is_https(&location);
            let expected = apply_policy(host, source, expected, policy, tls, warnings)?;
            fetch_from(host, source, &location, expected, pool, policy, warnings)?
        }
        ImageSource::Published(..) => published(host, source, policy, pool, warnings)?,
        ImageSource::Stored(_) => return Err(Error::internal(format!("image `{given}` has no source to fetch from"))),
    };
    unpack(host, given, fetched)
}

fn is_https(location: &Location) -> bool {
    matches!(location, Location::Web(url, _) if url.to_ascii_lowercase().starts_with("https://"))
}

/// Adds the requested checksum, and refuses an image that cannot be verified as required. `tls` says whether TLS will
/// protect the download.
fn apply_policy(
    host: &Host,
    source: &ImageSource,
    mut expected: Expected,
    policy: ImagePolicy,
    tls: bool,
    warnings: &mut Vec<String>,
) -> Result<Expected> {
    if let Some(checksum) = policy.checksum {
        expected.require_requested(checksum);
    }
    for warning in std::mem::take(&mut expected.warnings) {
        host.warn(warnings, warning);
    }
    // An undecided verification is checked after the image is fetched.
    if !expected.undecided {
        let will_be = expected.proof.verification.max(if tls { Verification::Tls } else { Verification::None });
        proof::require_verified(host, source, will_be, policy.verified, warnings)?;
    }
    Ok(expected)
}

fn published(
    host: &Host,
    source: &ImageSource,
    policy: ImagePolicy,
    pool: Option<&Pool>,
    warnings: &mut Vec<String>,
) -> Result<Fetched> {
    let catalogue = catalogue(host)?;
    try_both_locations(source, |image| {
        let location = Location::of(host, &image.url, UrlTrust::Operator)?;
        let expected = Expected::published(host, &catalogue, image)?;
        let expected = apply_policy(host, source, expected, policy, is_https(&location), warnings)?;
        fetch_from(host, source, &location, expected, pool, policy, warnings)
    })
}

/// Calls `work` with an image of the catalogue and, if that is not found, with the location that it may have moved to.
/// Of two failures, returns the more specific one.
fn try_both_locations<T>(source: &ImageSource, mut work: impl FnMut(&Published) -> Result<T>) -> Result<T> {
    let (image, moved) = images(source)?;
    match (work(&image), moved) {
        (Err(error), Some(moved)) if error.code == Code::NotFound => work(&moved).map_err(|other| match other.code {
            Code::NotFound => error,
            _ => other,
        }),
        (result, _) => result,
    }
}

/// Returns an image of the catalogue, and the location that it may have moved to.
fn images(source: &ImageSource) -> Result<(Published<'_>, Option<Published<'_>>)> {
    let ImageSource::Published(entry, arch) = source else {
        return Err(Error::internal(format!("image `{}` is not in the catalogue", source.given())));
    };
    let image =
        entry.image(*arch).ok_or_else(|| Error::internal("the image is not published for this architecture"))?;
    Ok((image, entry.moved_image(*arch)))
}

/// Fetches the image from a location.
fn fetch_from(
    host: &Host,
    source: &ImageSource,
    location: &Location,
    expected: Expected,
    pool: Option<&Pool>,
    policy: ImagePolicy,
    warnings: &mut Vec<String>,
) -> Result<Fetched> {
    match location {
        Location::File(path, trust) => in_place(host, source, Location::open(host, path, *trust)?, expected),
        Location::Web(url, trust) => {
            let downloaded = download_image(host, source, (url, *trust), &expected, pool)?;
            let proof = verify(host, source, url, &downloaded, expected, policy, warnings);
            let proof = proof.inspect_err(|error| {
                if error.code == Code::InvalidInput {
                    downloaded.discard();
                }
            })?;
            let (sha256, facts) = (downloaded.sums.sha256(), Some(downloaded.facts.clone()));
            Ok(Fetched { file: ImageFile::Downloaded(Box::new(downloaded)), unpacked: None, sha256, proof, facts })
        }
    }
}

/// Verifies a download.
fn verify(
    host: &Host,
    source: &ImageSource,
    url: &str,
    downloaded: &Downloaded,
    mut expected: Expected,
    policy: ImagePolicy,
    warnings: &mut Vec<String>,
) -> Result<Proof> {
    let (tls, mut is_policy_checked) = (downloaded.facts.tls, true);
    if expected.undecided {
        let decided = Expected::beside(host, source.given(), true)?;
        expected = apply_policy(host, source, decided, policy, tls, warnings)?;
    } else {
        // A redirect may have switched from https to http.
        is_policy_checked = tls || !url.starts_with("https:") || expected.proof.verification > Verification::Tls;
    }
    let mut proof = expected.check(source.given(), &downloaded.sums, &downloaded.path, &host.runner)?;
    if tls {
        proof.verification = proof.verification.max(Verification::Tls);
    }
    if !is_policy_checked {
        proof::require_verified(host, source, proof.verification, policy.verified, warnings)?;
    }
    Ok(proof)
}

fn download_image(
    host: &Host,
    source: &ImageSource,
    (url, trust): (&str, UrlTrust),
    expected: &Expected,
    pool: Option<&Pool>,
) -> Result<Downloaded> {
    let given = source.given();
    // A progress line is too short for a whole URL, so the URL goes to the log.
    tracing::info!("# fetching {url}");
    let name = if given == url { given.rsplit('/').next().unwrap_or(given) } else { given };
    let host_name = Url::parse(url).ok().and_then(|url| url.host_str().map(str::to_owned)).unwrap_or_default();
    host.step(format!("fetching {name} from {host_name}"));
    let manifest = source.manifest_of(host.caller.tenant());
    let admit = |length: u64| {
        host.allowance.take_image(&manifest, length)?;
        pool.map_or(Ok(()), |pool| base::require_space(host, pool, length))
    };
    let folder = downloads(host);
    let downloaded =
        download(&host.http.given_by(trust), url, &folder, &expected.algorithms(), &admit, host, &host.runner.cancel);
    if let Some(observer) = &host.runner.observer {
        observer.download_ended(downloaded.as_ref().map(drop));
    }
    downloaded
}

/// Returns the folder of unfinished downloads.
pub(in crate::ops) fn downloads(host: &Host) -> Utf8PathBuf {
    host.settings.cache_dir.join("downloads")
}

/// Verifies a file of this machine, which is not copied.
fn in_place(host: &Host, source: &ImageSource, file: LocalFile, expected: Expected) -> Result<Fetched> {
    host.step("computing the image's checksum");
    let (identity, path) = (identity_of(&file)?, file.access());
    let sums = Sums::of(&path, &expected.algorithms(), &host.runner.cancel)?;
    let proof = expected.check(source.given(), &sums, &path, &host.runner)?;
    Ok(Fetched { file: ImageFile::InPlace(file, identity), unpacked: None, sha256: sums.sha256(), proof, facts: None })
}

fn identity_of(file: &LocalFile) -> Result<FileIdentity> {
    FileIdentity::of(file).map_err(|error| Error::io(format!("read the image `{}`", file.path()), &error))
}

/// Decompresses an image that is compressed.
fn unpack(host: &Host, given: &str, mut fetched: Fetched) -> Result<Fetched> {
    let unpack = |packing: Packing, from: &Utf8Path| {
        host.step("decompressing the image");
        let folder = &host.settings.cache_dir;
        let mut into = Scratch::on_disk(folder)?;
        packing
            .unpack(from, given, into.file(), folder, &host.runner.cancel, |done| host.progress.bytes(done, None))?;
        Ok(into)
    };
    if let Some(packing) = inspect::packing(&fetched.path())? {
        let into = unpack(packing, &fetched.path());
        // A damaged file stays damaged. After a full disk or a signal, the download can be used again.
        let into = into.inspect_err(|error: &Error| {
            if error.code == Code::InvalidInput {
                fetched.discard();
            }
        })?;
        fetched.unpacked = Some(into);
    }
    Ok(fetched)
}

/// Returns whether a base is what its publisher has now. Fetches the checksum or, if there is none, makes a conditional
/// request for the image.
pub(super) fn is_fresh(host: &Host, source: &ImageSource, base: &Base) -> Result<bool> {
    host.step(format!("checking whether {} has changed", source.given()));
    let expected = match source {
        // The manifest of a file has its identity, so a changed file does not lead to this base.
        ImageSource::File { .. } | ImageSource::Stored(_) => return Ok(true),
        ImageSource::Url(url) => Expected::beside(host, url, true)?,
        ImageSource::Published(..) => {
            let catalogue = catalogue(host)?;
            try_both_locations(source, |image| Expected::published(host, &catalogue, image))?
        }
    };
    if let Some(checksum) = expected.proof.checksums.first() {
        return Ok(base.has(checksum));
    }
    let (address, trust) = match source {
        ImageSource::Published(..) => (images(source)?.0.url, UrlTrust::Operator),
        _ => (source.given().to_owned(), UrlTrust::Request),
    };
    let Location::Web(url, trust) = Location::of(host, &address, trust)? else { return Ok(false) };
    let comparable = base.etag.is_some() || base.last_modified.is_some();
    // An entity tag or a date of another URL cannot be compared.
    if base.url.as_ref() != Some(&url) || !comparable {
        return Ok(false);
    }
    let conditions =
        Conditions { etag: base.etag.clone(), last_modified: base.last_modified.clone(), ..Conditions::default() };
    let http = host.http.given_by(trust);
    http.retrying(host, || {
        let response = http.get(&url, &conditions)?;
        match response.status {
            304 => Ok(true),
            200 => Ok(false),
            _ => Err(response.refusal(&url)),
        }
    })
}
