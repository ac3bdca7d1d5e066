//! Arguments that cannot be parsed: reported like every other error.

use std::{error::Error as _, process::ExitCode};

use clap::{CommandFactory, error::ErrorKind};

use super::{
    Cli,
    output::{self, Format, Output, Target},
};
use crate::error::{Code, Error};

/// Reports arguments that cannot be parsed, or prints the requested help.
pub(super) fn refuse(error: &clap::Error) -> ExitCode {
    if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
        return output::help(error);
    }
    let json = wants_json(std::env::args().skip(1));
    let output = Output::new(Target::Format(if json { Format::Json } else { Format::Table }));
    let ours = error.source().and_then(|source| source.downcast_ref::<Error>());
    match ours {
        Some(ours) => output.error(ours),
        None if json || error.kind() == ErrorKind::MissingSubcommand => output.error(&described(error)),
        None => return output::help(error),
    }
    ExitCode::from(Code::InvalidInput.exit_status())
}

/// Returns whether a command line that cannot be parsed requests JSON. The last format counts, as in valid ones.
fn wants_json(args: impl Iterator<Item = String>) -> bool {
    let mut json = false;
    let mut args = args.take_while(|arg| arg != "--");
    while let Some(arg) = args.next() {
        let format = match arg.as_str() {
            "-o" | "--output" => args.next(),
            // Short flags can be combined: -qo json, -vojson.
            short if short.starts_with('-') && !short.starts_with("--") => {
                let flags = short.trim_start_matches(['-', 'q', 'v']);
                match flags.strip_prefix('o').map(|format| format.trim_start_matches('=')) {
                    Some("") => args.next(),
                    format => format.map(str::to_owned),
                }
            }
            long => long.strip_prefix("--output=").map(str::to_owned),
        };
        json = format.map_or(json, |format| format == "json");
    }
    json
}

/// Converts clap's error. The first paragraph of its text is the message, the others are the hint.
fn described(error: &clap::Error) -> Error {
    let text = error.render().to_string();
    let joined = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let usage = text.lines().find_map(|line| line.strip_prefix("Usage: ")).unwrap_or("vmprov");
    if matches!(error.kind(), ErrorKind::MissingSubcommand | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand) {
        // clap's own text is the whole help, or a list that includes hidden commands.
        let words = usage.split_whitespace().filter(|word| !word.starts_with(['[', '<', '-']));
        let root = Cli::command();
        let given = words.skip(1).try_fold(&root, |command, word| command.find_subcommand(word));
        let visible = given.unwrap_or(&root).get_subcommands().filter(|command| !command.is_hide_set());
        let names: Vec<_> = visible.map(clap::Command::get_name).collect();
        return Error::invalid("a command is missing").hint(format!("Usage: {usage}; commands: {}", names.join(", ")));
    }
    let text = text.trim_start_matches("error: ");
    let (first, rest) = text.split_once('\n').unwrap_or((text, ""));
    // The list of missing arguments is part of the message.
    let missing: Vec<_> = rest.lines().take_while(|line| line.starts_with("  ")).map(str::trim).collect();
    let message = [&[first], &missing[..]].concat().join(" ");
    let rest = rest.lines().skip(missing.len()).collect::<Vec<_>>().join("\n");
    Error::invalid(joined(&message)).hint(joined(&rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_recognized_on_a_line_that_cannot_be_parsed() {
        let wants = |line: &str| wants_json(line.split(' ').map(str::to_owned));
        for line in
            ["-o json", "-ojson", "-o=json", "--output json", "--output=json", "x -qo json y", "-o yaml -vojson"]
        {
            assert!(wants(line), "{line}");
        }
        for line in ["x", "json", "-o yaml", "-ojson -o table", "x -- -o json", "--comment -ojsonx", "-o"] {
            assert!(!wants(line), "{line}");
        }
    }
}
