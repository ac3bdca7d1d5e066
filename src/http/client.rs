//! [`Client`]: who asks.

use super::job::View;
use crate::api::Scope;

/// Who asks, and what they may.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Client {
    /// The name of their token.
    pub(super) name: String,
    /// What they may do.
    pub(super) scope: Scope,
}

impl Client {
    /// Whether an operation is theirs to see.
    pub(super) fn may_see(&self, view: &View) -> bool {
        self.scope == Scope::Admin || view.client == self.name
    }

    /// Whether a VM is theirs to see, by its name.
    pub(super) fn may_see_vm(&self, _name: &str) -> bool {
        self.scope >= Scope::Read
    }

    /// Somebody where nobody has to say who they are.
    pub(super) fn anonymous() -> Self {
        Self { name: "anonymous".to_owned(), scope: Scope::Admin }
    }
}
