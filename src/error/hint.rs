//! What to do after a failure, as data: each front end writes it in its own form.

use serde_json::{Map, Value};

/// What to do after a failure: a text and, optionally, the action that it describes.
///
/// The text begins with a verb and has no full stop at its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hint {
    /// What to do, and why.
    pub text: String,
    /// How to do it.
    pub action: Option<Action>,
    /// Whether it names leftovers of a failed rollback. No other hint replaces such a hint.
    pub is_about_leftovers: bool,
}

/// The action that a hint suggests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Call an operation.
    Call(Call),
    /// Set these members of the failed request. The caller must choose the value of a member without one.
    Set(Vec<(&'static str, Option<Value>)>),
    /// Run a command in a shell on the host. Only the operator can do that.
    Run(String),
}

/// An operation to call, and the members of its request that are known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// The operation's name, as in the table of operations: `vm_start`.
    pub operation: &'static str,
    /// The known members of its request.
    pub members: Map<String, Value>,
}

/// A front end's function that writes a hint.
pub type WriteHint = fn(&Hint) -> String;

impl Hint {
    /// Returns a hint without an action.
    pub fn new(text: impl Into<String>) -> Self {
        Self { text: text.into(), action: None, is_about_leftovers: false }
    }

    /// Returns a hint to call an operation with these members.
    pub fn call<V: Into<Value>>(
        text: impl Into<String>,
        operation: &'static str,
        members: impl IntoIterator<Item = (&'static str, V)>,
    ) -> Self {
        let members = members.into_iter().map(|(name, value)| (name.to_owned(), value.into())).collect();
        Self { action: Some(Action::Call(Call { operation, members })), ..Self::new(text) }
    }

    /// Returns a hint to call an operation on a VM.
    pub fn call_on_vm(text: impl Into<String>, operation: &'static str, vm: &str) -> Self {
        Self::call(text, operation, [("vm", vm)])
    }

    /// Returns a hint to call an operation whose members the caller must choose.
    pub fn call_any(text: impl Into<String>, operation: &'static str) -> Self {
        Self::call::<Value>(text, operation, [])
    }

    /// Returns a hint to set a member of the request. The caller must choose its value.
    pub fn set(text: impl Into<String>, member: &'static str) -> Self {
        Self::set_any(text, &[member])
    }

    /// Returns a hint to set a member of the request to this value.
    pub fn set_to(text: impl Into<String>, member: &'static str, value: impl Into<Value>) -> Self {
        Self { action: Some(Action::Set(vec![(member, Some(value.into()))])), ..Self::new(text) }
    }

    /// Returns a hint to set one of these members of the request.
    pub fn set_any(text: impl Into<String>, members: &[&'static str]) -> Self {
        let members = members.iter().map(|member| (*member, None)).collect();
        Self { action: Some(Action::Set(members)), ..Self::new(text) }
    }

    /// Returns a hint to run a command on the host.
    pub fn run(text: impl Into<String>, command: impl Into<String>) -> Self {
        Self { action: Some(Action::Run(command.into())), ..Self::new(text) }
    }

    /// Returns a hint that names the leftovers of a failed rollback.
    pub fn leftovers(left: &[String]) -> Self {
        let text = format!("Remove the leftovers ({})", left.join("; "));
        Self { is_about_leftovers: true, ..Self::call_any(text, "gc") }
    }

    /// Returns the command to run on the host, if the hint has one.
    pub fn command(&self) -> Option<&str> {
        match &self.action {
            Some(Action::Run(command)) => Some(command),
            _ => None,
        }
    }
}

impl From<String> for Hint {
    fn from(text: String) -> Self {
        Self::new(text)
    }
}

impl From<&str> for Hint {
    fn from(text: &str) -> Self {
        Self::new(text)
    }
}

/// Joins the texts of hints into one text: one sentence each, without a full stop at the end.
pub fn join(hints: impl IntoIterator<Item = String>) -> Option<String> {
    let joined = hints.into_iter().collect::<Vec<_>>().join(". ");
    (!joined.is_empty()).then_some(joined)
}
