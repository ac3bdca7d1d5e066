//! `cp`: files and folders into a guest and out of it.

use std::fmt;

use clap::Args;
use serde::{Deserialize, Serialize};

use crate::{
    error::{Code, Error, Result},
    model::user::check_user,
    ops::{
        Host,
        vm::{
            access::exec::{Unreached, way_in},
            look_up, require_whole,
        },
    },
    tools::ssh::Refusal,
};

/// Describes what to copy
#[derive(Debug, Clone, PartialEq, Eq, Args, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct NewCopy {
    /// Files and folders to copy, and last where to; those in a VM begin with its name, as in `web:/etc/hosts`
    #[arg(required = true, num_args = 2.., value_name = "[VM:]PATH")]
    pub paths: Vec<String>,

    /// User to copy as [default: the VM's]
    #[arg(short = 'l', long, value_name = "NAME")]
    #[serde(default)]
    pub user: Option<String>,
}

/// What was copied.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Copied {
    /// `copied`.
    pub status: &'static str,
    /// The VM's name.
    pub vm: String,
    /// Which way.
    pub direction: Direction,
    /// What was copied.
    pub sources: Vec<String>,
    /// Where to.
    pub target: String,
}

/// Which way files go
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Direction {
    /// Into the guest.
    Into,
    /// Out of the guest.
    OutOf,
}

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Into => "into",
            Self::OutOf => "out of",
        })
    }
}

/// A path in a VM or on this machine, as it was typed.
enum Place<'a> {
    Guest { vm: &'a str, path: &'a str },
    Here(&'a str),
}

impl<'a> Place<'a> {
    /// A colon makes it a VM's, unless a slash comes before it, as for scp.
    fn parse(text: &'a str) -> Result<Self> {
        match text.split_once(':') {
            _ if text.is_empty() => Err(Error::invalid("a path to copy is empty")),
            Some(("", _)) => Err(Error::invalid(format!("`{}` names no VM before the colon", text.escape_debug()))
                .hint("Write web:/path for a path in the VM `web`, and ./:path for a path of this machine.")),
            Some((vm, path)) if !vm.contains('/') => Ok(Self::Guest { vm, path }),
            _ => Ok(Self::Here(text)),
        }
    }
}

/// Copies files and folders between this machine and a VM. With `quiet`, no progress is shown.
pub fn copy(host: &Host, new: &NewCopy, quiet: bool) -> Result<Copied> {
    new.user.as_deref().map_or(Ok(()), check_user)?;
    let places = new.paths.iter().map(|path| Place::parse(path)).collect::<Result<Vec<_>>>()?;
    let (vm, direction) = route(&places)?;
    let (listed, domain) = look_up(host, vm)?;
    require_whole(&domain)?;
    if !listed.state.is_active() {
        return Err(Error::conflict(format!("the VM `{}` is {}", listed.name, listed.state))
            .hint(format!("Start it: vmprov vm start {}", shell_words::quote(&listed.name))));
    }
    let (_, target) = way_in(host, &domain, new.user.as_deref())?.map_err(Unreached::into_error)?;
    let operand = |place: &Place| match place {
        Place::Guest { path, .. } => format!(":{path}"),
        // scp would take what has a colon for another machine's.
        Place::Here(path) if path.starts_with('/') => (*path).to_owned(),
        Place::Here(path) => format!("./{path}"),
    };
    host.step(format!("copying {direction} {}", listed.name));
    let operands: Vec<_> = places.iter().map(operand).collect();
    let (status, complaint) = target.copy(&host.runner, &operands, quiet)?;
    if status.code() == Some(255) {
        return Err(Unreached::refused(&domain, &Refusal::new(&complaint)).into_error());
    }
    if !status.success() {
        return Err(failed(direction, &listed.name, &complaint));
    }
    let (target, sources) = new.paths.split_last().ok_or_else(|| Error::internal("nothing to copy"))?;
    Ok(Copied { status: "copied", vm: listed.name, direction, sources: sources.to_vec(), target: target.clone() })
}

/// Which VM is meant, and which way: exactly one side is a VM's.
fn route<'a>(places: &[Place<'a>]) -> Result<(&'a str, Direction)> {
    let form = "Copy into a VM (vmprov vm cp FILE… web:/path) or out of one (vmprov vm cp web:/path… FOLDER); \
                a path of this machine that has a colon is written ./so.";
    let refuse = |message: &str| Err(Error::invalid(message).hint(form));
    let vm = |place: &Place<'a>| match place {
        Place::Guest { vm, .. } => Some(*vm),
        Place::Here(_) => None,
    };
    let Some((last, sources)) = places.split_last().filter(|(_, sources)| !sources.is_empty()) else {
        return refuse("there is nothing to copy, or nowhere to copy it to");
    };
    match (vm(last), sources.iter().map(vm).collect::<Vec<_>>()) {
        (Some(vm), sources) if sources.iter().all(Option::is_none) => Ok((vm, Direction::Into)),
        (None, sources) if sources.iter().all(|source| source.is_some() && *source == sources[0]) => {
            Ok((sources[0].unwrap_or_default(), Direction::OutOf))
        }
        (None, sources) if sources.iter().all(Option::is_none) => refuse("none of the paths is in a VM"),
        _ => refuse("the paths to copy are not all on one side, and the target on the other"),
    }
}

fn failed(direction: Direction, vm: &str, complaint: &str) -> Error {
    let code = match complaint {
        text if text.contains("No such file or directory") => Code::NotFound,
        text if text.contains("ermission denied") => Code::Denied,
        _ => Code::ToolFailed,
    };
    let words: Vec<_> = complaint.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let error = Error::new(code, format!("cannot copy everything {direction} the VM `{vm}`")).because(words.join("\n"));
    match code {
        Code::Denied => error.hint("Copy it as another user (--user), or by way of one of this user's folders."),
        _ => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn routed(paths: &[&str]) -> Result<(String, Direction)> {
        let places = paths.iter().map(|path| Place::parse(path)).collect::<Result<Vec<_>>>()?;
        route(&places).map(|(vm, direction)| (vm.to_owned(), direction))
    }

    #[test]
    fn one_side_is_a_vms() {
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
