//! `/mcp`: the Model Context Protocol over streamable HTTP, for whoever the token of each request says.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use axum::{
    body::{Body, Bytes},
    extract::Request,
    http::{Method, Response, StatusCode, header},
};
use http_body_util::BodyExt;
use rmcp::transport::streamable_http_server::{
    StreamableHttpServerConfig, StreamableHttpService, session::local::LocalSessionManager,
};
use serde_json::Value;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    body::{self, MOST_BYTES},
    problem::Problem,
};
use crate::{
    agents::mcp::{Agent, Who},
    error::{Code, Error},
    service::{ANSWER_WITHIN, Service, client::Client},
};

/// The header that names a session (Model Context Protocol 2025-11-25, transports).
const SESSION: &str = "mcp-session-id";

/// How many sessions there may be at a time, and of one client. One that nobody uses ends after five minutes.
const MOST_SESSIONS: (usize, usize) = (256, 64);

/// How long the last answers may take to be sent when the service ends.
const FAREWELL: Duration = Duration::from_secs(2);

/// How one speaks it.
const BEGIN: &str = "This is the Model Context Protocol: POST one JSON-RPC message with Content-Type: application/json and Accept: \
                     application/json, text/event-stream. A session begins with initialize; its id stands in the answer's header Mcp-Session-Id.";

/// The most that is read of an answer of the protocol's own, which is a sentence.
const MOST_SENTENCE: usize = 4096;

/// The protocol, for all who speak it over HTTP.
#[derive(Clone)]
pub(super) struct Mcp {
    protocol: StreamableHttpService<Agent, LocalSessionManager>,
    sessions: Arc<LocalSessionManager>,
    /// Whose session each is, by its id.
    owners: Arc<Mutex<HashMap<String, String>>>,
    /// The answers that are being sent.
    answers: TaskTracker,
    /// Ends every stream.
    end: CancellationToken,
}

impl Mcp {
    pub(super) fn new(service: Arc<Service>) -> Self {
        let (sessions, end) = (Arc::new(LocalSessionManager::default()), CancellationToken::new());
        // Whose requests are answered the gate has decided.
        let config = StreamableHttpServerConfig::default()
            .disable_allowed_hosts()
            .with_max_request_body_bytes(MOST_BYTES)
            .with_cancellation_token(end.clone());
        let agent = Agent { service, who: Who::Bearer, answer_within: ANSWER_WITHIN };
        let protocol = StreamableHttpService::new(move || Ok(agent.clone()), sessions.clone(), config);
        Self { protocol, sessions, owners: Arc::default(), answers: TaskTracker::new(), end }
    }

    /// Lets the last answers be sent, and ends every stream.
    pub(super) async fn end(&self) {
        self.answers.close();
        // What is not sent by then nobody reads.
        let _ = tokio::time::timeout(FAREWELL, self.answers.wait()).await;
        self.end.cancel();
    }

    /// Answers a request.
    pub(super) async fn answer(self, request: Request) -> Result<Response<Body>, Problem> {
        let (head, body) = request.into_parts();
        let client = head.extensions.get::<Arc<Client>>().map(|client| client.name.clone()).unwrap_or_default();
        let session = head.headers.get(SESSION).and_then(|id| id.to_str().ok());
        if session.is_some_and(|id| self.owner(id).is_none_or(|owner| owner != client)) {
            return Err(Error::not_found("there is no such session").hint(BEGIN).into());
        }
        let body = if head.method == Method::POST { body::bytes(body).await? } else { Bytes::new() };
        let asked: Value = serde_json::from_slice(&body).unwrap_or_default();
        if head.method == Method::POST && asked.is_null() {
            return Err(Error::invalid("the body is no JSON").hint(BEGIN).into());
        }
        let begins = asked["method"] == "initialize";
        if begins {
            self.require_room(&client).await?;
        }
        let answer = (head.method == Method::POST).then(|| self.answers.token());
        let response = self.protocol.handle(Request::from_parts(head, Body::from(body))).await;
        if let Some(id) = response.headers().get(SESSION).and_then(|id| id.to_str().ok()).filter(|_| begins) {
            self.owners.lock().unwrap_or_else(PoisonError::into_inner).insert(id.to_owned(), client);
        }
        let is_sentence = response.status().is_client_error() || response.status().is_server_error();
        let is_json = response.headers().get(header::CONTENT_TYPE).is_some_and(|kind| kind == "application/json");
        if is_sentence && !is_json {
            return Err(refused(response.map(Body::new)).await);
        }
        // Until all of it is sent.
        Ok(response.map(|body| {
            Body::new(body.map_frame(move |frame| {
                let _held = &answer;
                frame
            }))
        }))
    }

    /// Whose a session is.
    fn owner(&self, id: &str) -> Option<String> {
        self.owners.lock().unwrap_or_else(PoisonError::into_inner).get(id).cloned()
    }

    /// Refuses one session too many.
    async fn require_room(&self, client: &str) -> Result<(), Problem> {
        let sessions = self.sessions.sessions.read().await;
        let mut owners = self.owners.lock().unwrap_or_else(PoisonError::into_inner);
        owners.retain(|id, _| sessions.contains_key(id.as_str()));
        let theirs = owners.values().filter(|owner| *owner == client).count();
        if sessions.len() < MOST_SESSIONS.0 && theirs < MOST_SESSIONS.1 {
            return Ok(());
        }
        let error = Error::new(Code::Busy, "as many sessions of the protocol are open as may");
        let error = error.hint("End some with DELETE /mcp, or try again in a few minutes.");
        Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, Code::Busy.name(), error).header(header::RETRY_AFTER, "60"))
    }
}

/// A refusal of the protocol's, in the form of every other answer of this service.
async fn refused(response: Response<Body>) -> Problem {
    let (head, body) = response.into_parts();
    let read = axum::body::to_bytes(body, MOST_SENTENCE).await.unwrap_or_else(|_| Bytes::new());
    let text = String::from_utf8_lossy(&read).trim().trim_end_matches('.').to_owned();
    let message = if text.is_empty() { "the request cannot be answered".to_owned() } else { text };
    let (code, error) = match head.status {
        StatusCode::METHOD_NOT_ALLOWED => ("method_not_allowed", Error::invalid(message)),
        StatusCode::NOT_FOUND => (Code::NotFound.name(), Error::not_found(message)),
        StatusCode::UNSUPPORTED_MEDIA_TYPE => ("unsupported_media_type", Error::invalid(message)),
        status if status.is_server_error() => (Code::Internal.name(), Error::internal(message)),
        _ => (Code::InvalidInput.name(), Error::invalid(message)),
    };
    let problem = Problem::new(head.status, code, error.hint(BEGIN));
    match head.headers.get(header::ALLOW).and_then(|allow| allow.to_str().ok()) {
        Some(allow) => problem.header(header::ALLOW, allow),
        None => problem,
    }
}
