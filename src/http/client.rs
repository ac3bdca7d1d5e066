//! [`Client`]: who asks, and what they may.

use axum::http::StatusCode;
use serde::Deserialize;

use super::{job::View, problem::Problem};
use crate::{
    api::Scope,
    error::{Code, Error},
    model::{
        size::{DiskSize, Memory},
        sources::HostPattern,
    },
    ops::Caller,
};

/// Who asks, and what they may.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Client {
    /// The name of their token.
    pub(super) name: String,
    /// What they may do.
    pub(super) scope: Scope,
    /// How the names of all VMs and keys begin that there are for them.
    pub(super) prefix: Option<String>,
    /// How much their VMs may take together.
    pub(super) quota: Quota,
    /// The only hosts that they may have images from.
    pub(super) image_hosts: Option<Vec<HostPattern>>,
    /// Whether they have a token.
    pub(super) is_known: bool,
}

/// How much somebody's VMs may take together; what is not said is not limited.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Quota {
    /// How many there may be.
    pub(super) vms: Option<u64>,
    /// Their virtual CPUs.
    pub(super) vcpus: Option<u64>,
    /// Their memory; a number alone is MiB.
    pub(super) memory: Option<Memory>,
    /// Their disks; a number alone is GiB.
    pub(super) disk: Option<DiskSize>,
}

impl Client {
    /// Whether an operation is theirs to see.
    pub(super) fn may_see(&self, view: &View) -> bool {
        self.scope == Scope::Admin || view.client == self.name
    }

    /// Whether a VM is theirs to see, by its name.
    pub(super) fn may_see_vm(&self, name: &str) -> bool {
        self.prefix.as_ref().is_none_or(|prefix| name.starts_with(prefix))
    }

    /// Somebody where nobody has to say who they are.
    pub(super) fn anonymous() -> Self {
        Self {
            name: "anonymous".to_owned(),
            scope: Scope::Admin,
            prefix: None,
            quota: Quota::default(),
            image_hosts: None,
            is_known: false,
        }
    }

    /// Somebody who asks only whether the service lives, and is told no more than that.
    pub(super) fn passer_by() -> Self {
        Self { scope: Scope::Read, ..Self::anonymous() }
    }

    /// On whose behalf an operation works.
    pub(super) fn caller(&self) -> Caller {
        Caller { owner: self.is_known.then(|| self.name.clone()), prefix: self.prefix.clone() }
    }

    /// Refuses what tells of everybody's VMs at once.
    pub(super) fn require_whole(&self, what: &str) -> Result<(), Problem> {
        let Some(prefix) = &self.prefix else { return Ok(()) };
        Err(forbidden(
            Error::new(Code::Denied, format!("the token `{}` may not {what}", self.name))
                .because(format!("it is for names that begin with `{prefix}`, and that tells of all"))
                .hint("GET /readyz tells whether the service can do its work."),
        ))
    }

    /// Refuses what needs another scope.
    pub(super) fn require(&self, needed: Scope, what: &str) -> Result<(), Problem> {
        if self.scope >= needed {
            return Ok(());
        }
        let (name, has) = (&self.name, self.scope.name());
        Err(forbidden(
            Error::new(Code::Denied, format!("the token `{name}` may not {what}"))
                .because(format!("that needs the scope {}, and it has {has}", needed.name()))
                .hint("Ask with a token that has it, or ask the operator for one."),
        ))
    }
}

/// The refusal of something that is not for whoever asks.
pub(super) fn forbidden(error: Error) -> Problem {
    Problem::new(StatusCode::FORBIDDEN, "forbidden", error)
}
