//! [`Problem`]: an error as a response (RFC 9457), with the same members as in the other front ends. The first clients
//! read the member `error`.

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

/// The code of the problem in a response, for the audit log.
#[derive(Debug, Clone, Copy)]
pub(super) struct ProblemCode(pub(super) &'static str);

/// A problem and the headers of its response.
#[derive(Debug, Clone)]
pub(super) struct Problem {
    details: Box<Members>,
    headers: Vec<(header::HeaderName, HeaderValue)>,
}

/// A failure
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Problem)]
pub(super) struct Members {
    /// The kind of problem, as a URI
    #[serde(rename = "type")]
    kind: String,
    /// The kind of problem, in words
    title: &'static str,
    /// The HTTP status
    status: u16,
    /// What failed, why, and what to do next
    detail: String,
    /// What failed
    error: String,
    /// The kind of problem, for programs
    code: &'static str,
    /// Why it failed, as the tool or the operating system reports it
    cause: Option<String>,
    /// What to do next
    hint: Option<String>,
    /// Whether the same request can succeed later without a change
    retryable: bool,
    /// More information for programs
    #[schema(value_type = Option<Object>)]
    details: Option<Value>,
    /// The tool to call next and its arguments, if a tool was called
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    next: Option<Value>,
}

/// After how many seconds a client should retry.
const RETRY_AFTER: &str = "5";

impl Problem {
    /// Returns a problem with its own code and status instead of those of the error.
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

    /// Returns the HTTP status.
    pub(super) fn status(&self) -> StatusCode {
        StatusCode::from_u16(self.details.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    /// Adds the tool call to make next.
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

/// Returns the title of a kind of problem. The kinds that exist only over HTTP have no [`Code`].
fn title(code: &str, kind: Code) -> &'static str {
    match code {
        "foreign_host" => "the request names a host that is not allowed",
        "foreign_origin" => "the request comes from a page of another site",
        "unauthenticated" => "authentication required",
        "method_not_allowed" => "the route does not support this method",
        "unsupported_media_type" => "the media type of the body is not supported",
        "too_large" => "the body is too large",
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
