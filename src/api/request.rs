//! Reads a request in JSON. Its members are checked by name, then by type; errors say what would be valid.

use std::{
    collections::HashMap,
    sync::{LazyLock, Mutex, PoisonError},
};

use regex::Regex;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Map, Value};

use crate::error::{Error, Fault, Hint, Result};

/// The members of a request that a front end renames: its own name, then the operation's.
pub type Names = &'static [(&'static str, &'static str)];

/// Returns a front end's name of a member.
pub(super) fn called(names: Names, member: &str) -> &str {
    names.iter().find(|(_, known)| *known == member).map_or(member, |(own, _)| own)
}

/// Returns the error for a member that is missing, unknown or has an invalid value.
pub(super) fn invalid_member(member: &str, message: String) -> Error {
    Error::invalid(message).fault(Fault::Member(member.to_owned()))
}

/// Returns the members of a request, without those that are null. Refuses unknown members and missing required members.
pub fn members(request: Value, schema: &Value) -> Result<Map<String, Value>> {
    let Value::Object(mut members) = request else {
        return Err(Error::invalid("invalid request: it must be a JSON object").hint(shape(schema)));
    };
    let known = || schema["properties"].as_object().into_iter().flatten();
    if let Some(unknown) = members.keys().find(|name| known().all(|(known, _)| known != *name)) {
        let unknown = &shown(unknown);
        return Err(
            unknown_member(unknown, nearest(unknown, known().map(|(name, _)| name.as_str()))).hint(shape(schema))
        );
    }
    members.retain(|_, value| !value.is_null());
    members.values_mut().for_each(whole);
    let required = schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str);
    if let Some(missing) = required.into_iter().find(|name| !members.contains_key(*name)) {
        return Err(invalid_member(missing, format!("missing member `{missing}`")).hint(about(schema, missing, &[])));
    }
    Ok(members)
}

/// Returns the request in the canonical form of its type, with the defaults.
pub fn typed<T: Serialize + DeserializeOwned>(
    members: &Map<String, Value>,
    schema: &Value,
    names: Names,
) -> Result<Value> {
    let request: T = serde_path_to_error::deserialize(Value::Object(members.clone())).map_err(|error| {
        let path = error.path().to_string();
        let member = path.split(['.', '[']).next().unwrap_or_default();
        let (own, rest) = (called(names, member), &path[member.len()..]);
        let error = invalid_member(own, format!("invalid member `{own}{}`", rest.escape_debug()))
            .because(plain(&error.inner().to_string()));
        error.hint(about(schema, member, names))
    })?;
    require_forms(members, schema, names)?;
    serde_json::to_value(request).map_err(|error| Error::internal("cannot write the request").because(error))
}

/// Returns text for an error message, escaped and shortened.
fn shown(text: &str) -> String {
    const MAX_CHARS: usize = 80;
    let end = text.char_indices().nth(MAX_CHARS).map_or(text.len(), |(end, _)| end);
    format!("{}{}", text[..end].escape_debug(), if end < text.len() { "…" } else { "" })
}

/// Refuses text that matches none of the schema's forms. The type of a member may accept more than its schema.
pub(super) fn require_forms(members: &Map<String, Value>, schema: &Value, names: Names) -> Result<()> {
    members.iter().try_for_each(|(name, value)| require_form(name, value, schema, names))
}

fn require_form(name: &str, value: &Value, schema: &Value, names: Names) -> Result<()> {
    let own = called(names, name);
    let wanted = &schema["properties"][name];
    if let (Some(items), Some(least)) = (value.as_array(), wanted["minItems"].as_u64())
        && (items.len() as u64) < least
    {
        let message = format!("invalid member `{own}`: too few items, the minimum is {least}");
        return Err(invalid_member(own, message).hint(about(schema, name, names)));
    }
    let mut texts =
        std::slice::from_ref(value).iter().chain(value.as_array().into_iter().flatten()).filter_map(Value::as_str);
    let Some(text) = texts.find(|text| !has_form(text, wanted)) else { return Ok(()) };
    Err(invalid_member(own, format!("invalid member `{own}`: `{}`", shown(text))).hint(about(schema, name, names)))
}

