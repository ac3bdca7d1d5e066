//! Commands on virsh's standard input, because every user of the machine can read the arguments of a process.
//!
//! A virsh without a command in its arguments reads commands with readline (11.3.0). readline prints each line before
//! it is run, takes control characters and non-ASCII bytes for keys, and writes the lines to a history file. The exit
//! status is 0 even if a command fails. So the commands are one line of printable ASCII, and marks separate their
//! output and errors.

use uuid::Uuid;

use super::{Batch, Virsh, complaints, failure};
use crate::{
    error::{Error, Result},
    tools::{Tool, scratch::Scratch},
};

/// Commands for one virsh, which reads them from its standard input.
pub(super) struct Script {
    line: String,
    mark: String,
    commands: usize,
    /// The commands' names, for logs and errors.
    verbs: String,
    /// The new text for commands with `--edit`.
    content: Option<Scratch>,
}

impl Script {
    pub(super) fn new<'a>(commands: &[impl AsRef<[&'a str]>]) -> Result<Self> {
        let words = || commands.iter().flat_map(AsRef::as_ref);
        if !words().all(|word| word.bytes().all(|byte| matches!(byte, b' '..=b'~'))) {
            return Err(Error::internal("cannot pass anything but printable ASCII to virsh on standard input"));
        }
        // No output can contain a mark that did not exist before the call. The line is printed too, so it contains the
        // mark in two parts.
        let mark = Uuid::new_v4().simple().to_string();
        let (first, second) = mark.split_at(mark.len() / 2);
        let separator = format!("; echo '{first}'{second}; echo --err '{first}'{second}");
        let joined = commands.iter().map(|command| shell_words::join(command.as_ref()));
        let line = joined.fold(separator[2..].to_owned(), |line, command| format!("{line}; {command}{separator}"));
        let verbs: Vec<_> = commands.iter().filter_map(|command| command.as_ref().first().copied()).collect();
        Ok(Self { line, commands: commands.len(), verbs: verbs.join(", "), mark, content: None })
    }

    /// Sets the text for commands with `--edit`, which may contain any lines and characters.
    pub(super) fn editing(self, text: &str) -> Result<Self> {
        Ok(Self { content: Some(Scratch::memory(text.as_bytes())?), ..self })
    }

    /// Passes the commands to `virsh`, a call without a command.
    fn given_to(&self, virsh: Tool) -> Tool {
        // An earlier call has already started a session's libvirtd, so none inherits this cache folder.
        let virsh = virsh.env("XDG_CACHE_HOME", "/dev/null").env("INPUTRC", "/dev/null");
        let virsh = virsh.stdin(format!("{}\n", self.line)).about(self.verbs.as_str());
        match &self.content {
            Some(content) => virsh.env("VISUAL", format!("cp {}", content.path())),
            None => virsh,
        }
    }

    /// Returns the output and the errors of each command; none if virsh exited before the last command had ended.
    fn parse(&self, stdout: &str, stderr: &str) -> Option<Batch> {
        let sections: Vec<_> = stdout.split(&self.mark).map(str::to_owned).collect();
        let lines: Vec<_> = stderr.lines().collect();
        let groups: Vec<_> =
            lines.split(|line| line.trim_start_matches(['\u{7}']) == format!("error: {}", self.mark)).collect();
        // Before the first mark come the line itself and connection errors. After the last one comes the error that
        // virsh could not write a history file.
        let all = self.commands + 2;
        (sections.len() == all && groups.len() == all).then(|| Batch {
            sections: sections[1..all - 1].to_vec(),
            complaints: groups[..all - 1].iter().flat_map(|lines| complaints(&lines.join("\n"))).collect(),
        })
    }
}

impl Virsh {
    /// Runs commands in one virsh, which continues after a command that failed. `changes` means that they change
    /// something, so a dry run does not run them.
    pub(super) fn run_script(&self, what: &str, script: &Script, changes: bool) -> Result<Batch> {
        let tool = script.given_to(self.tool(&[]));
        let tool = if changes { tool.changes() } else { tool };
        let Some(finished) = tool.run(&self.runner)? else {
            return Err(Error::internal("cannot run a script in a dry run"));
        };
        let batch = script.parse(&String::from_utf8_lossy(&finished.stdout), &finished.stderr);
        match batch.filter(|_| finished.status.success()) {
            Some(batch) => Ok(batch),
            None => Err(failure::explain(what, &self.uri, &finished.stderr.replace(&script.mark, "…"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn script() -> Script {
        Script { mark: "ab".to_owned(), ..Script::new(&[["desc", "it's"], ["start", "x"]]).unwrap() }
    }

    #[test]
    fn output_and_errors_are_assigned_to_their_commands() {
        let script = script();
        let stdout = "virsh # echo 'a'b; desc 'it'\\''s'; …\nabone\nabtwoabvirsh # \n";
        let stderr =
            "error: ab\nerror: no\nerror: ab\nerror: ab\n\u{7}error: Failed to create '/dev/null/libvirt/virsh'\n";
        let batch = script.parse(stdout, stderr).unwrap();
        assert_eq!(batch.sections, ["one\n", "two"]);
        assert_eq!(batch.complaints, ["error: no"]);
        assert!(script.parse("virsh # echo\nabone\n", "error: ab\nerror: ab\n").is_none(), "a command had not ended");
    }

    #[test]
    fn the_line_contains_no_whole_mark_and_no_readline_keys() {
        let script = Script::new(&[["desc", "it's"]]).unwrap();
        assert!(
            script.line.contains(r"; desc 'it'\''s'; echo '") && !script.line.contains(&script.mark),
            "{}",
            script.line
        );
        for word in ["a\nb", "a\tb", "a\u{7f}", "é"] {
            assert!(Script::new(&[["desc", word]]).is_err(), "{word:?}");
        }
    }
}
