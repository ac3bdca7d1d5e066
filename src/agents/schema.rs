//! Schemas as models' interfaces take them: complete in themselves, and without what those refuse at the top of one.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::tool::Tool;
use crate::api::{COMPONENTS, Schemas};

/// The member whose schema holds what all members must be together. It must always be given, so that it always applies:
/// several interfaces of models refuse `allOf` and its like at the top of a schema.
const ALWAYS: &str = "dependentSchemas";

/// The schema of arguments, of a request that refers to nothing: not every interface follows references.
pub(super) fn input(request: &Value) -> Value {
    let mut input = request.clone();
    portable(&mut input);
    let rules = input.as_object_mut().and_then(|input| input.shift_remove("allOf"));
    let first = input["required"].get(0).and_then(Value::as_str).map(str::to_owned);
    if let (Some(rules), Some(first)) = (rules, first) {
        input[ALWAYS] = json!({first: {"allOf": rules}});
    }
    let empty = input["properties"].is_null();
    if empty {
        input["properties"] = json!({});
    }
    input["type"] = json!("object");
    // What a type is for in the code says nothing to a model; the tool's description does.
    if let Some(input) = input.as_object_mut() {
        input.shift_remove("description");
    }
    input
}

/// What is said about a schema, and not of what it accepts.
const REMARKS: [&str; 4] = ["title", "description", "default", "examples"];

/// Writes a schema so that interfaces understand it which know no lists of types: one choice for each type, side by side.
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
    // Several interfaces know no formats of numbers.
    if members.get("format").and_then(Value::as_str).is_some_and(|format| format.contains("int")) {
        members.shift_remove("format");
    }
    if let Some(Value::Array(kinds)) = members.get("type").cloned() {
        let (remarks, rules): (Map<_, _>, Map<_, _>) =
            std::mem::take(members).into_iter().partition(|(name, _)| REMARKS.contains(&name.as_str()));
        let choice = |kind: Value| match kind.as_str() {
            Some("null") => json!({"type": "null"}),
            _ => Value::Object(rules.clone().into_iter().chain([("type".to_owned(), kind)]).collect()),
        };
        *members = remarks;
        members.insert("anyOf".to_owned(), kinds.into_iter().map(choice).collect());
    } else if let Some(Value::Array(choices)) = members.get("oneOf").filter(|choices| has_null(choices)).cloned() {
        members.shift_remove("oneOf");
        let choices: Vec<_> = choices.into_iter().flat_map(|choice| unfolded(choice, members)).collect();
        members.insert("anyOf".to_owned(), Value::Array(choices));
    }
}

fn has_null(choices: &Value) -> bool {
    choices.as_array().is_some_and(|choices| choices.iter().any(|choice| choice["type"] == "null"))
}

/// A choice, or those that it consists of; what is said about it goes to the whole.
fn unfolded(mut choice: Value, whole: &mut Map<String, Value>) -> Vec<Value> {
    let Some(members) = choice.as_object_mut() else { return vec![choice] };
    for remark in REMARKS {
        if let Some(said) = members.shift_remove(remark) {
            whole.entry(remark).or_insert(said);
        }
    }
    let only =
        |name: &str| if members.len() == 1 { members.get(name).and_then(Value::as_array).cloned() } else { None };
    only("oneOf").or_else(|| only("anyOf")).unwrap_or_else(|| vec![choice])
}

/// A schema of arguments with their names changed.
pub(super) fn renamed(mut input: Value, tool: &Tool) -> Value {
    input["properties"] = tool.renamed(input["properties"].take(), false);
    let rename = |name: &Value| {
        let name = name.as_str().unwrap_or_default();
        tool.names
            .iter()
            .find(|(_, of_operation)| *of_operation == name)
            .map_or(name, |(of_tool, _)| of_tool)
            .to_owned()
    };
    if let Some(required) = input.get_mut("required").and_then(Value::as_array_mut) {
        *required = required.iter().map(|name| json!(rename(name))).collect();
    }
    if let Some(examples) = input.get_mut("examples").and_then(Value::as_array_mut) {
        *examples = examples.drain(..).map(|example| tool.renamed(example, false)).collect();
    }
    if let Some(rules) = input.get_mut(ALWAYS) {
        *rules = tool.renamed(rules.take(), false);
    }
    input
}

/// The schema of an answer: one of several, each with what it refers to.
pub(super) fn output(answers: &[(Value, &Schemas)]) -> Value {
    let mut definitions = Map::new();
    let mut wanted: Vec<(String, &Schemas)> = Vec::new();
    let mut seen = BTreeSet::new();
    let mut choices = Vec::new();
    for (answer, schemas) in answers {
        choices.push(local(answer, &mut |name| wanted.push((name.to_owned(), schemas))));
    }
    while let Some((name, schemas)) = wanted.pop() {
        if !seen.insert(name.clone()) {
            continue;
        }
        let schema = schemas.0.get(&name).cloned().unwrap_or_default();
        let schema = local(&schema, &mut |name| wanted.push((name.to_owned(), schemas)));
        definitions.insert(name, schema);
    }
    definitions.sort_keys();
    let mut output = json!({"type": "object", "anyOf": choices, "$defs": definitions});
    portable(&mut output);
    output
}

/// A schema whose references lead to its own `$defs`; each name is told.
fn local(schema: &Value, told: &mut impl FnMut(&str)) -> Value {
    match schema {
        Value::Object(members) => {
            let member = |(name, value): (&String, &Value)| {
                let target = value.as_str().filter(|_| name == "$ref").and_then(|value| value.strip_prefix(COMPONENTS));
                let value = match target {
                    Some(target) => {
                        told(target);
                        json!(format!("#/$defs/{target}"))
                    }
                    None => local(value, told),
                };
                (name.clone(), value)
            };
            Value::Object(members.iter().map(member).collect())
        }
        Value::Array(items) => Value::Array(items.iter().map(|item| local(item, told)).collect()),
        other => other.clone(),
    }
}
