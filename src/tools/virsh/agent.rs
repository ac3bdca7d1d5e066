//! The guest agent: commands run and files written through `qemu-agent-command` (QEMU's `qga/qapi-schema.json`).

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Value, json};
use uuid::Uuid;

use super::{Virsh, failure, script::Script};
use crate::error::{Code, Error, Result};

/// How long the agent may take to answer, in seconds.
const PATIENCE: &str = "10";

/// The most bytes that are read or written in one call: virsh reads its standard input byte by byte.
const MOST: usize = 48 << 10;

/// Files in the guest that the agent has opened for reading.
#[derive(Debug, Clone, Copy)]
pub struct GuestFiles {
    out: i64,
    err: i64,
}

/// How far a command in the guest is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Progress {
    /// What it has printed since it was asked last.
    pub stdout: Vec<u8>,
    /// What it has complained of since then.
    pub stderr: Vec<u8>,
    /// Its exit status, 128 and the signal that ended it where one did; none while it runs.
    pub status: Option<i32>,
}

impl Progress {
    /// Whether there was nothing new to read.
    pub const fn is_silent(&self) -> bool {
        self.stdout.is_empty() && self.stderr.is_empty()
    }
}

impl Virsh {
    /// Sends the guest agent a command in its JSON and returns its answer.
    pub fn agent(&self, uuid: Uuid, command: &Value) -> Result<Value> {
        let answer = self.agent_all(uuid, std::slice::from_ref(command))?;
        Ok(answer.into_iter().next().unwrap_or_default())
    }

    /// Sends several commands in one process; returns what each has returned. The first that fails is an error.
    fn agent_all(&self, uuid: Uuid, commands: &[Value]) -> Result<Vec<Value>> {
        const WHAT: &str = "ask the guest agent";
        let uuid = uuid.to_string();
        let texts: Vec<_> = commands.iter().map(in_ascii).collect();
        let call = |text| ["qemu-agent-command", "--domain", &uuid, "--timeout", PATIENCE, "--cmd", text];
        let calls: Vec<_> = texts.iter().map(|text| call(text)).collect();
        let batch = self.run_script(WHAT, &Script::new(&calls)?, false)?;
        if let Some(complaint) = batch.complaints.first() {
            return Err(failure::explain(WHAT, &self.uri, complaint));
        }
        let answer = |text: &String| -> Result<Value> {
            let answer: Value = serde_json::from_str(text)
                .map_err(|error| Error::new(Code::ToolFailed, "the guest agent's answer is no JSON").because(error))?;
            Ok(answer["return"].clone())
        };
        batch.sections.iter().map(answer).collect()
    }

    /// Starts a program in the guest, as the user that the agent runs as, with this standard input; returns its process id
    /// there.
    pub fn guest_exec(&self, uuid: Uuid, path: &str, args: &[String], stdin: &[u8]) -> Result<i64> {
        let mut arguments = json!({ "path": path, "arg": args });
        if !stdin.is_empty() {
            arguments["input-data"] = STANDARD.encode(stdin).into();
        }
        let answer = self.agent(uuid, &json!({ "execute": "guest-exec", "arguments": arguments }))?;
        answer["pid"].as_i64().ok_or_else(|| Error::new(Code::ToolFailed, "the guest agent names no process"))
    }

    /// Whether a program in the guest has ended, with which exit status. The agent tells the end of a program once only.
    pub fn guest_exit_status(&self, uuid: Uuid, pid: i64) -> Result<Option<i32>> {
        let answer = self.agent(uuid, &json!({ "execute": "guest-exec-status", "arguments": { "pid": pid } }))?;
        Ok((answer["exited"] == true).then(|| exit_status(&answer)))
    }

    /// Opens the files that a program in the guest writes to, once they are there.
    pub fn guest_open(&self, uuid: Uuid, out: &str, err: &str) -> Result<GuestFiles> {
        let open = |path| json!({ "execute": "guest-file-open", "arguments": { "path": path, "mode": "r" } });
        let handles = self.agent_all(uuid, &[open(out), open(err)])?;
        match (handles[0].as_i64(), handles[1].as_i64()) {
            (Some(out), Some(err)) => Ok(GuestFiles { out, err }),
            _ => Err(Error::new(Code::ToolFailed, "the guest agent names no file")),
        }
    }

    /// What has been written to the files since they were read last, and whether the program `pid` has ended, in one
    /// process. The agent tells the end of a program once only.
    pub fn guest_progress(&self, uuid: Uuid, pid: Option<i64>, files: GuestFiles) -> Result<Progress> {
        let read = |handle| json!({ "execute": "guest-file-read", "arguments": { "handle": handle, "count": MOST } });
        let status = |pid| json!({ "execute": "guest-exec-status", "arguments": { "pid": pid } });
        // What it writes before it ends can be read once it has ended, so the order matters.
        let commands: Vec<_> = pid.map(status).into_iter().chain([read(files.out), read(files.err)]).collect();
        let answers = self.agent_all(uuid, &commands)?;
        let [status @ .., stdout, stderr] = &answers[..] else {
            return Err(Error::internal("virsh printed another number of answers than asked for"));
        };
        let data = |answer: &Value| STANDARD.decode(answer["buf-b64"].as_str().unwrap_or_default()).unwrap_or_default();
        let status = status.first().filter(|status| status["exited"] == true);
        Ok(Progress { stdout: data(stdout), stderr: data(stderr), status: status.map(exit_status) })
    }

    /// Closes files that the agent has opened.
    pub fn guest_close(&self, uuid: Uuid, files: GuestFiles) -> Result<()> {
        let close = |handle| json!({ "execute": "guest-file-close", "arguments": { "handle": handle } });
        self.agent_all(uuid, &[close(files.out), close(files.err)]).map(drop)
    }

    /// Writes a new file in the guest.
    pub fn guest_write(&self, uuid: Uuid, path: &str, content: &[u8]) -> Result<()> {
        let open = json!({ "execute": "guest-file-open", "arguments": { "path": path, "mode": "w" } });
        let handle = self.agent(uuid, &open)?;
        for part in content.chunks(MOST) {
            let arguments = json!({ "handle": handle, "buf-b64": STANDARD.encode(part) });
            self.agent(uuid, &json!({ "execute": "guest-file-write", "arguments": arguments }))?;
        }
        self.agent(uuid, &json!({ "execute": "guest-file-close", "arguments": { "handle": handle } })).map(drop)
    }
}

/// JSON with all that is not printable ASCII escaped.
fn in_ascii(command: &Value) -> String {
    let escaped = |unit: u16| match u8::try_from(unit) {
        Ok(byte @ b' '..=b'~') => char::from(byte).to_string(),
        _ => format!("\\u{unit:04x}"),
    };
    command.to_string().encode_utf16().map(escaped).collect::<Vec<_>>().concat()
}

/// An ended program's exit status, as a shell would have it.
fn exit_status(status: &Value) -> i32 {
    let number = |key: &str| status[key].as_i64().and_then(|number| i32::try_from(number).ok());
    number("exitcode").or_else(|| Some(128 + number("signal")?)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_the_same_in_ascii() {
        let command = json!({ "arg": ["a\n\t\u{7f}", "é", "\u{1f980}", "it's \\ \"so\""] });
        let text = in_ascii(&command);
        assert!(text.bytes().all(|byte| matches!(byte, b' '..=b'~')), "{text}");
        assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), command);
    }
}
