//! Reads a request from the path, the query and the body into one JSON object.

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

/// The size limit of a body. cloud-init user data may have 1 MiB, and grows a little as JSON.
pub(super) const MAX_BYTES: usize = 2 << 20;

/// How long a body may take to arrive. A slower client would occupy a connection.
const ARRIVAL_LIMIT: Duration = Duration::from_secs(30);

/// The parts of a request from which it is read, besides the body.
pub(super) struct Parts<'r> {
    pub(super) method: &'r Method,
    pub(super) uri: &'r Uri,
    pub(super) headers: &'r HeaderMap,
    pub(super) route: &'r RawPathParams,
}

/// Reads the request of an operation.
pub(super) async fn read(operation: &Operation, parts: &Parts<'_>, body: Body) -> Result<Value, Problem> {
    let mut members = if has_body(parts, operation) { json(parts.headers, body).await? } else { Map::new() };
    let query = parts.uri.query().unwrap_or_default();
    if percent_encoding::percent_decode_str(query).decode_utf8().is_err() {
        return Err(Error::invalid("the query is not UTF-8").hint("Percent-encode the query as UTF-8").into());
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

/// Adds a member. The values of an array member are joined; any other member must not have several values.
fn add(members: &mut Map<String, Value>, name: &str, value: Value) -> Result<(), Problem> {
    match (members.get_mut(name), value) {
        (None | Some(Value::Null), value) => {
            members.insert(name.to_owned(), value);
        }
        (Some(Value::Array(list)), Value::Array(more)) => list.extend(more),
        (Some(first), value) if *first == value => {}
        (Some(first), value) => {
            let error = Error::invalid(format!("the member `{}` is given twice", name.escape_debug()));
            let error = error.because(format!("its values are {first} and {value}"));
            return Err(error.hint("Give it once: in the path, the query or the body").into());
        }
    }
    Ok(())
}

/// Converts the text of a query to the type in the member's schema. Other text stays a string and is refused later,
/// with the member's name.
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

/// Returns whether there is a body to read. The body of a `GET` has no meaning (RFC 9110, section 9.3.1).
fn has_body(parts: &Parts<'_>, operation: &Operation) -> bool {
    let is_empty = parts.headers.get(header::CONTENT_LENGTH).is_some_and(|length| length == "0");
    let is_declared =
        parts.headers.contains_key(header::CONTENT_LENGTH) || parts.headers.contains_key(header::TRANSFER_ENCODING);
    is_declared && !is_empty && operation.method != "GET" && *parts.method != Method::GET
}

/// Returns the members of a JSON body. An empty body has none.
pub(super) async fn json(headers: &HeaderMap, body: Body) -> Result<Map<String, Value>, Problem> {
    if let Some(media_type) = headers.get(header::CONTENT_TYPE) {
        require_json(media_type.to_str().unwrap_or_default())?;
    }
    require_uncompressed(headers)?;
    let bytes = bytes(body).await?;
    if bytes.is_empty() {
        return Ok(Map::new());
    }
    parse(&bytes)
}

/// Reads a body within its size limit and time limit.
pub(super) async fn bytes(body: Body) -> Result<Bytes, Problem> {
    let read = tokio::time::timeout(ARRIVAL_LIMIT, axum::body::to_bytes(body, MAX_BYTES)).await;
    let bytes = read.map_err(|_| {
        let error = Error::new(Code::Timeout, format!("the body did not arrive within {} s", ARRIVAL_LIMIT.as_secs()));
        Problem::new(StatusCode::REQUEST_TIMEOUT, Code::Timeout.name(), error)
    })?;
    bytes.map_err(|error| read_error(&error))
}

/// Parses the members of a body. A body that is null has none.
fn parse(bytes: &[u8]) -> Result<Map<String, Value>, Problem> {
    let mut text = serde_json::Deserializer::from_slice(bytes);
    let read = text.deserialize_any(Members).and_then(|members| text.end().map(|()| members));
    read.map_err(|error| {
        let message = if error.is_data() { "invalid body" } else { "the body is not valid JSON" };
        Error::invalid(message).because(error).hint("Send one JSON object").into()
    })
}

/// Reads an object and refuses duplicate members, which are ambiguous.
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
                return Err(de::Error::custom(format_args!("the member `{name}` is given twice")));
            }
            members.insert(name, value);
        }
        Ok(members)
    }
}

/// Returns the error for a body that is too large or incomplete.
fn read_error(error: &axum::Error) -> Problem {
    let mut causes = std::iter::successors(Some(error as &dyn std::error::Error), |error| error.source());
    if causes.any(<dyn std::error::Error>::is::<http_body_util::LengthLimitError>) {
        let error = Error::invalid(format!("the body is larger than {MAX_BYTES} bytes"))
            .hint("Make the guest fetch large data from a URL");
        return Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", error);
    }
    Error::invalid("cannot read the body").because(error).into()
}

fn require_json(media_type: &str) -> Result<(), Problem> {
    let essence = media_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    if essence == "application/json" || essence.starts_with("application/") && essence.ends_with("+json") {
        return Ok(());
    }
    let error = Error::invalid(format!("unsupported media type `{}`", media_type.escape_debug()))
        .hint("Send JSON with the header `Content-Type: application/json`");
    let problem = Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", error);
    Err(problem.header(header::ACCEPT, "application/json"))
}

/// Refuses a compressed body, because a few bytes could decompress to more than the memory holds.
fn require_uncompressed(headers: &HeaderMap) -> Result<(), Problem> {
    let Some(coding) = headers.get(header::CONTENT_ENCODING).filter(|coding| *coding != "identity") else {
        return Ok(());
    };
    let coding = coding.to_str().unwrap_or_default().escape_debug().to_string();
    let error =
        Error::invalid(format!("unsupported content encoding `{coding}`")).hint("Send the body without compression");
    let problem = Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", error);
    Err(problem.header(header::ACCEPT_ENCODING, "identity"))
}
