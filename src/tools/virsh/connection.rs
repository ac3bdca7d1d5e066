//! The processes of virsh that stay connected to libvirt, so that a call costs neither a process nor a connection.

use std::{
    fmt,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use super::{
    Virsh, failure,
    script::{Batch, Script},
};
use crate::{
    error::{Error, Result},
    tools::{
        Tool,
        scratch::Scratch,
        session::{Response, Session},
    },
};

/// The maximum number of idle sessions. More are needed only while more calls run at once.
const MAX_IDLE: usize = 4;

/// How long a session may be idle. A firewall may forget a remote connection of which it saw no packet for minutes, and
/// a call would then wait until its limit.
const IDLE_LIMIT: Duration = Duration::from_mins(1);

/// The maximum length in bytes of a script that a session reads. virsh reads its standard input byte by byte (2.5 µs
/// each), so a longer one takes longer than a new process, which gets it as an argument.
const MAX_INPUT: usize = 8 << 10;

/// The idle sessions of one connection.
#[derive(Default)]
pub(super) struct Sessions(Mutex<Vec<Session>>);

impl Sessions {
    /// Returns a session that can be used.
    fn take(&self) -> Option<Session> {
        let pop = || self.0.lock().unwrap_or_else(PoisonError::into_inner).pop();
        std::iter::from_fn(pop).find(|session| session.is_usable(IDLE_LIMIT))
    }

    /// Keeps a session for later calls.
    fn put(&self, session: Session) {
        let mut idle = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < MAX_IDLE {
            idle.push(session);
        }
    }
}

impl fmt::Debug for Sessions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sessions").finish_non_exhaustive()
    }
}

impl Virsh {
    /// Runs one command. `call` is how it would be run in a process of its own; a session gets the content of
    /// `/dev/stdin` in a file. Returns its output and error output, or `None` in a dry run.
    pub(super) fn run_command(&self, what: &str, call: &Tool) -> Result<Option<Batch>> {
        let file = call.stdin.as_deref().map(Scratch::memory).transpose()?;
        let with_file = |word: &'_ String| match &file {
            Some(file) if word == "/dev/stdin" => file.path().to_string(),
            _ => word.clone(),
        };
        let words: Vec<_> = call.args[self.tool(&[]).args.len()..].iter().map(with_file).collect();
        let script = Script::new(&[words.iter().map(String::as_str).collect::<Vec<_>>()]);
        let Some(input) = script.as_input() else { return self.run_in_process(call) };
        let mut batch = self.run_in_session(what, call, &script, &input)?;
        if let (Some(batch), Some(file)) = (&mut batch, &file) {
            // The error of a call that the user can repeat.
            batch.errors[0] = batch.errors[0].replace(file.path().as_str(), "/dev/stdin");
        }
        Ok(batch)
    }

    /// Runs one command in a process of its own, such as a long transfer, which would occupy a session.
    pub(super) fn run_in_process(&self, call: &Tool) -> Result<Option<Batch>> {
        let Some(finished) = call.run(&self.runner)? else { return Ok(None) };
        let errors = match finished.status.success() {
            true => String::new(),
            false if finished.stderr.trim().is_empty() => "error: ".to_owned(),
            false => finished.stderr.clone(),
        };
        Ok(Some(Batch { sections: vec![String::from_utf8_lossy(&finished.stdout).into_owned()], errors: vec![errors] }))
    }

    /// Runs commands whose arguments are confidential. `changes` means that they change something.
    pub(super) fn run_script(&self, what: &str, script: &Script, changes: bool) -> Result<Batch> {
        let Some(input) = script.as_input() else {
            return Err(Error::internal("cannot pass anything but printable ASCII to virsh on standard input"));
        };
        let call = self.tool(&[]).stdin(input.as_str()).about(script.verbs());
        let call = if changes { call.changes() } else { call };
        let batch = self.run_in_session(what, &call, script, &input)?;
        batch.ok_or_else(|| Error::internal("cannot run a script in a dry run"))
    }

    /// Runs commands that change nothing, in a session or, if they are long, as an argument of a process.
    pub(super) fn run_reads(&self, what: &str, script: &Script) -> Result<Batch> {
        let Some(input) = script.as_input().filter(|input| input.len() <= MAX_INPUT) else {
            let finished = self.tool(&[script.as_argument()]).read(&self.runner)?;
            return self.parsed(what, script, &finished.stdout, finished.stderr.as_bytes());
        };
        let batch = self.run_in_session(what, &self.tool(&[script.text()]), script, &input)?;
        batch.ok_or_else(|| Error::internal("cannot read the result of a call that was not run"))
    }

    /// Runs commands in the editor mode of virsh, whose `--edit` replaces a text by `text`.
    pub(super) fn run_edits(&self, what: &str, script: &Script, text: &str) -> Result<Batch> {
        let (Some(input), file) = (script.as_input(), Scratch::memory(text.as_bytes())?) else {
            return Err(Error::internal("cannot pass anything but printable ASCII to virsh on standard input"));
        };
        let call = self.interactive().env("VISUAL", format!("cp {}", file.path()));
        let Some(finished) = call.stdin(input).about(script.verbs()).changes().run(&self.runner)? else {
            return Err(Error::internal("cannot run a script in a dry run"));
        };
        if !finished.status.success() {
            return Err(failure::explain(what, &self.uri, &script.without_marks(finished.stderr.as_bytes())));
        }
        self.parsed(what, script, &finished.stdout, finished.stderr.as_bytes())
    }

    fn run_in_session(&self, what: &str, call: &Tool, script: &Script, input: &str) -> Result<Option<Batch>> {
        let exchange = || {
            loop {
                let idle = self.sessions.take();
                let was_idle = idle.is_some();
                let mut session = idle.map_or_else(|| self.open_session(), Ok)?;
                let has_ended = |response: &Response| script.has_ended(&response.stdout, &response.stderr);
                let response = session.send(call, input, &self.runner, has_ended)?;
                if !response.ended {
                    self.sessions.put(session);
                } else if was_idle && !script.has_begun(&response.stderr) {
                    continue; // it ended after it was taken, before it read the line
                }
                return self.parsed(what, script, &response.stdout, &response.stderr);
            }
        };
        call.perform(&self.runner, exchange, |batch| batch.errors.len() > 1 || batch.failure().is_none())
    }

    /// Starts a virsh that reads commands from its standard input.
    fn open_session(&self) -> Result<Session> {
        if self.is_session() {
            // A user's own libvirtd is started by its first client, and keeps that client's environment.
            self.tool(&["uri"]).read(&self.runner)?;
        }
        self.interactive().open_session()
    }

    /// Returns a call of a virsh that reads commands from its standard input.
    fn interactive(&self) -> Tool {
        // No history file is written, no configuration of the user is read, and no escape sequence is printed.
        self.tool(&[]).env("XDG_CACHE_HOME", "/dev/null").env("INPUTRC", "/dev/null").env("TERM", "dumb")
    }

    fn parsed(&self, what: &str, script: &Script, stdout: &[u8], stderr: &[u8]) -> Result<Batch> {
        let batch = script.parse(stdout, stderr);
        batch.ok_or_else(|| failure::explain(what, &self.uri, &script.without_marks(stderr)))
    }
}
