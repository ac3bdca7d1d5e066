//! `exec`: running one command in a guest, through SSH or, if the network does not reach it, through its guest agent.

mod agent;

use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    error::{Code, Error, Hint, Result},
    model::{limit::Limit, user::check_user, vm::State},
    ops::{
        Host,
        vm::{access::address, access::login::Login, look_up, not_running, require_complete},
    },
    tools::{
        exit_status,
        ssh::{Refusal, RefusalKind, Target},
        virsh::Domain,
    },
};

/// How much longer than its limit to wait for a command, so that the guest can terminate it.
const GRACE: Duration = Duration::from_secs(15);

/// Describes the command to run in a VM
#[derive(Debug, Clone, PartialEq, Eq, Args, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NewExec {
    // Shell completion puts an argument behind the others unless it has an index.
    /// VM, by name or UUID
    #[arg(index = 1)]
    #[schema(min_length = 1, max_length = 255)]
    pub vm: String,

    /// Command and its arguments, run without a shell; to use one: sh -c '…'
    #[arg(index = 2, last = true, required = true)]
    #[schema(min_items = 1)]
    pub command: Vec<String>,

    /// User to run the command as [default: the VM's]
    #[arg(short = 'l', long, value_name = "NAME")]
    #[serde(default)]
    #[schema(pattern = "^[a-z_][a-z0-9_-]{0,31}$")]
    pub user: Option<String>,

    /// How to reach the guest
    #[arg(long, value_enum, default_value_t = Via::Auto)]
    #[serde(default)]
    pub via: Via,

    /// Time limit for the command [default: none]
    #[arg(long, value_name = "TIME")]
    #[serde(default)]
    pub timeout: Option<Limit>,

    /// Standard input of the command
    #[arg(skip)]
    #[serde(default)]
    pub stdin: Option<String>,
}

/// How to reach a guest
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum, Serialize, Deserialize, ToSchema, strum::Display)]
#[serde(rename_all = "kebab-case")]
#[strum(serialize_all = "kebab-case")]
pub enum Via {
    /// SSH, or the guest agent if SSH fails
    #[default]
    Auto,
    /// SSH only
    Ssh,
    /// The guest agent only; needs no network
    Agent,
}

/// The result of a command in a guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Executed {
    /// The VM's name.
    pub vm: String,
    /// `ssh` or `agent`.
    pub via: Via,
    /// The user that the command ran as.
    pub user: String,
    /// The exit status, or 128 plus the number of the signal that ended the command.
    pub exit_status: i32,
    /// The standard output, if it was captured.
    pub stdout: Option<String>,
    /// The standard error, if it was captured.
    pub stderr: Option<String>,
    /// Whether standard output or standard error was longer than 1 MiB, the maximum that is captured of each.
    pub truncated: bool,
}

/// The maximum number of bytes that are captured of standard output, and of standard error. The output of a guest may
/// be endless, and a report needs no more.
const MAX_CAPTURED: usize = 1 << 20;

/// Where a command's input comes from, and where its output goes.
pub enum Streams<'a> {
    /// Input and output are streamed.
    Live(&'a mut dyn Live),
    /// This is the whole input, and the report has the whole output.
    Captured(Vec<u8>),
}

/// The streams of a command that the guest agent runs. A command that ssh runs inherits the streams of this process.
pub trait Live {
    /// Returns whether the command has standard input.
    fn has_stdin(&self) -> bool;
    /// Reads standard input to its end.
    fn stdin(&mut self) -> Result<Vec<u8>>;
    /// Handles a piece of standard output.
    fn stdout(&mut self, data: &[u8]) -> Result<()>;
    /// Handles a piece of standard error.
    fn stderr(&mut self, data: &[u8]) -> Result<()>;
}

