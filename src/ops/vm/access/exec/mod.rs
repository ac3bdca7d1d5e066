//! `exec`: one command in a guest, through ssh or, where the network does not lead there, through its guest agent.

mod agent;

use std::{
    fmt,
    time::{Duration, Instant},
};

use clap::{Args, ValueEnum};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    error::{Code, Error, Result},
    model::{limit::Limit, user::check_user, vm::State},
    ops::{
        Host,
        vm::{access::address, access::login::Login, look_up, require_whole},
    },
    tools::{
        exit_status,
        ssh::{Refusal, RefusalKind, Target},
        virsh::Domain,
    },
};

/// How much longer than its limit a command is waited for: so long has the guest to end it.
const GRACE: Duration = Duration::from_secs(15);

/// Describes the command to run in a VM
#[derive(Debug, Clone, PartialEq, Eq, Args, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NewExec {
    // The completers put an argument behind the others unless it has its place.
    /// VM, by name or UUID
    #[arg(index = 1)]
    #[schema(min_length = 1, max_length = 255)]
    pub vm: String,

    /// Command and its arguments, which no shell looks at; for one: sh -c '…'
    #[arg(index = 2, last = true, required = true)]
    #[schema(min_items = 1)]
    pub command: Vec<String>,

    /// User to run it as [default: the VM's]
    #[arg(short = 'l', long, value_name = "NAME")]
    #[serde(default)]
    #[schema(pattern = "^[a-z_][a-z0-9_-]{0,31}$")]
    pub user: Option<String>,

    /// How to reach the guest
    #[arg(long, value_enum, default_value_t = Via::Auto)]
    #[serde(default)]
    pub via: Via,

    /// End it after so long [default: never]
    #[arg(long, value_name = "TIME")]
    #[serde(default)]
    pub timeout: Option<Limit>,

    /// Its standard input, where that is not this process's own
    #[arg(skip)]
    #[serde(default)]
    pub stdin: Option<String>,
}

/// How to reach a guest
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Via {
    /// ssh, or the guest agent where ssh lets nobody in
    #[default]
    Auto,
    /// ssh alone
    Ssh,
    /// The guest agent alone, which needs no network
    Agent,
}

impl fmt::Display for Via {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Ssh => "ssh",
            Self::Agent => "agent",
        })
    }
}

/// What came of a command in a guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Executed {
    /// The VM's name.
    pub vm: String,
    /// `ssh` or `agent`.
    pub via: Via,
    /// The user that it ran as.
    pub user: String,
    /// Its exit status, 128 and the signal that ended it where one did.
    pub exit_status: i32,
    /// What it printed, where that was captured.
    pub stdout: Option<String>,
    /// What it complained of, where that was captured.
    pub stderr: Option<String>,
    /// Whether more was printed or complained of than the first MiB of each, which is all that is captured.
    pub truncated: bool,
}

/// The most bytes that are captured of what a command prints, and of what it complains of. What a guest says may be
/// without an end, and whoever reads a report wants no more.
const MOST_CAPTURED: usize = 1 << 20;

/// Where a command's input comes from, and where its output goes.
pub enum Streams<'a> {
    /// Input and output as they come.
    Live(&'a mut dyn Live),
    /// All at once: this is the input, and the report has the output.
    Captured(Vec<u8>),
}

/// Whoever watches a command. Where ssh runs it, that has the process's own streams instead.
pub trait Live {
    /// Whether the command may have standard input.
    fn has_stdin(&self) -> bool;
    /// Everything that comes from standard input, to its end.
    fn stdin(&mut self) -> Result<Vec<u8>>;
    /// Something that was printed.
    fn stdout(&mut self, data: &[u8]) -> Result<()>;
    /// Something that was complained of.
    fn stderr(&mut self, data: &[u8]) -> Result<()>;
}

/// Runs a command in a VM and waits for its end.
pub fn exec(host: &Host, new: &NewExec, streams: Streams) -> Result<Executed> {
    new.user.as_deref().map_or(Ok(()), check_user)?;
    if new.timeout.is_some_and(|limit| limit.0.as_secs() == 0) {
        return Err(Error::invalid("a time limit of 0 s leaves no time for the command"));
    }
    let (listed, domain) = look_up(host, &new.vm)?;
    require_whole(&domain)?;
    if listed.state != State::Running {
        return Err(Error::conflict(format!("the VM `{}` is {}, so nothing runs in it", listed.name, listed.state))
            .hint(format!("Start it: vmprov vm start {}", shell_words::quote(&listed.name))));
    }
    match new.via {
        Via::Agent => agent::run(host, &domain, new, streams),
        Via::Ssh => through_ssh(host, &domain, new, streams).map_err(Unreached::into_error)?,
        Via::Auto => {
            let mut streams = streams;
            match through_ssh(host, &domain, new, borrow(&mut streams)) {
                Ok(executed) => executed,
                Err(unreached) if domain.agent_connected => {
                    let Error { message, cause, .. } = unreached.into_error();
                    let why = cause.map(|cause| format!(": {}", cause.lines().last().unwrap_or_default()));
                    host.progress
                        .note(&format!("through the guest agent, because {message}{}", why.unwrap_or_default()));
                    agent::run(host, &domain, new, streams)
                }
                Err(unreached) => Err(unreached.into_error().hint("No guest agent answers either.")),
            }
        }
    }
}

