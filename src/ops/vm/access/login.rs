//! Logging in: which address, which user, which keys, and whose host keys must answer.

use camino::Utf8PathBuf;
use uuid::Uuid;

use crate::{
    error::{Error, Result},
    model::{
        key::Key,
        record::{InjectedKey, VmRecord},
        vm::Address,
    },
    ops::{
        Host,
        vm::{access::address, look_up, require_whole},
    },
    tools::{exit_status, ssh::Target, virsh::Domain},
};

/// Opens an ssh session on a VM, or runs a command in it; returns ssh's exit status, which is the command's.
pub fn ssh(host: &Host, reference: &str, user: Option<&str>, command: &[String]) -> Result<i32> {
    let (listed, domain) = look_up(host, reference)?;
    require_whole(&domain)?;
    let login = Login::of(host, &domain, user)?;
    let name = shell_words::quote(&listed.name);
    if !listed.state.is_active() {
        return Err(Error::conflict(format!("the VM `{}` is {}", listed.name, listed.state))
            .hint(format!("Start it: vmprov vm start {name}")));
    }
    let addresses = address::of(host, &domain)?;
    let Some(address) = addresses.first() else {
        return Err(Error::conflict(format!("the VM `{}` has no address yet", listed.name))
            .hint(format!("Wait until it lets you in: vmprov vm wait {name} --for ssh")));
    };
    login.at(address).session(&host.runner, command).map(exit_status)
}

/// Who logs in, with what, and what must answer.
#[derive(Debug, Clone)]
pub(in crate::ops) struct Login {
    pub(in crate::ops) user: String,
    /// The keys that are offered.
    pub(in crate::ops) keys: Vec<Offer>,
    host_keys: Vec<String>,
    uuid: Uuid,
}

/// A key that is offered.
#[derive(Debug, Clone)]
pub(in crate::ops) struct Offer {
    /// The file of its private half, or of its public one where the private one is in an ssh agent.
    identity: Utf8PathBuf,
    name: String,
    fingerprint: String,
}

/// The keys as half a sentence.
pub(in crate::ops) fn describe(keys: &[Offer]) -> String {
    let key = |key: &Offer| format!("`{}` ({})", key.name, key.fingerprint);
    keys.iter().map(key).collect::<Vec<_>>().join(" or ")
}

impl Login {
    /// The login of a VM whose host keys vmprov knows, with the keys of the key store that it was given.
    pub(in crate::ops) fn of(host: &Host, domain: &Domain, user: Option<&str>) -> Result<Self> {
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
        let keys = offers(host, metadata);
        if keys.is_empty() {
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
        Ok(Self { user: user.to_owned(), keys, host_keys: metadata.host_keys.clone(), uuid: domain.uuid })
    }

    /// The login at one of the VM's addresses.
    pub(in crate::ops) fn at(&self, address: &Address) -> Target {
        Target {
            address: address.address,
            port: address.port,
            user: self.user.clone(),
            identities: self.keys.iter().map(|key| key.identity.clone()).collect(),
            host_keys: self.host_keys.clone(),
            alias: self.uuid.to_string(),
        }
    }

    /// The same with one key alone, to prove that it is this one that lets in.
    pub(in crate::ops) fn with_only(self, key: &Key) -> Self {
        Self { keys: Offer::of(key).into_iter().collect(), ..self }
    }
}

impl Offer {
    fn of(key: &Key) -> Option<Self> {
        let identity = key.private_key_path.as_ref().or(key.public_key_path.as_ref())?.clone();
        Some(Self { identity, name: key.name.to_string(), fingerprint: key.fingerprint.clone() })
    }
}

/// The keys that a VM was given and the key store still has.
fn offers(host: &Host, metadata: &VmRecord) -> Vec<Offer> {
    let offer = |key: &InjectedKey| {
        let stored = host.keys.get(&key.name.parse().ok()?).ok()?;
        // A key of that name that was made anew since then lets nobody in.
        Offer::of(&stored).filter(|_| stored.fingerprint == key.fingerprint)
    };
    metadata.keys.iter().filter_map(offer).collect()
}
