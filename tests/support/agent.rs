//! Agents in a test: the official Python client, and a pipe on which a test says what it likes.

#[expect(dead_code, reason = "each user of it has its own part")]
mod process {
    include!("process.rs");
}

use std::{
    io::{BufRead, BufReader, Write},
    process::{ChildStdin, ChildStdout, Command, ExitStatus, Stdio},
    time::Duration,
};

use process::Process;

use serde_json::{Value, json};

/// Where `tests/lab/install` has put the client.
fn python() -> String {
    let found = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/lab/mcp")).arg("python").output().unwrap();
    assert!(found.status.success(), "{}", String::from_utf8_lossy(&found.stderr));
    String::from_utf8(found.stdout).unwrap().trim().to_owned()
}

/// How long a program may take to end after its input has. Far more than any needs.
const END_LIMIT: Duration = Duration::from_mins(2);

/// A program at the other end of a pipe, line by line.
pub(crate) struct Pipe {
    process: Process,
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
}

impl Pipe {
    /// Starts it. What it complains of goes to the test's own standard error.
    pub(crate) fn to(words: &[String]) -> Self {
        let mut command = Process::command(&words[0]);
        let mut process = Process::spawn(command.args(&words[1..]).stdin(Stdio::piped()).stdout(Stdio::piped()));
        let (stdin, stdout) = (Some(process.stdin()), BufReader::new(process.stdout()));
        Self { process, stdin, stdout }
    }

    pub(crate) fn send(&mut self, line: &str) {
        let stdin = self.stdin.as_mut().unwrap();
        stdin.write_all(format!("{line}\n").as_bytes()).unwrap();
        stdin.flush().unwrap();
    }

    /// The next line; none at the end.
    pub(crate) fn line(&mut self) -> Option<Value> {
        let mut line = String::new();
        self.stdout.read_line(&mut line).unwrap();
        let parse = || serde_json::from_str(&line).unwrap_or_else(|error| panic!("no JSON ({error}): {line}"));
        (!line.is_empty()).then(parse)
    }

    /// Says that nothing follows.
    pub(crate) fn hang_up(&mut self) {
        self.stdin = None;
    }

    pub(crate) fn id(&self) -> rustix::process::Pid {
        self.process.id()
    }

    /// Waits for its end.
    pub(crate) fn end(&mut self) -> ExitStatus {
        self.hang_up();
        self.process.wait(END_LIMIT).unwrap_or_else(|| panic!("it does not end"))
    }
}

impl Drop for Pipe {
    /// What hears the end of its input ends by itself, and ends what it has started; what does not is killed.
    fn drop(&mut self) {
        self.hang_up();
        self.process.wait(END_LIMIT);
    }
}

/// A client that speaks the protocol by hand, in the version with a handshake.
pub(crate) struct Hand {
    pub(crate) pipe: Pipe,
    count: u64,
}

impl Hand {
    pub(crate) fn shake(words: &[String]) -> Self {
        let mut hand = Self { pipe: Pipe::to(words), count: 0 };
        let client = json!({"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}});
        let begun = hand.ask("initialize", &client);
        assert_eq!(begun["result"]["serverInfo"]["name"], "vmprov", "{begun}");
        hand.pipe.send(r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#);
        hand
    }

    /// Sends a request and returns the next answer.
    pub(crate) fn ask(&mut self, method: &str, params: &Value) -> Value {
        self.begin(method, params);
        self.pipe.line().unwrap_or_else(|| panic!("no answer to {method} {params}"))
    }

    /// Sends a request; returns its id.
    pub(crate) fn begin(&mut self, method: &str, params: &Value) -> u64 {
        self.count += 1;
        self.pipe.send(&json!({"jsonrpc": "2.0", "id": self.count, "method": method, "params": params}).to_string());
        self.count
    }

    /// Calls a tool.
    pub(crate) fn call(&mut self, tool: &str, arguments: &Value) -> Value {
        let answer = self.ask("tools/call", &json!({"name": tool, "arguments": arguments}));
        answer.get("result").cloned().unwrap_or(answer)
    }
}

/// The official client.
pub(crate) struct Agent(Pipe);

impl Agent {
    /// With a server on the other end of a pipe, in the mode `auto` or `legacy`.
    pub(crate) fn over_pipe(mode: &str, server: &[String]) -> Self {
        Self::start(mode, server)
    }

    /// With `/mcp` of a service.
    pub(crate) fn over_http(mode: &str, socket: &str, token: &str) -> Self {
        Self::start(mode, &["--socket".to_owned(), socket.to_owned(), token.to_owned()])
    }

    fn start(mode: &str, server: &[String]) -> Self {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/client/agent.py").to_owned();
        let words = [python(), script, mode.to_owned()].into_iter().chain(server.iter().cloned());
        Self(Pipe::to(&words.collect::<Vec<_>>()))
    }

    /// What the client makes of a request.
    #[track_caller]
    pub(crate) fn ask(&mut self, request: &Value) -> Value {
        self.0.send(&request.to_string());
        self.0.line().unwrap_or_else(|| panic!("the client has ended: {request}"))
    }

    /// The same where it must succeed.
    #[track_caller]
    pub(crate) fn ok(&mut self, request: &Value) -> Value {
        let told = self.ask(request);
        told.get("ok").cloned().unwrap_or_else(|| panic!("{request}: {told}"))
    }

    /// Calls a tool, whatever it answers.
    #[track_caller]
    pub(crate) fn call(&mut self, tool: &str, arguments: &Value) -> Value {
        self.ok(&json!({"do": "call", "name": tool, "arguments": arguments}))
    }

    /// Calls a tool that must succeed, and follows what it does where that takes long. Each call is answered within the
    /// client's minute.
    #[track_caller]
    pub(crate) fn done(&mut self, tool: &str, arguments: &Value) -> Value {
        let mut told = self.call(tool, arguments);
        assert_eq!(told["isError"], false, "{tool} {arguments}: {told}");
        if told["structuredContent"]["status"] != "accepted" {
            return told["structuredContent"].take();
        }
        let next = told["structuredContent"]["next"].take();
        assert_eq!(next["tool"], "operation_get", "{told}");
        loop {
            let mut view = self.call("operation_get", &next["arguments"])["structuredContent"].take();
            match view["state"].as_str() {
                Some("queued" | "running") => {}
                Some("succeeded") => return view["result"].take(),
                _ => panic!("{tool} {arguments}: {view}"),
            }
        }
    }

    /// Ends the client, which ends its server.
    pub(crate) fn end(mut self) {
        assert!(self.0.end().success());
    }
}
