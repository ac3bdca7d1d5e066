//! Printing: data goes to standard output, everything else to standard error.

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

/// Output format of data
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(super) enum Format {
    /// Human-readable
    #[default]
    Table,
    /// JSON, as in the HTTP API
    Json,
    /// The same data as YAML
    Yaml,
    /// Names only, one per line
    Name,
}

/// A report that can be printed.
pub(super) trait Show: Serialize {
    /// Returns the human-readable form.
    fn table(&self) -> String;
    /// Returns the names only.
    fn names(&self) -> Vec<String>;
}

/// The value of `-o`: a format, or a file for binary output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Target {
    Format(Format),
    File(Utf8PathBuf),
}

/// Parses the value of `-o`. A value with a dot or a slash is a file, and `-` is standard output.
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
    /// The host that the commands work on, once it is known.
    host: OnceCell<Host>,
}

impl Output {
    pub(super) fn new(target: Target) -> Self {
        match target {
            Target::Format(format) => Self { format, file: None, host: OnceCell::new() },
            Target::File(file) => Self { format: Format::default(), file: Some(file), host: OnceCell::new() },
        }
    }

    /// Returns the file to write to.
    pub(super) fn file(&self) -> Option<&Utf8Path> {
        self.file.as_deref()
    }

    /// Prints one report of a stream as one line: human-readable or compact JSON. Breaks when the reader has closed the
    /// pipe.
    pub(super) fn stream_line(
        &self,
        report: &impl Serialize,
        human_readable: impl FnOnce() -> String,
    ) -> Result<ControlFlow<()>> {
        print(&match self.format {
            Format::Json | Format::Yaml => json(serde_json::to_string(report))?,
            Format::Table | Format::Name => plain(&human_readable()),
        })
    }

    /// Makes later errors include what the checks of `doctor` find out about their cause.
    pub(super) fn diagnose_errors_on(&self, host: &Host) {
        self.host.get_or_init(|| host.clone());
    }

    pub(super) const fn is_table(&self) -> bool {
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
            // The YAML library escapes control characters itself.
            Format::Yaml => {
                yaml_serde::to_string(report).map_err(|error| Error::internal("cannot write YAML").because(error))?
            }
            Format::Name => plain(&report.names().join("\n")),
        };
        if text.is_empty() { Ok(()) } else { print(&text).map(drop) }
    }

    /// Prints an error on standard error, as JSON with `-o json`.
    pub(super) fn error(&self, error: &Error) {
        let error = self.host.get().map_or_else(|| error.clone(), |host| doctor::explain(host, error.clone()));
        if self.is_json() {
            let error = error.written(api::as_command);
            let text = json(serde_json::to_string_pretty(&error)).unwrap_or_else(|_| error.to_string());
            err("", &text);
            return;
        }
        say(Kind::Error, &error.message);
        // The output of other programs is indented to tell it apart from vmprov's own.
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

/// Prints a line to standard output. It is not an error if the reader has closed the pipe.
pub(super) fn line(text: &str) -> Result<()> {
    print(&plain(text)).map(drop)
}

/// Prints to standard output, and breaks if the reader has closed the pipe. The text is already [`plain`].
fn print(text: &str) -> Result<ControlFlow<()>> {
    let mut stdout = std::io::stdout().lock();
    match writeln!(stdout, "{}", text.trim_end_matches('\n')).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(ControlFlow::Break(())),
        Err(error) => Err(Error::io("write to standard output", &error)),
        Ok(()) => Ok(ControlFlow::Continue(())),
    }
}

/// The kind of a line on standard error.
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

/// Prints a line on standard error.
pub(super) fn say(kind: Kind, text: &str) {
    let (color, word) = kind.parts();
    err(&format!("{color}{word}:{RESET} "), text);
}

/// Prints a line on standard error as JSON: `{"warning": "…"}`.
pub(super) fn say_json(kind: Kind, text: &str) {
    let (_, word) = kind.parts();
    err("", &escape_json(serde_json::json!({word: text}).to_string()));
}

/// Writes a line to standard error, in color if it is a terminal and `NO_COLOR` and `TERM` allow it. Only the prefix,
/// which is vmprov's own, may contain escape sequences.
fn err(prefix: &str, text: &str) {
    // A failure cannot be reported: this is where failures are reported.
    let _ = writeln!(anstream::stderr().lock(), "{prefix}{}", plain(text));
}

/// Prints clap's own text: the requested help, or what is wrong with the arguments.
pub(super) fn help(error: &clap::Error) -> ExitCode {
    // It is not an error if the reader has closed the pipe.
    let _ = error.print();
    ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(Code::InvalidInput.exit_status()))
}

/// Prints an error and ends the program at once.
#[expect(clippy::exit, reason = "the user has interrupted the rollback, too")]
pub(super) fn abort(text: &str) {
    say(Kind::Error, text);
    std::process::exit(Code::Interrupted.exit_status().into());
}

/// Escapes the control characters of a text that vmprov did not write, except line breaks.
pub(super) fn plain(text: &str) -> String {
    let show = |c: char| if c.is_control() && c != '\n' { c.escape_default().to_string() } else { c.to_string() };
    text.chars().map(show).collect()
}

/// Returns JSON with its control characters escaped.
fn json(text: serde_json::Result<String>) -> Result<String> {
    text.map(escape_json).map_err(|error| Error::internal("cannot write JSON").because(error))
}

/// Escapes the control characters that JSON allows unescaped in a string: DEL and U+0080 to U+009F. Outside of strings,
/// JSON contains no control characters but line breaks.
fn escape_json(text: String) -> String {
    let is_escaped = |c: char| c.is_control() && c != '\n';
    if !text.contains(is_escaped) {
        return text;
    }
    let show = |c: char| if is_escaped(c) { format!("\\u{:04x}", u32::from(c)) } else { c.to_string() };
    text.chars().map(show).collect()
}
