//! Access to a running service: refused starts, the Unix socket, reloaded tokens, and inherited sockets.
#![expect(clippy::unwrap_used, reason = "clippy knows only the functions marked as tests")]

#[path = "support/process.rs"]
#[expect(dead_code, reason = "each test binary uses its own part")]
mod process;

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    os::unix::{
        fs::{FileTypeExt, PermissionsExt},
        net::UnixStream,
    },
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    time::Duration,
};

use process::Process;
use rustix::process::Signal;

/// Far longer than a service takes to end.
const LIMIT: Duration = Duration::from_mins(1);

const FIRST: &str = "first-0123456789abcdef";
const SECOND: &str = "second-0123456789abcdef";

struct Site {
    folder: tempfile::TempDir,
}

impl Site {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write_tokens(&self, text: &str) -> String {
        let path = self.path("tokens.toml");
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        path.to_str().unwrap().to_owned()
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Process::command(env!("CARGO_BIN_EXE_vmprov"));
        command.args(["-c", "test:///default", "--key-dir"]).arg(self.path("keys")).arg("serve").args(args);
        command.env("HOME", self.folder.path()).env_remove("VMPROV_TOKENS").env_remove("RUST_LOG").stdin(Stdio::null());
        command
    }

    /// Runs a service that must refuse to start.
    fn refused(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    /// Starts a service on a Unix socket, and waits until it listens.
    fn serve(&self, more: &[&str]) -> Service {
        let socket = self.path("api.sock");
        let address = format!("unix:{}", socket.display());
        let args: Vec<_> = ["--listen", &address].into_iter().chain(more.iter().copied()).collect();
        let mut process = Process::spawn(self.command(&args).stderr(Stdio::piped()));
        let log = BufReader::new(process.stderr());
        let service = Service { process, log, socket };
        // Connections are refused until the service listens.
        while UnixStream::connect(&service.socket).is_err() {
            std::thread::yield_now();
        }
        service
    }
}

struct Service {
    process: Process,
    log: BufReader<std::process::ChildStderr>,
    socket: PathBuf,
}

impl Service {
    fn signal(&self, signal: Signal) {
        self.process.signal(signal);
    }

    /// Reads the log until a line contains the text, and returns that line.
    fn read_log_until(&mut self, needle: &str) -> String {
        let mut line = String::new();
        while !line.contains(needle) {
            line.clear();
            assert_ne!(self.log.read_line(&mut line).unwrap(), 0, "the service ended");
        }
        line
    }

