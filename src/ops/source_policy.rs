//! Checks the image or installer that a request names against the source policy, before anything else is examined.

use camino::Utf8Path;
use url::Url;

use super::{Host, image::location};
use crate::{
    error::{Code, Error, Hint, Result},
    model::source_policy::SourcePolicy,
    store::local_file::LocalFile,
};

/// Refuses a URL that the policy does not allow, even if its image is already in the pool.
pub(super) fn check_url(host: &Host, url: &Url) -> Result<()> {
    let SourcePolicy::Limited(limits) = &host.settings.sources else { return Ok(()) };
    limits.check(url)?;
    // vmprov never connects to a URL that a mirror replaces, and its host may not even resolve here.
    if location::is_mirrored(host, url)? { Ok(()) } else { host.http.admit(url) }
}

/// Opens a file. A file outside the allowed folders is refused before the system is asked about it, so a client cannot
/// learn whether it exists. `failed` converts the system's error.
pub(super) fn open(host: &Host, given: &Utf8Path, failed: impl Fn(std::io::Error) -> Error) -> Result<LocalFile> {
    let SourcePolicy::Limited(limits) = &host.settings.sources else { return LocalFile::open(given).map_err(failed) };
    for folder in &limits.folders {
        if let Ok(rest) = given.strip_prefix(folder)
            && let Some(file) = LocalFile::open_beneath(folder, rest).map_err(&failed)?
        {
            return Ok(file);
        }
    }
    Err(Error::new(Code::Forbidden, format!("cannot use the file `{}`", given.as_str().escape_debug()))
        .because("it is outside the folders that the operator allows")
        .hint(Hint::call_any("Choose a published image or an https:// URL", "image_search"))
        .hint(Hint::run("Ask the operator to allow its folder", "vmprov serve --allow-image-folder DIR")))
}
