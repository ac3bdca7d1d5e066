//! `ssh`: logs in to a guest, always verifying the host keys that vmprov created.

use std::{net::IpAddr, process::ExitStatus, time::Duration};

use camino::{Utf8Path, Utf8PathBuf};

use super::{Finished, Runner, Tool, scratch::Scratch};
use crate::{
    error::{Code, Result},
    model::ssh::quoted,
};

/// The time limit for one attempt to log in.
const ATTEMPT: Duration = Duration::from_secs(20);

/// A login: its address, user, identities and expected host keys.
#[derive(Debug, Clone)]
pub struct Target {
    /// The guest's address.
    pub address: IpAddr,
    /// The port. None means ssh's default.
    pub port: Option<u16>,
    /// The user.
    pub user: String,
    /// The only identity files to offer.
    pub identities: Vec<Utf8PathBuf>,
    /// The public keys of the guest's host keys.
    pub host_keys: Vec<String>,
    /// The name under which the host keys are looked up, independent of the address.
    pub alias: String,
}

/// The result of an attempt to run a command in a guest.
#[derive(Debug)]
pub enum Attempt {
    /// The command ran.
    Ran {
        /// Its exit status.
        status: i32,
        /// Its standard output.
        stdout: String,
    },
    /// The command did not run.
    Failed(Refusal),
}

/// The reason why a login failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The kind of the reason.
    pub kind: RefusalKind,
    /// ssh's error output.
    pub words: String,
}

/// A kind of reason why a login failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefusalKind {
    /// No response from the address.
    Silent,
    /// The connection was refused.
    Closed,
    /// The host key does not match.
    HostKey,
    /// The server rejected the keys for this user.
    Key,
    /// Something else.
    Other,
}

/// OpenSSH's errors (9.2) and their kinds.
const REFUSALS: &[(&str, RefusalKind)] = &[
    ("Connection refused", RefusalKind::Closed),
    ("No route to host", RefusalKind::Silent),
    ("Connection timed out", RefusalKind::Silent),
    ("Network is unreachable", RefusalKind::Silent),
    ("Host key verification failed", RefusalKind::HostKey),
    ("Permission denied (", RefusalKind::Key),
    ("Too many authentication failures", RefusalKind::Key),
];

impl Refusal {
    /// Classifies ssh's error output.
    pub fn new(words: &str) -> Self {
        let known = REFUSALS.iter().find(|(text, _)| words.contains(text));
        Self { kind: known.map_or(RefusalKind::Other, |&(_, kind)| kind), words: words.trim().to_owned() }
    }
}

impl Target {
    /// Creates a `known_hosts` file for this guest only.
    fn known_hosts(&self) -> Result<Scratch> {
        let line = |key: &String| format!("{} {key}\n", self.alias);
        Scratch::memory(self.host_keys.iter().map(line).collect::<String>().as_bytes())
    }

    /// Returns the options for a connection with strict host key checking, for both ssh and scp.
    fn options(&self, known_hosts: &Utf8Path) -> Vec<String> {
        let strict = [
            "StrictHostKeyChecking=yes".to_owned(),
            format!("UserKnownHostsFile={}", quoted(known_hosts.as_str())),
            "GlobalKnownHostsFile=/dev/null".to_owned(),
            format!("HostKeyAlias={}", self.alias),
            "CheckHostIP=no".to_owned(),
            "UpdateHostKeys=no".to_owned(),
        ];
        let only = (!self.identities.is_empty()).then(|| "IdentitiesOnly=yes".to_owned());
        let port = self.port.map(|port| format!("Port={port}"));
        let options = strict.into_iter().chain(only).chain(port).flat_map(|option| ["-o".to_owned(), option]);
        options.chain(self.identities.iter().flat_map(|identity| ["-i".to_owned(), identity.to_string()])).collect()
    }

    fn tool(&self, known_hosts: &Scratch, options: &[&str], command: &[String]) -> Tool {
        let options = options.iter().map(|&option| option.to_owned());
        let tool = Tool::new("ssh").args(self.options(known_hosts.path())).args(options);
        tool.args(["-l", &self.user, "--", &self.address.to_string()]).args(command.iter().cloned())
    }

