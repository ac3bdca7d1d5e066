//! `cp`: copying files and folders into a guest and out of it.

use clap::Args;
use serde::{Deserialize, Serialize};

use crate::{
    error::{Code, Error, Hint, Result},
    model::user::check_user,
    ops::{
        Host,
        vm::{
            access::exec::{Unreached, ssh_target},
            look_up, not_running, require_complete,
        },
    },
    tools::ssh::Refusal,
};

/// Describes what to copy
#[derive(Debug, Clone, PartialEq, Eq, Args, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NewCopy {
    /// Files and folders to copy, then the destination; a path in a VM begins with the VM's name: `web:/etc/hosts`
    #[arg(required = true, num_args = 2.., value_name = "[VM:]PATH")]
    pub paths: Vec<String>,

    /// User to log in as [default: the VM's]
    #[arg(short = 'l', long, value_name = "NAME")]
    #[serde(default)]
    pub user: Option<String>,
}

/// The result of a copy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Copied {
    /// `copied`.
    pub status: &'static str,
    /// The VM's name.
    pub vm: String,
    /// The direction.
    pub direction: Direction,
    /// The files and folders that were copied.
    pub sources: Vec<String>,
    /// The destination.
    pub target: String,
}

/// The direction of a copy
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, strum::Display)]
#[serde(rename_all = "kebab-case")]
#[strum(serialize_all = "lowercase")]
pub enum Direction {
    /// Into the guest.
    Into,
    /// Out of the guest.
    #[strum(serialize = "out of")]
    OutOf,
}

/// A path in a VM or on this machine, as it was typed.
enum Operand<'a> {
    Guest { vm: &'a str, path: &'a str },
    Local(&'a str),
}

impl<'a> Operand<'a> {
    /// Parses a path. As in scp, it is in a VM if it has a colon with no slash before it.
    fn parse(text: &'a str) -> Result<Self> {
        match text.split_once(':') {
            _ if text.is_empty() => Err(Error::invalid("invalid path: it is empty")),
            Some(("", _)) => {
                Err(Error::invalid(format!("invalid path `{}`: no VM is named before the colon", text.escape_debug()))
                    .hint("Write web:/path for a path in VM `web`, and ./:path for a path on this machine"))
            }
            Some((vm, path)) if !vm.contains('/') => Ok(Self::Guest { vm, path }),
            _ => Ok(Self::Local(text)),
        }
    }
}

/// Copies files and folders between this machine and a VM. With `quiet`, no progress is shown.
pub fn copy(host: &Host, new: &NewCopy, quiet: bool) -> Result<Copied> {
    new.user.as_deref().map_or(Ok(()), check_user)?;
    let operands = new.paths.iter().map(|path| Operand::parse(path)).collect::<Result<Vec<_>>>()?;
    let (vm, direction) = route(&operands)?;
    let (listed, domain) = look_up(host, vm)?;
    require_complete(&domain)?;
    if !listed.state.runs() {
        return Err(not_running(&listed.name, listed.state, "so its SSH server does not respond"));
    }
    let (_, target) = ssh_target(host, &domain, new.user.as_deref())?.map_err(Unreached::into_error)?;
    let for_scp = |operand: &Operand| match operand {
        Operand::Guest { path, .. } => format!(":{path}"),
        // scp would read a relative path with a colon as one on another machine.
        Operand::Local(path) if path.starts_with('/') => (*path).to_owned(),
        Operand::Local(path) => format!("./{path}"),
    };
    host.step(format!("copying {direction} {}", listed.name));
    let operands: Vec<_> = operands.iter().map(for_scp).collect();
    let (status, stderr) = target.copy(&host.runner, &operands, quiet)?;
    if status.code() == Some(255) {
        return Err(Unreached::refused(&domain, &Refusal::new(&stderr)).into_error());
    }
    if !status.success() {
        return Err(failed(direction, &listed.name, &stderr));
    }
    let (target, sources) = new.paths.split_last().ok_or_else(|| Error::internal("nothing to copy"))?;
    Ok(Copied { status: "copied", vm: listed.name, direction, sources: sources.to_vec(), target: target.clone() })
}

/// Returns the VM and the direction. Either all sources or the destination must be in the VM.
fn route<'a>(operands: &[Operand<'a>]) -> Result<(&'a str, Direction)> {
    let refuse = |message: &str| {
        Err(Error::invalid(message)
            .hint(Hint::run("Copy into a VM", "vmprov vm cp FILE… web:/path"))
            .hint(Hint::run("Copy out of a VM", "vmprov vm cp web:/path… FOLDER"))
            .hint("Write ./ before a local path that has a colon"))
    };
    let vm = |operand: &Operand<'a>| match operand {
        Operand::Guest { vm, .. } => Some(*vm),
        Operand::Local(_) => None,
    };
    let Some((last, sources)) = operands.split_last().filter(|(_, sources)| !sources.is_empty()) else {
        return refuse("a source and a destination are required");
    };
    match (vm(last), sources.iter().map(vm).collect::<Vec<_>>()) {
        (Some(vm), sources) if sources.iter().all(Option::is_none) => Ok((vm, Direction::Into)),
        (None, sources) if sources.iter().all(|source| source.is_some() && *source == sources[0]) => {
            Ok((sources[0].unwrap_or_default(), Direction::OutOf))
        }
        (None, sources) if sources.iter().all(Option::is_none) => refuse("none of the paths is in a VM"),
        _ => refuse("either all sources or only the destination must be in one VM"),
    }
}

fn failed(direction: Direction, vm: &str, stderr: &str) -> Error {
    let code = match stderr {
        text if text.contains("No such file or directory") => Code::NotFound,
        text if text.contains("ermission denied") => Code::Denied,
        _ => Code::ToolFailed,
    };
    let lines: Vec<_> = stderr.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let error = Error::new(code, format!("cannot copy everything {direction} VM `{vm}`")).because(lines.join("\n"));
    match code {
        Code::Denied => error
            .hint(Hint::set("Log in as another user", "user"))
            .hint("Copy through a folder that the login user can access"),
        _ => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn routed(paths: &[&str]) -> Result<(String, Direction)> {
        let operands = paths.iter().map(|path| Operand::parse(path)).collect::<Result<Vec<_>>>()?;
        route(&operands).map(|(vm, direction)| (vm.to_owned(), direction))
    }

    #[test]
    fn either_the_sources_or_the_destination_are_in_a_vm() {
        for (paths, vm, direction) in [
            (&["a", "web:/b"][..], "web", Direction::Into),
            (&["a", "./x:y", "web:"], "web", Direction::Into),
            (&["web:/b", "."], "web", Direction::OutOf),
            (&["web:/b", "web:c", "/d"], "web", Direction::OutOf),
        ] {
            assert_eq!(routed(paths).unwrap(), (vm.to_owned(), direction), "{paths:?}");
        }
        for paths in [
            &["a", "b"][..],
            &["web:a", "web:b"],
            &["web:a", "db:b", "c"],
            &["a", "web:b", "c"],
            &["a"],
            &[":a", "b"],
            &["", "web:"],
        ] {
            assert_eq!(routed(paths).unwrap_err().code, Code::InvalidInput, "{paths:?}");
        }
    }
}
