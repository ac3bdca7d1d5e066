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
    /// Whether it tells what could not be rolled back, which no other hint replaces.
    pub is_about_leftovers: bool,
}

/// How to do what a hint says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Call an operation.
    Call(Call),
    /// Give the failed request these members. A member without a value is one that the caller must choose.
    Set(Vec<(&'static str, Option<Value>)>),
    /// Run a command in a shell of the host. Only its operator can.
    Run(String),
}

/// An operation to call, and the members of its request that are known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// The operation's name, as in the table of operations: `vm_start`.
    pub operation: &'static str,
    /// The members of its request.
    pub members: Map<String, Value>,
}

/// How a front end writes a hint.
pub type WriteHint = fn(&Hint) -> String;

impl Hint {
    /// Returns a hint that is a text alone.
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

    /// Returns a hint to call an operation whose members the caller knows best.
    pub fn call_any(text: impl Into<String>, operation: &'static str) -> Self {
        Self::call(text, operation, [("", ""); 0])
    }

    /// Returns a hint to give the request a member, whose value the caller must choose.
    pub fn set(text: impl Into<String>, member: &'static str) -> Self {
        Self::set_any(text, &[member])
    }

    /// Returns a hint to give the request a member of this value.
    pub fn set_to(text: impl Into<String>, member: &'static str, value: impl Into<Value>) -> Self {
        Self { action: Some(Action::Set(vec![(member, Some(value.into()))])), ..Self::new(text) }
    }

    /// Returns a hint to give the request one of these members.
    pub fn set_any(text: impl Into<String>, members: &[&'static str]) -> Self {
        let members = members.iter().map(|member| (*member, None)).collect();
        Self { action: Some(Action::Set(members)), ..Self::new(text) }
    }

    /// Returns a hint to run a command on the host.
    pub fn run(text: impl Into<String>, command: impl Into<String>) -> Self {
        Self { action: Some(Action::Run(command.into())), ..Self::new(text) }
    }

    /// Returns a hint that tells what could not be rolled back.
    pub fn leftovers(left: &[String]) -> Self {
        let text = format!("Remove what is left of it ({})", left.join("; "));
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

/// Joins the texts of hints to one: a sentence each, without a full stop at the end.
pub fn join(hints: impl IntoIterator<Item = String>) -> Option<String> {
    let joined = hints.into_iter().collect::<Vec<_>>().join(". ");
    (!joined.is_empty()).then_some(joined)
}
