//! A VM's serial console, live and from its log.

use std::{ops::ControlFlow, time::Duration};

use clap::Args;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    error::{Error, Hint, Result},
    model::{console, record::VolumeRole},
    ops::{
        Host,
        vm::{look_up, not_running},
    },
    tools::{exit_status, virsh::Domain},
};

/// Attaches the terminal to a VM's serial console and returns virsh's exit status. Fails without a terminal.
pub fn console(host: &Host, reference: &str, has_terminal: bool) -> Result<i32> {
    let (listed, _) = look_up(host, reference)?;
    if !listed.state.is_active() {
        return Err(not_running(&listed.name, listed.state, "so it has no console"));
    }
    if !has_terminal {
        let follow = format!("vmprov vm logs {} --follow", shell_words::quote(&listed.name));
        return Err(Error::invalid("stdin is not a terminal").hint(Hint::run("Follow the console's log", follow)));
    }
    host.virsh.attached(&["console", "--domain", &listed.uuid.to_string()]).attach(&host.runner).map(exit_status)
}

/// The suffix of a console log's name, after the VM's name.
const LOG: &str = "-console.log";

/// Returns the name of a VM's console log.
pub(in crate::ops) fn log_name(vm: &str) -> String {
    format!("{vm}{LOG}")
}

/// Returns whether a volume has the name of a console log, or of a rotated part of one.
pub(in crate::ops) fn is_log(volume: &str) -> bool {
    whole_log(volume).ends_with(LOG)
}

/// Returns the log that a volume is a rotated part of, without the number; otherwise the volume itself.
pub(in crate::ops) fn whole_log(volume: &str) -> &str {
    let parts = volume.rsplit_once('.');
    let number = |(log, number): &(&str, &str)| log.ends_with(LOG) && number.bytes().all(|byte| byte.is_ascii_digit());
    parts.filter(number).map_or(volume, |(log, _)| log)
}

/// Returns the pool and the name of the volume with a VM's console log; none if libvirt keeps no log.
pub(in crate::ops) fn log_of(host: &Host, domain: &Domain) -> Result<Option<(String, String)>> {
    let mut owned = domain.metadata.iter().flat_map(|metadata| &metadata.volumes);
    match (owned.find(|volume| volume.role == VolumeRole::Console), &domain.console_log) {
        (Some(volume), _) => Ok(Some((volume.pool.clone(), volume.name.clone()))),
        (None, Some(path)) => host.virsh.volume_of(path),
        (None, None) => Ok(None),
    }
}

/// The interval between reads of a log that is followed.
const FOLLOW: Duration = Duration::from_secs(1);

/// The maximum length of an incomplete line that is held back, in bytes.
const MAX_PENDING: usize = 64 << 10;

/// The output of a VM's serial console since its last start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Log {
    /// The VM's name.
    pub vm: String,
    /// The lines, without terminal control sequences.
    pub lines: Vec<String>,
}

/// Selects the part of a console log
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Args, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct LogOptions {
    /// Show only the last N lines
    #[arg(short = 'n', long, value_name = "N")]
    pub lines: Option<usize>,
}

/// Returns a VM's console log.
pub fn logs(host: &Host, reference: &str, options: LogOptions) -> Result<Log> {
    let (name, (pool, log)) = find_log(host, reference)?;
    let (content, _) = host.virsh.log_from(&pool, &log, 0)?;
    Ok(Log { vm: name, lines: console::last_lines(&content, options.lines.unwrap_or(usize::MAX)) })
}

/// Calls `on_line` for the last `count` lines of a VM's console log and for each new line, across restarts. Stops when
/// `on_line` breaks, or on an interrupt.
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
        // An incomplete line is held back until it ends, unless it is too long to be a line.
        let pending = if content.len() > MAX_PENDING { content.len() } else { 0 };
        let end = content.iter().rposition(|&byte| byte == b'\n').map_or(pending, |at| at + 1);
        let complete: Vec<_> = content.drain(..end).collect();
        let count = if std::mem::take(&mut first) { count.unwrap_or(usize::MAX) } else { usize::MAX };
        for line in console::last_lines(&complete, count) {
            if on_line(&line)?.is_break() {
                return Ok(());
            }
        }
        host.runner.cancel.check()?;
        std::thread::sleep(FOLLOW);
        let (new, size) = host.virsh.log_from(&pool, &log, offset)?;
        if size < offset {
            // The guest has been restarted, which truncated its log.
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
        let attach = format!("vmprov vm console {}", shell_words::quote(&domain.name));
        Error::conflict(format!("libvirt keeps no console log of VM `{}`", domain.name))
            .hint(Hint::run("Attach to the console instead", attach))
            .hint("Create the VM again with this version of vmprov, which keeps a log")
    })?;
    Ok((domain.name, log))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rotated_part_belongs_to_the_whole_log() {
        for (volume, whole, expected) in [
            ("web-console.log", "web-console.log", true),
            ("web-console.log.0", "web-console.log", true),
            ("web-console.log.old", "web-console.log.old", false),
            ("web.qcow2", "web.qcow2", false),
        ] {
            assert_eq!((whole_log(volume), is_log(volume)), (whole, expected));
        }
        assert_eq!(whole_log(&log_name("web")), "web-console.log");
    }
}