    /// Returns the command that logs in, with the host keys in a permanent file.
    pub fn command(&self, known_hosts: &Utf8Path) -> Vec<String> {
        let destination = ["-l".to_owned(), self.user.clone(), "--".to_owned(), self.address.to_string()];
        std::iter::once("ssh".to_owned()).chain(self.options(known_hosts)).chain(destination).collect()
    }

    /// Tries to run a command in the guest, without prompting the user.
    pub fn attempt(&self, runner: &Runner, command: &str) -> Result<Attempt> {
        let known_hosts = self.known_hosts()?;
        let options = ["-o", "BatchMode=yes", "-o", "ConnectTimeout=5", "-o", "LogLevel=ERROR"];
        let tool = self.tool(&known_hosts, &options, &[command.to_owned()]).limit(ATTEMPT);
        let finished = match tool.read(runner) {
            // A guest that accepts the connection and then does not respond is not ready.
            Err(error) if error.code == Code::Timeout => return Ok(Attempt::Failed(Refusal::new(&error.message))),
            result => result?,
        };
        Ok(match finished.status.code() {
            Some(255) | None => Attempt::Failed(Refusal::new(&finished.stderr)),
            Some(status) => Attempt::Ran { status, stdout: String::from_utf8_lossy(&finished.stdout).into_owned() },
        })
    }

    /// Runs a command in the guest with this process's standard output and, if `has_stdin`, its standard input. No
    /// `limit` means no time limit.
    ///
    /// ssh exits with 255 when the login fails, but a command may do so too. Therefore ssh's log decides whether the
    /// login succeeded.
    pub fn run(
        &self,
        runner: &Runner,
        command: &str,
        has_stdin: bool,
        limit: Option<Duration>,
    ) -> Result<Result<ExitStatus, Refusal>> {
        let options: &[&str] = if has_stdin { &[] } else { &["-n"] };
        let (tool, log, _known_hosts) = self.logged(options, command, limit)?;
        let (status, _) = tool.pass_through(runner, false)?;
        Ok(login(log)?.map(|()| status))
    }

    /// Runs a command like [`Self::run`], but with the given standard input. Captures the first `most` bytes of
    /// standard output and of standard error, and returns whether there were more.
    pub fn capture(
        &self,
        runner: &Runner,
        command: &str,
        stdin: &[u8],
        (limit, most): (Option<Duration>, usize),
    ) -> Result<Result<(Finished, bool), Refusal>> {
        let (tool, log, _known_hosts) = self.logged(&[], command, limit)?;
        let captured = tool.stdin(stdin).capture(runner, most)?;
        Ok(login(log)?.map(|()| captured))
    }

    /// Returns the call, its log, and the files that it reads. The command is passed in a configuration file, because
    /// every user of this machine can read the arguments of a process.
    fn logged(&self, more: &[&str], command: &str, limit: Option<Duration>) -> Result<(Tool, Scratch, [Scratch; 2])> {
        let (known_hosts, log) = (self.known_hosts()?, Scratch::memory(b"")?);
        // The first value of an option counts. With -F, ssh does not read the two usual files, so they are included.
        let command = format!("RemoteCommand {}\n", in_one_line(command).replace('%', "%%"));
        let configuration = Scratch::memory((command + "Include ~/.ssh/config /etc/ssh/ssh_config\n").as_bytes())?;
        let (file, log_file) = (configuration.path().as_str(), log.path().as_str());
        let strict = ["-o", "LogLevel=VERBOSE", "-o", "BatchMode=yes", "-o", "ConnectTimeout=15"];
        let options = [&["-F", file, "-T", "-E", log_file], &strict[..], more].concat();
        let tool = self.tool(&known_hosts, &options, &[]);
        Ok((tool.limit(limit.unwrap_or(Duration::MAX)), log, [known_hosts, configuration]))
    }

