//! Schemas that APIs of models accept: self-contained, and without the keywords that they refuse at the top level.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::names::ArgumentNames;
use crate::api::{COMPONENTS, Schemas};

/// The keyword that holds the constraints between members. It depends on a required member, so that it always applies:
/// several APIs of models refuse `allOf` and similar keywords at the top level of a schema.
const CONSTRAINTS: &str = "dependentSchemas";

/// Returns the schema of a tool's arguments. The request's schema must have no references: not every API resolves them.
pub(super) fn input(request: &Value) -> Value {
    let mut input = request.clone();
    portable(&mut input);
    let rules = input.as_object_mut().and_then(|input| input.shift_remove("allOf"));
    let first = input["required"].get(0).and_then(Value::as_str).map(str::to_owned);
    if let (Some(rules), Some(first)) = (rules, first) {
        input[CONSTRAINTS] = json!({first: {"allOf": rules}});
    }
    let empty = input["properties"].is_null();
    if empty {
        input["properties"] = json!({});
    }
    input["type"] = json!("object");
    // The description of the Rust type does not help a model; the description of the tool does.
    if let Some(input) = input.as_object_mut() {
        input.shift_remove("description");
    }
    input
}

/// The keywords that do not affect what a schema accepts.
const ANNOTATIONS: [&str; 4] = ["title", "description", "default", "examples"];

/// Rewrites a schema for APIs that do not support lists of types: each type becomes one choice of `anyOf`.
fn portable(schema: &mut Value) {
    let Value::Object(members) = schema else {
        if let Value::Array(items) = schema {
            items.iter_mut().for_each(portable);
        }
        return;
    };
    for (name, value) in members.iter_mut() {
        if !matches!(name.as_str(), "default" | "examples" | "enum" | "const" | "required") {
            portable(value);
        }
    }
    // Several APIs do not support formats of numbers.
    if members.get("format").and_then(Value::as_str).is_some_and(|format| format.contains("int")) {
        members.shift_remove("format");
    }
    if let Some(Value::Array(kinds)) = members.get("type").cloned() {
        let (annotations, rules): (Map<_, _>, Map<_, _>) =
            std::mem::take(members).into_iter().partition(|(name, _)| ANNOTATIONS.contains(&name.as_str()));
        let choice = |kind: Value| match kind.as_str() {
            Some("null") => json!({"type": "null"}),
            _ => Value::Object(rules.clone().into_iter().chain([("type".to_owned(), kind)]).collect()),
        };
        *members = annotations;
        members.insert("anyOf".to_owned(), kinds.into_iter().map(choice).collect());
    } else if let Some(Value::Array(choices)) = members.get("oneOf").filter(|choices| has_null(choices)).cloned() {
        members.shift_remove("oneOf");
        let choices: Vec<_> = choices.into_iter().flat_map(|choice| flattened(choice, members)).collect();
        members.insert("anyOf".to_owned(), Value::Array(choices));
    }
}

fn has_null(choices: &Value) -> bool {
    choices.as_array().is_some_and(|choices| choices.iter().any(|choice| choice["type"] == "null"))
}

/// Returns a choice, or the choices that it consists of. Its annotations are moved to the whole schema.
fn flattened(mut choice: Value, whole: &mut Map<String, Value>) -> Vec<Value> {
    let Some(members) = choice.as_object_mut() else { return vec![choice] };
    for annotation in ANNOTATIONS {
        if let Some(value) = members.shift_remove(annotation) {
            whole.entry(annotation).or_insert(value);
        }
    }
    let only =
        |name: &str| if members.len() == 1 { members.get(name).and_then(Value::as_array).cloned() } else { None };
    only("oneOf").or_else(|| only("anyOf")).unwrap_or_else(|| vec![choice])
}

/// Returns a schema of arguments with the members renamed to the tool's arguments.
pub(super) fn renamed(mut input: Value, names: ArgumentNames) -> Value {
    input["properties"] = names.to_arguments(input["properties"].take());
    if let Some(required) = input.get_mut("required").and_then(Value::as_array_mut) {
        *required = required.iter().filter_map(Value::as_str).map(|name| json!(names.argument(name))).collect();
    }
    if let Some(examples) = input.get_mut("examples").and_then(Value::as_array_mut) {
        *examples = examples.drain(..).map(|example| names.to_arguments(example)).collect();
    }
    if let Some(rules) = input.get_mut(CONSTRAINTS) {
        *rules = names.to_arguments(rules.take());
    }
    input
}

/// Returns the schema of a tool's result, which is one of several, with everything that they refer to.
pub(super) fn output(results: &[(Value, &Schemas)]) -> Value {
    let mut definitions = Map::new();
    let mut pending: Vec<(String, &Schemas)> = Vec::new();
    let mut seen = BTreeSet::new();
    let mut choices = Vec::new();
    for (result, schemas) in results {
        choices.push(local(result, &mut |name| pending.push((name.to_owned(), schemas))));
    }
    while let Some((name, schemas)) = pending.pop() {
        if !seen.insert(name.clone()) {
            continue;
        }
        let schema = schemas.0.get(&name).cloned().unwrap_or_default();
        let schema = local(&schema, &mut |name| pending.push((name.to_owned(), schemas)));
        definitions.insert(name, schema);
    }
    definitions.sort_keys();
    let mut output = json!({"type": "object", "anyOf": choices, "$defs": definitions});
    portable(&mut output);
    output
}

/// Returns a schema whose references point to its own `$defs`, and passes each referenced name to `found`.
fn local(schema: &Value, found: &mut impl FnMut(&str)) -> Value {
    match schema {
        Value::Object(members) => {
            let member = |(name, value): (&String, &Value)| {
                let target = value.as_str().filter(|_| name == "$ref").and_then(|value| value.strip_prefix(COMPONENTS));
                let value = match target {
                    Some(target) => {
                        found(target);
                        json!(format!("#/$defs/{target}"))
                    }
                    None => local(value, found),
                };
                (name.clone(), value)
            };
            Value::Object(members.iter().map(member).collect())
        }
        Value::Array(items) => Value::Array(items.iter().map(|item| local(item, found)).collect()),
        other => other.clone(),
    }
}