/// Runs a command in a VM and waits until it ends.
pub fn exec(host: &Host, new: &NewExec, streams: Streams) -> Result<Executed> {
    new.user.as_deref().map_or(Ok(()), check_user)?;
    if new.timeout.is_some_and(|limit| limit.0.as_secs() == 0) {
        return Err(Error::invalid("invalid timeout `0s`: the minimum is 1s"));
    }
    let (listed, domain) = look_up(host, &new.vm)?;
    require_complete(&domain)?;
    if listed.state != State::Running {
        return Err(not_running(&listed.name, listed.state, "so it cannot run a command"));
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
                    host.progress.note(&format!("using the guest agent: {message}{}", why.unwrap_or_default()));
                    agent::run(host, &domain, new, streams)
                }
                Err(unreached) => {
                    Err(unreached.into_error().hint("Check the guest agent, which is not connected either"))
                }
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

/// The error of a login that failed, so that nothing was run.
pub(in crate::ops) struct Unreached(Error);

impl Unreached {
    pub(in crate::ops) fn into_error(self) -> Error {
        self.0
    }

    /// Returns the error for a login that ssh refused.
    pub(in crate::ops) fn refused(domain: &Domain, refusal: &Refusal) -> Self {
        let code = match refusal.kind {
            RefusalKind::Key | RefusalKind::HostKey => Code::Denied,
            _ => Code::Unreachable,
        };
        Self(
            Error::new(code, format!("cannot log in to VM `{}`", domain.name))
                .because(&refusal.words)
                .hint(Hint::call("See why", "vm_wait", [("vm", domain.name.as_str()), ("timeout", "10s")])),
        )
    }
}

/// Returns the login of a VM and where ssh finds it. The inner error is that no login is possible.
pub(in crate::ops) fn ssh_target(
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
        let error = Error::new(Code::Unreachable, format!("VM `{}` has no address yet", domain.name));
        return Ok(Err(Unreached(error.hint(Hint::call_on_vm("Wait for SSH", "vm_wait", &domain.name)))));
    };
    let target = login.at(address);
    Ok(Ok((login, target)))
}

fn through_ssh(host: &Host, domain: &Domain, new: &NewExec, streams: Streams) -> Result<Result<Executed>, Unreached> {
    let (login, target) = match ssh_target(host, domain, new.user.as_deref()) {
        Ok(found) => found?,
        Err(error) => return Ok(Err(error)),
    };
    // ssh does not report the signal that ended a command; any user's shell does, in its exit status.
    let command = format!("{}; exit $?", shell_words::join(timeout_words(new).iter().chain(&new.command)));
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
    let started = Instant::now();
    let ran = match streams {
        Streams::Live(live) => target
            .run(&host.runner, &command, live.has_stdin(), limit)
            .map(|ran| ran.map(|status| executed.exit_status = exit_status(status))),
        Streams::Captured(stdin) => target.capture(&host.runner, &command, &stdin, (limit, MAX_CAPTURED)).map(|ran| {
            ran.map(|(finished, more)| {
                executed.truncated = more;
                executed.exit_status = exit_status(finished.status);
                executed.stdout = Some(String::from_utf8_lossy(&finished.stdout).into_owned());
                executed.stderr = Some(finished.stderr);
            })
        }),
    };
    match ran {
        Ok(Ok(())) => Ok(within_limit(new, started, executed)),
        Ok(Err(refusal)) => Err(Unreached::refused(domain, &refusal)),
        Err(error) if error.code == Code::Timeout => Ok(Err(out_of_time(new, &domain.name))),
        Err(error) => Ok(Err(error)),
    }
}

/// Returns the words that make the guest end a command at its time limit (GNU coreutils, busybox). Closing the
/// connection would not end it.
fn timeout_words(new: &NewExec) -> Vec<String> {
    let limit = new.timeout.map(|limit| limit.0.as_secs().max(1).to_string());
    limit.into_iter().flat_map(|limit| ["timeout".to_owned(), "-k".to_owned(), "5".to_owned(), limit]).collect()
}

/// Returns an error if the command exceeded its time limit. `timeout` then exits with 124 or 137; before the limit, the
/// same status is the command's own.
fn within_limit(new: &NewExec, started: Instant, executed: Executed) -> Result<Executed> {
    let is_over = new.timeout.is_some_and(|limit| started.elapsed() >= limit.0);
    match executed.exit_status {
        124 | 137 if is_over => Err(out_of_time(new, &executed.vm)),
        _ => Ok(executed),
    }
}

fn out_of_time(new: &NewExec, vm: &str) -> Error {
    let seconds = new.timeout.map(|limit| limit.0.as_secs()).unwrap_or_default();
    let command = shell_words::join(&new.command);
    Error::new(Code::Timeout, format!("`{command}` was terminated in VM `{vm}`: it exceeded its limit of {seconds} s"))
        .hint(Hint::set("Raise the limit", "timeout"))
}