/// Returns whether a text matches one of a schema's forms.
fn has_form(text: &str, schema: &Value) -> bool {
    let choices = ["oneOf", "anyOf"].into_iter().find_map(|choices| schema[choices].as_array());
    if let Some(choices) = choices {
        let mut texts =
            choices.iter().filter(|choice| choice["type"] == "string" || choice["type"].is_null()).peekable();
        return texts.peek().is_none() || texts.any(|choice| has_form(text, choice));
    }
    let length = text.chars().count() as u64;
    let within =
        |bound: &str, fits: fn(u64, u64) -> bool| schema[bound].as_u64().is_none_or(|bound| fits(length, bound));
    within("minLength", |length, least| length >= least)
        && within("maxLength", |length, most| length <= most)
        && schema["pattern"].as_str().is_none_or(|pattern| matches(pattern, text))
        && schema["enum"].as_array().is_none_or(|words| words.iter().any(|word| word == text))
}

/// Returns whether a text matches a pattern. There are few patterns, and each is compiled once.
fn matches(pattern: &str, text: &str) -> bool {
    static COMPILED: LazyLock<Mutex<HashMap<String, Option<Regex>>>> = LazyLock::new(Mutex::default);
    let mut compiled = COMPILED.lock().unwrap_or_else(PoisonError::into_inner);
    // The tests find patterns that are invalid.
    let regex = compiled.entry(pattern.to_owned()).or_insert_with(|| Regex::new(pattern).ok());
    regex.as_ref().is_some_and(|regex| regex.is_match(text))
}

/// Returns serde's message about a value with the names of Rust's types replaced.
fn plain(text: &str) -> String {
    const WORDS: [(&str, &str); 8] = [
        ("expected u64", "expected a whole number"),
        ("expected u32", "expected a whole number"),
        ("expected usize", "expected a whole number"),
        ("expected a sequence", "expected a list"),
        ("expected string or map", "expected text"),
        ("expected a string", "expected text"),
        ("invalid type: string", "text was given:"),
        ("unknown variant", "unknown word"),
    ];
    WORDS.iter().fold(text.to_owned(), |text, (of_serde, plain)| text.replace(of_serde, plain))
}

/// Converts a whole number in any notation to an integer: `2048.0` is one (JSON Schema 2020-12, section 6.1.1).
fn whole(value: &mut Value) {
    if let Some(number) = value.as_f64().filter(|_| value.is_f64())
        && let Ok(number) = format!("{number}").parse::<u64>()
    {
        *value = number.into();
    }
}

/// Returns a hint that describes a member, with an example if there is one.
fn about(whole: &Value, member: &str, names: Names) -> Hint {
    let schema = &whole["properties"][member];
    let parts = schema["oneOf"].as_array().into_iter().flatten();
    let mut texts = std::iter::once(schema).chain(parts).filter_map(|part| part["description"].as_str());
    let text = texts.next().unwrap_or_default().trim_end_matches('.').replace('\n', " ");
    let example =
        whole["examples"][0].get(member).or_else(|| example(schema)).map(|example| format!(", as in {example}"));
    Hint::new(format!("Check `{}`: {text}{}", called(names, member), example.unwrap_or_default()))
}

/// Returns an example of a value, in any of its forms. The last form is the one with a unit, if there are units.
fn example(schema: &Value) -> Option<&Value> {
    let own = schema["examples"].get(0).or_else(|| schema.get("example"));
    let choices = ["oneOf", "anyOf"].into_iter().find_map(|choices| schema[choices].as_array());
    own.or_else(|| choices?.iter().rev().find_map(example))
}

/// Returns a hint that lists the members of a request.
fn shape(schema: &Value) -> Hint {
    let names: Vec<_> = schema["properties"].as_object().into_iter().flatten().map(|(name, _)| name.as_str()).collect();
    match &names[..] {
        [] => Hint::new("Send no members: this request has none"),
        names => Hint::new(format!("Use the members {}", names.join(", "))),
    }
}

/// Returns the error for an unknown member, with the name that was probably meant.
pub fn unknown_member(member: &str, meant: Option<&str>) -> Error {
    let error = invalid_member(member, format!("unknown member `{member}`"));
    match meant {
        Some(name) => error.hint(format!("Use `{name}` instead, if that is what you meant")),
        None => error,
    }
}

/// Returns the known word that is most similar to a given one, if any is similar enough.
pub fn nearest<'w>(given: &str, known: impl Iterator<Item = &'w str>) -> Option<&'w str> {
    let alike = known.map(|word| (strsim::jaro_winkler(given, word), word)).filter(|(alike, _)| *alike > 0.8);
    alike.max_by(|(one, _), (other, _)| one.total_cmp(other)).map(|(_, word)| word)
}

/// Reads a request that has been read before.
pub fn reread<T: DeserializeOwned>(request: Value) -> Result<T> {
    serde_json::from_value(request)
        .map_err(|error| Error::internal("cannot read a request that was read before").because(error))
}
