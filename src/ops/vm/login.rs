//! Logging in: which address, which user, which keys, and whose host keys must answer.

use std::process::ExitStatus;

use uuid::Uuid;

use super::{super::Host, list::known_addresses, look_up, require_whole};
use crate::{
    error::{Error, Result},
    model::vm::Address,
    tools::{
        ssh::Target,
        virsh::{Domain, Metadata},
    },
};

/// Opens an ssh session on a VM, or runs a command in it; returns ssh's status, which is the command's.
pub fn ssh(host: &Host, reference: &str, user: Option<&str>, command: &[String]) -> Result<ExitStatus> {
    let (listed, domain) = look_up(host, reference)?;
    require_whole(&domain)?;
    let login = Login::of(host, &domain, user)?;
    let name = shell_words::quote(&listed.name);
    if !listed.state.is_active() {
        return Err(Error::conflict(format!("the VM `{}` is {}", listed.name, listed.state))
            .hint(format!("Start it: vmprov vm start {name}")));
    }
    let addresses = known_addresses(host, &domain)?;
    let Some(address) = addresses.first() else {
        return Err(Error::conflict(format!("the VM `{}` has no address yet", listed.name))
            .hint(format!("Wait until it lets you in: vmprov vm wait {name} --for ssh")));
    };
    login.at(address).session(command)
}

/// Hands the terminal to a VM's serial console.
pub fn console(host: &Host, reference: &str) -> Result<ExitStatus> {
    let (listed, _) = look_up(host, reference)?;
    if !listed.state.is_active() {
        return Err(Error::conflict(format!("the VM `{}` is {}, so it has no console", listed.name, listed.state))
            .hint(format!("Start it: vmprov vm start {}", shell_words::quote(&listed.name))));
    }
    host.virsh.attached(&["console", "--domain", &listed.uuid.to_string()]).attach()
}

/// Who logs in, with what, and what must answer.
#[derive(Debug, Clone)]
pub(super) struct Login {
    user: String,
    identities: Vec<camino::Utf8PathBuf>,
    host_keys: Vec<String>,
    uuid: Uuid,
}

impl Login {
    /// The login of a VM whose host keys vmprov knows, with the keys of the key store that it was given.
    pub(super) fn of(host: &Host, domain: &Domain, user: Option<&str>) -> Result<Self> {
        let name = &domain.name;
        let no_host_keys = || {
            Error::conflict(format!(
                "vmprov does not know the host keys of the VM `{name}`, so it cannot tell it from another"
            ))
            .hint("It knows those of the VMs that it creates from an image. Use ssh itself for others.")
        };
        let metadata =
            domain.metadata.as_ref().filter(|metadata| !metadata.host_keys.is_empty()).ok_or_else(no_host_keys)?;
        let user = user.or(metadata.user.as_deref()).ok_or_else(no_host_keys)?;
        let identities = identities(host, metadata);
        if identities.is_empty() {
            let quoted = shell_words::quote(name);
            let given: Vec<_> = metadata.keys.iter().map(|key| format!("`{}`", key.name)).collect();
            let given = if given.is_empty() {
                "it was given none".to_owned()
            } else {
                format!("it was given {}", given.join(", "))
            };
            return Err(Error::not_found(format!(
                "no key in {} lets you into the VM `{name}`: {given}",
                host.settings.key_dir
            ))
            .hint(format!("Give it one: vmprov key generate KEY; vmprov inject {quoted} KEY --restart")));
        }
        Ok(Self { user: user.to_owned(), identities, host_keys: metadata.host_keys.clone(), uuid: domain.uuid })
    }

    /// The login at one of the VM's addresses.
    pub(super) fn at(&self, address: &Address) -> Target {
        Target {
            address: address.address,
            user: self.user.clone(),
            identities: self.identities.clone(),
            host_keys: self.host_keys.clone(),
            alias: self.uuid.to_string(),
        }
    }

    /// The same with one key alone, to prove that it is this one that lets in.
    pub(super) fn with_only(self, identity: camino::Utf8PathBuf) -> Self {
        Self { identities: vec![identity], ..self }
    }
}

/// The identity files of the keys that a VM was given and the key store still has: the private half, or the public
/// one where the private half is in an ssh agent.
fn identities(host: &Host, metadata: &Metadata) -> Vec<camino::Utf8PathBuf> {
    let identity = |key: &crate::tools::virsh::InjectedKey| {
        let stored = host.keys.get(&key.name.parse().ok()?).ok()?;
        // A key of that name that was made anew since then lets nobody in.
        (stored.fingerprint == key.fingerprint).then(|| stored.private_key_path.or(stored.public_key_path)).flatten()
    };
    metadata.keys.iter().filter_map(identity).collect()
}
