//! The guest agent: runs commands and reads and writes files with `qemu-agent-command` (QEMU's `qga/qapi-schema.json`).

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Value, json};
use uuid::Uuid;

use super::{Virsh, failure, script::Script};
use crate::error::{Code, Error, Result};

/// The time limit for the agent's response, in seconds.
const RESPONSE_LIMIT: &str = "10";

/// The maximum number of bytes that are read or written in one call. virsh reads its standard input byte by byte.
const MAX_CHUNK: usize = 48 << 10;

/// Files in the guest that the agent has opened for reading.
#[derive(Debug, Clone, Copy)]
pub struct GuestFiles {
    out: i64,
    err: i64,
}

/// The progress of a command in the guest.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Progress {
    /// Its standard output since the last call.
    pub stdout: Vec<u8>,
    /// Its standard error since the last call.
    pub stderr: Vec<u8>,
    /// Its exit status, or 128 plus the number of the signal that ended it. None while it runs.
    pub status: Option<i32>,
}

impl Progress {
    /// Returns whether there was no new output.
    pub const fn is_silent(&self) -> bool {
        self.stdout.is_empty() && self.stderr.is_empty()
    }
}

impl Virsh {
    /// Sends a command to the guest agent and returns its response, both as JSON.
    pub fn agent(&self, uuid: Uuid, command: &Value) -> Result<Value> {
        let responses = self.agent_all(uuid, std::slice::from_ref(command))?;
        Ok(responses.into_iter().next().unwrap_or_default())
    }

    /// Sends several commands at once and returns their responses. Fails if any of them fails.
    fn agent_all(&self, uuid: Uuid, commands: &[Value]) -> Result<Vec<Value>> {
        const WHAT: &str = "call the guest agent";
        let uuid = uuid.to_string();
        let texts: Vec<_> = commands.iter().map(in_ascii).collect();
        let call = |text| ["qemu-agent-command", "--domain", &uuid, "--timeout", RESPONSE_LIMIT, "--cmd", text];
        let calls: Vec<_> = texts.iter().map(|text| call(text)).collect();
        let batch = self.run_script(WHAT, &Script::new(&calls), false)?;
        if let Some(errors) = batch.failure() {
            return Err(failure::explain(WHAT, &self.uri, errors));
        }
        let response = |text: &String| -> Result<Value> {
            let response: Value = serde_json::from_str(text).map_err(|error| {
                Error::new(Code::ToolFailed, "cannot parse the guest agent's response").because(error)
            })?;
            Ok(response["return"].clone())
        };
        batch.sections.iter().map(response).collect()
    }

    /// Starts a program in the guest with this standard input, as the user that the agent runs as. Returns its process
    /// ID in the guest.
    pub fn guest_exec(&self, uuid: Uuid, path: &str, args: &[String], stdin: &[u8]) -> Result<i64> {
        let mut arguments = json!({ "path": path, "arg": args });
        if !stdin.is_empty() {
            arguments["input-data"] = STANDARD.encode(stdin).into();
        }
        let response = self.agent(uuid, &json!({ "execute": "guest-exec", "arguments": arguments }))?;
        response["pid"].as_i64().ok_or_else(|| Error::new(Code::ToolFailed, "the guest agent returned no process ID"))
    }

    /// Returns the exit status of a program in the guest; none while it runs. The agent reports the end of a program
    /// only once.
    pub fn guest_exit_status(&self, uuid: Uuid, pid: i64) -> Result<Option<i32>> {
        let response = self.agent(uuid, &json!({ "execute": "guest-exec-status", "arguments": { "pid": pid } }))?;
        Ok((response["exited"] == true).then(|| exit_status(&response)))
    }

    /// Opens the files that a program in the guest writes to. Fails until they exist.
    pub fn guest_open(&self, uuid: Uuid, out: &str, err: &str) -> Result<GuestFiles> {
        let open = |path| json!({ "execute": "guest-file-open", "arguments": { "path": path, "mode": "r" } });
        let handles = self.agent_all(uuid, &[open(out), open(err)])?;
        match (handles[0].as_i64(), handles[1].as_i64()) {
            (Some(out), Some(err)) => Ok(GuestFiles { out, err }),
            _ => Err(Error::new(Code::ToolFailed, "the guest agent returned no file handle")),
        }
    }

    /// Reads the output written to the files since the last call, and whether the program `pid` has ended, in one
    /// process. The agent reports the end of a program only once.
    pub fn guest_progress(&self, uuid: Uuid, pid: Option<i64>, files: GuestFiles) -> Result<Progress> {
        let read =
            |handle| json!({ "execute": "guest-file-read", "arguments": { "handle": handle, "count": MAX_CHUNK } });
        let status = |pid| json!({ "execute": "guest-exec-status", "arguments": { "pid": pid } });
        // The status comes first: all output that was written before the program ended can then be read.
        let commands: Vec<_> = pid.map(status).into_iter().chain([read(files.out), read(files.err)]).collect();
        let responses = self.agent_all(uuid, &commands)?;
        let [status @ .., stdout, stderr] = &responses[..] else {
            return Err(super::unexpected_sections());
        };
        let data =
            |response: &Value| STANDARD.decode(response["buf-b64"].as_str().unwrap_or_default()).unwrap_or_default();
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
        for part in content.chunks(MAX_CHUNK) {
            let arguments = json!({ "handle": handle, "buf-b64": STANDARD.encode(part) });
            self.agent(uuid, &json!({ "execute": "guest-file-write", "arguments": arguments }))?;
        }
        self.agent(uuid, &json!({ "execute": "guest-file-close", "arguments": { "handle": handle } })).map(drop)
    }
}

/// Returns JSON in which all characters except printable ASCII are escaped.
fn in_ascii(command: &Value) -> String {
    let escaped = |unit: u16| match u8::try_from(unit) {
        Ok(byte @ b' '..=b'~') => char::from(byte).to_string(),
        _ => format!("\\u{unit:04x}"),
    };
    command.to_string().encode_utf16().map(escaped).collect::<Vec<_>>().concat()
}

/// Returns the exit status of an ended program as a shell does.
fn exit_status(status: &Value) -> i32 {
    let number = |key: &str| status[key].as_i64().and_then(|number| i32::try_from(number).ok());
    number("exitcode").or_else(|| Some(128 + number("signal")?)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_in_ascii_has_the_same_value() {
        let command = json!({ "arg": ["a\n\t\u{7f}", "é", "\u{1f980}", "it's \\ \"so\""] });
        let text = in_ascii(&command);
        assert!(text.bytes().all(|byte| matches!(byte, b' '..=b'~')), "{text}");
        assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), command);
    }
}