    fn end(mut self) {
        self.signal(Signal::TERM);
        assert!(self.process.wait(LIMIT).is_some_and(|status| status.success()));
    }
}

fn get(socket: &Path, path: &str, token: &str) -> String {
    let mut stream = UnixStream::connect(socket).unwrap();
    let authorization = if token.is_empty() { String::new() } else { format!("Authorization: Bearer {token}\r\n") };
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\n{authorization}Connection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

fn token(name: &str, secret: &str) -> String {
    format!("[[token]]\nname = '{name}'\nscope = 'read'\ntoken = '{secret}'\n")
}

#[test]
fn listening_on_the_network_requires_tokens_or_explicit_permission() {
    let site = Site::new();
    let tokens = site.write_tokens("[[token]]\nname = 'x'\nscope = 'root'\n");
    for (args, message) in [
        (vec!["--listen", "0.0.0.0:0"], "--allow-unauthenticated"),
        (vec!["--listen", "0.0.0.0:0", "--allow-unauthenticated"], "--allowed-host"),
        (vec!["--listen", "0.0.0.0:0", "--allow-unauthenticated", "--allowed-host", "a:80"], "invalid host `a:80`"),
        (vec!["--listen", "127.0.0.1:0", "--listen", "[::]:0"], "--tokens FILE"),
        (vec!["--listen", "0.0.0.0:0", "--tokens", &tokens], "invalid token file"),
        (vec!["--listen", "0.0.0.0:0", "--tokens", "/nonexistent"], "/nonexistent"),
        (vec!["--listen", "127.0.0.1:0", "--audit-log", "/nonexistent/x"], "audit log"),
    ] {
        let refused = site.refused(&args);
        let stderr = String::from_utf8_lossy(&refused.stderr);
        assert!(!refused.status.success() && stderr.contains(message), "{args:?}: {stderr}");
    }
}

#[test]
fn a_unix_socket_needs_no_token_and_is_removed_at_shutdown() {
    let site = Site::new();
    let service = site.serve(&["--allow-unauthenticated"]);
    let socket = service.socket.clone();
    let file = fs::symlink_metadata(&socket).unwrap();
    assert!(file.file_type().is_socket() && file.permissions().mode() & 0o777 == 0o660);
    assert!(get(&socket, "/api/vms", "").starts_with("HTTP/1.1 200 "));
    let second = site.refused(&["--listen", &format!("unix:{}", socket.display())]);
    assert!(!second.status.success());
    assert!(
        get(&socket, "/healthz", "").starts_with("HTTP/1.1 200 "),
        "the second service replaced the socket of the first one"
    );
    service.end();
    assert!(!socket.exists());
}

#[test]
fn the_socket_of_a_killed_service_is_replaced() {
    let site = Site::new();
    let mut service = site.serve(&[]);
    service.process.kill();
    assert!(service.socket.exists());
    let again = site.serve(&[]);
    assert!(get(&again.socket, "/healthz", "").starts_with("HTTP/1.1 200 "));
    again.end();
}

#[test]
fn tokens_and_the_audit_log_follow_sighup() {
    let site = Site::new();
    let tokens = site.write_tokens(&token("one", FIRST));
    let audit = site.path("audit.log");
    let mut service = site.serve(&["--tokens", &tokens, "--audit-log", audit.to_str().unwrap()]);
    let socket = service.socket.clone();
    let status = |token: &str| get(&socket, "/api/vms", token)[9..12].to_owned();
    assert_eq!([status(""), status(FIRST), status(SECOND)], ["401", "200", "401"]);

    fs::write(&tokens, "[[token").unwrap();
    service.signal(Signal::HUP);
    let line = service.read_log_until("the old ones stay valid");
    assert!(line.contains("ERROR"), "{line}");
    assert_eq!(status(FIRST), "200");

    let old = audit.with_extension("1");
    fs::rename(&audit, &old).unwrap();
    fs::write(&tokens, token("two", SECOND)).unwrap();
    service.signal(Signal::HUP);
    service.read_log_until("reloaded the tokens");
    assert_eq!([status(FIRST), status(SECOND)], ["401", "200"]);
    service.end();
    let (old, new) = (fs::read_to_string(old).unwrap(), fs::read_to_string(audit).unwrap());
    assert_eq!((old.lines().count(), new.lines().count()), (4, 2), "{old}\n{new}");
    assert!(new.contains("\"client\":\"two\"") && !(old + &new).contains("0123456789abcdef"));
}

#[test]
fn an_inherited_socket_is_used_and_its_file_stays() {
    let site = Site::new();
    let socket = site.path("passed.sock");
    let mut command = Process::command("systemd-socket-activate");
    command.arg("--listen").arg(&socket).arg(env!("CARGO_BIN_EXE_vmprov")).args(["-c", "test:///default", "serve"]);
    command.env("HOME", site.folder.path()).stderr(Stdio::piped()).stdin(Stdio::null());
    let mut process = Process::spawn(&mut command);
    let log = BufReader::new(process.stderr());
    let service = Service { process, log, socket: socket.clone() };
    while UnixStream::connect(&socket).is_err() {
        std::thread::yield_now();
    }
    assert!(get(&socket, "/healthz", "").starts_with("HTTP/1.1 200 "));
    service.end();
    assert!(socket.exists());
}
