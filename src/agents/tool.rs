//! [`Tool`]: one thing that a model can do.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::{call::CONFIRM, schema};
use crate::{
    api::{self, Effect, Operation, Scope},
    error::{Error, Result},
    service::job::View,
};

/// The longest that an operation is waited for in one call, in seconds: clients give up after 60.
const LONGEST_WAIT: u64 = 50;

/// A request for an operation that is under way
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub(super) struct OfOperation {
    /// Operation, by the id that the call answered with which began it
    #[schema(min_length = 1, max_length = 64)]
    pub(super) id: String,
    /// How many seconds to wait for its end before answering how far it is
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
        if seconds <= LONGEST_WAIT { Ok(Self(seconds)) } else { Err(format!("{LONGEST_WAIT} seconds are the most")) }
    }
}

const fn wait_default() -> Wait {
    Wait(45)
}

/// A request to cancel an operation
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub(super) struct Cancelled {
    /// Operation, by the id that the call answered with which began it
    #[schema(min_length = 1, max_length = 64)]
    pub(super) id: String,
}

/// What a tool does.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Does {
    /// One of the operations.
    Operation(&'static Operation),
    /// It tells how far one is that is under way.
    Get,
    /// It cancels one that is under way.
    Cancel,
}

/// What a client may want to know of a tool before it lets a model call it.
#[derive(Debug, Clone, Copy)]
pub struct Hints {
    /// Whether something may be gone afterwards.
    pub destructive: bool,
    /// Whether doing it twice does no more than doing it once.
    pub idempotent: bool,
    /// Whether it deals with more than this host: the internet, or whatever a command does.
    pub open_world: bool,
}

/// What of the items of a list an answer leaves out.
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
    /// Leaves them out of an answer.
    pub(super) fn shorten(self, answer: &mut Value) {
        let items = answer.get_mut(self.list).and_then(Value::as_array_mut).into_iter().flatten();
        for item in items.filter_map(Value::as_object_mut) {
            item.retain(|name, _| !self.members.contains(&name.as_str()));
        }
    }

    /// Leaves them out of the schema.
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

/// One thing that a model can do.
pub struct Tool {
    /// Its name: `vm_create`.
    pub name: &'static str,
    /// What people call it: `Create a VM`.
    pub title: &'static str,
    /// What it does, in one line.
    pub summary: &'static str,
    /// What a model must know to use it well.
    pub description: String,
    /// What it does to the world.
    pub effect: Effect,
    /// What else a client may want to know before it lets a model call it.
    pub hints: Hints,
    /// What a caller must be allowed to do.
    pub scope: Scope,
    /// Its arguments: an object, complete in itself.
    pub input: Value,
    /// Its answer, or how far it is: an object, complete in itself.
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
    /// Reads arguments into a request of the operation: every one named, of its type, with the defaults.
    pub fn read(&self, arguments: Value) -> Result<Value> {
        self.refuse_other_names(&arguments)?;
        let mut arguments = api::members(arguments, &self.input)?;
        match self.does {
            Does::Get => api::typed::<OfOperation>(&arguments, &self.input, &[]),
            Does::Cancel => api::typed::<Cancelled>(&arguments, &self.input, &[]),
            Does::Operation(operation) => {
                let confirmed = if self.confirms { arguments.shift_remove(CONFIRM) } else { None };
                if confirmed.is_some_and(|confirmed| confirmed != arguments["name"]) {
                    return Err(Error::invalid(format!("`{CONFIRM}` is not the same as `name`"))
                        .hint(format!("Nothing was done. Give the same as `name` and as `{CONFIRM}`.")));
                }
                for (name, default) in self.defaults {
                    arguments.entry(*name).or_insert_with(|| Value::from(*default));
                }
                let request = self.renamed(Value::Object(arguments), true);
                operation.read_as(request, self.names)
            }
        }
    }

    /// Refuses what another face or tool calls otherwise, and says how it is called here.
    fn refuse_other_names(&self, arguments: &Value) -> Result<()> {
        let is_unknown = |name: &str| arguments.get(name).is_some() && self.input["properties"].get(name).is_none();
        let of_operation = self.names.iter().map(|(of_tool, of_operation)| (*of_operation, *of_tool));
        let of_tools =
            self.names.iter().filter(|(_, of_operation)| *of_operation == "vm").map(|(of_tool, _)| ("name", *of_tool));
        match of_operation.chain(of_tools).find(|(other, _)| is_unknown(other)) {
            Some((other, here)) => Err(api::unknown_member(other, Some(here))),
            None => Ok(()),
        }
    }

    /// Whether a VM is deleted by a call with these arguments, for which its name has to be given again.
    pub(super) fn must_confirm(&self, arguments: &Value) -> bool {
        self.confirms && (self.effect == Effect::Destroy || arguments["ifExists"] == "replace")
    }

    /// A request with its members called as the operation calls them, or the other way round.
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

    /// The arguments and their schemas, those that must be given first.
    pub fn arguments(&self) -> impl Iterator<Item = (&String, &Value)> {
        self.input["properties"].as_object().into_iter().flatten()
    }

    /// Whether an argument must be given.
    pub fn requires(&self, argument: &str) -> bool {
        self.input["required"].as_array().is_some_and(|required| required.iter().any(|name| name == argument))
    }
}

/// The tool of an operation that is under way: its arguments' schema.
pub(super) fn of_operation(does: Does) -> Value {
    let example = serde_json::json!({"id": "3f2c2b1e-8a1d-4c43-9a55-0d6b7a1c9e10"});
    let mut schemas = api::Schemas::default();
    let input = match does {
        Does::Cancel => schemas.of_request::<Cancelled>(&example),
        Does::Get | Does::Operation(_) => schemas.of_request::<OfOperation>(&example),
    };
    schema::input(&schemas.complete(&input))
}

/// What is told of an operation, as a schema.
pub(super) fn view(failure: Value) -> Value {
    let mut schemas = api::Schemas::default();
    let view = schemas.of::<View>();
    schema::output(&[(view, &schemas), (failure, &schemas)])
}
