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

    /// List the images in the storage pool and the VMs that use them
    #[command(visible_alias = "ls")]
    List,

    /// Show details of an image
    #[command(visible_alias = "show")]
    Info {
        /// Image, by name, path, URL or id
        image: String,
    },

    /// Fetch an image, or update it
    #[command(after_help = "Existing VMs keep the older version; `vmprov image prune` removes it once no VM uses it.")]
    Pull(NewPull),

    /// Import an image
    Import(NewImport),

    /// Write an image to a qcow2 file
    Export {
        // Without an index, the completers move an argument behind the others.
        /// Image, by name, path, URL or id
        #[arg(index = 1)]
        image: String,
        /// File to write, which must not exist yet
        #[arg(index = 2)]
        file: Utf8PathBuf,
    },

    /// Change an image's visibility
    Set(ImageChange),

    /// Delete unused images
    #[command(visible_alias = "rm")]
    Delete {
        /// Images, by name, path, URL or id
        #[arg(required = true)]
        image: Vec<String>,
    },

    /// Remove unused fetched images and partial downloads and uploads
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
