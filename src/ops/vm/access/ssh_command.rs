//! `vm ssh-command`: the ssh command that logs in to a VM, for use by a script, an editor or an agent.

use std::borrow::Cow;

use serde::Serialize;
use utoipa::ToSchema;

use crate::{
    error::{Error, Hint, Result},
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
    /// The command, quoted for a shell. Words appended to it run as a command in the VM.
    pub command: String,
    /// The same command as a list: the program and its arguments.
    pub arguments: Vec<String>,
    /// The login user.
    pub user: String,
    /// The VM's address.
    pub address: String,
    /// The port, if it is not 22.
    pub port: Option<u16>,
}

/// Returns the command. The VM must be running and have an address; the connection is not tested.
pub fn ssh_command(host: &Host, reference: &str) -> Result<SshCommand> {
    let vm = find(host, reference)?.name;
    let Targets { known_hosts, mut vms } = ssh_config::targets(host, std::slice::from_ref(&vm))?;
    let target = vms.pop().map_or_else(|| Err("it no longer exists".to_owned()), |(_, target)| target);
    let target = target.map_err(|reason| {
        Error::conflict(format!("cannot log in to VM `{vm}`")).because(reason).hint(Hint::call(
            "Wait for SSH",
            "vm_wait",
            [("vm", vm.as_str()), ("for", "ssh")],
        ))
    })?;
    let arguments = target.command(&known_hosts);
    let command = arguments.iter().map(|word| quoted(word)).collect::<Vec<_>>().join(" ");
    Ok(SshCommand { vm, command, arguments, address: target.address.to_string(), port: target.port, user: target.user })
}

/// Quotes a word for a shell only if it needs quotes, because `$(…)` does not remove them.
fn quoted(word: &str) -> Cow<'_, str> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "@%+=:,./_-".contains(c);
    if !word.is_empty() && word.chars().all(is_plain) { word.into() } else { shell_words::quote(word) }
}
