//! `/mcp`: the Model Context Protocol over streamable HTTP. Each request is authenticated by its token.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use axum::{
    body::{Body, Bytes},
    extract::Request,
    http::{Method, Response, StatusCode, header, request},
};
use http_body_util::BodyExt;
use rmcp::{
    model::Extensions,
    transport::streamable_http_server::{
        StreamableHttpServerConfig, StreamableHttpService, session::local::LocalSessionManager,
    },
};
use serde_json::Value;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    body::{self, MAX_BYTES},
    problem::Problem,
    submit,
};
use crate::{
    agents::mcp::{Agent, Clients, Sender},
    error::{Code, Error},
    service::{ANSWER_WITHIN, Service, client::Client},
};

/// The header that names a session (Model Context Protocol 2025-11-25, transports).
const SESSION: &str = "mcp-session-id";

/// How many sessions may be open at a time: in total, and of one client. An idle session ends after five minutes.
const MAX_SESSIONS: (usize, usize) = (256, 64);

/// How long the service waits for the last responses to be sent at shutdown.
const SEND_LIMIT: Duration = Duration::from_secs(2);

/// How to use the protocol.
const USAGE: [&str; 2] = [
    "Send one JSON-RPC message of the Model Context Protocol as a POST request with the headers \
     `Content-Type: application/json` and `Accept: application/json, text/event-stream`",
    "Begin a session with the method `initialize`, and send the Mcp-Session-Id of its response with each request",
];

/// The size limit of an error text of the protocol library, which is one sentence.
const MAX_ERROR_TEXT: usize = 4096;

/// The protocol for all clients over HTTP.
#[derive(Clone)]
pub(super) struct Mcp {
    protocol: StreamableHttpService<Agent, LocalSessionManager>,
    sessions: Arc<LocalSessionManager>,
    /// The name of the client of each session, by the ID of the session.
    owners: Arc<Mutex<HashMap<String, String>>>,
    /// The responses that are being sent.
    responses: TaskTracker,
    /// Ends every stream.
    end: CancellationToken,
}

impl Mcp {
    pub(super) fn new(service: Arc<Service>) -> Self {
        let (sessions, end) = (Arc::new(LocalSessionManager::default()), CancellationToken::new());
        // The authenticator checks the hosts.
        let config = StreamableHttpServerConfig::default()
            .disable_allowed_hosts()
            .with_max_request_body_bytes(MAX_BYTES)
            .with_cancellation_token(end.clone());
        let agent = Agent { service, clients: Clients::Any(sender), answer_within: ANSWER_WITHIN };
        let protocol = StreamableHttpService::new(move || Ok(agent.clone()), sessions.clone(), config);
        Self { protocol, sessions, owners: Arc::default(), responses: TaskTracker::new(), end }
    }

    /// Waits until the last responses are sent, and ends every stream.
    pub(super) async fn end(&self) {
        self.responses.close();
        // After the timeout, the remaining responses are cut off.
        let _ = tokio::time::timeout(SEND_LIMIT, self.responses.wait()).await;
        self.end.cancel();
    }

    /// Handles a request.
    pub(super) async fn handle(self, request: Request) -> Result<Response<Body>, Problem> {
        let (head, body) = request.into_parts();
        let client = head.extensions.get::<Arc<Client>>().map(|client| client.name.clone()).unwrap_or_default();
        let session = head.headers.get(SESSION).and_then(|id| id.to_str().ok());
        if session.is_some_and(|id| self.owner(id).is_none_or(|owner| owner != client)) {
            return Err(with_usage(Error::not_found("the session does not exist")).into());
        }
        let body = if head.method == Method::POST { body::bytes(body).await? } else { Bytes::new() };
        let message: Value = serde_json::from_slice(&body).unwrap_or_default();
        if head.method == Method::POST && message.is_null() {
            return Err(with_usage(Error::invalid("the body is not valid JSON")).into());
        }
        let begins = message["method"] == "initialize";
        if begins {
            self.require_session_limit(&client).await?;
        }
        let sending = (head.method == Method::POST).then(|| self.responses.token());
        let response = self.protocol.handle(Request::from_parts(head, Body::from(body))).await;
        if let Some(id) = response.headers().get(SESSION).and_then(|id| id.to_str().ok()).filter(|_| begins) {
            self.owners.lock().unwrap_or_else(PoisonError::into_inner).insert(id.to_owned(), client);
        }
        let is_error = response.status().is_client_error() || response.status().is_server_error();
        let is_json = response.headers().get(header::CONTENT_TYPE).is_some_and(|kind| kind == "application/json");
        if is_error && !is_json {
            return Err(problem_of(response.map(Body::new)).await);
        }
        // The token is held until the whole body is sent.
        Ok(response.map(|body| {
            Body::new(body.map_frame(move |frame| {
                let _held = &sending;
                frame
            }))
        }))
    }

    /// Returns the name of the client of a session.
    fn owner(&self, id: &str) -> Option<String> {
        self.owners.lock().unwrap_or_else(PoisonError::into_inner).get(id).cloned()
    }

    /// Refuses a session over the limits.
    async fn require_session_limit(&self, client: &str) -> Result<(), Problem> {
        let sessions = self.sessions.sessions.read().await;
        let mut owners = self.owners.lock().unwrap_or_else(PoisonError::into_inner);
        owners.retain(|id, _| sessions.contains_key(id.as_str()));
        let of_client = owners.values().filter(|owner| *owner == client).count();
        if sessions.len() < MAX_SESSIONS.0 && of_client < MAX_SESSIONS.1 {
            return Ok(());
        }
        let error = Error::new(Code::Busy, "too many sessions are open")
            .hint("End unused sessions with a DELETE request, or try again in a few minutes");
        Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, Code::Busy.name(), error).header(header::RETRY_AFTER, "60"))
    }
}

/// Returns who sent a message: the client that the middleware has authenticated, and the ID of its request.
fn sender(extensions: &Extensions) -> Option<Sender> {
    let head = extensions.get::<request::Parts>()?;
    let client = head.extensions.get::<Arc<Client>>()?.clone();
    Some(Sender { client, request_id: submit::request_id(&head.headers).to_owned() })
}

/// Adds hints about the use of the protocol.
fn with_usage(error: Error) -> Error {
    USAGE.into_iter().fold(error, Error::hint)
}

/// Converts an error response of the protocol library to a problem.
async fn problem_of(response: Response<Body>) -> Problem {
    let (head, body) = response.into_parts();
    let read = axum::body::to_bytes(body, MAX_ERROR_TEXT).await.unwrap_or_else(|_| Bytes::new());
    let text = String::from_utf8_lossy(&read).trim().trim_end_matches('.').to_owned();
    let message = if text.is_empty() { "cannot handle the request".to_owned() } else { text };
    let (code, error) = match head.status {
        StatusCode::METHOD_NOT_ALLOWED => ("method_not_allowed", Error::invalid(message)),
        StatusCode::NOT_FOUND => (Code::NotFound.name(), Error::not_found(message)),
        StatusCode::UNSUPPORTED_MEDIA_TYPE => ("unsupported_media_type", Error::invalid(message)),
        status if status.is_server_error() => (Code::Internal.name(), Error::internal(message)),
        _ => (Code::InvalidInput.name(), Error::invalid(message)),
    };
    let problem = Problem::new(head.status, code, with_usage(error));
    match head.headers.get(header::ALLOW).and_then(|allow| allow.to_str().ok()) {
        Some(allow) => problem.header(header::ALLOW, allow),
        None => problem,
    }
}
