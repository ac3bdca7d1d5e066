//! `vm ssh-command`: the command that logs in to a VM, for whoever runs it elsewhere: a script, an editor, an agent.

use std::borrow::Cow;

use serde::Serialize;
use utoipa::ToSchema;

use crate::{
    error::{Error, Result},
    ops::{
        Host,
        vm::{access::ssh_config, access::ssh_config::Targets, find},
    },
};

/// The command that logs in to a VM, on the machine where vmprov runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct SshCommand {
    /// The VM's name.
    pub vm: String,
    /// The command, as a shell takes it; what is put behind it runs in the VM.
    pub command: String,
    /// The same as the program and its arguments.
    pub arguments: Vec<String>,
    /// The user.
    pub user: String,
    /// The address.
    pub address: String,
    /// The port, where it is not ssh's own.
    pub port: Option<u16>,
}

/// Puts the command together; the VM must be running and have an address. Whether ssh answers there is not tried.
pub fn ssh_command(host: &Host, reference: &str) -> Result<SshCommand> {
    let vm = find(host, reference)?.name;
    let Targets { known_hosts, mut vms } = ssh_config::targets(host, std::slice::from_ref(&vm))?;
    let target = vms.pop().map_or_else(|| Err("it has gone".to_owned()), |(_, target)| target);
    let target = target.map_err(|reason| {
        let quoted = shell_words::quote(&vm);
        Error::conflict(format!("the VM `{vm}` cannot be logged in to now"))
            .because(reason)
            .hint(format!("Wait until it can: vmprov vm wait {quoted} --for ssh"))
    })?;
    let arguments = target.command(&known_hosts);
    let command = arguments.iter().map(|word| quoted(word)).collect::<Vec<_>>().join(" ");
    Ok(SshCommand { vm, command, arguments, address: target.address.to_string(), port: target.port, user: target.user })
}

/// A word as a shell takes it, without quotes where it needs none: `$(…)` does not take them off.
fn quoted(word: &str) -> Cow<'_, str> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "@%+=:,./_-".contains(c);
    if !word.is_empty() && word.chars().all(is_plain) { word.into() } else { shell_words::quote(word) }
}
