//! [`Tool`]: an operation that a model can call.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::{call::CONFIRM, schema};
use crate::{
    api::{self, Effect, Operation, OperationView, Scope},
    error::{Error, Fault, Result},
};

/// The maximum time in seconds that one call waits for an operation. Clients give up after 60.
const MAX_WAIT: u64 = 50;

/// A request for an operation
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub(super) struct OfOperation {
    /// ID of the operation, from the result of the call that started it
    #[schema(min_length = 1, max_length = 64)]
    pub(super) id: String,
    /// Maximum time to wait for the end of the operation, in seconds
    #[serde(default = "wait_default")]
    #[schema(minimum = 0, maximum = 50)]
    pub(super) wait: Wait,
}

/// A number of seconds to wait.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, ToSchema)]
#[serde(try_from = "u64")]
#[schema(value_type = u64, minimum = 0, maximum = 50)]
pub(super) struct Wait(pub(super) u64);

impl TryFrom<u64> for Wait {
    type Error = String;

    fn try_from(seconds: u64) -> Result<Self, String> {
        if seconds <= MAX_WAIT { Ok(Self(seconds)) } else { Err(format!("the maximum is {MAX_WAIT} seconds")) }
    }
}

const fn wait_default() -> Wait {
    Wait(45)
}

/// A request to cancel an operation
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub(super) struct Cancelled {
    /// ID of the operation, from the result of the call that started it
    #[schema(min_length = 1, max_length = 64)]
    pub(super) id: String,
}

/// What a tool does.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Does {
    /// It runs an operation.
    Operation(&'static Operation),
    /// It returns the progress of an operation.
    Get,
    /// It cancels a running operation.
    Cancel,
}

/// Properties of a tool that a client may check before it lets a model call it.
#[derive(Debug, Clone, Copy)]
pub struct Hints {
    /// Whether it may delete something.
    pub destructive: bool,
    /// Whether calling it twice has the same effect as calling it once.
    pub idempotent: bool,
    /// Whether it interacts with more than this host: with the internet, or through a command with anything.
    pub open_world: bool,
}

/// Members that a result leaves out of a list's items.
#[derive(Debug, Clone, Copy)]
pub(super) struct Brief {
    /// The member that is the list.
    pub(super) list: &'static str,
    /// The schema of its items.
    pub(super) of: &'static str,
    /// The members that are left out.
    pub(super) members: &'static [&'static str],
}

impl Brief {
    /// Removes the members from a result.
    pub(super) fn shorten(self, result: &mut Value) {
        let items = result.get_mut(self.list).and_then(Value::as_array_mut).into_iter().flatten();
        for item in items.filter_map(Value::as_object_mut) {
            item.retain(|name, _| !self.members.contains(&name.as_str()));
        }
    }

    /// Removes the members from the schema.
    pub(super) fn describe(self, definitions: &mut Value) {
        let item = &mut definitions[self.of];
        let is_kept = |name: &str| !self.members.contains(&name);
        if let Some(properties) = item.get_mut("properties").and_then(Value::as_object_mut) {
            properties.retain(|name, _| is_kept(name));
        }
        if let Some(required) = item.get_mut("required").and_then(Value::as_array_mut) {
            required.retain(|name| name.as_str().is_some_and(is_kept));
        }
    }
}

/// An operation that a model can call.
pub struct Tool {
    /// Its name: `vm_create`.
    pub name: &'static str,
    /// Its title for people: `Create a VM`.
    pub title: &'static str,
    /// A summary in one line.
    pub summary: &'static str,
    /// The description for the model.
    pub description: String,
    /// Its effect.
    pub effect: Effect,
    /// Other properties that a client may check before it lets a model call it.
    pub hints: Hints,
    /// The scope that a caller needs.
    pub scope: Scope,
    /// The self-contained schema of its arguments, an object.
    pub input: Value,
    /// The self-contained schema of its result, an object.
    pub output: Value,
    pub(crate) does: Does,
    pub(super) names: &'static [(&'static str, &'static str)],
    pub(super) confirms: bool,
    pub(super) defaults: &'static [(&'static str, u64)],
    pub(super) brief: Option<Brief>,
}