    /// Copies files and folders into or out of the guest. A path in the guest begins with `:`. Progress is shown if
    /// standard output is a terminal, unless `quiet`.
    pub fn copy(&self, runner: &Runner, paths: &[String], quiet: bool) -> Result<(ExitStatus, String)> {
        let known_hosts = self.known_hosts()?;
        let address = if self.address.is_ipv6() { format!("[{}]", self.address) } else { self.address.to_string() };
        let operand = |path: &String| match path.strip_prefix(':') {
            Some("") => format!("{}@{address}:.", self.user),
            Some(inside) => format!("{}@{address}:{inside}", self.user),
            None => path.clone(),
        };
        let options = ["-rp", "-o", "BatchMode=yes", "-o", "ConnectTimeout=15", "-o", "LogLevel=ERROR"];
        let tool = Tool::new("scp").args(options).args(quiet.then_some("-q")).args(self.options(known_hosts.path()));
        tool.args(["--"]).args(paths.iter().map(operand)).unlimited().pass_through(runner, true)
    }

    /// Hands the terminal to an ssh session or to a command in the guest. Returns ssh's exit status, which is that of
    /// the command.
    pub fn session(&self, runner: &Runner, command: &[String]) -> Result<ExitStatus> {
        let known_hosts = self.known_hosts()?;
        self.tool(&known_hosts, &["-o", "ConnectTimeout=15"], command).attach(runner)
    }
}

/// Returns a shell script as a command on one line that every login shell passes on unchanged. Characters that a shell
/// could interpret are written in octal, and `printf` decodes them.
fn in_one_line(script: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b" _./:=,@+-".contains(&byte);
    let coded = |byte| if plain(byte) { char::from(byte).to_string() } else { format!("\\0{byte:03o}") };
    format!("sh -c 'eval \"$(printf %b \"{}\")\"'", script.bytes().map(coded).collect::<Vec<_>>().concat())
}

/// Returns whether the login succeeded, according to ssh's log at level VERBOSE (OpenSSH 9.2 and older).
fn login(mut log: Scratch) -> Result<Result<(), Refusal>> {
    let log = String::from_utf8_lossy(&log.content()?).into_owned();
    Ok(if log.contains("Authenticated to ") { Ok(()) } else { Err(Refusal::new(&log)) })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// With the errors of OpenSSH 9.2.
    #[test]
    fn errors_of_ssh_are_classified() {
        for (words, kind) in [
            ("ssh: connect to host 192.168.122.9 port 22: Connection refused\r\n", RefusalKind::Closed),
            ("ssh: connect to host 192.168.122.9 port 22: No route to host", RefusalKind::Silent),
            ("ssh: connect to host 192.168.122.9 port 22: Connection timed out", RefusalKind::Silent),
            ("debian@192.168.122.9: Permission denied (publickey).", RefusalKind::Key),
            ("Host key verification failed.", RefusalKind::HostKey),
            ("kex_exchange_identification: Connection closed by remote host", RefusalKind::Other),
            ("", RefusalKind::Other),
        ] {
            assert_eq!(Refusal::new(words).kind, kind, "{words}");
        }
    }

    #[test]
    fn a_script_on_one_line_does_the_same() {
        let script = "printf '%s|' \"a b\" 'it'\\''s' \\\\ '\n#é\t' -- \"$0\"; exit 7";
        let [plain, coded] = [format!("sh -c {}", shell_words::quote(script)), in_one_line(script)].map(|command| {
            let finished = Tool::new("sh").args(["-c", &command]).read(&Runner::default()).unwrap();
            (finished.stdout, finished.stderr, finished.status.code())
        });
        assert_eq!(plain, coded);
        assert_eq!(plain.2, Some(7));
        let line = in_one_line(script);
        assert!(!line.contains(['\n', '#']) && line.is_ascii(), "{line}");
    }

    #[test]
    fn the_log_tells_whether_the_login_succeeded() {
        let log = |text: &str| login(Scratch::memory(text.as_bytes()).unwrap()).unwrap();
        assert_eq!(log("Authenticated to 127.0.0.1 ([127.0.0.1]:22) using \"publickey\".\r\n"), Ok(()));
        let refused = log("debian@127.0.0.1: Permission denied (publickey).\r\n").unwrap_err();
        assert_eq!(refused.words, "debian@127.0.0.1: Permission denied (publickey).");
    }
}
