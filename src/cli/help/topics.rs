//! Topics of the help that belong to no command: `vmprov help TOPIC`.

use std::fmt::Write;

use crate::{
    cli::settings::{Definition, SETTINGS},
    error::Code,
};

/// Each topic, and what it is about.
pub(in crate::cli) const TOPICS: &[(&str, &str)] = &[
    ("environment", "Environment variables"),
    ("exit-codes", "Exit codes and the codes of errors"),
    ("formats", "Output formats"),
    ("references", "How to name VMs, images, keys, sizes and durations"),
];

/// The variables that are not settings, and what each is for.
const OTHER_VARIABLES: &[(&str, &str)] = &[
    ("VMPROV_LOG, RUST_LOG", "Log filter of `serve` and `mcp`, as in `info` or `vmprov=debug`"),
    ("HTTPS_PROXY, HTTP_PROXY, ALL_PROXY, NO_PROXY", "Proxies for downloads"),
    ("XDG_CONFIG_HOME, XDG_DATA_HOME, XDG_CACHE_HOME", "Folders of the configuration, the keys and the downloads"),
    ("NO_COLOR", "Print no colors"),
];

/// Returns the variables that vmprov reads, and what each is for.
pub(in crate::cli) fn environment_variables() -> Vec<(String, String)> {
    let settings = SETTINGS.iter().map(|Definition { about, variables, default, .. }| {
        (variables.join(", then "), format!("{about} [default: {default}]"))
    });
    let others = OTHER_VARIABLES.iter().map(|&(names, about)| (names.to_owned(), about.to_owned()));
    settings.chain(others).collect()
}

const FORMATS: &str = "\
table   For people (the default). Columns may change between versions.
json    One JSON document on standard output. `vmprov COMMAND --help` lists its members.
        New members may be added; existing ones keep their meaning.
yaml    The same as YAML.
name    Names only, one per line, for scripts.

Data is printed on standard output, everything else on standard error. With `-o json`, an error is JSON on
standard error: error, code, exitStatus, cause, hint, retryable, details.
`vm screenshot -o FILE.png` writes the picture to a file.";

const REFERENCES: &str = "\
VM         Its name or UUID. A name has 1 to 63 lower-case letters, digits and hyphens.
Image      A name of the catalogue (`debian:12`; `vmprov image search` lists them) or of an imported image,
           a path with a slash (`./disk.qcow2`), a URL, or an id from `vmprov image list`.
Key        The name of a key in the key folder (`vmprov key list`).
Network    A libvirt network, or `user` for user-mode networking.
Size       A number with K, M, G or T, as in `512M` or `20G`. Memory without a unit is in MiB.
Duration   A number with s, m or h, as in `90s`, `5m` or `1h30m`; TTLs also take days (`7d`).";

/// Returns the text of a topic.
pub(in crate::cli) fn topic(name: &str) -> Option<String> {
    let (_, about) = TOPICS.iter().find(|(known, _)| *known == name)?;
    let text = match name {
        "environment" => environment(),
        "exit-codes" => exit_codes(),
        "formats" => FORMATS.to_owned(),
        _ => REFERENCES.to_owned(),
    };
    Some(format!("{about}\n\n{text}"))
}

fn environment() -> String {
    let mut text = String::new();
    for (name, about) in environment_variables() {
        // Writing to a string does not fail.
        let _ = writeln!(text, "{name}\n    {about}");
    }
    text + "\nA flag overrides the environment, the environment overrides the configuration file. `vmprov config` shows the\nresult and its origin."
}

fn exit_codes() -> String {
    let mut text = String::from("  0  success\n");
    for code in Code::ALL {
        let _ = writeln!(text, "{:3}  {}: {}", code.exit_status(), code.name(), code.meaning());
    }
    text + "\n`vm ssh` and `vm exec` exit with the status of the remote command."
}
