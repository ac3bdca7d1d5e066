//! What is printed: data on standard output, everything else on standard error.

use std::{
    cell::OnceCell,
    ffi::OsStr,
    io::{ErrorKind, Write},
    ops::ControlFlow,
    process::ExitCode,
};

use camino::{Utf8Path, Utf8PathBuf};
use clap::{
    Arg, Command, ValueEnum,
    builder::{EnumValueParser, PossibleValue, TypedValueParser},
};
use serde::Serialize;

use crate::{
    api,
    error::{Code, Error, Result},
    ops::{Host, doctor},
};

/// How data is printed
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(super) enum Format {
    /// For people
    #[default]
    Table,
    /// For programs: the structs of every face
    Json,
    /// The same as YAML
    Yaml,
    /// Names alone, one a line
    Name,
}

/// A report that can be printed.
pub(super) trait Show: Serialize {
    /// For people.
    fn table(&self) -> String;
    /// The names alone.
    fn names(&self) -> Vec<String>;
}

/// What `-o` names: a format, or a file for what is none of text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Target {
    Format(Format),
    File(Utf8PathBuf),
}

/// Reads what `-o` names. What has a dot or a slash is a file, and `-` is standard output.
#[derive(Debug, Clone)]
pub(super) struct TargetParser;

impl TypedValueParser for TargetParser {
    type Value = Target;

    fn parse_ref(&self, command: &Command, arg: Option<&Arg>, value: &OsStr) -> Result<Target, clap::Error> {
        match value.to_str().filter(|text| text.contains(['.', '/']) || *text == "-") {
            Some(file) => Ok(Target::File(file.into())),
            None => EnumValueParser::<Format>::new().parse_ref(command, arg, value).map(Target::Format),
        }
    }

    fn possible_values(&self) -> Option<Box<dyn Iterator<Item = PossibleValue> + '_>> {
        Some(Box::new(Format::value_variants().iter().filter_map(Format::to_possible_value)))
    }
}

/// Prints reports in one format.
pub(super) struct Output {
    format: Format,
    file: Option<Utf8PathBuf>,
    /// The host that errors are of, where one has been looked at.
    host: OnceCell<Host>,
}

impl Output {
    pub(super) fn new(target: Target) -> Self {
        match target {
            Target::Format(format) => Self { format, file: None, host: OnceCell::new() },
            Target::File(file) => Self { format: Format::default(), file: Some(file), host: OnceCell::new() },
        }
    }

    /// The file to write to.
    pub(super) fn file(&self) -> Option<&Utf8Path> {
        self.file.as_deref()
    }

    /// Prints one of many reports that come one by one: a line each, for people or as compact JSON. Whoever has read enough
    /// of them breaks it off.
    pub(super) fn stream_line(
        &self,
        report: &impl Serialize,
        for_people: impl FnOnce() -> String,
    ) -> Result<ControlFlow<()>> {
        print(&match self.format {
            Format::Json | Format::Yaml => json(serde_json::to_string(report))?,
            Format::Table | Format::Name => plain(&for_people()),
        })
    }

    /// From now on, errors say what a check finds out of their reason.
    pub(super) fn explain_errors_of(&self, host: &Host) {
        self.host.get_or_init(|| host.clone());
    }

    pub(super) const fn is_for_people(&self) -> bool {
        matches!(self.format, Format::Table)
    }

    pub(super) const fn is_json(&self) -> bool {
        matches!(self.format, Format::Json)
    }

    /// Prints a report.
    pub(super) fn show(&self, report: &impl Show) -> Result<()> {
        let text = match self.format {
            Format::Table => plain(&report.table()),
            Format::Json => json(serde_json::to_string_pretty(report))?,
            // It escapes control characters by itself.
            Format::Yaml => {
                yaml_serde::to_string(report).map_err(|error| Error::internal("cannot write YAML").because(error))?
            }
            Format::Name => plain(&report.names().join("\n")),
        };
        if text.is_empty() { Ok(()) } else { print(&text).map(drop) }
    }

