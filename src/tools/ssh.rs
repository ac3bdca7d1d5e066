//! `ssh`: a login into a guest, always with the host keys that vmprov made.

use std::{net::IpAddr, process::ExitStatus, time::Duration};

use camino::{Utf8Path, Utf8PathBuf};

use super::{Finished, Runner, Tool, scratch::Scratch};
use crate::{
    error::{Code, Result},
    model::ssh::quoted,
};

/// How long one attempt to log in may take.
const ATTEMPT: Duration = Duration::from_secs(20);

/// Where to log in, as whom, with what, and whose host keys must answer.
#[derive(Debug, Clone)]
pub struct Target {
    /// The guest's address.
    pub address: IpAddr,
    /// The port; ssh's own where none is said.
    pub port: Option<u16>,
    /// The user.
    pub user: String,
    /// The identity files to offer, and no others.
    pub identities: Vec<Utf8PathBuf>,
    /// The public halves of the guest's host keys.
    pub host_keys: Vec<String>,
    /// The name that the host keys are looked up by, whatever the address.
    pub alias: String,
}

/// How an attempt to run something in a guest ended.
#[derive(Debug)]
pub enum Attempt {
    /// The command ran.
    Ran {
        /// Its exit status.
        status: i32,
        /// What it printed.
        stdout: String,
    },
    /// Nothing ran.
    Failed(Refusal),
}

/// Why nobody was let in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// What it means.
    pub kind: RefusalKind,
    /// ssh's own words.
    pub words: String,
}

/// What keeps one out of a guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefusalKind {
    /// Nothing answers at the address.
    Silent,
    /// Something answers there, and refuses.
    Closed,
    /// Who answers is not who should.
    HostKey,
    /// The user may not log in with the keys.
    Key,
    /// Something else.
    Other,
}

/// OpenSSH's words (9.2), and what they mean.
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
    /// Reads ssh's complaint.
    pub fn new(words: &str) -> Self {
        let known = REFUSALS.iter().find(|(text, _)| words.contains(text));
        Self { kind: known.map_or(RefusalKind::Other, |&(_, kind)| kind), words: words.trim().to_owned() }
    }
}

impl Target {
    /// A `known_hosts` file of this guest alone.
    fn known_hosts(&self) -> Result<Scratch> {
        let line = |key: &String| format!("{} {key}\n", self.alias);
        Scratch::memory(self.host_keys.iter().map(line).collect::<String>().as_bytes())
    }

    /// The options that make a connection strict, as both ssh and scp take them.
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

    /// The command that logs in, with the host keys in a file that stays.
    pub fn command(&self, known_hosts: &Utf8Path) -> Vec<String> {
        let place = ["-l".to_owned(), self.user.clone(), "--".to_owned(), self.address.to_string()];
        std::iter::once("ssh".to_owned()).chain(self.options(known_hosts)).chain(place).collect()
    }

    /// Tries to run a command in the guest, asking nobody anything.
    pub fn attempt(&self, runner: &Runner, command: &str) -> Result<Attempt> {
        let known_hosts = self.known_hosts()?;
        let options = ["-o", "BatchMode=yes", "-o", "ConnectTimeout=5", "-o", "LogLevel=ERROR"];
        let tool = self.tool(&known_hosts, &options, &[command.to_owned()]).limit(ATTEMPT);
        let finished = match tool.read(runner) {
            // A guest that answers and then says nothing is one that is not ready.
            Err(error) if error.code == Code::Timeout => return Ok(Attempt::Failed(Refusal::new(&error.message))),
            result => result?,
        };
        Ok(match finished.status.code() {
            Some(255) | None => Attempt::Failed(Refusal::new(&finished.stderr)),
            Some(status) => Attempt::Ran { status, stdout: String::from_utf8_lossy(&finished.stdout).into_owned() },
        })
    }

