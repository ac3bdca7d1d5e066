//! Makes the tools: one for each operation whose row has a tool part, and those that get or cancel a running operation.

use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};
use utoipa::ToSchema;

use super::{
    names::ArgumentNames,
    schema,
    tool::{CONFIRM, Cancelled, Does, Hints, OfOperation, Tool},
};
use crate::api::{self, Brief, Effect, ExecutionMode, Operation, Schemas, Scope, ToolPart};

/// Operations name their VM in `vm`; the tools have always named it `name`.
const VM_IS_NAME: ArgumentNames = ArgumentNames(&[("name", "vm")]);

/// Added to the description of every tool that may take longer than a client waits.
const LONG: &str =
    "If it takes long, the result is an operation: call operation_get with its ID, and do not repeat this call.";

/// Returns every tool.
pub(super) fn tools() -> Vec<Tool> {
    let of_operations = api::operations().iter().filter_map(|operation| Some(tool(operation, operation.tool?)));
    of_operations.chain([get(), cancel()]).collect()
}

/// Returns the tool of an operation.
fn tool(operation: &'static Operation, part: ToolPart) -> Tool {
    let names = match part.names {
        [] if operation.members().any(|(member, _)| member == "vm") => VM_IS_NAME,
        names => ArgumentNames(names),
    };
    let is_long = operation.mode != ExecutionMode::Quick;
    let input = schema::renamed(schema::input(&operation.complete), names);
    Tool {
        name: operation.name,
        title: part.title,
        summary: operation.summary,
        description: if is_long { format!("{} {LONG}", part.description) } else { part.description.to_owned() },
        effect: operation.effect,
        hints: Hints {
            destructive: operation.effect == Effect::Destroy || part.confirms,
            idempotent: part.idempotent,
            open_world: part.open_world,
        },
        scope: operation.scope,
        input: completed(input, &part),
        output: output(operation, is_long, part.brief),
        does: Does::Operation(operation),
        names,
        confirms: part.confirms,
        defaults: part.defaults,
        brief: part.brief,
    }
}

/// Returns the tool that gets a running operation.
fn get() -> Tool {
    let title = "Get an operation";
    let summary = "Get the progress and result of an operation";
    let description = "Returns the progress of an operation that another call returned, after waiting for its end for \
                       a while. Call it again until its state is succeeded, failed or cancelled; then it has a result \
                       or an error.";
    of_operation::<OfOperation>("operation_get", [title, summary, description], Does::Get)
}

/// Returns the tool that cancels a running operation.
fn cancel() -> Tool {
    let title = "Cancel an operation";
    let summary = "Cancel an operation and roll its changes back";
    let description = "Cancels a running operation and rolls its changes back.";
    Tool {
        effect: Effect::Change,
        scope: Scope::Operate,
        hints: Hints { destructive: false, idempotent: true, open_world: false },
        ..of_operation::<Cancelled>("operation_cancel", [title, summary, description], Does::Cancel)
    }
}

/// Returns a tool about a running operation, which only reads. `T` is the type of its arguments.
fn of_operation<T>(name: &'static str, [title, summary, description]: [&'static str; 3], does: Does) -> Tool
where
    T: Serialize + DeserializeOwned + ToSchema,
{
    let mut schemas = Schemas::default();
    let input = schemas.of_request::<T>(&json!({"id": "3f2c2b1e-8a1d-4c43-9a55-0d6b7a1c9e10"}));
    let view = schemas.of::<api::OperationView>();
    Tool {
        name,
        title,
        summary,
        description: description.to_owned(),
        effect: Effect::Read,
        hints: Hints { destructive: false, idempotent: false, open_world: false },
        scope: Scope::Read,
        input: schema::input(&schemas.complete(&input)),
        output: schema::output(&[(view, &schemas), (failure(), &schemas)]),
        does,
        names: ArgumentNames(&[]),
        confirms: false,
        defaults: &[],
        brief: None,
    }
}

/// Returns the schema of a tool's result: the report, a running operation, or a failure. Returns null if the report is
/// not JSON.
fn output(operation: &Operation, is_long: bool, brief: Option<Brief>) -> Value {
    let Some(report) = operation.report.clone() else { return Value::Null };
    let mut results = vec![(report, &operation.schemas)];
    if is_long {
        results.push((pending(), &operation.schemas));
    }
    results.push((failure(), &operation.schemas));
    let mut output = schema::output(&results);
    if let Some(brief) = brief {
        shorten(&mut output["$defs"][brief.of], brief);
    }
    output
}

/// Removes the members that the result leaves out from the schema of a list's items.
fn shorten(item: &mut Value, brief: Brief) {
    let is_kept = |name: &str| !brief.members.contains(&name);
    if let Some(properties) = item.get_mut("properties").and_then(Value::as_object_mut) {
        properties.retain(|name, _| is_kept(name));
    }
    if let Some(required) = item.get_mut("required").and_then(Value::as_array_mut) {
        required.retain(|name| name.as_str().is_some_and(is_kept));
    }
}

/// Returns a short schema of a failure, because clients validate failures, too.
fn failure() -> Value {
    let (text, maybe) = (json!({"type": "string"}), json!({"type": ["string", "null"]}));
    let members = json!({"error": text, "code": text, "cause": maybe, "hint": maybe, "retryable": {"type": "boolean"}});
    json!({"type": "object", "required": ["error", "code", "hint", "next"], "properties": members})
}

/// Returns the schema of a running operation. The schema of `operation_get` describes the operation itself.
fn pending() -> Value {
    let object = json!({"type": "object"});
    let members = json!({
        "status": {"const": "accepted"}, "message": {"type": "string"}, "next": object, "operation": object,
    });
    json!({"type": "object", "required": ["status", "message", "next", "operation"], "properties": members})
}

/// Returns the schema of the arguments with the additions and removals of the tool.
fn completed(mut input: Value, part: &ToolPart) -> Value {
    if let Some(properties) = input["properties"].as_object_mut() {
        properties.retain(|name, _| !part.without.contains(&name.as_str()));
    }
    for (name, default) in part.defaults {
        input["properties"][name]["default"] = json!(default);
    }
    if part.confirms {
        let about = "Repeat `name` here to confirm that this VM is deleted or replaced";
        input["properties"][CONFIRM] = json!({"description": about, "anyOf": [{"type": "string"}, {"type": "null"}]});
    }
    input
}