fn borrow<'b>(streams: &'b mut Streams<'_>) -> Streams<'b> {
    match streams {
        Streams::Live(live) => Streams::Live(&mut **live),
        Streams::Captured(stdin) => Streams::Captured(stdin.clone()),
    }
}

/// Why nothing was run: there is no way in.
pub(in crate::ops) struct Unreached(Error);

impl Unreached {
    pub(in crate::ops) fn into_error(self) -> Error {
        self.0
    }

    /// ssh lets nobody in.
    pub(in crate::ops) fn refused(domain: &Domain, refusal: &Refusal) -> Self {
        let name = shell_words::quote(&domain.name);
        let code = match refusal.kind {
            RefusalKind::Key | RefusalKind::HostKey => Code::Denied,
            _ => Code::Unreachable,
        };
        Self(
            Error::new(code, format!("nobody can log in to the VM `{}`", domain.name))
                .because(&refusal.words)
                .hint(format!("See why: vmprov vm wait {name} --timeout 10s")),
        )
    }
}

/// Who logs in where; the inner error is that there is no way in.
pub(in crate::ops) fn way_in(
    host: &Host,
    domain: &Domain,
    user: Option<&str>,
) -> Result<Result<(Login, Target), Unreached>> {
    let login = match Login::of(host, domain, user) {
        Ok(login) => login,
        Err(error) => return Ok(Err(Unreached(error))),
    };
    let addresses = address::of(host, domain)?;
    let Some(address) = addresses.first() else {
        let error = Error::new(Code::Unreachable, format!("the VM `{}` has no address yet", domain.name));
        let name = shell_words::quote(&domain.name);
        return Ok(Err(Unreached(error.hint(format!("Wait until it lets you in: vmprov vm wait {name}")))));
    };
    let target = login.at(address);
    Ok(Ok((login, target)))
}

fn through_ssh(host: &Host, domain: &Domain, new: &NewExec, streams: Streams) -> Result<Result<Executed>, Unreached> {
    let (login, target) = match way_in(host, domain, new.user.as_deref()) {
        Ok(way) => way?,
        Err(error) => return Ok(Err(error)),
    };
    // ssh does not tell a signal that ended a command; a shell does, whatever the user's own is.
    let command = format!("{}; exit $?", shell_words::join(limited(new).iter().chain(&new.command)));
    let limit = new.timeout.map(|limit| limit.0 + GRACE);
    let mut executed = Executed {
        vm: domain.name.clone(),
        via: Via::Ssh,
        user: login.user,
        exit_status: 0,
        stdout: None,
        stderr: None,
        truncated: false,
    };
    let began = Instant::now();
    let ran = match streams {
        Streams::Live(live) => target
            .run(&host.runner, &command, live.has_stdin(), limit)
            .map(|ran| ran.map(|status| executed.exit_status = exit_status(status))),
        Streams::Captured(stdin) => target.capture(&host.runner, &command, &stdin, (limit, MOST_CAPTURED)).map(|ran| {
            ran.map(|(finished, more)| {
                executed.truncated = more;
                executed.exit_status = exit_status(finished.status);
                executed.stdout = Some(String::from_utf8_lossy(&finished.stdout).into_owned());
                executed.stderr = Some(finished.stderr);
            })
        }),
    };
    match ran {
        Ok(Ok(())) => Ok(within_limit(new, began, executed)),
        Ok(Err(refusal)) => Err(Unreached::refused(domain, &refusal)),
        Err(error) if error.code == Code::Timeout => Ok(Err(out_of_time(new, &domain.name))),
        Err(error) => Ok(Err(error)),
    }
}

/// What ends a command in the guest when its time is up (GNU coreutils, busybox): the end of a connection does not.
fn limited(new: &NewExec) -> Vec<String> {
    let limit = new.timeout.map(|limit| limit.0.as_secs().max(1).to_string());
    limit.into_iter().flat_map(|limit| ["timeout".to_owned(), "-k".to_owned(), "5".to_owned(), limit]).collect()
}

/// What `timeout` answers when it had to end the command, in time or by force. Before its time a command may answer so
/// itself, too.
fn within_limit(new: &NewExec, began: Instant, executed: Executed) -> Result<Executed> {
    let is_over = new.timeout.is_some_and(|limit| began.elapsed() >= limit.0);
    match executed.exit_status {
        124 | 137 if is_over => Err(out_of_time(new, &executed.vm)),
        _ => Ok(executed),
    }
}

fn out_of_time(new: &NewExec, vm: &str) -> Error {
    let seconds = new.timeout.map(|limit| limit.0.as_secs()).unwrap_or_default();
    let command = shell_words::join(&new.command);
    Error::new(Code::Timeout, format!("`{command}` did not end within {seconds} s in the VM `{vm}`, and was ended"))
        .hint("Give it longer with --timeout.")
}
