//! The manual pages, made from the grammar, so that they never say anything else than the program.

use camino::Utf8Path;
use clap::{Command, CommandFactory};
use clap_mangen::Man;

use super::Cli;
use crate::error::{Code, Error, Result};

/// The environment, as the service's document has it.
const ENVIRONMENT: &[(&str, &str)] = &[
    ("LIBVIRT_URI", "the libvirt connection (qemu:///system)"),
    ("LIBVIRT_DEFAULT_URI", "the same, where LIBVIRT_URI is not set"),
    ("LIBVIRT_STORAGE_POOL", "the storage pool (default)"),
    ("LIBVIRT_STORAGE_PATH", "where that pool is made when it is missing (/var/lib/libvirt/images)"),
    ("SSH_KEY_DIR", "the folder of the ssh keys (/app/ssh_keys where that exists, else vmprov/keys in XDG_DATA_HOME)"),
    ("NO_COLOR", "when set, nothing is coloured"),
];

const FILES: &[(&str, &str)] = &[
    ("$XDG_CONFIG_HOME/vmprov/config.toml", "your settings: connect, pool, pool-path, key-dir"),
    ("/etc/vmprov/config.toml", "the machine's settings, read where you have none"),
];

/// Writes a page for each command into a folder.
pub(super) fn write(folder: &Utf8Path) -> Result<()> {
    std::fs::create_dir_all(folder).map_err(|error| Error::io(format!("make the folder `{folder}`"), &error))?;
    let mut root = Cli::command();
    root.build();
    page(&root, folder)
}

fn page(command: &Command, folder: &Utf8Path) -> Result<()> {
    let title = command.get_display_name().unwrap_or_else(|| command.get_name()).to_owned();
    let path = folder.join(format!("{title}.1"));
    let failed = |error: std::io::Error| Error::io(format!("write the manual page `{path}`"), &error);
    let mut text = Vec::new();
    // No date: the page is the same whenever it is made.
    Man::new(command.clone()).date("").manual("vmprov").render(&mut text).map_err(failed)?;
    let mut text = String::from_utf8(text).map_err(|error| Error::internal("the manual is no text").because(error))?;
    if command.get_name() == "vmprov" {
        let statuses: Vec<_> = Code::ALL.iter().map(|code| (code.exit_status().to_string(), code.meaning())).collect();
        let statuses = statuses.iter().map(|(status, meaning)| (status.as_str(), *meaning));
        text.push_str(&section("EXIT STATUS", std::iter::once(("0", "done")).chain(statuses)));
        text.push_str(&section("ENVIRONMENT", ENVIRONMENT.iter().copied()));
        text.push_str(&section("FILES", FILES.iter().copied()));
    }
    std::fs::write(&path, text).map_err(failed)?;
    command.get_subcommands().filter(|sub| !sub.is_hide_set()).try_for_each(|sub| page(sub, folder))
}

fn section<'a>(title: &str, entries: impl Iterator<Item = (&'a str, &'a str)>) -> String {
    let mut text = format!(".SH \"{title}\"\n");
    for (term, meaning) in entries {
        text.extend([".TP\n\\fB", term, "\\fR\n", meaning, "\n"]);
    }
    text
}
