//! What a request names as an image or as an installer is held against what it may name, before anything is looked at.

use camino::Utf8Path;
use url::Url;

use super::Host;
use crate::{
    error::{Code, Error, Result},
    model::source_policy::SourcePolicy,
    store::local_file::LocalFile,
};

/// Refuses a URL that may not be named, also where the image that it leads to is in the pool already.
pub(super) fn check_url(host: &Host, url: &Url) -> Result<()> {
    let SourcePolicy::Limited(limits) = &host.settings.sources else { return Ok(()) };
    limits.check(url)?;
    // What a mirror stands in for is never connected to, and may not even have an address here.
    if super::image::is_mirrored(host, url)? { Ok(()) } else { host.http.admit(url) }
}

/// Opens a file. A file outside the allowed folders is refused before the system is asked about it, so a client cannot learn
/// whether it exists. `failed` converts the system's error.
pub(super) fn open(host: &Host, given: &Utf8Path, failed: impl Fn(std::io::Error) -> Error) -> Result<LocalFile> {
    let SourcePolicy::Limited(limits) = &host.settings.sources else { return LocalFile::open(given).map_err(failed) };
    for folder in &limits.folders {
        if let Ok(rest) = given.strip_prefix(folder)
            && let Some(file) = LocalFile::open_beneath(folder, rest).map_err(&failed)?
        {
            return Ok(file);
        }
    }
    Err(Error::new(Code::Forbidden, format!("the file `{}` may not be named", given.as_str().escape_debug()))
        .because("it is in no folder that the operator allows")
        .hint("Give a name of `vmprov image search` or an https:// URL. The operator may allow a folder with --allow-image-folder DIR."))
}