impl fmt::Debug for Tool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tool").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Tool {
    /// Reads the arguments. Checks their names and types, and returns the operation's request with the defaults.
    pub fn read(&self, arguments: Value) -> Result<Value> {
        self.refuse_other_names(&arguments)?;
        let mut arguments = api::members(arguments, &self.input)?;
        match self.does {
            Does::Get => api::typed::<OfOperation>(&arguments, &self.input, &[]),
            Does::Cancel => api::typed::<Cancelled>(&arguments, &self.input, &[]),
            Does::Operation(operation) => {
                let confirmed = if self.confirms { arguments.shift_remove(CONFIRM) } else { None };
                if confirmed.is_some_and(|confirmed| confirmed != arguments["name"]) {
                    return Err(Error::invalid(format!("`{CONFIRM}` does not equal `name`"))
                        .fault(Fault::Member("name".to_owned()))
                        .hint(format!("Repeat the name of the VM in `{CONFIRM}`")));
                }
                for (name, default) in self.defaults {
                    arguments.entry(*name).or_insert_with(|| Value::from(*default));
                }
                let request = self.renamed(Value::Object(arguments), true);
                operation.read_as(request, self.names)
            }
        }
    }

    /// Refuses argument names of other tools and front ends. The error says the name in this tool.
    fn refuse_other_names(&self, arguments: &Value) -> Result<()> {
        let is_unknown = |name: &str| arguments.get(name).is_some() && self.input["properties"].get(name).is_none();
        let of_operation = self.names.iter().map(|(of_tool, of_operation)| (*of_operation, *of_tool));
        let of_tools =
            self.names.iter().filter(|(_, of_operation)| *of_operation == "vm").map(|(of_tool, _)| ("name", *of_tool));
        match of_operation.chain(of_tools).find(|(other, _)| is_unknown(other)) {
            Some((other, own)) => Err(api::unknown_member(other, Some(own))),
            None => Ok(()),
        }
    }

    /// Returns whether a call with these arguments may delete a VM, and so requires a confirmation.
    pub(super) fn must_confirm(&self, arguments: &Value) -> bool {
        self.confirms && (self.effect == Effect::Destroy || arguments["ifExists"] == "replace")
    }

    /// Returns a request with the arguments renamed to the operation's members, or the other way round.
    pub(super) fn renamed(&self, request: Value, to_operation: bool) -> Value {
        let Value::Object(members) = request else { return request };
        let rename = |name: String| {
            let known = self.names.iter().find(
                |(of_tool, of_operation)| {
                    if to_operation { *of_tool == name } else { *of_operation == name }
                },
            );
            known
                .map_or(name, |(of_tool, of_operation)| (*if to_operation { of_operation } else { of_tool }).to_owned())
        };
        Value::Object(members.into_iter().map(|(name, value)| (rename(name), value)).collect::<Map<_, _>>())
    }

    /// Returns the arguments and their schemas; required arguments come first.
    pub fn arguments(&self) -> impl Iterator<Item = (&String, &Value)> {
        self.input["properties"].as_object().into_iter().flatten()
    }

    /// Returns whether an argument is required.
    pub fn requires(&self, argument: &str) -> bool {
        self.input["required"].as_array().is_some_and(|required| required.iter().any(|name| name == argument))
    }
}

/// Returns the schema of the arguments of the tools that get or cancel an operation.
pub(super) fn of_operation(does: Does) -> Value {
    let example = serde_json::json!({"id": "3f2c2b1e-8a1d-4c43-9a55-0d6b7a1c9e10"});
    let mut schemas = api::Schemas::default();
    let input = match does {
        Does::Cancel => schemas.of_request::<Cancelled>(&example),
        Does::Get | Does::Operation(_) => schemas.of_request::<OfOperation>(&example),
    };
    schema::input(&schemas.complete(&input))
}

/// Returns the schema of an operation as a result.
pub(super) fn view(failure: Value) -> Value {
    let mut schemas = api::Schemas::default();
    let view = schemas.of::<OperationView>();
    schema::output(&[(view, &schemas), (failure, &schemas)])
}
