//! A request in JSON: its members checked by name, then by type, with errors that say what would be right.

use std::{
    collections::HashMap,
    sync::{LazyLock, Mutex, PoisonError},
};

use regex::Regex;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Map, Value};

use crate::error::{Error, Fault, Hint, Result};

/// What a front end calls members of a request that it renames: its own name, then the operation's.
pub type Names = &'static [(&'static str, &'static str)];

/// Returns what a front end calls a member.
fn called(names: Names, member: &str) -> &str {
    names.iter().find(|(_, known)| *known == member).map_or(member, |(own, _)| own)
}

/// Returns the error for a member that is missing, unknown or has a value that it cannot have.
fn invalid_member(member: &str, message: String) -> Error {
    Error::invalid(message).fault(Fault::Member(member.to_owned()))
}

/// The members of a request, without those that are null. Each must be one of the schema's, and those that must be named
/// must be there.
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

/// The request as its type has it, with the defaults.
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

/// Text as it is shown in an error: whoever has sent all of it knows it.
fn shown(text: &str) -> String {
    const MOST: usize = 80;
    let end = text.char_indices().nth(MOST).map_or(text.len(), |(end, _)| end);
    format!("{}{}", text[..end].escape_debug(), if end < text.len() { "…" } else { "" })
}

/// Refuses text that has none of the forms that the schema wants, where its type lets it pass.
pub(super) fn require_forms(members: &Map<String, Value>, schema: &Value, names: Names) -> Result<()> {
    members.iter().try_for_each(|(name, value)| require_form(name, value, schema, names))
}

fn require_form(name: &str, value: &Value, schema: &Value, names: Names) -> Result<()> {
    let own = called(names, name);
    let wanted = &schema["properties"][name];
    if let (Some(items), Some(least)) = (value.as_array(), wanted["minItems"].as_u64())
        && (items.len() as u64) < least
    {
        let message = format!("invalid member `{own}`: at least {least} items are needed");
        return Err(invalid_member(own, message).hint(about(schema, name, names)));
    }
    let mut texts =
        std::slice::from_ref(value).iter().chain(value.as_array().into_iter().flatten()).filter_map(Value::as_str);
    let Some(text) = texts.find(|text| !has_form(text, wanted)) else { return Ok(()) };
    Err(invalid_member(own, format!("invalid member `{own}`: `{}`", shown(text))).hint(about(schema, name, names)))
}

/// Whether a text has one of the forms that a schema wants.
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

/// Whether a text matches a pattern. There are few of them, and each is read once.
fn matches(pattern: &str, text: &str) -> bool {
    static READ: LazyLock<Mutex<HashMap<String, Option<Regex>>>> = LazyLock::new(Mutex::default);
    let mut read = READ.lock().unwrap_or_else(PoisonError::into_inner);
    // A pattern that is none is found by the tests.
    let known = read.entry(pattern.to_owned()).or_insert_with(|| Regex::new(pattern).ok());
    known.as_ref().is_some_and(|pattern| pattern.is_match(text))
}

/// What serde says of a value, without the words of the language that it is for.
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

/// A whole number, however it is written: `2048.0` is one (JSON Schema 2020-12, section 6.1.1).
fn whole(value: &mut Value) {
    if let Some(number) = value.as_f64().filter(|_| value.is_f64())
        && let Ok(number) = format!("{number}").parse::<u64>()
    {
        *value = number.into();
    }
}

/// What a member is for, and what it may look like.
fn about(whole: &Value, member: &str, names: Names) -> Hint {
    let schema = &whole["properties"][member];
    let parts = schema["oneOf"].as_array().into_iter().flatten();
    let mut texts = std::iter::once(schema).chain(parts).filter_map(|part| part["description"].as_str());
    let text = texts.next().unwrap_or_default().trim_end_matches('.').replace('\n', " ");
    let example =
        whole["examples"][0].get(member).or_else(|| example(schema)).map(|example| format!(", as in {example}"));
    Hint::new(format!("Check `{}`: {text}{}", called(names, member), example.unwrap_or_default()))
}

/// An example of a value, of any of its forms; the last one has a unit where there are units.
fn example(schema: &Value) -> Option<&Value> {
    let own = schema["examples"].get(0).or_else(|| schema.get("example"));
    let choices = ["oneOf", "anyOf"].into_iter().find_map(|choices| schema[choices].as_array());
    own.or_else(|| choices?.iter().rev().find_map(example))
}

/// Which members there are.
fn shape(schema: &Value) -> Hint {
    let names: Vec<_> = schema["properties"].as_object().into_iter().flatten().map(|(name, _)| name.as_str()).collect();
    match &names[..] {
        [] => Hint::new("Send no members: this request has none"),
        names => Hint::new(format!("Use the members {}", names.join(", "))),
    }
}

/// Returns the error for a member that a request does not have, with the one that was probably meant.
pub fn unknown_member(member: &str, meant: Option<&str>) -> Error {
    let error = invalid_member(member, format!("unknown member `{member}`"));
    match meant {
        Some(name) => error.hint(format!("Use `{name}` instead, if that is what you meant")),
        None => error,
    }
}

/// The word that somebody may have meant.
pub fn nearest<'w>(given: &str, known: impl Iterator<Item = &'w str>) -> Option<&'w str> {
    let alike = known.map(|word| (strsim::jaro_winkler(given, word), word)).filter(|(alike, _)| *alike > 0.8);
    alike.max_by(|(one, _), (other, _)| one.total_cmp(other)).map(|(_, word)| word)
}

/// Reads a request that has been read before.
pub fn again<T: DeserializeOwned>(request: Value) -> Result<T> {
    serde_json::from_value(request)
        .map_err(|error| Error::internal("cannot read a request that was read before").because(error))
}
