//! Commands on virsh's standard input: every user of the machine may read a process's arguments.
//!
//! A virsh without a command of its own reads them with readline (11.3.0). That prints each line again before it is run, takes
//! control characters and bytes beyond ASCII for keys, and writes the lines to a history file. The exit status is 0 whatever
//! fails. So the commands are one line of printable ASCII, and marks separate what each prints and complains of.

use uuid::Uuid;

use super::{Batch, Virsh, complaints, failure};
use crate::{
    error::{Error, Result},
    tools::{Tool, scratch::Scratch},
};

/// Commands that are run by one virsh, which reads them from its standard input.
pub(super) struct Script {
    line: String,
    mark: String,
    commands: usize,
    /// The commands' verbs, for logs and errors.
    verbs: String,
    /// What commands with `--edit` have edited.
    content: Option<Scratch>,
}

impl Script {
    pub(super) fn new<'a>(commands: &[impl AsRef<[&'a str]>]) -> Result<Self> {
        let words = || commands.iter().flat_map(AsRef::as_ref);
        if !words().all(|word| word.bytes().all(|byte| matches!(byte, b' '..=b'~'))) {
            return Err(Error::internal("virsh reads printable ASCII only from its standard input"));
        }
        // No output can hold a mark that did not exist before the call. The line, which is printed too, has it in two parts.
        let mark = Uuid::new_v4().simple().to_string();
        let (first, second) = mark.split_at(mark.len() / 2);
        let separator = format!("; echo '{first}'{second}; echo --err '{first}'{second}");
        let joined = commands.iter().map(|command| shell_words::join(command.as_ref()));
        let line = joined.fold(separator[2..].to_owned(), |line, command| format!("{line}; {command}{separator}"));
        let verbs: Vec<_> = commands.iter().filter_map(|command| command.as_ref().first().copied()).collect();
        Ok(Self { line, commands: commands.len(), verbs: verbs.join(", "), mark, content: None })
    }

    /// Gives commands with `--edit` their text, which may have any lines and characters.
    pub(super) fn editing(self, text: &str) -> Result<Self> {
        Ok(Self { content: Some(Scratch::memory(text.as_bytes())?), ..self })
    }

    /// Makes `virsh`, which has no command yet, read these.
    fn given_to(&self, virsh: Tool) -> Tool {
        // What asked libvirt before has started it where it starts by itself, so none inherits this cache folder.
        let virsh = virsh.env("XDG_CACHE_HOME", "/dev/null").env("INPUTRC", "/dev/null");
        let virsh = virsh.stdin(format!("{}\n", self.line)).about(self.verbs.as_str());
        match &self.content {
            Some(content) => virsh.env("VISUAL", format!("cp {}", content.path())),
            None => virsh,
        }
    }

    /// What each command printed and complained of; none where virsh ended before the last one did.
    fn answers(&self, stdout: &str, stderr: &str) -> Option<Batch> {
        let sections: Vec<_> = stdout.split(&self.mark).map(str::to_owned).collect();
        let lines: Vec<_> = stderr.lines().collect();
        let groups: Vec<_> =
            lines.split(|line| line.trim_start_matches(['\u{7}']) == format!("error: {}", self.mark)).collect();
        // Before the first mark is the line itself, or why there is no connection; behind the last one is that virsh could
        // not write a history file.
        let all = self.commands + 2;
        (sections.len() == all && groups.len() == all).then(|| Batch {
            sections: sections[1..all - 1].to_vec(),
            complaints: groups[..all - 1].iter().flat_map(|lines| complaints(&lines.join("\n"))).collect(),
        })
    }
}

impl Virsh {
    /// Runs commands in one virsh, which goes on after one that failed. `changes`: they change something; nothing is run in
    /// a dry run then.
    pub(super) fn run_script(&self, what: &str, script: &Script, changes: bool) -> Result<Batch> {
        let tool = script.given_to(self.tool(&[]));
        let tool = if changes { tool.changes() } else { tool };
        let Some(finished) = tool.run(&self.runner)? else {
            return Err(Error::internal("a dry run has no use for a script"));
        };
        let answers = script.answers(&String::from_utf8_lossy(&finished.stdout), &finished.stderr);
        match answers.filter(|_| finished.status.success()) {
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
    fn what_each_command_says_is_told_from_what_the_others_say() {
        let script = script();
        let stdout = "virsh # echo 'a'b; desc 'it'\\''s'; …\nabone\nabtwoabvirsh # \n";
        let stderr =
            "error: ab\nerror: no\nerror: ab\nerror: ab\n\u{7}error: Failed to create '/dev/null/libvirt/virsh'\n";
        let batch = script.answers(stdout, stderr).unwrap();
        assert_eq!(batch.sections, ["one\n", "two"]);
        assert_eq!(batch.complaints, ["error: no"]);
        assert!(script.answers("virsh # echo\nabone\n", "error: ab\nerror: ab\n").is_none(), "it has not ended");
    }

    #[test]
    fn the_line_has_no_mark_in_one_piece_and_nothing_that_readline_takes_for_a_key() {
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
