//! Operations on SSH keys.

use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::ToSchema;

use super::{NOTHING, Nothing};
use crate::{
    api::{
        Effect, ExecutionMode, Kind, Operation, Report,
        Resource::Keys,
        builder::{change, read},
        constraints,
        tool::tool,
    },
    model::{key::NewKey, name::Name},
    ops::key,
};

/// A request about a key.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
struct OfKey {
    /// Key
    name: Name,
}

pub(super) fn operations() -> Vec<Operation> {
    let dev = || json!({"name": "dev"});
    vec![
        read("ssh_key_list", "key list", "/api/ssh-keys")
            .about("List SSH keys")
            .tool(tool("List SSH keys", "Lists the SSH keys in the key store."))
            .run(|host, _: Nothing| key::list(host)),
        change("ssh_key_generate", "key generate", "POST", "/api/ssh-keys")
            .about("Generate an SSH key pair; the private key stays on the host")
            .tool(tool(
                "Generate an SSH key",
                "Generates an SSH key pair with a name. The private key stays on the host, where vm_exec and \
                     vm_wait use it; the result contains the public key. Next: give its name to vm_create in sshKeys, \
                     or call vm_inject_ssh_key.",
            ))
            .shell(&[
                ("Generate an RSA key pair", "vmprov key generate dev"),
                ("Generate an Ed25519 key pair", "vmprov key generate dev --type ed25519"),
            ])
            .takes(&[Keys])
            .mode(ExecutionMode::Compute)
            .creates(Kind::Key, "name")
            .example(dev())
            .rules(&constraints::key(), NewKey::check)
            .run(|host, new: NewKey| key::generate(host, &new)),
        read("ssh_key_info", "key show", "/api/ssh-keys/{name}")
            .about("Show an SSH key")
            .shell(&[("Print a public key", "vmprov key show dev")])
            .example(dev())
            .names(Kind::Key, "name")
            .run(|host, of: OfKey| key::get(host, &of.name)),
        read("ssh_key_public", "key show", "/api/ssh-keys/{name}/public")
            .about("Show a public SSH key as a line of authorized_keys")
            .example(dev())
            .names(Kind::Key, "name")
            .answer(|host, of: OfKey| Ok(Report::Text(key::get(host, &of.name)?.public_key))),
        change("ssh_key_delete", "key delete", "DELETE", "/api/ssh-keys/{name}")
            .about("Delete an SSH key from the key store; VMs keep it")
            .takes(NOTHING)
            .effect(Effect::Destroy)
            .example(dev())
            .names(Kind::Key, "name")
            .run(|host, of: OfKey| key::delete(host, &of.name)),
    ]
}
