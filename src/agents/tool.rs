//! [`Tool`]: an operation that a model can call.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::names::ArgumentNames;
use crate::{
    api::{self, Brief, Effect, Operation, Scope},
    error::{Error, Fault, Result},
};

/// The argument that repeats the name of a VM to confirm its deletion.
pub(super) const CONFIRM: &str = "confirm";

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
    pub(super) names: ArgumentNames,
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
                operation.read_as(self.names.to_members(Value::Object(arguments)), self.names.0)
            }
        }
    }

    /// Refuses argument names of other tools and front ends. The error says the name in this tool.
    fn refuse_other_names(&self, arguments: &Value) -> Result<()> {
        let is_unknown = |name: &str| arguments.get(name).is_some() && self.input["properties"].get(name).is_none();
        let names = self.names.0.iter();
        let of_operation = names.clone().map(|(argument, member)| (*member, *argument));
        let of_tools = names.filter(|(_, member)| *member == "vm").map(|(argument, _)| ("name", *argument));
        match of_operation.chain(of_tools).find(|(other, _)| is_unknown(other)) {
            Some((other, own)) => Err(api::unknown_member(other, Some(own))),
            None => Ok(()),
        }
    }

    /// Returns whether a call with these arguments may delete a VM, and so requires a confirmation.
    pub(super) fn must_confirm(&self, arguments: &Value) -> bool {
        self.confirms && (self.effect == Effect::Destroy || arguments["ifExists"] == "replace")
    }

    /// Returns whether it does something to the whole host, which a client that is limited to a prefix may not do.
    pub(super) fn is_on_whole_host(&self) -> bool {
        matches!(self.does, Does::Operation(operation) if operation.whole_host.is_some())
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
