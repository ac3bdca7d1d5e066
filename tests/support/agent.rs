//! MCP clients for tests: the official Python client, and a pipe on which a test sends arbitrary lines.

#[expect(dead_code, reason = "each including file uses its own part")]
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

/// Returns the Python interpreter for which `tests/lab/install` has installed the client.
fn python() -> String {
    let found = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/lab/mcp")).arg("python").output().unwrap();
    assert!(found.status.success(), "{}", String::from_utf8_lossy(&found.stderr));
    String::from_utf8(found.stdout).unwrap().trim().to_owned()
}

/// How long a program may take to end after its input was closed. Far longer than any needs.
const END_LIMIT: Duration = Duration::from_mins(2);

/// A program that reads lines of JSON from a pipe and writes lines of JSON to another.
pub(crate) struct Pipe {
    process: Process,
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
}

impl Pipe {
    /// Starts a program. It inherits the test's standard error.
    pub(crate) fn start(words: &[String]) -> Self {
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

    /// Returns the next line, or none at the end of the output.
    pub(crate) fn line(&mut self) -> Option<Value> {
        let mut line = String::new();
        self.stdout.read_line(&mut line).unwrap();
        let parse = || serde_json::from_str(&line).unwrap_or_else(|error| panic!("invalid JSON ({error}): {line}"));
        (!line.is_empty()).then(parse)
    }

    /// Closes the program's standard input.
    pub(crate) fn close_input(&mut self) {
        self.stdin = None;
    }

    pub(crate) fn id(&self) -> rustix::process::Pid {
        self.process.id()
    }

    /// Closes the program's standard input and waits for its end.
    pub(crate) fn end(&mut self) -> ExitStatus {
        self.close_input();
        self.process.wait(END_LIMIT).unwrap_or_else(|| panic!("the program did not end"))
    }
}

impl Drop for Pipe {
    /// Lets the program end by itself at the end of its input; if it does not, it is killed with its children.
    fn drop(&mut self) {
        self.close_input();
        self.process.wait(END_LIMIT);
    }
}

/// A minimal client for the protocol version that has a handshake.
pub(crate) struct HandshakeClient {
    pub(crate) pipe: Pipe,
    count: u64,
}

impl HandshakeClient {
    /// Starts a server and performs the handshake.
    pub(crate) fn connect(words: &[String]) -> Self {
        let mut client = Self { pipe: Pipe::start(words), count: 0 };
        let info = json!({"name": "test", "version": "1"});
        let params = json!({"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": info});
        let response = client.ask("initialize", &params);
        assert_eq!(response["result"]["serverInfo"]["name"], "vmprov", "{response}");
        client.pipe.send(r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#);
        client
    }

    /// Sends a request and returns the next response.
    pub(crate) fn ask(&mut self, method: &str, params: &Value) -> Value {
        self.begin(method, params);
        self.pipe.line().unwrap_or_else(|| panic!("no response to {method} {params}"))
    }

    /// Sends a request without waiting for the response; returns its id.
    pub(crate) fn begin(&mut self, method: &str, params: &Value) -> u64 {
        self.count += 1;
        self.pipe.send(&json!({"jsonrpc": "2.0", "id": self.count, "method": method, "params": params}).to_string());
        self.count
    }

    /// Calls a tool and returns its result or error.
    pub(crate) fn call(&mut self, tool: &str, arguments: &Value) -> Value {
        let response = self.ask("tools/call", &json!({"name": tool, "arguments": arguments}));
        response.get("result").cloned().unwrap_or(response)
    }
}

/// The official Python client.
pub(crate) struct Agent(Pipe);

impl Agent {
    /// Starts the client with a server on standard input and output, in the mode `auto` or `legacy`.
    pub(crate) fn over_pipe(mode: &str, server: &[String]) -> Self {
        Self::start(mode, server)
    }

    /// Connects the client to `/mcp` of a service.
    pub(crate) fn over_http(mode: &str, socket: &str, token: &str) -> Self {
        Self::start(mode, &["--socket".to_owned(), socket.to_owned(), token.to_owned()])
    }

    fn start(mode: &str, server: &[String]) -> Self {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/client/agent.py").to_owned();
        let words = [python(), script, mode.to_owned()].into_iter().chain(server.iter().cloned());
        Self(Pipe::start(&words.collect::<Vec<_>>()))
    }

    /// Sends a request to the client and returns its result or error.
    #[track_caller]
    pub(crate) fn ask(&mut self, request: &Value) -> Value {
        self.0.send(&request.to_string());
        self.0.line().unwrap_or_else(|| panic!("the client ended during {request}"))
    }

    /// Sends a request that must succeed, and returns its result.
    #[track_caller]
    pub(crate) fn ok(&mut self, request: &Value) -> Value {
        let reply = self.ask(request);
        reply.get("ok").cloned().unwrap_or_else(|| panic!("{request}: {reply}"))
    }

    /// Calls a tool and returns its result, which may report an error.
    #[track_caller]
    pub(crate) fn call(&mut self, tool: &str, arguments: &Value) -> Value {
        self.ok(&json!({"do": "call", "name": tool, "arguments": arguments}))
    }

    /// Calls a tool that must succeed, and polls its operation if it runs in the background. The client allows one
    /// minute for each call.
    #[track_caller]
    pub(crate) fn call_to_end(&mut self, tool: &str, arguments: &Value) -> Value {
        let mut result = self.call(tool, arguments);
        assert_eq!(result["isError"], false, "{tool} {arguments}: {result}");
        if result["structuredContent"]["status"] != "accepted" {
            return result["structuredContent"].take();
        }
        let next = result["structuredContent"]["next"].take();
        assert_eq!(next["tool"], "operation_get", "{result}");
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
