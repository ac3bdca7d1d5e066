//! Commands for one virsh: a line that it reads from its standard input or gets as an argument.
//!
//! On standard input, virsh reads with readline (11.3.0). readline prints each line before it is run, ends a command at
//! a newline even inside quotes, takes control characters and non-ASCII bytes for keys, and writes the lines to a
//! history file. A command that fails does not end virsh. So the commands are one line of printable ASCII, and marks
//! separate their output and errors.

use uuid::Uuid;

use super::complaints;

/// The length in bytes of a mark. A text that contains it by chance is as unlikely as guessing a 64-bit number.
const MARK: usize = 16;

/// Lines of virsh about its connection. A command that fails because of it says so itself.
const ABOUT_CONNECTION: [&str; 2] = ["error: Disconnected from ", "error: Reconnected to the hypervisor"];

/// Commands that virsh runs one after another. It continues after a command that failed.
pub(super) struct Script {
    line: String,
    mark: String,
    /// The commands without marks, for logs and errors.
    text: String,
    /// The commands' names.
    verbs: String,
    commands: usize,
}

/// The output and the error output of each command of a script.
#[derive(Debug)]
pub(super) struct Batch {
    /// What each command printed.
    pub(super) sections: Vec<String>,
    /// The error output of each command; empty if it succeeded.
    pub(super) errors: Vec<String>,
}

impl Script {
    pub(super) fn new<'a>(commands: &[impl AsRef<[&'a str]>]) -> Self {
        // No output can contain a mark that did not exist before the call. virsh prints the line too, so the line
        // contains the mark in two parts.
        let mark = Uuid::new_v4().simple().to_string()[..MARK].to_owned();
        let (first, second) = mark.split_at(MARK / 2);
        let marks = |end: &str| format!("echo --err '{first}'{second}{end}; echo '{first}'{second}{end}");
        let joined: Vec<_> = commands.iter().map(|command| shell_words::join(command.as_ref())).collect();
        let separator = format!("; {}; ", marks(""));
        let line = format!("{}; {}; {}", marks(""), joined.join(&separator), marks(END));
        let verbs: Vec<_> = commands.iter().filter_map(|command| command.as_ref().first().copied()).collect();
        Self { line, mark, text: joined.join("; "), verbs: verbs.join(", "), commands: commands.len() }
    }

    /// Returns the commands as an argument of virsh.
    pub(super) fn as_argument(&self) -> &str {
        &self.line
    }

    /// Returns the commands as a line of standard input. None if they contain anything but printable ASCII, because
    /// virsh would take it for the end of the line or for keys.
    pub(super) fn as_input(&self) -> Option<String> {
        self.line.bytes().all(|byte| matches!(byte, b' '..=b'~')).then(|| format!("{}\n", self.line))
    }

    /// Returns the commands as text for logs and errors.
    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// Returns the commands' names, for logs and errors about confidential commands.
    pub(super) fn verbs(&self) -> &str {
        &self.verbs
    }

    /// Returns whether virsh has started to run the commands.
    pub(super) fn has_begun(&self, stderr: &[u8]) -> bool {
        contains(stderr, self.mark.as_bytes())
    }

    /// Returns whether all commands have ended.
    pub(super) fn has_ended(&self, stdout: &[u8], stderr: &[u8]) -> bool {
        let mark = format!("{}{END}", self.mark);
        [stdout, stderr].iter().all(|stream| contains(tail(stream), mark.as_bytes()))
    }

    /// Returns the output and the errors of each command; none if virsh exited before the last command had ended.
    pub(super) fn parse(&self, stdout: &[u8], stderr: &[u8]) -> Option<Batch> {
        let (stdout, stderr) = (String::from_utf8_lossy(stdout), String::from_utf8_lossy(stderr));
        let sections: Vec<_> = stdout.split(&self.mark).map(str::to_owned).collect();
        let lines: Vec<_> = stderr.lines().map(|line| line.trim_start_matches('\u{7}')).collect();
        let mark = format!("error: {}", self.mark);
        let groups: Vec<_> = lines.split(|line| line.strip_suffix(END).unwrap_or(line) == mark).collect();
        // Before the first mark is the line itself, and after the last one the prompt.
        let all = self.commands + 2;
        let is_complete = sections.len() == all && groups.len() == all && sections[all - 1].starts_with(END);
        is_complete.then(|| Batch {
            sections: sections[1..all - 1].to_vec(),
            errors: groups[1..all - 1].iter().map(|lines| errors(lines)).collect(),
        })
    }

    /// Replaces the marks in what virsh printed, for an error message.
    pub(super) fn without_marks(&self, stderr: &[u8]) -> String {
        let text = String::from_utf8_lossy(stderr);
        let lines = text.lines().filter(|line| !line.contains(&self.mark));
        lines.flat_map(|line| [line, "\n"]).collect()
    }
}