    /// Reports a failure on standard error: as JSON when that was asked for.
    pub(super) fn error(&self, error: &Error) {
        let error = self.host.get().map_or_else(|| error.clone(), |host| doctor::explain(host, error.clone()));
        if self.is_json() {
            let error = error.written(api::as_command);
            let text = json(serde_json::to_string_pretty(&error)).unwrap_or_else(|_| error.to_string());
            err("", &text);
            return;
        }
        say(Kind::Error, &error.message);
        // Foreign tools' words are indented, so that they are not taken for ours.
        if let Some(cause) = &error.cause {
            err("  why: ", &cause.replace('\n', "\n       "));
        }
        for hint in &error.hints {
            err(&format!("{CYAN}hint:{RESET} "), &api::as_command(hint));
        }
        if error.code == Code::Internal {
            err("", "This is a bug in vmprov: please report it with the output of the same command with -vv.");
        }
    }
}

/// Prints to standard output; whoever has read enough of it ends the program quietly.
pub(super) fn line(text: &str) -> Result<()> {
    print(&plain(text)).map(drop)
}

/// Prints to standard output, unless its reader has gone. The text is [`plain`] already.
fn print(text: &str) -> Result<ControlFlow<()>> {
    let mut stdout = std::io::stdout().lock();
    match writeln!(stdout, "{}", text.trim_end_matches('\n')).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(ControlFlow::Break(())),
        Err(error) => Err(Error::io("write to standard output", &error)),
        Ok(()) => Ok(ControlFlow::Continue(())),
    }
}

/// What a line on standard error is.
#[derive(Debug, Clone, Copy)]
pub(super) enum Kind {
    Error,
    Warning,
    Note,
}

const RED: &str = "\x1b[1;31m";
const YELLOW: &str = "\x1b[1;33m";
const CYAN: &str = "\x1b[36m";
const RESET: &str = "\x1b[0m";

impl Kind {
    const fn parts(self) -> (&'static str, &'static str) {
        match self {
            Self::Error => (RED, "error"),
            Self::Warning => (YELLOW, "warning"),
            Self::Note => (CYAN, "note"),
        }
    }
}

/// Says something on standard error.
pub(super) fn say(kind: Kind, text: &str) {
    let (colour, word) = kind.parts();
    err(&format!("{colour}{word}:{RESET} "), text);
}

/// Says something on standard error as JSON: `{"warning": "…"}`.
pub(super) fn say_json(kind: Kind, text: &str) {
    let (_, word) = kind.parts();
    err("", &escape_json(serde_json::json!({word: text}).to_string()));
}

/// Writes a line to standard error, in colour where that is a terminal that wants it (`NO_COLOR`, `TERM`). Only the
/// prefix, which is vmprov's own, may steer the terminal.
fn err(prefix: &str, text: &str) {
    // Nobody is left to be told that it failed.
    let _ = writeln!(anstream::stderr().lock(), "{prefix}{}", plain(text));
}

/// Prints clap's own text: the help that was asked for, or what is wrong with the arguments.
pub(super) fn help(error: &clap::Error) -> ExitCode {
    // A closed pipe is the reader's choice.
    let _ = error.print();
    ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(Code::InvalidInput.exit_status()))
}

/// Ends the program at once, saying why.
#[expect(clippy::exit, reason = "the one way out for someone who does not want to wait for the undo")]
pub(super) fn last_words(text: &str) {
    say(Kind::Error, text);
    std::process::exit(Code::Interrupted.exit_status().into());
}

/// Text from elsewhere without what would steer a terminal.
pub(super) fn plain(text: &str) -> String {
    let show = |c: char| if c.is_control() && c != '\n' { c.escape_default().to_string() } else { c.to_string() };
    text.chars().map(show).collect()
}

/// JSON without what would steer a terminal.
fn json(text: serde_json::Result<String>) -> Result<String> {
    text.map(escape_json).map_err(|error| Error::internal("cannot write JSON").because(error))
}

/// Escapes the control characters that JSON allows in a string as they are, DEL and U+0080 to U+009F. Outside of strings there
/// are only line breaks.
fn escape_json(text: String) -> String {
    let steers = |c: char| c.is_control() && c != '\n';
    if !text.contains(steers) {
        return text;
    }
    let show = |c: char| if steers(c) { format!("\\u{:04x}", u32::from(c)) } else { c.to_string() };
    text.chars().map(show).collect()
}
