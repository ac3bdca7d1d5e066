//! From what was given to a file on this machine whose content is proven as far as it can be.

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

/// What is asked of an image beside what it is.
#[derive(Debug, Clone, Copy, Default)]
pub(in crate::ops) struct ImagePolicy<'a> {
    /// The checksum that it must have.
    pub(in crate::ops) checksum: Option<&'a Checksum>,
    /// Whether one that nothing speaks for is refused.
    pub(in crate::ops) verified: bool,
    /// Whether its publisher is asked for something newer.
    pub(in crate::ops) pull: bool,
}

impl ImagePolicy<'_> {
    /// Whether what is known of a base meets them. A checksum that cannot be compared is not met: the image is looked
    /// at anew.
    pub(super) fn are_met_by(&self, base: &Base) -> bool {
        let is_verified = self.checksum.is_some() || base.verification >= Verification::Checksum;
        self.checksum.is_none_or(|wanted| base.has(wanted)) && (!self.verified || is_verified)
    }
}

/// An image that has been fetched, proven, and unpacked where it was compressed.
pub(super) struct Fetched {
    file: Lies,
    unpacked: Option<Scratch>,
    pub(super) sha256: String,
    pub(super) proof: Proof,
    /// Where it was fetched from, and what the server said of it.
    pub(super) facts: Option<Facts>,
}

/// Where the image lies.
enum Lies {
    /// Where the operator has it, and what it was when it was first looked at.
    There(LocalFile, FileIdentity),
    /// Among the downloads.
    Downloaded(Box<Downloaded>),
}

impl Fetched {
    /// The path by which the image is read, unpacked.
    pub(super) fn path(&self) -> Utf8PathBuf {
        match (&self.unpacked, &self.file) {
            (Some(unpacked), _) => unpacked.path().to_owned(),
            (None, Lies::There(file, _)) => file.access(),
            (None, Lies::Downloaded(downloaded)) => downloaded.path.clone(),
        }
    }

    /// The path by which a person would read it.
    pub(super) fn shown_path(&self) -> Utf8PathBuf {
        match (&self.unpacked, &self.file) {
            (None, Lies::There(file, _)) => file.path().to_owned(),
            _ => self.path(),
        }
    }

    /// Refuses a file of the operator's that was changed since it was first looked at: what was proven and inspected is
    /// not what was used.
    pub(super) fn check_unchanged(&self) -> Result<()> {
        let Lies::There(file, identity) = &self.file else { return Ok(()) };
        if identity_of(file)? != *identity {
            return Err(Error::conflict(format!("the image `{}` was changed while it was read", file.path()))
                .hint("Wait until it is whole, and try again."));
        }
        Ok(())
    }

    /// The bytes that the image occupies, which is about what it will take as qcow2.
    pub(super) fn allocated(&self) -> Result<u64> {
        let metadata = std::fs::metadata(self.path());
        let metadata = metadata.map_err(|error| Error::io("look at the image", &error))?;
        Ok(std::os::unix::fs::MetadataExt::blocks(&metadata) * 512)
    }

