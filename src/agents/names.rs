//! [`ArgumentNames`]: a tool's arguments whose names differ from the members of its operation.

use serde_json::{Map, Value};

use crate::api;

/// The arguments whose names differ: the argument, then the member.
#[derive(Debug, Clone, Copy)]
pub(super) struct ArgumentNames(pub(super) api::Names);

impl ArgumentNames {
    /// Returns the argument of a member.
    pub(super) fn argument<'n>(&self, member: &'n str) -> &'n str {
        self.0.iter().find(|(_, known)| *known == member).map_or(member, |(argument, _)| argument)
    }

    /// Returns the member of an argument.
    pub(super) fn member<'n>(&self, argument: &'n str) -> &'n str {
        self.0.iter().find(|(known, _)| *known == argument).map_or(argument, |(_, member)| member)
    }

    /// Returns a request's members as the tool's arguments.
    pub(super) fn to_arguments(self, request: Value) -> Value {
        renamed(request, |member| self.argument(member).to_owned())
    }

    /// Returns the tool's arguments as a request's members.
    pub(super) fn to_members(self, arguments: Value) -> Value {
        renamed(arguments, |argument| self.member(argument).to_owned())
    }
}

fn renamed(object: Value, name: impl Fn(&str) -> String) -> Value {
    let Value::Object(members) = object else { return object };
    Value::Object(members.into_iter().map(|(old, value)| (name(&old), value)).collect::<Map<_, _>>())
}
