//! A request as HTTP has it, put together into one JSON object: what stands in the route, in the query, and in the body.

use std::{fmt, time::Duration};

use axum::{
    body::{Body, Bytes},
    extract::RawPathParams,
    http::{HeaderMap, Method, StatusCode, Uri, header},
};
use serde::{
    Deserializer,
    de::{self, MapAccess, Visitor},
};
use serde_json::{Map, Value};
use url::form_urlencoded;

use super::problem::Problem;
use crate::{
    api::Operation,
    error::{Code, Error},
};

/// The most that a body may have: user data of cloud-init may have 1 MiB, and grows a little when it becomes JSON.
pub(super) const MOST_BYTES: usize = 2 << 20;

/// How long a body may take to arrive. Whoever sends it slower than any network keeps a place from others.
const ARRIVAL: Duration = Duration::from_secs(30);

/// The parts of a request that say what is wanted.
pub(super) struct Parts<'r> {
    pub(super) method: &'r Method,
    pub(super) uri: &'r Uri,
    pub(super) headers: &'r HeaderMap,
    pub(super) route: &'r RawPathParams,
}

/// Reads what is asked of an operation.
pub(super) async fn read(operation: &Operation, parts: &Parts<'_>, body: Body) -> Result<Value, Problem> {
    let mut members = if has_body(parts, operation) { json(parts.headers, body).await? } else { Map::new() };
    let query = parts.uri.query().unwrap_or_default();
    if percent_encoding::percent_decode_str(query).decode_utf8().is_err() {
        let error =
            Error::invalid("the query is not UTF-8").because("it would be read as something else than was meant");
        return Err(error.hint("Write what is no plain character as the percent-encoding of its UTF-8.").into());
    }
    for (name, text) in form_urlencoded::parse(query.as_bytes()) {
        let value = typed(&operation.request["properties"][&*name], &text);
        add(&mut members, &name, value)?;
    }
    for (name, value) in parts.route {
        add(&mut members, name, Value::String(value.to_owned()))?;
    }
    operation.read(Value::Object(members)).map_err(Problem::from)
}

/// A member that is said in several places or several times is one list, or a mistake.
fn add(members: &mut Map<String, Value>, name: &str, value: Value) -> Result<(), Problem> {
    match (members.get_mut(name), value) {
        (None | Some(Value::Null), value) => {
            members.insert(name.to_owned(), value);
        }
        (Some(Value::Array(list)), Value::Array(more)) => list.extend(more),
        (Some(there), value) if *there == value => {}
        (Some(there), value) => {
            let error = Error::invalid(format!("the member `{}` is said twice", name.escape_debug()));
            let error = error.because(format!("it is {there} and {value}"));
            return Err(error.hint("Say it once: in the route, in the query or in the body.").into());
        }
    }
    Ok(())
}

/// Text of a query, as the member's schema wants it. What does not fit stays text, and is refused with the member's name.
fn typed(schema: &Value, text: &str) -> Value {
    let is = |kind: &str| {
        let of = &schema["type"];
        *of == kind || of.as_array().is_some_and(|kinds| kinds.iter().any(|of| *of == kind))
    };
    match text {
        "true" | "" if is("boolean") => Value::Bool(true),
        "false" if is("boolean") => Value::Bool(false),
        text if is("integer") => text.parse::<u64>().map_or_else(|_| Value::String(text.to_owned()), Value::from),
        text if is("array") => Value::Array(vec![Value::String(text.to_owned())]),
        text => Value::String(text.to_owned()),
    }
}

/// Whether there is a body to read. A `GET` has none that means anything (RFC 9110, section 9.3.1).
fn has_body(parts: &Parts<'_>, operation: &Operation) -> bool {
    let empty = parts.headers.get(header::CONTENT_LENGTH).is_some_and(|length| length == "0");
    let said =
        parts.headers.contains_key(header::CONTENT_LENGTH) || parts.headers.contains_key(header::TRANSFER_ENCODING);
    said && !empty && operation.method != "GET" && *parts.method != Method::GET
}

/// The members of a JSON body; one that is empty has none.
pub(super) async fn json(headers: &HeaderMap, body: Body) -> Result<Map<String, Value>, Problem> {
    if let Some(given) = headers.get(header::CONTENT_TYPE) {
        require_json(given.to_str().unwrap_or_default())?;
    }
    require_plain(headers)?;
    let bytes = bytes(body).await?;
    if bytes.is_empty() {
        return Ok(Map::new());
    }
    parsed(&bytes)
}

/// A body, which must be small and arrive in time.
pub(super) async fn bytes(body: Body) -> Result<Bytes, Problem> {
    let read = tokio::time::timeout(ARRIVAL, axum::body::to_bytes(body, MOST_BYTES)).await;
    let bytes = read.map_err(|_| {
        let error = Error::new(Code::Timeout, format!("the body did not arrive within {} s", ARRIVAL.as_secs()));
        Problem::new(StatusCode::REQUEST_TIMEOUT, Code::Timeout.name(), error)
    })?;
    bytes.map_err(|error| unread(&error))
}

/// The members of a body; that of one which is null are none.
fn parsed(bytes: &[u8]) -> Result<Map<String, Value>, Problem> {
    let mut text = serde_json::Deserializer::from_slice(bytes);
    let read = text.deserialize_any(Members).and_then(|members| text.end().map(|()| members));
    read.map_err(|error| {
        let what = if error.is_data() { "the body cannot be used" } else { "the body is no JSON" };
        Error::invalid(what).because(error).hint("Send one JSON object.").into()
    })
}

/// Reads an object in which no member is said twice: which of them was meant, nobody can know.
struct Members;

impl<'de> Visitor<'de> for Members {
    type Value = Map<String, Value>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_unit<E: de::Error>(self) -> Result<Self::Value, E> {
        Ok(Map::new())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut members = Map::new();
        while let Some((name, value)) = map.next_entry::<String, Value>()? {
            if members.contains_key(&name) {
                let name = name.escape_debug();
                return Err(de::Error::custom(format_args!("the member `{name}` is said twice")));
            }
            members.insert(name, value);
        }
        Ok(members)
    }
}

/// A body that is too large, or that broke off.
fn unread(error: &axum::Error) -> Problem {
    let mut causes = std::iter::successors(Some(error as &dyn std::error::Error), |error| error.source());
    if causes.any(<dyn std::error::Error>::is::<http_body_util::LengthLimitError>) {
        let error = Error::invalid(format!("the body has more than {MOST_BYTES} bytes"))
            .hint("Give the guest an address to fetch the rest from.");
        return Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", error);
    }
    Error::invalid("the body cannot be read").because(error).into()
}

fn require_json(given: &str) -> Result<(), Problem> {
    let essence = given.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    if essence == "application/json" || essence.starts_with("application/") && essence.ends_with("+json") {
        return Ok(());
    }
    let error = Error::invalid(format!("the body is `{}`", given.escape_debug()))
        .hint("Send JSON, and say so: Content-Type: application/json");
    let problem = Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", error);
    Err(problem.header(header::ACCEPT, "application/json"))
}

/// A body that is packed is not unpacked here: a few bytes could become more than any memory holds.
fn require_plain(headers: &HeaderMap) -> Result<(), Problem> {
    let Some(coding) = headers.get(header::CONTENT_ENCODING).filter(|coding| *coding != "identity") else {
        return Ok(());
    };
    let coding = coding.to_str().unwrap_or_default().escape_debug().to_string();
    let error = Error::invalid(format!("the body is packed with `{coding}`")).hint("Send it as it is.");
    let problem = Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", error);
    Err(problem.header(header::ACCEPT_ENCODING, "identity"))
}
