//! [`Client`]: a client of the service, and its rights.

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

/// A client of the service, and its rights.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Client {
    /// The name: that of its token.
    pub(crate) name: String,
    /// The highest scope of the operations that it may call.
    pub(crate) scope: Scope,
    /// The prefix of the names of all VMs and keys that it can see.
    pub(crate) prefix: Option<String>,
    /// The most resources that it may use.
    pub(crate) quota: Quota,
    /// The only hosts from which it may fetch images.
    pub(crate) image_hosts: Option<Vec<HostPattern>>,
    /// The only networks to which it may attach VMs.
    pub(crate) networks: Option<Vec<String>>,
    /// The only storage pools in which it may create volumes.
    pub(crate) pools: Option<Vec<String>>,
    /// The TTL of its VMs if a request contains none.
    pub(crate) ttl_default: Option<Ttl>,
    /// Whether its images are private and those of others hidden from it: true for all but the operator's own clients.
    pub(crate) is_limited: bool,
    /// How it is identified.
    pub(crate) identity: Identity,
}

/// How a client is identified.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Identity {
    /// Not at all, because the service requires no authentication.
    Anonymous,
    /// By a token.
    Token,
    /// As the agent at the other end of the pipe.
    Agent,
}

/// The most resources that a client may use. A member without a value is not limited.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Quota {
    /// The number of VMs.
    pub(crate) vms: Option<u64>,
    /// The virtual CPUs of the VMs.
    pub(crate) vcpus: Option<u64>,
    /// The memory of the VMs; a number without a unit is MiB.
    pub(crate) memory: Option<Memory>,
    /// The size of the volumes of its VMs and images; a number without a unit is GiB.
    pub(crate) disk: Option<DiskSize>,
    /// The number of images that it created.
    pub(crate) images: Option<u64>,
    /// The number of keys that it can see.
    pub(crate) keys: Option<u64>,
}

impl Quota {
    /// Returns the limit of a resource, in MiB for memory and in bytes for disk.
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
    /// Returns whether the client may see a job. `client` is the name of the client that submitted the job.
    pub(crate) fn may_see(&self, client: &str) -> bool {
        self.scope == Scope::Admin || client == self.name
    }

    /// Returns whether the client may see the VM of this name.
    pub(crate) fn may_see_vm(&self, name: &str) -> bool {
        self.prefix.as_ref().is_none_or(|prefix| name.starts_with(prefix))
    }

    /// Returns the client of a service that requires no authentication.
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
            identity: Identity::Anonymous,
        }
    }

    /// Returns an unauthenticated client, which may read only the public routes, without details.
    pub(crate) fn unauthenticated() -> Self {
        Self { scope: Scope::Read, ..Self::anonymous() }
    }

    /// Returns whether the client may see the details of a health check.
    pub(crate) fn may_see_details(&self) -> bool {
        *self != Self::unauthenticated()
    }

    /// Returns how errors name the client.
    pub(crate) fn title(&self) -> String {
        match self.identity {
            Identity::Anonymous => "the anonymous client".to_owned(),
            Identity::Token => format!("the token `{}`", self.name),
            Identity::Agent => format!("the agent `{}`", self.name),
        }
    }

    /// Returns the caller of the operations that the client submits.
    pub(crate) fn caller(&self) -> Caller {
        let is_identified = self.identity != Identity::Anonymous;
        let owner = is_identified.then(|| self.name.clone());
        Caller { owner, prefix: self.prefix.clone(), is_limited: self.is_limited }
    }

    /// Adds the client's default TTL to a request that creates a VM without one.
    pub(crate) fn apply_defaults(&self, operation: &Operation, request: &mut Value) {
        if let Some(ttl) = self.ttl_default.filter(|_| operation.name == "vm_create" && request["ttl"].is_null()) {
            request["ttl"] = Value::String(ttl.to_string());
        }
    }

    /// Refuses an action that concerns the VMs of all clients, if the client is restricted to a prefix.
    pub(crate) fn require_unrestricted(&self, what: &str) -> Result<()> {
        let Some(prefix) = &self.prefix else { return Ok(()) };
        Err(Error::new(Code::Forbidden, format!("{} is not authorized to {what}", self.title()))
            .because(format!("it is restricted to names that begin with `{prefix}`"))
            .hint("Ask the operator to do it"))
    }

    /// Refuses an action that requires a higher scope. `what` is the action as a verb phrase.
    pub(crate) fn require(&self, needed: Scope, what: &str) -> Result<()> {
        if self.scope >= needed {
            return Ok(());
        }
        Err(Error::new(Code::Forbidden, format!("{} is not authorized to {what}", self.title()))
            .because(format!("this requires the scope `{}`, and it has `{}`", needed.name(), self.scope.name()))
            .hint(format!("Ask the operator for the scope `{}`", needed.name())))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::api;

    #[test]
    fn the_default_ttl_applies_to_creates_without_one() {
        let client = Client { ttl_default: Some("4h".parse().unwrap()), ..Client::anonymous() };
        let ttl = |client: &Client, name: &str, request: Value| {
            let operation = api::find(name).unwrap();
            let mut request = operation.read(request).unwrap();
            client.apply_defaults(operation, &mut request);
            request["ttl"].clone()
        };
        assert_eq!(ttl(&client, "vm_create", json!({"name": "web"})), "4h");
        assert_eq!(ttl(&client, "vm_create", json!({"name": "web", "ttl": "8h"})), "8h");
        assert_eq!(ttl(&client, "vm_start", json!({"vm": "web"})), Value::Null);
        assert_eq!(ttl(&Client::anonymous(), "vm_create", json!({"name": "web"})), Value::Null);
    }
}
