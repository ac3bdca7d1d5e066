//! The manual pages, generated from the grammar of the command line so that they always match it.

use camino::Utf8Path;
use clap::{Command, CommandFactory};
use clap_mangen::Man;

use super::{
    Cli,
    help::{self, environment_variables},
    settings::{Definition, SETTINGS},
};
use crate::error::{Code, Error, Result};

/// The description on the first page, after the program's summary.
const ABOUT: &[&str] = &[
    "A VM's disk is an overlay on a read-only copy of the image in libvirt's storage pool. A small second disk, the \
     seed, gives cloud-init the SSH keys, the user and the host keys. vmprov keeps what it knows about a VM in the \
     domain's metadata in libvirt; it has no database.",
    "Data goes to standard output, everything else to standard error. Every command accepts the options below.",
];

/// The description on the page of the configuration file.
const ABOUT_SETTINGS: &str = "A TOML file with settings. A flag overrides the environment, the environment overrides \
                              the file, and the file overrides the default. `--config FILE` names another file. \
                              `vmprov config` shows each setting and its origin.";

const FILES: &[(&str, &str)] = &[
    ("$XDG_CONFIG_HOME/vmprov/config.toml", "The user's settings: vmprov.toml(5)."),
    ("/etc/vmprov/config.toml", "The system's settings, read if the user has no file."),
    ("images.d/*.toml beside these files", "More images: vmprov-images(7)."),
    ("$XDG_DATA_HOME/vmprov/keys", "The SSH keys: NAME, which only its owner can read, and NAME.pub."),
    ("$XDG_CACHE_HOME/vmprov", "Unfinished downloads, and the result of the KVM probe."),
];

/// What the footer of each page says.
const SOURCE: &str = concat!("vmprov ", env!("CARGO_PKG_VERSION"));

/// An empty argument in place of a date, so that a page does not change from one day to the next.
const NO_DATE: &str = "\"\"";

/// Writes a page for each command, and one for the configuration file, to a folder.
pub(super) fn write(folder: &Utf8Path) -> Result<()> {
    std::fs::create_dir_all(folder).map_err(|error| Error::io(format!("create the folder `{folder}`"), &error))?;
    let mut root = Cli::command();
    root.build();
    command_pages(&root, folder)?;
    write_page(folder, "vmprov.toml.5", &settings_page())
}

fn command_pages(command: &Command, folder: &Utf8Path) -> Result<()> {
    let name = format!("{}.1", title(command));
    let text = render(command).map_err(|error| Error::io(format!("render the manual page `{name}`"), &error))?;
    write_page(folder, &name, &String::from_utf8_lossy(&text))?;
    command.get_subcommands().filter(|sub| !sub.is_hide_set()).try_for_each(|sub| command_pages(sub, folder))
}

/// Writes a page. What is in backticks becomes bold, because groff prints a backtick as a quotation mark.
fn write_page(folder: &Utf8Path, name: &str, text: &str) -> Result<()> {
    let path = folder.join(name);
    let piece = |(at, piece): (usize, &str)| if at % 2 == 1 { format!("\\fB{piece}\\fR") } else { piece.to_owned() };
    let line = |line: &str| line.split('`').enumerate().map(piece).chain(["\n".to_owned()]).collect::<String>();
    let text: String = text.lines().map(line).collect();
    std::fs::write(&path, text).map_err(|error| Error::io(format!("write the manual page `{path}`"), &error))
}

fn title(command: &Command) -> &str {
    command.get_display_name().unwrap_or_else(|| command.get_name())
}

fn render(command: &Command) -> std::io::Result<Vec<u8>> {
    let is_root = command.get_name() == "vmprov";
    // Only the first page lists the options that every command accepts.
    let own = if is_root {
        command.clone()
    } else {
        command.clone().mut_args(|arg| if arg.is_global_set() { arg.hide(true) } else { arg })
    };
    let has_options = own.get_arguments().any(|arg| !arg.is_hide_set());
    let man = Man::new(own).date(NO_DATE).manual("vmprov").source(SOURCE);
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
    text.extend(section("EXAMPLES", examples(command)).bytes());
    if is_root {
        text.extend(section("EXIT STATUS", exit_statuses()).bytes());
        text.extend(section("ENVIRONMENT", environment_variables()).bytes());
        text.extend(section("FILES", FILES.iter().copied()).bytes());
    }
    text.extend(see_also(command, is_root).bytes());
    Ok(text)
}

/// Returns the synopsis with `[OPTIONS]`, as in the help. The options are listed below it.
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
    paragraphs.extend(after.iter().flat_map(|text| text.split("\n\n")).map(str::to_owned));
    if is_root {
        paragraphs.extend(ABOUT.iter().map(|&text| text.to_owned()));
    }
    let paragraphs: Vec<_> = paragraphs.iter().map(|text| escape(text)).collect();
    format!(".SH DESCRIPTION\n{}\n", paragraphs.join("\n.PP\n"))
}

/// Returns the examples of a command: the line, and what it does.
fn examples(command: &Command) -> impl Iterator<Item = (&'static str, &'static str)> {
    let path = title(command).to_owned();
    let own = help::examples().iter().filter(move |(known, ..)| known.replace(' ', "-") == path);
    own.map(|(_, about, line)| (line.as_str(), *about))
}

/// Returns the page of the configuration file.
fn settings_page() -> String {
    let setting = |Definition { about, flag, variables, default, name, .. }: &'static Definition| {
        let before: Vec<_> = flag.iter().chain(*variables).copied().collect();
        (*name, format!("{about}. Default: {default}. Overridden by {}.", before.join(", ")))
    };
    let example = SETTINGS.each_ref().map(|setting| escape(setting.example)).join("\n");
    [
        &format!(".TH vmprov.toml 5 {NO_DATE} \"{SOURCE}\" vmprov\n"),
        ".SH NAME\nvmprov.toml \\- Configuration file of vmprov\n.SH DESCRIPTION\n",
        &escape(ABOUT_SETTINGS),
        "\n",
        &section("SETTINGS", SETTINGS.iter().map(setting)),
        ".SH EXAMPLE\n.nf\n",
        &example,
        "\n.fi\n",
        &section("FILES", FILES.iter().take(3).copied()),
        ".SH \"SEE ALSO\"\n\\fBvmprov\\fR(1), \\fBvmprov\\-images\\fR(7)\n",
    ]
    .concat()
}

/// Returns an entry for each status. Codes that share a status share an entry.
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
    format!(".SH \"SEE ALSO\"\n{parent}\\fBvmprov\\fR(1): common options, exit statuses, environment, files\n")
}

fn section(title: &str, entries: impl IntoIterator<Item = (impl AsRef<str>, impl AsRef<str>)>) -> String {
    let mut text = format!(".SH \"{title}\"\n");
    for (term, meaning) in entries {
        text.extend([".TP\n\\fB", &escape(term.as_ref()), "\\fR\n", &escape(meaning.as_ref()), "\n"]);
    }
    text
}

/// Escapes a text for groff, which would print these characters as others that a shell does not accept.
fn escape(text: &str) -> String {
    let escapes = [("\\", "\\(rs"), ("-", "\\-"), ("'", "\\(aq"), ("~", "\\(ti")];
    let text = escapes.iter().fold(text.to_owned(), |text, (plain, escaped)| text.replace(plain, escaped));
    if text.starts_with('.') { format!("\\&{text}") } else { text }
}
