//! The manual pages, made from the grammar, so that they never say anything else than the program.

use camino::Utf8Path;
use clap::{Command, CommandFactory};
use clap_mangen::Man;

use super::Cli;
use crate::error::{Code, Error, Result};

/// What the first page says beyond the program's one sentence.
const ABOUT: &[&str] = &[
    "A VM's disk is an overlay on an immutable copy of the image in libvirt's storage pool; cloud-init is given the ssh \
     keys, the user and the host keys by a small second disk. What vmprov knows of a VM stands in the domain's own \
     metadata in libvirt: there is no other state.",
    "Data goes to standard output, everything else to standard error. The options below are taken by every command.",
];

const EXAMPLES: &[(&str, &str)] = &[
    ("vmprov key generate dev", "Makes a key pair."),
    (
        "vmprov vm create web --image debian-12-genericcloud-amd64.qcow2 --ssh-key dev --wait",
        "Creates a VM and returns when the key can log in.",
    ),
    ("vmprov vm ssh web -- uname -a", "Runs a command in it; the exit status is the command's."),
    ("vmprov inject web other", "Lets another key in, too."),
    ("vmprov vm delete web --yes", "Deletes the VM and what it owns."),
];

/// The environment, as the service's document has it.
const ENVIRONMENT: &[(&str, &str)] = &[
    ("LIBVIRT_URI", "The libvirt connection (qemu:///system)."),
    ("LIBVIRT_DEFAULT_URI", "The same, where LIBVIRT_URI is not set."),
    ("LIBVIRT_STORAGE_POOL", "The storage pool (default)."),
    ("LIBVIRT_STORAGE_PATH", "Where that pool is made when it is missing (/var/lib/libvirt/images)."),
    (
        "SSH_KEY_DIR",
        "The folder of the ssh keys (/app/ssh_keys where that exists, else keys in the data folder below).",
    ),
    ("NO_COLOR", "When set, nothing is coloured."),
];

const FILES: &[(&str, &str)] = &[
    ("$XDG_CONFIG_HOME/vmprov/config.toml", "Your settings: connect, pool, pool-path, key-dir."),
    ("/etc/vmprov/config.toml", "The machine's settings, read where you have none."),
    ("$XDG_DATA_HOME/vmprov/keys", "The ssh keys: NAME, which only you can read, and NAME.pub."),
    ("$XDG_CACHE_HOME/vmprov", "Downloads while they are under way, and whether KVM works."),
];

/// Writes a page for each command into a folder.
pub(super) fn write(folder: &Utf8Path) -> Result<()> {
    std::fs::create_dir_all(folder).map_err(|error| Error::io(format!("make the folder `{folder}`"), &error))?;
    let mut root = Cli::command();
    root.build();
    page(&root, folder)
}

fn page(command: &Command, folder: &Utf8Path) -> Result<()> {
    let path = folder.join(format!("{}.1", title(command)));
    let failed = |error: std::io::Error| Error::io(format!("write the manual page `{path}`"), &error);
    let text = render(command).map_err(failed)?;
    std::fs::write(&path, text).map_err(failed)?;
    command.get_subcommands().filter(|sub| !sub.is_hide_set()).try_for_each(|sub| page(sub, folder))
}

fn title(command: &Command) -> &str {
    command.get_display_name().unwrap_or_else(|| command.get_name())
}

fn render(command: &Command) -> std::io::Result<Vec<u8>> {
    let is_root = command.get_name() == "vmprov";
    // The options of every command stand on the first page alone.
    let own = if is_root {
        command.clone()
    } else {
        command.clone().mut_args(|arg| if arg.is_global_set() { arg.hide(true) } else { arg })
    };
    let has_options = own.get_arguments().any(|arg| !arg.is_hide_set());
    // No date: the page is the same whenever it is made.
    let man = Man::new(own).date("").manual("vmprov").source(concat!("vmprov ", env!("CARGO_PKG_VERSION")));
    let mut text = Vec::new();
    man.render_title(&mut text)?;
    man.render_name_section(&mut text)?;
    text.extend(synopsis(command).bytes());
    text.extend(description(command, is_root).bytes());
    if has_options {
        man.render_options_section(&mut text)?;
    }
    if command.get_subcommands().any(|sub| !sub.is_hide_set()) {
        man.render_subcommands_section(&mut text)?;
    }
    if is_root {
        text.extend(section("EXAMPLES", EXAMPLES.iter().copied()).bytes());
        text.extend(section("EXIT STATUS", exit_statuses().iter().map(|(term, text)| (&term[..], &text[..]))).bytes());
        text.extend(section("ENVIRONMENT", ENVIRONMENT.iter().copied()).bytes());
        text.extend(section("FILES", FILES.iter().copied()).bytes());
    }
    text.extend(see_also(command, is_root).bytes());
    Ok(text)
}

/// As the help has it: the options stand below, one by one.
fn synopsis(command: &Command) -> String {
    let usage = command.clone().render_usage().to_string();
    let usage = usage.trim_start_matches("Usage: ");
    let (name, rest) = usage.split_at(usage.find(" [").or_else(|| usage.find(" <")).unwrap_or(usage.len()));
    format!(".SH SYNOPSIS\n\\fB{}\\fR{}\n", escape(name), escape(rest))
}

fn description(command: &Command, is_root: bool) -> String {
    let about = command.get_about().map(ToString::to_string).unwrap_or_default();
    let after = command.get_after_help().map(ToString::to_string);
    let mut paragraphs = vec![format!("{about}.")];
    paragraphs.extend(after);
    if is_root {
        paragraphs.extend(ABOUT.iter().map(|&text| text.to_owned()));
    }
    let paragraphs: Vec<_> = paragraphs.iter().map(|text| escape(text)).collect();
    format!(".SH DESCRIPTION\n{}\n", paragraphs.join("\n.PP\n"))
}

/// One entry for each status; some have several meanings.
fn exit_statuses() -> Vec<(String, String)> {
    let mut statuses = vec![("0".to_owned(), "done".to_owned())];
    for code in Code::ALL {
        let status = code.exit_status().to_string();
        match statuses.last_mut().filter(|(last, _)| *last == status) {
            Some((_, meaning)) => *meaning = format!("{meaning}; or {}", code.meaning()),
            None => statuses.push((status, code.meaning().to_owned())),
        }
    }
    statuses
}

fn see_also(command: &Command, is_root: bool) -> String {
    if is_root {
        return ".SH \"SEE ALSO\"\n\\fBvirsh\\fR(1), \\fBcloud-init\\fR(1), \\fBssh\\fR(1)\n".to_owned();
    }
    let parent = title(command).rsplit_once('-').map(|(parent, _)| parent).filter(|parent| *parent != "vmprov");
    let parent = parent.map(|parent| format!("\\fB{}\\fR(1), ", escape(parent))).unwrap_or_default();
    format!(
        ".SH \"SEE ALSO\"\n{parent}\\fBvmprov\\fR(1): options of every command, exit statuses, environment, files\n"
    )
}

fn section<'a>(title: &str, entries: impl Iterator<Item = (&'a str, &'a str)>) -> String {
    let mut text = format!(".SH \"{title}\"\n");
    for (term, meaning) in entries {
        text.extend([".TP\n\\fB", &escape(term), "\\fR\n", &escape(meaning), "\n"]);
    }
    text
}

/// Text that groff prints as it is: a hyphen would otherwise be one that nobody can paste.
fn escape(text: &str) -> String {
    let text = text.replace('\\', "\\\\").replace('-', "\\-");
    if text.starts_with(['.', '\'']) { format!("\\&{text}") } else { text }
}
