//! A request in JSON: its members checked by name, then by type, with errors that say what would be right.

use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Map, Value};

use crate::error::{Error, Result};

/// The members of a request, without those that are null. Each must be one of the schema's, and those that must be named
/// must be there.
pub(super) fn members(request: Value, schema: &Value) -> Result<Map<String, Value>> {
    let Value::Object(mut members) = request else {
        return Err(Error::invalid("the request is no JSON object").hint(shape(schema)));
    };
    members.retain(|_, value| !value.is_null());
    members.values_mut().for_each(whole);
    let known = || schema["properties"].as_object().into_iter().flatten();
    if let Some(unknown) = members.keys().find(|name| known().all(|(known, _)| known != *name)) {
        let near = known().map(|(name, _)| (strsim::jaro_winkler(unknown, name), name));
        let nearest = near.filter(|(alike, _)| *alike > 0.8).max_by(|(a, _), (b, _)| a.total_cmp(b));
        let error = Error::invalid(format!("there is no member `{}` in this request", unknown.escape_debug()));
        return Err(match nearest {
            Some((_, name)) => error.hint(format!("Did you mean `{name}`?")),
            None => error,
        }
        .hint(shape(schema)));
    }
    let required = schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str);
    if let Some(missing) = required.into_iter().find(|name| !members.contains_key(*name)) {
        let error = Error::invalid(format!("the member `{missing}` is missing"));
        return Err(error.hint(about(schema, missing)));
    }
    Ok(members)
}

/// The request as its type has it, with the defaults.
pub(super) fn typed<T: Serialize + DeserializeOwned>(members: Map<String, Value>, schema: &Value) -> Result<Value> {
    let request: T = serde_path_to_error::deserialize(Value::Object(members)).map_err(|error| {
        let path = error.path().to_string();
        let member = path.split(['.', '[']).next().unwrap_or_default();
        let message = format!("the member `{}` cannot be used", path.escape_debug());
        Error::invalid(message).because(error.inner()).hint(about(schema, member))
    })?;
    serde_json::to_value(request).map_err(|error| Error::internal("cannot write the request").because(error))
}

/// A whole number, however it is written: `2048.0` is one (JSON Schema 2020-12, section 6.1.1).
fn whole(value: &mut Value) {
    if let Some(number) = value.as_f64().filter(|_| value.is_f64())
        && let Ok(number) = format!("{number}").parse::<u64>()
    {
        *value = number.into();
    }
}

/// What a member is for.
fn about(schema: &Value, member: &str) -> String {
    let schema = &schema["properties"][member];
    let parts = schema["oneOf"].as_array().into_iter().flatten();
    let mut texts = std::iter::once(schema).chain(parts).filter_map(|part| part["description"].as_str());
    format!("`{member}`: {}.", texts.next().unwrap_or_default().replace('\n', " "))
}

/// Which members there are.
fn shape(schema: &Value) -> String {
    let names: Vec<_> = schema["properties"].as_object().into_iter().flatten().map(|(name, _)| name.as_str()).collect();
    match &names[..] {
        [] => "It has no members.".to_owned(),
        names => format!("Its members are {}.", names.join(", ")),
    }
}

/// Reads a request that has been read before.
pub(super) fn again<T: DeserializeOwned>(request: Value) -> Result<T> {
    serde_json::from_value(request)
        .map_err(|error| Error::internal("cannot read a request that was read before").because(error))
}