    /// Removes what was downloaded: it is in the pool, or of no use.
    pub(super) fn discard(&self) {
        if let Lies::Downloaded(downloaded) = &self.file {
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
        self.progress.note(&format!("{error}; trying again in {:.1} s", pause.as_secs_f32()));
    }
}

/// Fetches an image and proves its content. What turns out to be something else is removed again. `pool` is where it
/// will have to fit in.
pub(super) fn fetch(
    host: &Host,
    source: &ImageSource,
    demands: ImagePolicy,
    pool: Option<&Pool>,
    warnings: &mut Vec<String>,
) -> Result<Fetched> {
    let given = source.given();
    let fetched = match source {
        ImageSource::File { file, .. } => {
            let expected =
                if demands.checksum.is_some() { Expected::default() } else { Expected::beside(host, given, true)? };
            let expected = with(host, source, expected, demands, false, warnings)?;
            in_place(host, source, file.clone(), expected)?
        }
        ImageSource::Url(url) => {
            let place = Location::of(host, url, UrlTrust::Request)?;
            let expected =
                if demands.checksum.is_some() { Expected::default() } else { Expected::beside(host, url, false)? };
            let tls = url_is_tls(&place);
            let expected = with(host, source, expected, demands, tls, warnings)?;
            from(host, source, &place, expected, pool, demands, warnings)?
        }
        ImageSource::Published(..) => published(host, source, demands, pool, warnings)?,
        ImageSource::Stored(_) => return Err(Error::internal(format!("`{given}` is fetched from nowhere"))),
    };
    unpacked(host, given, fetched)
}

fn url_is_tls(place: &Location) -> bool {
    matches!(place, Location::Web(url, _) if url.to_ascii_lowercase().starts_with("https://"))
}

/// Adds what the operator demands, and refuses what will not be verified before anything is fetched. `tls`: whether TLS
/// will speak for what nothing else does.
fn with(
    host: &Host,
    source: &ImageSource,
    mut expected: Expected,
    demands: ImagePolicy,
    tls: bool,
    warnings: &mut Vec<String>,
) -> Result<Expected> {
    if let Some(checksum) = demands.checksum {
        expected.given(checksum);
    }
    for warning in std::mem::take(&mut expected.warnings) {
        host.warn(warnings, warning);
    }
    // What is not decided yet is judged when the image is there.
    if !expected.undecided {
        let will_be = expected.proof.verification.max(if tls { Verification::Tls } else { Verification::None });
        proof::judge(host, source, will_be, demands.verified, warnings)?;
    }
    Ok(expected)
}

fn published(
    host: &Host,
    source: &ImageSource,
    demands: ImagePolicy,
    pool: Option<&Pool>,
    warnings: &mut Vec<String>,
) -> Result<Fetched> {
    let catalogue = catalogue(host)?;
    at_either(source, |image| {
        let place = Location::of(host, &image.url, UrlTrust::Operator)?;
        let expected = Expected::published(host, &catalogue, image)?;
        let expected = with(host, source, expected, demands, url_is_tls(&place), warnings)?;
        from(host, source, &place, expected, pool, demands, warnings)
    })
}

/// Does something with an image of the catalogue; where it is not there, with the one that it may have moved to. Of two
/// failures the one that says more is told.
fn at_either<T>(source: &ImageSource, mut work: impl FnMut(&Published) -> Result<T>) -> Result<T> {
    let (image, moved) = images(source)?;
    match (work(&image), moved) {
        (Err(error), Some(moved)) if error.code == Code::NotFound => work(&moved).map_err(|other| match other.code {
            Code::NotFound => error,
            _ => other,
        }),
        (result, _) => result,
    }
}

/// An image of the catalogue, and where it may have moved.
fn images(source: &ImageSource) -> Result<(Published<'_>, Option<Published<'_>>)> {
    let ImageSource::Published(entry, arch) = source else {
        return Err(Error::internal(format!("`{}` is of no catalogue", source.given())));
    };
    let image = entry.image(*arch).ok_or_else(|| Error::internal("it is not published for this architecture"))?;
    Ok((image, entry.moved_image(*arch)))
}

/// Has the image from a place.
fn from(
    host: &Host,
    source: &ImageSource,
    place: &Location,
    expected: Expected,
    pool: Option<&Pool>,
    demands: ImagePolicy,
    warnings: &mut Vec<String>,
) -> Result<Fetched> {
    match place {
        Location::File(path, giver) => in_place(host, source, Location::open(host, path, *giver)?, expected),
        Location::Web(url, giver) => {
            let downloaded = get(host, source, (url, *giver), &expected, pool)?;
            let proof = prove(host, source, url, &downloaded, expected, demands, warnings);
            let proof = proof.inspect_err(|error| {
                if error.code == Code::InvalidInput {
                    downloaded.discard();
                }
            })?;
            let (sha256, facts) = (downloaded.sums.sha256(), Some(downloaded.facts.clone()));
            Ok(Fetched { file: Lies::Downloaded(Box::new(downloaded)), unpacked: None, sha256, proof, facts })
        }
    }
}

/// Compares what came with what was expected.
fn prove(
    host: &Host,
    source: &ImageSource,
    url: &str,
    downloaded: &Downloaded,
    mut expected: Expected,
    demands: ImagePolicy,
    warnings: &mut Vec<String>,
) -> Result<Proof> {
    let (tls, mut judged) = (downloaded.facts.tls, true);
    if expected.undecided {
        let again = Expected::beside(host, source.given(), true)?;
        expected = with(host, source, again, demands, tls, warnings)?;
    } else {
        // A redirect may have led away from TLS.
        judged = tls || !url.starts_with("https:") || expected.proof.verification > Verification::Tls;
    }
    let mut proof = expected.check(source.given(), &downloaded.sums, &downloaded.path, &host.runner.cancel)?;
    if tls {
        proof.verification = proof.verification.max(Verification::Tls);
    }
    if !judged {
        proof::judge(host, source, proof.verification, demands.verified, warnings)?;
    }
    Ok(proof)
}

fn get(
    host: &Host,
    source: &ImageSource,
    (url, by): (&str, UrlTrust),
    expected: &Expected,
    pool: Option<&Pool>,
) -> Result<Downloaded> {
    let given = source.given();
    // A line of progress has no room for a whole URL; the log has.
    tracing::info!("# fetching {url}");
    let name = if given == url { given.rsplit('/').next().unwrap_or(given) } else { given };
    let host_name = Url::parse(url).ok().and_then(|url| url.host_str().map(str::to_owned)).unwrap_or_default();
    host.step(format!("fetching {name} from {host_name}"));
    let companion = source.companion_of(host.caller.tenant());
    let admit = |length: u64| {
        host.allowance.take_image(&companion, length)?;
        pool.map_or(Ok(()), |pool| base::require_room(host, pool, length))
    };
    let folder = downloads(host);
    let downloaded =
        download(&host.http.given_by(by), url, &folder, &expected.algorithms(), &admit, host, &host.runner.cancel);
    if let Some(observer) = &host.runner.observer {
        observer.download_ended(downloaded.as_ref().map(drop));
    }
    downloaded
}

/// Where downloads are, while they are.
pub(in crate::ops) fn downloads(host: &Host) -> Utf8PathBuf {
    host.settings.cache_dir.join("downloads")
}

/// A file of this machine, whose checksum is computed where it lies.
fn in_place(host: &Host, source: &ImageSource, file: LocalFile, expected: Expected) -> Result<Fetched> {
    host.step("computing the image's checksum");
    let (identity, path) = (identity_of(&file)?, file.access());
    let sums = Sums::of(&path, &expected.algorithms(), &host.runner.cancel)?;
    let proof = expected.check(source.given(), &sums, &path, &host.runner.cancel)?;
    Ok(Fetched { file: Lies::There(file, identity), unpacked: None, sha256: sums.sha256(), proof, facts: None })
}

fn identity_of(file: &LocalFile) -> Result<FileIdentity> {
    FileIdentity::of(file).map_err(|error| Error::io(format!("read the image `{}`", file.path()), &error))
}

/// Unpacks an image that is compressed.
fn unpacked(host: &Host, given: &str, mut fetched: Fetched) -> Result<Fetched> {
    let unpack = |packing: Packing, from: &Utf8Path| {
        host.step("unpacking the image");
        let folder = &host.settings.cache_dir;
        let mut into = Scratch::on_disk(folder)?;
        packing
            .unpack(from, given, into.file(), folder, &host.runner.cancel, |done| host.progress.bytes(done, None))?;
        Ok(into)
    };
    if let Some(packing) = inspect::packing(&fetched.path())? {
        let into = unpack(packing, &fetched.path());
        // What is damaged is damaged for good; a disk that is full or a signal is not the file's fault.
        let into = into.inspect_err(|error: &Error| {
            if error.code == Code::InvalidInput {
                fetched.discard();
            }
        })?;
        fetched.unpacked = Some(into);
    }
    Ok(fetched)
}

/// Whether a base is what its publisher has now. Asks for the least that tells: the checksum, or else whether the file
/// has changed.
pub(super) fn is_fresh(host: &Host, source: &ImageSource, base: &Base) -> Result<bool> {
    host.step(format!("asking whether {} has changed", source.given()));
    let expected = match source {
        // One whose file had changed would not be known as this base.
        ImageSource::File { .. } | ImageSource::Stored(_) => return Ok(true),
        ImageSource::Url(url) => Expected::beside(host, url, true)?,
        ImageSource::Published(..) => {
            let catalogue = catalogue(host)?;
            at_either(source, |image| Expected::published(host, &catalogue, image))?
        }
    };
    if let Some(checksum) = expected.proof.checksums.first() {
        return Ok(base.has(checksum));
    }
    let (address, giver) = match source {
        ImageSource::Published(..) => (images(source)?.0.url, UrlTrust::Operator),
        _ => (source.given().to_owned(), UrlTrust::Request),
    };
    let Location::Web(url, giver) = Location::of(host, &address, giver)? else { return Ok(false) };
    let comparable = base.etag.is_some() || base.last_modified.is_some();
    // What it was fetched from elsewhere says nothing of what is here.
    if base.url.as_ref() != Some(&url) || !comparable {
        return Ok(false);
    }
    let conditions =
        Conditions { etag: base.etag.clone(), last_modified: base.last_modified.clone(), ..Conditions::default() };
    let http = host.http.given_by(giver);
    http.retrying(host, || {
        let answer = http.get(&url, &conditions)?;
        match answer.status {
            304 => Ok(true),
            200 => Ok(false),
            _ => Err(answer.refusal(&url)),
        }
    })
}
