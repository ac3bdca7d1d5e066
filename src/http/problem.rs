//! What went wrong, as a client reads it: RFC 9457, with the members of every other face, and `error`, which the first clients
//! know.

use axum::{
    body::Body,
    http::{HeaderValue, Response, StatusCode, header},
    response::IntoResponse,
};
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use crate::{
    api,
    error::{Code, Error},
};

/// The media type of RFC 9457.
pub(super) const MEDIA_TYPE: &str = "application/problem+json";

/// The code of the problem that a request was answered with, for whoever notes it.
#[derive(Debug, Clone, Copy)]
pub(super) struct ProblemCode(pub(super) &'static str);

/// What went wrong, and the headers that go with it.
#[derive(Debug, Clone)]
pub(super) struct Problem {
    details: Box<Members>,
    headers: Vec<(header::HeaderName, HeaderValue)>,
}

/// What went wrong
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Problem)]
pub(super) struct Members {
    /// What kind of problem it is, as a URI
    #[serde(rename = "type")]
    kind: String,
    /// What kind of problem it is, in words
    title: &'static str,
    /// The HTTP status
    status: u16,
    /// What failed, why, and what to do next
    detail: String,
    /// What failed
    error: String,
    /// The kind, for programs
    code: &'static str,
    /// Why, in the words of the tool or the operating system
    cause: Option<String>,
    /// What to do next
    hint: Option<String>,
    /// Whether the same request can succeed later without anybody changing anything
    retryable: bool,
    /// What a program may want to know beyond that
    #[schema(value_type = Option<Object>)]
    details: Option<Value>,
    /// The tool to call next and its arguments, where a tool was called
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    next: Option<Value>,
}

/// How long to wait before the same is tried again, in seconds.
const RETRY_AFTER: &str = "5";

impl Problem {
    /// One that is HTTP's own: the code and the status are another than those of the error.
    pub(super) fn new(status: StatusCode, code: &'static str, error: Error) -> Self {
        let hint = error.hint_text(api::as_request);
        let Error { code: kind, message, cause, details, .. } = error;
        let sentences = [Some(match &cause {
            Some(cause) => format!("{message}: {cause}."),
            None => format!("{message}."),
        })];
        let detail = sentences.into_iter().chain([hint.clone()]).flatten().collect::<Vec<_>>().join(" ");
        let details = Members {
            kind: format!("urn:vmprov:problem:{code}"),
            title: title(code, kind),
            status: status.as_u16(),
            detail,
            error: message,
            code,
            cause,
            hint,
            retryable: kind.is_retryable(),
            details: details.map(|details| *details),
            next: None,
        };
        Self { details: Box::new(details), headers: Vec::new() }
    }

    /// Its HTTP status.
    pub(super) fn status(&self) -> StatusCode {
        StatusCode::from_u16(self.details.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    /// Adds what to call next.
    #[must_use]
    pub(super) fn next(mut self, next: Option<Value>) -> Self {
        self.details.next = next;
        self
    }

    /// Adds a header.
    #[must_use]
    pub(super) fn header(mut self, name: header::HeaderName, value: &str) -> Self {
        self.headers.extend(HeaderValue::from_str(value).ok().map(|value| (name, value)));
        self
    }
}

/// The kinds that are HTTP's own have no [`Code`].
fn title(code: &str, kind: Code) -> &'static str {
    match code {
        "foreign_host" => "the request is for another host",
        "foreign_origin" => "the request comes from a page of another site",
        "unauthenticated" => "nobody has said who asks",
        "method_not_allowed" => "the route does not take this method",
        "unsupported_media_type" => "the body is not of a type that is read here",
        "too_large" => "the body is larger than any request needs to be",
        _ => kind.meaning(),
    }
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        let code = error.code;
        let status = StatusCode::from_u16(code.http_status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let problem = Self::new(status, code.name(), error);
        if code.is_retryable() { problem.header(header::RETRY_AFTER, RETRY_AFTER) } else { problem }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response<Body> {
        let body = serde_json::to_vec(&self.details).unwrap_or_default();
        let status = self.status();
        let mut response = (status, [(header::CONTENT_TYPE, MEDIA_TYPE)], body).into_response();
        response.headers_mut().extend(self.headers);
        response.extensions_mut().insert(ProblemCode(self.details.code));
        response
    }
}
