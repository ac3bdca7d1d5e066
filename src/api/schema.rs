//! Schemas of requests and reports in JSON Schema 2020-12, the dialect of OpenAPI 3.1. Defaults come from the types.

use std::collections::BTreeMap;

use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Map, Value, json};
use utoipa::ToSchema;

/// The beginning of every reference.
pub const COMPONENTS: &str = "#/components/schemas/";

/// Named schemas, which other schemas refer to.
#[derive(Debug, Clone, Default)]
pub struct Schemas(pub BTreeMap<String, Value>);

impl Schemas {
    /// Returns the schema of a report, and adds the schemas that it refers to.
    pub fn of<T: ToSchema>(&mut self) -> Value {
        self.add::<T>();
        let name = T::name().into_owned();
        let schema = self.flat(value_of(&T::schema()));
        self.0.insert(name.clone(), schema);
        json!({"$ref": format!("{COMPONENTS}{name}")})
    }

    /// Returns the schema of a request: an object that allows no other members, each with its description and default.
    pub fn of_request<T: Serialize + DeserializeOwned + ToSchema>(&mut self, example: &Value) -> Value {
        self.add::<T>();
        let mut schema = self.flat(value_of(&T::schema()));
        let defaults = serde_json::from_value::<T>(example.clone()).ok().and_then(|request| {
            let Ok(Value::Object(defaults)) = serde_json::to_value(request) else { return None };
            Some(defaults)
        });
        let given = example.as_object().cloned().unwrap_or_default();
        let required = schema["required"].as_array().cloned().unwrap_or_default();
        let properties = schema.get_mut("properties").and_then(Value::as_object_mut);
        for (name, member) in properties.into_iter().flatten().filter(|(name, _)| !required.contains(&json!(name))) {
            or_null(member);
            let default =
                defaults.as_ref().and_then(|defaults| defaults.get(name)).filter(|default| !default.is_null());
            match default.filter(|_| !given.contains_key(name)) {
                Some(default) => member["default"] = default.clone(),
                None => drop(member.as_object_mut().and_then(|member| member.shift_remove("default"))),
            }
        }
        schema["additionalProperties"] = Value::Bool(false);
        schema["examples"] = json!([example]);
        schema
    }

    /// Returns a schema with every reference replaced by its target.
    pub fn complete(&self, schema: &Value) -> Value {
        inlined(schema, self, 0)
    }

    fn add<T: ToSchema>(&mut self) {
        let mut schemas = Vec::new();
        T::schemas(&mut schemas);
        for (name, schema) in schemas {
            self.0.insert(name, value_of(&schema));
        }
        let names: Vec<_> = self.0.keys().cloned().collect();
        for name in names {
            let flat = self.flat(self.0[&name].clone());
            self.0.insert(name, flat);
        }
    }

    /// Returns a schema with its parts (`allOf`) merged into one object, as in the JSON that it describes.
    fn flat(&self, schema: Value) -> Value {
        let Some(parts) = schema.get("allOf").and_then(Value::as_array) else { return schema };
        let mut whole = Map::new();
        for (key, value) in schema.as_object().into_iter().flatten().filter(|(key, _)| *key != "allOf") {
            whole.insert(key.clone(), value.clone());
        }
        whole.insert("type".to_owned(), json!("object"));
        let (mut properties, mut required) = (Map::new(), Vec::new());
        let parts: Vec<_> = parts.iter().map(|part| self.resolved(part)).collect();
        if parts.iter().any(|(part, _)| part["type"] != "object") {
            // A choice of several shapes cannot be merged.
            return schema;
        }
        for (part, optional) in parts {
            properties.extend(part["properties"].as_object().cloned().unwrap_or_default());
            if !optional {
                required.extend(part["required"].as_array().cloned().unwrap_or_default());
            }
        }
        whole.insert("properties".to_owned(), Value::Object(properties));
        whole.insert("required".to_owned(), Value::Array(required));
        Value::Object(whole)
    }

    /// Returns the schema of a part, and whether the whole part is optional.
    fn resolved(&self, part: &Value) -> (Value, bool) {
        if let Some(name) = part["$ref"].as_str().and_then(|reference| reference.strip_prefix(COMPONENTS)) {
            return (self.flat(self.0.get(name).cloned().unwrap_or_default()), false);
        }
        match part["oneOf"].as_array().map(Vec::as_slice) {
            Some([null, some] | [some, null]) if null["type"] == "null" => (self.resolved(some).0, true),
            _ => (self.flat(part.clone()), false),
        }
    }
}

/// Returns a schema with every reference replaced by its target. Requests are not recursive; the depth is limited in
/// case one ever is.
fn inlined(schema: &Value, schemas: &Schemas, depth: usize) -> Value {
    const MAX_DEPTH: usize = 16;
    match schema {
        Value::Object(members) if depth < MAX_DEPTH => {
            let target = members.get("$ref").and_then(Value::as_str).and_then(|target| target.strip_prefix(COMPONENTS));
            let mut whole: Map<String, Value> = target
                .and_then(|name| inlined(schemas.0.get(name)?, schemas, depth + 1).as_object().cloned())
                .unwrap_or_default();
            let others = members.iter().filter(|(name, _)| target.is_none() || *name != "$ref");
            whole.extend(others.map(|(name, value)| (name.clone(), inlined(value, schemas, depth + 1))));
            Value::Object(whole)
        }
        Value::Array(items) => Value::Array(items.iter().map(|item| inlined(item, schemas, depth + 1)).collect()),
        other => other.clone(),
    }
}

/// Allows a member to be null, which is the same as leaving it out.
fn or_null(member: &mut Value) {
    if let Some(kind) = member.get("type").and_then(Value::as_str).filter(|kind| *kind != "null") {
        member["type"] = json!([kind, "null"]);
    } else if let Some(reference) = member.as_object_mut().and_then(|member| member.shift_remove("$ref")) {
        member["oneOf"] = json!([{"$ref": reference}, {"type": "null"}]);
    }
}

/// Adds a required text member before all others.
pub(super) fn put_first(schema: &mut Value, member: &str, about: &str, example: Value) {
    let before = |first: Map<String, Value>, rest: &Value| {
        let rest = rest.as_object().cloned().unwrap_or_default();
        Value::Object(first.into_iter().chain(rest).collect())
    };
    let first = |value: Value| Map::from_iter([(member.to_owned(), value)]);
    schema["properties"] = before(
        first(json!({"type": "string", "description": about, "minLength": 1, "maxLength": 255})),
        &schema["properties"],
    );
    schema["examples"][0] = before(first(example), &schema["examples"][0]);
    let mut required = vec![json!(member)];
    required.extend(schema["required"].as_array().cloned().unwrap_or_default());
    schema["required"] = Value::Array(required);
}

fn value_of(schema: &impl Serialize) -> Value {
    // Serializing strings and numbers does not fail.
    serde_json::to_value(schema).unwrap_or_default()
}
