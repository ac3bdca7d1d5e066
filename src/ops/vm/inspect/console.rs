//! A VM's serial console: live, and what it has said.

use std::{ops::ControlFlow, time::Duration};

use clap::Args;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    error::{Error, Result},
    model::{console, record::VolumeRole},
    ops::{Host, vm::look_up},
    tools::{exit_status, virsh::Domain},
};

/// Hands the terminal, where there is one, to a VM's serial console; returns virsh's exit status.
pub fn console(host: &Host, reference: &str, has_terminal: bool) -> Result<i32> {
    let (listed, _) = look_up(host, reference)?;
    if !listed.state.is_active() {
        return Err(Error::conflict(format!("the VM `{}` is {}, so it has no console", listed.name, listed.state))
            .hint(format!("Start it: vmprov vm start {}", shell_words::quote(&listed.name))));
    }
    if !has_terminal {
        let logs = format!("To read it: vmprov vm logs {} --follow", shell_words::quote(&listed.name));
        return Err(Error::invalid("a console is for a terminal, and standard input is none").hint(logs));
    }
    host.virsh.attached(&["console", "--domain", &listed.uuid.to_string()]).attach(&host.runner).map(exit_status)
}

/// How the name of a console's log ends, behind the VM's.
const LOG: &str = "-console.log";

/// What the log of a VM's console is called.
pub(in crate::ops) fn log_name(vm: &str) -> String {
    format!("{vm}{LOG}")
}

/// Whether a volume is called as the log of a console is, or as a part of one that was put aside.
pub(in crate::ops) fn is_log(volume: &str) -> bool {
    whole_log(volume).ends_with(LOG)
}

/// The log that a volume is a part of, put aside under a number; else itself.
pub(in crate::ops) fn whole_log(volume: &str) -> &str {
    let parts = volume.rsplit_once('.');
    let number = |(log, number): &(&str, &str)| log.ends_with(LOG) && number.bytes().all(|byte| byte.is_ascii_digit());
    parts.filter(number).map_or(volume, |(log, _)| log)
}

/// The pool and the name of the volume that a VM's console is logged to; none where libvirt keeps no log of it.
pub(in crate::ops) fn log_of(host: &Host, domain: &Domain) -> Result<Option<(String, String)>> {
    let mut owned = domain.metadata.iter().flat_map(|metadata| &metadata.volumes);
    match (owned.find(|volume| volume.role == VolumeRole::Console), &domain.console_log) {
        (Some(volume), _) => Ok(Some((volume.pool.clone(), volume.name.clone()))),
        (None, Some(path)) => host.virsh.volume_of(path),
        (None, None) => Ok(None),
    }
}

/// How often a log that is followed is looked at.
const FOLLOW: Duration = Duration::from_secs(1);

/// The most bytes that are held back for the end of their line.
const MOST_PENDING: usize = 64 << 10;

/// What a VM has said on its serial console since its last start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Log {
    /// The VM's name.
    pub vm: String,
    /// The lines, without what only steers a terminal.
    pub lines: Vec<String>,
}

/// How much of a console's log is wanted
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Args, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct LogOptions {
    /// Only the last lines
    #[arg(short = 'n', long, value_name = "N")]
    pub lines: Option<usize>,
}

/// A VM's console log.
pub fn logs(host: &Host, reference: &str, options: LogOptions) -> Result<Log> {
    let (name, (pool, log)) = find_log(host, reference)?;
    let (content, _) = host.virsh.log_from(&pool, &log, 0)?;
    Ok(Log { vm: name, lines: console::last_lines(&content, options.lines.unwrap_or(usize::MAX)) })
}

/// Hands on each line of a VM's console log as it comes, beginning with the last `count`, across restarts, until somebody
/// interrupts or `on_line` has enough.
pub fn follow(
    host: &Host,
    reference: &str,
    count: Option<usize>,
    mut on_line: impl FnMut(&str) -> Result<ControlFlow<()>>,
) -> Result<()> {
    let (_, (pool, log)) = find_log(host, reference)?;
    let (mut content, mut offset) = host.virsh.log_from(&pool, &log, 0)?;
    offset = offset.max(content.len() as u64);
    let mut first = true;
    loop {
        // A line that is not ended yet comes when it is, unless it is none.
        let pending = if content.len() > MOST_PENDING { content.len() } else { 0 };
        let end = content.iter().rposition(|&byte| byte == b'\n').map_or(pending, |at| at + 1);
        let ended: Vec<_> = content.drain(..end).collect();
        let count = if std::mem::take(&mut first) { count.unwrap_or(usize::MAX) } else { usize::MAX };
        for line in console::last_lines(&ended, count) {
            if on_line(&line)?.is_break() {
                return Ok(());
            }
        }
        host.runner.cancel.check()?;
        std::thread::sleep(FOLLOW);
        let (new, size) = host.virsh.log_from(&pool, &log, offset)?;
        if size < offset {
            // The guest has been started again, and its log begun anew.
            offset = 0;
        } else {
            offset += new.len() as u64;
            content.extend(new);
        }
    }
}

fn find_log(host: &Host, reference: &str) -> Result<(String, (String, String))> {
    let (_, domain) = look_up(host, reference)?;
    let log = log_of(host, &domain)?.ok_or_else(|| {
        Error::conflict(format!("libvirt keeps no log of the console of the VM `{}`", domain.name))
            .hint("It keeps one of the VMs that this version of vmprov creates. Look at the console itself: vmprov vm console VM.")
    })?;
    Ok((domain.name, log))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_that_was_put_aside_belongs_to_the_whole_one() {
        for (volume, whole, is) in [
            ("web-console.log", "web-console.log", true),
            ("web-console.log.0", "web-console.log", true),
            ("web-console.log.old", "web-console.log.old", false),
            ("web.qcow2", "web.qcow2", false),
        ] {
            assert_eq!((whole_log(volume), is_log(volume)), (whole, is));
        }
        assert_eq!(whole_log(&log_name("web")), "web-console.log");
    }
}
