//! [`ToolPart`]: what a row says about its operation's tool for language models. `agents` makes the tool from it.

use super::Names;

/// The tool of an operation, as far as it is not derived from the rest of the row.
#[derive(Debug, Clone, Copy)]
pub struct ToolPart {
    /// Its title for people.
    pub title: &'static str,
    /// The description for the model.
    pub description: &'static str,
    /// The arguments whose names differ from the operation's members: the argument, then the member. If it is empty,
    /// a member `vm` is called `name`.
    pub names: Names,
    /// Whether calling it twice has the same effect as calling it once.
    pub idempotent: bool,
    /// Whether it interacts with more than this host: with the internet, or through a command with anything.
    pub open_world: bool,
    /// Whether it has the argument `confirm`, which repeats the name of a VM to delete.
    pub confirms: bool,
    /// Defaults that differ from the operation's.
    pub defaults: &'static [(&'static str, u64)],
    /// Members of the operation that agents may not use.
    pub without: &'static [&'static str],
    /// What its result leaves out.
    pub brief: Option<Brief>,
}

/// Members that a tool's result leaves out of a list's items.
#[derive(Debug, Clone, Copy)]
pub struct Brief {
    /// The member that is the list.
    pub list: &'static str,
    /// The schema of its items.
    pub of: &'static str,
    /// The members that are left out.
    pub members: &'static [&'static str],
}

/// Returns the tool part of a row.
pub(super) const fn tool(title: &'static str, description: &'static str) -> ToolPart {
    ToolPart {
        title,
        description,
        names: &[],
        idempotent: false,
        open_world: false,
        confirms: false,
        defaults: &[],
        without: &[],
        brief: None,
    }
}

impl ToolPart {
    pub(super) const fn names(self, names: Names) -> Self {
        Self { names, ..self }
    }

    pub(super) const fn idempotent(self) -> Self {
        Self { idempotent: true, ..self }
    }

    pub(super) const fn open_world(self) -> Self {
        Self { open_world: true, ..self }
    }

    pub(super) const fn confirms(self) -> Self {
        Self { confirms: true, ..self }
    }

    pub(super) const fn defaults(self, defaults: &'static [(&'static str, u64)]) -> Self {
        Self { defaults, ..self }
    }

    pub(super) const fn without(self, without: &'static [&'static str]) -> Self {
        Self { without, ..self }
    }

    pub(super) const fn brief(self, brief: Brief) -> Self {
        Self { brief: Some(brief), ..self }
    }
}
