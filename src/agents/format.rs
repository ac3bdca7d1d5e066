//! The definitions of the tools in the formats that APIs of models accept.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::ToSchema;

use super::{Tool, tool::CONFIRM, tools};
use crate::api::Effect;

/// The plugin that the tools belong to, in formats with plugins.
const PLUGIN: &str = "vm-provisioning";

/// The JSON Schema dialect.
const DIALECT: &str = "https://json-schema.org/draft/2020-12/schema";

/// The format of tool definitions
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
#[schema(as = ToolFormat)]
pub enum Format {
    /// A list for the agent tool server: parameters, and their schema as text
    Kfuncdb,
    /// Functions in the format of `OpenAI`, which most APIs of models accept
    Openai,
    /// The tools/list result of the Model Context Protocol
    #[default]
    Mcp,
    /// A JSON Schema of each tool's arguments, by tool name
    JsonSchema,
}

/// Returns the definitions of all tools.
pub fn definitions(format: Format) -> Value {
    match format {
        Format::Kfuncdb => tools().iter().map(kfuncdb).collect(),
        Format::Openai => tools().iter().map(openai).collect(),
        Format::Mcp => json!({"tools": tools().iter().map(mcp).collect::<Vec<_>>()}),
        Format::JsonSchema => {
            Value::Object(tools().iter().map(|tool| (tool.name.to_owned(), json_schema(tool))).collect())
        }
    }
}

fn kfuncdb(tool: &Tool) -> Value {
    let parameter = |(name, schema): (&String, &Value)| {
        json!({
            "name": name,
            "type": plain_type(schema),
            "required": tool.requires(name),
            "description": about(schema),
        })
    };
    json!({
        "name": tool.name,
        "description": tool.description,
        "shortDescription": tool.summary,
        "longDescription": tool.description,
        "parameters": tool.arguments().map(parameter).collect::<Vec<_>>(),
        "paramsSpec": tool.input.to_string(),
        "pluginId": PLUGIN,
    })
}

/// Returns the main type of an argument, which is never null.
fn plain_type(schema: &Value) -> Value {
    let of = |schema: &Value| match &schema["type"] {
        Value::Array(kinds) => kinds.iter().find(|kind| *kind != "null").cloned(),
        Value::Null => None,
        kind => Some(kind.clone()),
    };
    let parts = ["oneOf", "anyOf"].into_iter().filter_map(|parts| schema[parts].as_array()).flatten();
    let mut kinds = std::iter::once(schema).chain(parts).filter_map(of);
    kinds.find(|kind| kind != "null").unwrap_or_else(|| json!("string"))
}

fn about(schema: &Value) -> String {
    let parts = schema["oneOf"].as_array().into_iter().flatten();
    let mut texts = std::iter::once(schema).chain(parts).filter_map(|part| part["description"].as_str());
    let text = texts.next().unwrap_or_default().replace('\n', " ");
    let parts = ["oneOf", "anyOf"].into_iter().filter_map(|parts| schema[parts].as_array()).flatten();
    let words = std::iter::once(schema).chain(parts).find_map(|part| part["enum"].as_array());
    let words: Vec<_> = words.into_iter().flatten().filter_map(Value::as_str).collect();
    let text = if words.is_empty() { text } else { format!("{text}: {}", words.join(", ")) };
    match schema.get("default") {
        Some(default) if !default.is_null() => format!("{text} [default: {default}]"),
        _ => text,
    }
}

fn openai(tool: &Tool) -> Value {
    json!({
        "type": "function",
        "function": {"name": tool.name, "description": tool.description, "parameters": tool.input},
    })
}

/// Returns a tool in the format of the Model Context Protocol (2025-06-18 and later). A tool that always deletes
/// requires the confirmation.
pub(super) fn mcp(tool: &Tool) -> Value {
    let mut input = tool.input.clone();
    if tool.must_confirm(&Value::Null) {
        let about = input["properties"][CONFIRM]["description"].take();
        input["properties"][CONFIRM] = json!({"type": "string", "description": about});
        input["examples"][0][CONFIRM] = input["examples"][0]["name"].clone();
        if let Some(required) = input.get_mut("required").and_then(Value::as_array_mut) {
            required.push(json!(CONFIRM));
        }
    }
    let mut definition = json!({
        "name": tool.name,
        "title": tool.title,
        "description": tool.description,
        "inputSchema": input,
        "annotations": {
            "title": tool.title,
            "readOnlyHint": tool.effect == Effect::Read,
            "destructiveHint": tool.hints.destructive,
            "idempotentHint": tool.hints.idempotent || tool.effect == Effect::Read,
            "openWorldHint": tool.hints.open_world,
        },
    });
    if !tool.output.is_null() {
        definition["outputSchema"] = tool.output.clone();
    }
    definition
}

fn json_schema(tool: &Tool) -> Value {
    let mut schema = json!({"$schema": DIALECT, "title": tool.name, "description": tool.description});
    for (name, value) in tool.input.as_object().into_iter().flatten() {
        schema[name] = value.clone();
    }
    schema
}
