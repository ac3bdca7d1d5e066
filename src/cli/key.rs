//! `vmprov key …`

use std::process::ExitCode;

use camino::Utf8PathBuf;
use clap::Subcommand;

use super::{
    each,
    output::{Output, line},
    progress::Terminal,
};
use crate::{
    error::Result,
    model::{key::NewKey, name::Name},
    ops::{Host, key},
};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Make a key pair
    Generate(NewKey),

    /// List every key
    #[command(visible_alias = "ls")]
    List,

    /// Print a public key, as one line
    Show {
        /// Key
        name: Name,
    },

    /// Take in an existing key, public or private
    Import {
        /// Name to give it
        name: Name,
        /// File that it is in
        file: Utf8PathBuf,
    },

    /// Delete keys; VMs that have them keep them
    #[command(visible_alias = "rm")]
    Delete {
        /// Keys
        #[arg(required = true)]
        name: Vec<Name>,
    },
}

/// Runs one of the commands.
pub(super) fn run(host: &Host, command: Command, output: &Output, terminal: &Terminal) -> Result<ExitCode> {
    match command {
        Command::Generate(new) => {
            let key = key::generate(host, &new)?;
            terminal.finish();
            output.show(&key)?;
        }
        Command::List => output.show(&key::list(host)?)?,
        Command::Show { name } => {
            let key = key::get(host, &name)?;
            if output.is_for_people() {
                line(&key.public_key)?;
            } else {
                output.show(&key)?;
            }
        }
        Command::Import { name, file } => output.show(&key::import(host, &name, &file)?)?,
        Command::Delete { name } => {
            return each(&name, output, terminal, |name| key::delete(host, name));
        }
    }
    Ok(ExitCode::SUCCESS)
}
