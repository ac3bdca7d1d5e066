//! `vmprov image …`

use std::process::ExitCode;

use camino::Utf8PathBuf;
use clap::Subcommand;

use super::{each, output::Output, progress::Terminal};
use crate::{
    error::Result,
    ops::{
        Host,
        image::{self, ImageChange, NewImport, NewPull, PruneOptions, SearchOptions},
    },
};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Search the catalogue of published images
    Search(SearchOptions),

    /// List the images in the storage pool, and the VMs that use them
    #[command(visible_alias = "ls")]
    List,

    /// Show everything there is to know of an image
    #[command(visible_alias = "show")]
    Info {
        /// Image, by name, path, URL or id
        image: String,
    },

    /// Fetch an image, or a newer one where its publisher has one
    #[command(
        after_help = "VMs that stand on the older one stay there; `vmprov image prune` removes it when none does."
    )]
    Pull(NewPull),

    /// Take in an image under a name of one's own
    Import(NewImport),

    /// Write an image into a file, as qcow2
    Export {
        // The completers put an argument behind the others unless it has its place.
        /// Image, by name, path, URL or id
        #[arg(index = 1)]
        image: String,
        /// File to write, which must not be there yet
        #[arg(index = 2)]
        file: Utf8PathBuf,
    },

    /// Change who may use an image
    #[command(after_help = "Example: vmprov image set golden --visibility shared")]
    Set(ImageChange),

    /// Delete images that nothing uses
    #[command(visible_alias = "rm")]
    Delete {
        /// Images, by name, path, URL or id
        #[arg(required = true)]
        image: Vec<String>,
    },

    /// Remove every fetched image that nothing uses, and downloads and uploads that were cut short
    Prune(PruneOptions),
}

/// Runs one of the commands.
pub(super) fn run(host: &Host, command: Command, output: &Output, terminal: &Terminal) -> Result<ExitCode> {
    let done = |result: Result<()>| result.map(|()| ExitCode::SUCCESS);
    match command {
        Command::Search(options) => done(output.show(&image::search(host, &options)?)),
        Command::List => {
            let images = image::list(host)?;
            terminal.finish();
            done(output.show(&images))
        }
        Command::Info { image } => {
            let image = image::info(host, &image)?;
            terminal.finish();
            done(output.show(&image))
        }
        Command::Pull(new) => {
            let pulled = image::pull(host, &new)?;
            terminal.finish();
            done(output.show(&pulled))
        }
        Command::Import(new) => {
            let image = image::import(host, &new)?;
            terminal.finish();
            done(output.show(&image))
        }
        Command::Export { image, file } => {
            let exported = image::export(host, &image, &file)?;
            terminal.finish();
            done(output.show(&exported))
        }
        Command::Set(change) => {
            let image = image::set(host, &change)?;
            terminal.finish();
            done(output.show(&image))
        }
        Command::Delete { image } => each(&image, output, terminal, |image| image::delete(host, image)),
        Command::Prune(options) => {
            let pruned = image::prune(host, options)?;
            terminal.finish();
            done(output.show(&pruned))
        }
    }
}
