//! `/mcp`: the Model Context Protocol over streamable HTTP, for whoever the token of each request says.

use std::{sync::Arc, time::Duration};

use axum::{
    body::{Body, Bytes},
    extract::Request,
    http::{Method, Response, StatusCode, header},
    response::IntoResponse,
};
use rmcp::transport::streamable_http_server::{
    StreamableHttpServerConfig, StreamableHttpService, session::local::LocalSessionManager,
};
use tokio_util::sync::CancellationToken;

use super::{body::MOST_BYTES, problem::Problem};
use crate::{
    agents::mcp::{Agent, Who},
    error::{Code, Error},
    service::Service,
};

/// The header that names a session (Model Context Protocol 2025-11-25, transports).
const SESSION: &str = "mcp-session-id";

/// How many sessions there may be at a time. One that nobody uses ends after five minutes.
const MOST_SESSIONS: usize = 256;

/// How long an answer may take; then it is an operation to ask for: clients give up after 60 s.
const ANSWER_WITHIN: Duration = Duration::from_secs(45);

/// The most that is read of an answer of the protocol's own, which is a sentence.
const MOST_SENTENCE: usize = 4096;

/// The protocol, for all who speak it over HTTP.
#[derive(Clone)]
pub(super) struct Mcp {
    protocol: StreamableHttpService<Agent, LocalSessionManager>,
    sessions: Arc<LocalSessionManager>,
}

impl Mcp {
    /// Begins to listen; every stream ends with `end`.
    pub(super) fn new(service: Arc<Service>, end: CancellationToken) -> Self {
        let sessions = Arc::new(LocalSessionManager::default());
        // Whose requests are answered the gate has decided.
        let config = StreamableHttpServerConfig::default()
            .disable_allowed_hosts()
            .with_max_request_body_bytes(MOST_BYTES)
            .with_cancellation_token(end);
        let agent = Agent { service, who: Who::Bearer, answer_within: ANSWER_WITHIN };
        let protocol = StreamableHttpService::new(move || Ok(agent.clone()), sessions.clone(), config);
        Self { protocol, sessions }
    }

    /// Answers a request.
    pub(super) async fn answer(self, request: Request) -> Response<Body> {
        let begins = request.method() == Method::POST && !request.headers().contains_key(SESSION);
        if begins && self.sessions.sessions.read().await.len() >= MOST_SESSIONS {
            let error = Error::new(Code::Busy, "as many sessions of the protocol are open as may");
            let error = error.hint("End some with DELETE /mcp, or try again in a few minutes.");
            return Problem::new(StatusCode::SERVICE_UNAVAILABLE, Code::Busy.name(), error).into_response();
        }
        let response = self.protocol.handle(request).await;
        let is_sentence = response.status().is_client_error() || response.status().is_server_error();
        let is_json = response.headers().get(header::CONTENT_TYPE).is_some_and(|kind| kind == "application/json");
        if !is_sentence || is_json {
            return response.map(Body::new);
        }
        refused(response.map(Body::new)).await
    }
}

/// A refusal of the protocol's, in the form of every other answer of this service.
async fn refused(response: Response<Body>) -> Response<Body> {
    let (head, body) = response.into_parts();
    let read = axum::body::to_bytes(body, MOST_SENTENCE).await.unwrap_or_else(|_| Bytes::new());
    let text = String::from_utf8_lossy(&read).trim().trim_end_matches('.').to_owned();
    let message = if text.is_empty() { "the request cannot be answered".to_owned() } else { text };
    let (code, error) = match head.status {
        StatusCode::METHOD_NOT_ALLOWED => ("method_not_allowed", Error::invalid(message)),
        StatusCode::NOT_FOUND => {
            (Code::NotFound.name(), Error::not_found(message).hint("Begin a new session: initialize."))
        }
        StatusCode::UNSUPPORTED_MEDIA_TYPE => ("unsupported_media_type", Error::invalid(message)),
        status if status.is_server_error() => (Code::Internal.name(), Error::internal(message)),
        _ => (Code::InvalidInput.name(), Error::invalid(message)),
    };
    let hint = "This is the Model Context Protocol: POST JSON-RPC with Accept: application/json, text/event-stream.";
    let mut problem = Problem::new(head.status, code, error.hint(hint));
    if let Some(allow) = head.headers.get(header::ALLOW).and_then(|allow| allow.to_str().ok()) {
        problem = problem.header(header::ALLOW, allow);
    }
    problem.into_response()
}
