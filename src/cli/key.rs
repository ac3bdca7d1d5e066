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
    /// Generate an SSH key pair
    Generate(NewKey),

    /// List SSH keys
    #[command(visible_alias = "ls")]
    List,

    /// Print a public key as one line
    Show {
        /// Key
        name: Name,
    },

    /// Import an existing public or private key
    Import {
        /// Name of the new key
        name: Name,
        /// File that contains the key
        file: Utf8PathBuf,
    },

    /// Delete keys (VMs keep their copies)
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
            if output.is_table() {
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