    /// Runs a command in the guest with this process's output and, unless it is to have none, input; no limit is none. ssh itself says
    /// 255 when it fails, which a command may say, too; so ssh's own log tells whether it let in.
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
        Ok(let_in(log)?.map(|()| status))
    }

    /// The same with standard input that is given, and the first `most` bytes of what the command prints and complains of
    /// captured; true where there was more.
    pub fn capture(
        &self,
        runner: &Runner,
        command: &str,
        stdin: &[u8],
        (limit, most): (Option<Duration>, usize),
    ) -> Result<Result<(Finished, bool), Refusal>> {
        let (tool, log, _known_hosts) = self.logged(&[], command, limit)?;
        let captured = tool.stdin(stdin).capture(runner, most)?;
        Ok(let_in(log)?.map(|()| captured))
    }

    /// The call, its log, and files that it reads. The command stands in a configuration of ssh's and not among its arguments,
    /// which every user of this machine may read.
    fn logged(&self, more: &[&str], command: &str, limit: Option<Duration>) -> Result<(Tool, Scratch, [Scratch; 2])> {
        let (known_hosts, log) = (self.known_hosts()?, Scratch::memory(b"")?);
        // The first value of an option counts, and ssh does not read its own two where it is given one.
        let command = format!("RemoteCommand {}\n", in_one_line(command).replace('%', "%%"));
        let configuration = Scratch::memory((command + "Include ~/.ssh/config /etc/ssh/ssh_config\n").as_bytes())?;
        let (file, log_file) = (configuration.path().as_str(), log.path().as_str());
        let strict = ["-o", "LogLevel=VERBOSE", "-o", "BatchMode=yes", "-o", "ConnectTimeout=15"];
        let options = [&["-F", file, "-T", "-E", log_file], &strict[..], more].concat();
        let tool = self.tool(&known_hosts, &options, &[]);
        Ok((tool.limit(limit.unwrap_or(Duration::MAX)), log, [known_hosts, configuration]))
    }

    /// Copies files into or out of the guest, folders with all that is in them. A path in the guest begins with `:`. Its
    /// progress is shown where standard output is a terminal, unless it is to be `quiet`.
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

    /// Hands the terminal to an ssh session, or to one command in the guest; returns ssh's exit status, which is the
    /// command's.
    pub fn session(&self, runner: &Runner, command: &[String]) -> Result<ExitStatus> {
        let known_hosts = self.known_hosts()?;
        self.tool(&known_hosts, &["-o", "ConnectTimeout=15"], command).attach(runner)
    }
}

/// A shell's script as a command in one line that has nothing but what every login shell leaves as it is: the rest is written in
/// octal, for `printf` to write it back.
fn in_one_line(script: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b" _./:=,@+-".contains(&byte);
    let coded = |byte| if plain(byte) { char::from(byte).to_string() } else { format!("\\0{byte:03o}") };
    format!("sh -c 'eval \"$(printf %b \"{}\")\"'", script.bytes().map(coded).collect::<Vec<_>>().concat())
}

/// Whether ssh's log, at its level VERBOSE, says that somebody was let in (OpenSSH 9.2 and older).
fn let_in(mut log: Scratch) -> Result<Result<(), Refusal>> {
    let log = String::from_utf8_lossy(&log.content()?).into_owned();
    Ok(if log.contains("Authenticated to ") { Ok(()) } else { Err(Refusal::new(&log)) })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As OpenSSH 9.2 says it.
    #[test]
    fn what_keeps_one_out_is_understood() {
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
    fn a_script_is_the_same_in_one_line() {
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
    fn a_status_of_255_is_the_commands_own_once_somebody_was_let_in() {
        let log = |text: &str| let_in(Scratch::memory(text.as_bytes()).unwrap()).unwrap();
        assert_eq!(log("Authenticated to 127.0.0.1 ([127.0.0.1]:22) using \"publickey\".\r\n"), Ok(()));
        let refused = log("debian@127.0.0.1: Permission denied (publickey).\r\n").unwrap_err();
        assert_eq!(refused.words, "debian@127.0.0.1: Permission denied (publickey).");
    }
}
