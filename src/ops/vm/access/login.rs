//! SSH logins: the address, the user, the keys and the expected host keys.

use camino::Utf8PathBuf;
use serde_json::json;
use uuid::Uuid;

use crate::{
    error::{Error, Hint, Result},
    model::{
        key::Key,
        record::{InjectedKey, VmRecord},
        vm::Address,
    },
    ops::{
        Host,
        vm::{access::address, look_up, not_running, require_complete},
    },
    tools::{exit_status, ssh::Target, virsh::Domain},
};

/// Opens an ssh session on a VM, or runs a command in it. Returns ssh's exit status, which is the command's.
pub fn ssh(host: &Host, reference: &str, user: Option<&str>, command: &[String]) -> Result<i32> {
    let (listed, domain) = look_up(host, reference)?;
    require_complete(&domain)?;
    let login = Login::of(host, &domain, user)?;
    if !listed.state.runs() {
        return Err(not_running(&listed.name, listed.state, "so its SSH server does not respond"));
    }
    let addresses = address::of(host, &domain)?;
    let Some(address) = addresses.first() else {
        return Err(Error::conflict(format!("VM `{}` has no address yet", listed.name)).hint(Hint::call(
            "Wait for SSH",
            "vm_wait",
            [("vm", listed.name.as_str()), ("for", "ssh")],
        )));
    };
    login.at(address).session(&host.runner, command).map(exit_status)
}

/// The user and keys of a login, and the host keys that the VM must have.
#[derive(Debug, Clone)]
pub(in crate::ops) struct Login {
    pub(in crate::ops) user: String,
    /// The keys to offer.
    pub(in crate::ops) keys: Vec<OfferedKey>,
    host_keys: Vec<String>,
    uuid: Uuid,
}

/// A key to offer.
#[derive(Debug, Clone)]
pub(in crate::ops) struct OfferedKey {
    /// The private key file, or the public key file if the private key is in an ssh agent.
    identity: Utf8PathBuf,
    name: String,
    fingerprint: String,
}

/// Lists the keys for a sentence.
pub(in crate::ops) fn describe(keys: &[OfferedKey]) -> String {
    let key = |key: &OfferedKey| format!("`{}` ({})", key.name, key.fingerprint);
    keys.iter().map(key).collect::<Vec<_>>().join(" or ")
}

impl Login {
    /// Returns the login of a VM whose host keys vmprov knows, with the VM's keys that are in the key store.
    pub(in crate::ops) fn of(host: &Host, domain: &Domain, user: Option<&str>) -> Result<Self> {
        let name = &domain.name;
        let no_host_keys = || {
            Error::conflict(format!("cannot verify VM `{name}`: its host keys are not known"))
                .hint("Use ssh directly for VMs that vmprov did not create from an image")
        };
        let metadata =
            domain.metadata.as_ref().filter(|metadata| !metadata.host_keys.is_empty()).ok_or_else(no_host_keys)?;
        let user = user.or(metadata.user.as_deref()).ok_or_else(no_host_keys)?;
        let keys = offers(host, metadata);
        if keys.is_empty() {
            let injected: Vec<_> = metadata.keys.iter().map(|key| format!("`{}`", key.name)).collect();
            let reason = if injected.is_empty() {
                "the VM has no keys".to_owned()
            } else {
                format!("the VM's keys are {}", injected.join(", "))
            };
            let inject = [("vm", json!(name)), ("restart", json!(true))];
            return Err(Error::not_found(format!(
                "no key in {} is authorized in VM `{name}`: {reason}",
                host.settings.key_dir
            ))
            .hint(Hint::call_any("Generate a key", "ssh_key_generate"))
            .hint(Hint::call("Inject it", "vm_inject_ssh_key", inject)));
        }
        Ok(Self { user: user.to_owned(), keys, host_keys: metadata.host_keys.clone(), uuid: domain.uuid })
    }

    /// Returns the SSH target for one of the VM's addresses.
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

    /// Returns the login with only this key, to verify that this key is accepted.
    pub(in crate::ops) fn with_only(self, key: &Key) -> Self {
        Self { keys: OfferedKey::of(key).into_iter().collect(), ..self }
    }
}

impl OfferedKey {
    fn of(key: &Key) -> Option<Self> {
        let identity = key.private_key_path.as_ref().or(key.public_key_path.as_ref())?.clone();
        Some(Self { identity, name: key.name.to_string(), fingerprint: key.fingerprint.clone() })
    }
}

/// Returns the VM's keys that the key store still has.
fn offers(host: &Host, metadata: &VmRecord) -> Vec<OfferedKey> {
    let offer = |key: &InjectedKey| {
        let stored = host.keys.get(&key.name.parse().ok()?).ok()?;
        // A key that was generated again under the same name is not the one in the VM.
        OfferedKey::of(&stored).filter(|_| stored.fingerprint == key.fingerprint)
    };
    metadata.keys.iter().filter_map(offer).collect()
}
