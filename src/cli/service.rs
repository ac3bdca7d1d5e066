//! The options that `serve` and `mcp` share: allowed image sources and the audit log.

use camino::Utf8PathBuf;
use clap::Args;

use super::settings::Resolved;
use crate::{
    error::{Error, Result},
    model::source_policy::{HostPattern, Limits},
    service::Options,
};

#[derive(Debug, Args)]
pub(super) struct Service {
    /// Host to allow as an image source although it is private or has no TLS: a name, *.DOMAIN or an address (can be
    /// repeated)
    #[arg(long, value_name = "HOST")]
    allow_image_host: Vec<HostPattern>,

    /// Folder whose files clients may use as images and installers (can be repeated)
    #[arg(long, value_name = "DIR")]
    allow_image_folder: Vec<Utf8PathBuf>,

    /// Audit log (JSON lines), reopened on SIGHUP
    #[arg(long, value_name = "FILE")]
    audit_log: Option<Utf8PathBuf>,

    /// Refuse changes while the audit log cannot record them
    #[arg(long, requires = "audit_log", overrides_with = "audit_best_effort")]
    audit_required: bool,

    /// Make changes even if the audit log cannot record them, and count lost records (default)
    #[arg(long, requires = "audit_log", overrides_with = "audit_required")]
    audit_best_effort: bool,
}

impl Service {
    /// Returns the options of the service.
    pub(super) fn options(self, resolved: &Resolved) -> Result<Options> {
        let Self { allow_image_host, allow_image_folder, audit_log, audit_required, audit_best_effort: _ } = self;
        let absolute = |folder: Utf8PathBuf| {
            let found = folder.canonicalize_utf8();
            found.map_err(|error| Error::io(format!("allow images from the folder `{folder}`"), &error))
        };
        let folders = allow_image_folder.into_iter().map(absolute).collect::<Result<_>>()?;
        let images = Limits { hosts: allow_image_host, folders, only: None };
        Ok(Options { settings: resolved.settings(), images, audit_log, audit_required })
    }
}
