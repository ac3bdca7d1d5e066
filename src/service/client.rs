//! [`Client`]: who asks, and what they may.

use serde::Deserialize;
use serde_json::Value;

use crate::{
    api::{Operation, Resource, Scope},
    error::{Code, Error, Result},
    model::{
        size::{DiskSize, Memory},
        source_policy::HostPattern,
        ttl::Ttl,
    },
    ops::Caller,
};

/// Who asks, and what they may.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Client {
    /// Their name: that of their token.
    pub(crate) name: String,
    /// What they may do.
    pub(crate) scope: Scope,
    /// How the names of all VMs and keys begin that there are for them.
    pub(crate) prefix: Option<String>,
    /// How much they may have.
    pub(crate) quota: Quota,
    /// The only hosts that they may have images from.
    pub(crate) image_hosts: Option<Vec<HostPattern>>,
    /// The only networks that they may attach VMs to.
    pub(crate) networks: Option<Vec<String>>,
    /// The only storage pools that they may create volumes in.
    pub(crate) pools: Option<Vec<String>>,
    /// When a VM of theirs expires where they do not say.
    pub(crate) ttl_default: Option<Ttl>,
    /// Whether their images are private to them, and those of others hidden: all but the operator's own clients.
    pub(crate) is_limited: bool,
    /// How they are known.
    pub(crate) standing: Identity,
}

/// How somebody is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Identity {
    /// Not at all: nobody has to say who they are.
    Anonymous,
    /// By a token.
    Token,
    /// As the agent at the other end of a pipe.
    Agent,
}

/// How much somebody may have; what is not said is not limited.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Quota {
    /// How many there may be.
    pub(crate) vms: Option<u64>,
    /// Their virtual CPUs.
    pub(crate) vcpus: Option<u64>,
    /// Their memory; a number alone is MiB.
    pub(crate) memory: Option<Memory>,
    /// The bytes in the pool of their VMs and images; a number alone is GiB.
    pub(crate) disk: Option<DiskSize>,
    /// How many images they may have made.
    pub(crate) images: Option<u64>,
    /// How many keys there may be that they see.
    pub(crate) keys: Option<u64>,
}

impl Quota {
    /// Returns the most of a resource: MiB of memory, bytes of disk.
    pub(crate) fn limit(&self, resource: Resource) -> Option<u64> {
        match resource {
            Resource::Vms => self.vms,
            Resource::Vcpus => self.vcpus,
            Resource::Memory => self.memory.map(Memory::mib),
            Resource::Disk => self.disk.map(DiskSize::bytes),
            Resource::Images => self.images,
            Resource::Keys => self.keys,
        }
    }
}

impl Client {
    /// Whether an operation is theirs to see, by the name of the client that asked for it.
    pub(crate) fn may_see(&self, client: &str) -> bool {
        self.scope == Scope::Admin || client == self.name
    }

    /// Whether a VM is theirs to see, by its name.
    pub(crate) fn may_see_vm(&self, name: &str) -> bool {
        self.prefix.as_ref().is_none_or(|prefix| name.starts_with(prefix))
    }

    /// Somebody where nobody has to say who they are.
    pub(crate) fn anonymous() -> Self {
        Self {
            name: "anonymous".to_owned(),
            scope: Scope::Admin,
            prefix: None,
            quota: Quota::default(),
            image_hosts: None,
            networks: None,
            pools: None,
            ttl_default: None,
            is_limited: false,
            standing: Identity::Anonymous,
        }
    }

    /// Somebody who asks only whether the service lives, and is told no more than that.
    pub(crate) fn unauthenticated() -> Self {
        Self { scope: Scope::Read, ..Self::anonymous() }
    }

    /// Whether they may see more than that the service lives.
    pub(crate) fn is_known(&self) -> bool {
        *self != Self::unauthenticated()
    }

    /// Them, in an error.
    pub(crate) fn title(&self) -> String {
        match self.standing {
            Identity::Anonymous => "whoever has no token".to_owned(),
            Identity::Token => format!("the token `{}`", self.name),
            Identity::Agent => format!("the agent `{}`", self.name),
        }
    }

    /// On whose behalf an operation works.
    pub(crate) fn caller(&self) -> Caller {
        let is_known = self.standing != Identity::Anonymous;
        let owner = is_known.then(|| self.name.clone());
        Caller { owner, prefix: self.prefix.clone(), is_limited: self.is_limited }
    }

    /// Adds to a request what holds for all of theirs.
    pub(crate) fn bound(&self, operation: &Operation, request: &mut Value) {
        if let Some(ttl) = self.ttl_default.filter(|_| operation.name == "vm_create" && request["ttl"].is_null()) {
            request["ttl"] = Value::String(ttl.to_string());
        }
    }

    /// Refuses what tells of everybody's VMs at once.
    pub(crate) fn require_whole(&self, what: &str) -> Result<()> {
        let Some(prefix) = &self.prefix else { return Ok(()) };
        Err(Error::new(Code::Forbidden, format!("{} may not {what}", self.title()))
            .because(format!("it is for names that begin with `{prefix}`, and that tells of all"))
            .hint("The operator may."))
    }

    /// Refuses what needs another scope.
    pub(crate) fn require(&self, needed: Scope, what: &str) -> Result<()> {
        if self.scope >= needed {
            return Ok(());
        }
        Err(Error::new(Code::Forbidden, format!("{} may not {what}", self.title()))
            .because(format!("that needs the scope {}, and it has {}", needed.name(), self.scope.name()))
            .hint("Ask the operator for it."))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::api;

    #[test]
    fn a_vm_expires_where_nobody_says_when() {
        let client = Client { ttl_default: Some("4h".parse().unwrap()), ..Client::anonymous() };
        let bounded = |client: &Client, name: &str, asked: Value| {
            let operation = api::find(name).unwrap();
            let mut request = operation.read(asked).unwrap();
            client.bound(operation, &mut request);
            request["ttl"].clone()
        };
        assert_eq!(bounded(&client, "vm_create", json!({"name": "web"})), "4h");
        assert_eq!(bounded(&client, "vm_create", json!({"name": "web", "ttl": "8h"})), "8h");
        assert_eq!(bounded(&client, "vm_start", json!({"vm": "web"})), Value::Null);
        assert_eq!(bounded(&Client::anonymous(), "vm_create", json!({"name": "web"})), Value::Null);
    }
}