impl Batch {
    /// Returns the errors of all commands.
    pub(super) fn complaints(&self) -> Vec<String> {
        self.errors.iter().flat_map(|errors| complaints(errors)).collect()
    }

    /// Returns the errors of the first command that failed.
    pub(super) fn failure(&self) -> Option<&str> {
        self.errors.iter().map(String::as_str).find(|errors| !errors.is_empty())
    }
}

/// What follows the last mark.
const END: &str = ".";

/// Returns the end of a stream, which a mark and a prompt fit into.
fn tail(stream: &[u8]) -> &[u8] {
    &stream[stream.len().saturating_sub(4 * MARK)..]
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}

/// Returns the error output of a command; empty if it contains no error, such as only warnings of the library.
fn errors(lines: &[&str]) -> String {
    let lines = lines.iter().filter(|line| !ABOUT_CONNECTION.iter().any(|about| line.starts_with(about)));
    let lines: Vec<_> = lines.copied().collect();
    if lines.iter().any(|line| line.starts_with("error:")) { lines.join("\n") } else { String::new() }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn script() -> Script {
        Script { mark: "ab".to_owned(), ..Script::new(&[["desc", "it's"], ["start", "x"]]) }
    }

    #[test]
    fn output_and_errors_are_assigned_to_their_commands() {
        let script = script();
        let stdout = b"virsh # echo 'a'b; desc 'it'\\''s'; ...\nabone\nabtwoab.virsh # ";
        let stderr = b"error: ab\nwarning: x\nerror: ab\n\x07error: no\nwhy\nerror: ab.\n";
        assert!(script.has_begun(stderr) && script.has_ended(stdout, stderr));
        let batch = script.parse(stdout, stderr).unwrap();
        assert_eq!(batch.sections, ["one\n", "two"]);
        assert_eq!(batch.errors, ["", "error: no\nwhy"]);
        let (stdout, stderr) = (b"virsh # echo\nabone\nab", b"error: ab\nerror: no\nerror: ab\n");
        assert!(!script.has_ended(stdout, stderr));
        assert!(script.parse(stdout, stderr).is_none(), "a command had not ended");
        assert_eq!(script.without_marks(stderr), "error: no\n");
    }

    #[test]
    fn a_lost_connection_is_no_error_of_a_command_that_succeeded() {
        let stderr = b"error: ab\nerror: Disconnected from qemu:///system due to end of file\n\
                       error: Reconnected to the hypervisor\nerror: ab\nerror: ab.\n";
        assert_eq!(script().parse(b"abababab.", stderr).map(|batch| batch.errors), None);
        assert_eq!(script().parse(b"ababab.", stderr).unwrap().errors, ["", ""]);
    }

    proptest! {
        /// A newline ends a command, whatever quotes it. Other control characters are keys.
        #[test]
        fn an_input_is_one_line_of_printable_ascii(words in prop::collection::vec("(?s).{0,12}", 1..5)) {
            let words: Vec<_> = words.iter().map(String::as_str).collect();
            let script = Script::new(std::slice::from_ref(&words));
            let is_printable = words.iter().all(|word| word.bytes().all(|byte| matches!(byte, b' '..=b'~')));
            let input = script.as_input();
            prop_assert_eq!(input.is_some(), is_printable);
            if let Some(input) = input {
                prop_assert_eq!(input.find('\n'), Some(input.len() - 1));
                prop_assert!(!input.contains(&script.mark), "{}", input);
                prop_assert_eq!(&shell_words::split(script.text()).unwrap(), &words);
            }
        }
    }
}
