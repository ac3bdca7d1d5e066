//! `GET /api/events`: the event log as server-sent events.

use std::{convert::Infallible, sync::Arc, time::Duration};

use axum::{
    Extension,
    extract::State,
    http::{HeaderMap, HeaderName, StatusCode, Uri, header},
    response::{
        Sse,
        sse::{Event as Message, KeepAlive},
    },
};
use futures_util::{Stream, StreamExt, stream};
use tokio::sync::{OwnedSemaphorePermit, watch};
use url::form_urlencoded;

use super::problem::Problem;
use crate::{
    api,
    error::{Code, Error},
    ops::vm::EVENT_KINDS,
    service::{
        Service,
        client::Client,
        event_listener,
        event_log::{Next, Reset, ServiceEvent},
    },
};

/// How often an idle stream sends a comment, so that no proxy closes it.
const HEARTBEAT: Duration = Duration::from_secs(15);

/// How long an `EventSource` waits before it reconnects.
const RETRY: Duration = Duration::from_secs(3);

/// Makes nginx forward each event at once.
const UNBUFFERED: HeaderName = HeaderName::from_static("x-accel-buffering");

/// The service's own kinds of events, besides libvirt's. Every reader receives a `reset`.
const OWN_KINDS: [&str; 2] = ["operation", "libvirt"];

/// Which events a reader receives.
#[derive(Debug, Default, PartialEq, Eq)]
struct Filter {
    /// Events of this VM only.
    vm: Option<String>,
    /// Events of these kinds only; all kinds if it is empty.
    kinds: Vec<String>,
}

impl Filter {
    fn from_query(query: &str) -> Result<Self, Error> {
        let mut filter = Self::default();
        for (name, text) in form_urlencoded::parse(query.as_bytes()) {
            match &*name {
                "vm" => filter.vm = Some(text.into_owned()),
                "kind" => filter.kinds.extend(text.split(',').map(|kind| kind.trim().to_owned())),
                other => {
                    let message = format!("unknown query parameter `{}`", other.escape_debug());
                    return Err(Error::invalid(message).hint("Use the parameters vm, kind"));
                }
            }
        }
        let known = || EVENT_KINDS.into_iter().chain(OWN_KINDS);
        if let Some(unknown) = filter.kinds.iter().find(|kind| known().all(|known| known != kind.as_str())) {
            let kinds = known().collect::<Vec<_>>().join(", ");
            let message = format!("unknown event kind `{}`", unknown.escape_debug());
            return Err(Error::invalid(message).hint(format!("Use one of {kinds}")));
        }
        Ok(filter)
    }

    fn matches(&self, event: &ServiceEvent) -> bool {
        let is_about = |vm: &str| self.vm.as_deref().is_none_or(|filter| filter == vm);
        let is_of_kind = self.kinds.is_empty() || self.kinds.iter().any(|kind| kind == event.kind());
        match event {
            ServiceEvent::Reset(_) => true,
            ServiceEvent::Libvirt(_) => is_of_kind,
            ServiceEvent::Vm(event) => is_of_kind && is_about(&event.vm),
            ServiceEvent::Operation(view) => {
                is_of_kind && (self.vm.is_none() || view.vm.as_deref().is_some_and(is_about))
            }
        }
    }
}

/// Returns whether the client may see an event.
fn is_for(client: &Client, event: &ServiceEvent) -> bool {
    match event {
        ServiceEvent::Vm(event) => client.may_see_vm(&event.vm),
        ServiceEvent::Operation(view) => client.may_see(&view.client),
        ServiceEvent::Libvirt(_) | ServiceEvent::Reset(_) => true,
    }
}

/// A reader of the event log.
struct Reader {
    service: Arc<Service>,
    client: Arc<Client>,
    filter: Filter,
    /// The number of the last event that was read.
    read: u64,
    changes: watch::Receiver<()>,
    _permit: OwnedSemaphorePermit,
}

/// Streams the events from now on, or after the last event that the client received.
pub(super) async fn stream(
    State(service): State<Arc<Service>>,
    Extension(client): Extension<Arc<Client>>,
    uri: Uri,
    headers: HeaderMap,
) -> Result<([(HeaderName, &'static str); 1], Sse<impl Stream<Item = Result<Message, Infallible>> + use<>>), Problem> {
    let filter = Filter::from_query(uri.query().unwrap_or_default())?;
    let permit = service.event_log.readers.clone().try_acquire_owned().map_err(|_| full())?;
    event_listener::start(&service);
    let changes = service.event_log.changes();
    let (connection, last) = service.event_log.current();
    let last_id = headers.get("last-event-id").filter(|id| !id.is_empty());
    let known = last_id.and_then(|id| service.event_log.number(id.to_str().ok()?));
    let mut first = Vec::new();
    let read = known.unwrap_or(last);
    let opening = Message::default().retry(RETRY).id(service.event_log.id(read));
    if last_id.is_some() && known.is_none() {
        let reset = ServiceEvent::Reset(Reset::because("the events after the last one received are no longer kept"));
        first.extend(message(opening, &reset));
    } else {
        let state = ServiceEvent::Libvirt(connection);
        // Without the event, the ID alone is sent: it tells the client where to continue.
        let is_sent = filter.matches(&state);
        first.push(if is_sent { message(opening.clone(), &state).unwrap_or(opening) } else { opening });
    }
    let reader = Reader { service, client, filter, read, changes, _permit: permit };
    let messages = stream::iter(first).chain(stream::unfold(reader, Reader::next)).map(Ok);
    let stream = Sse::new(messages).keep_alive(KeepAlive::new().interval(HEARTBEAT).text("alive"));
    Ok(([(UNBUFFERED, "no")], stream))
}

impl Reader {
    /// Waits for the next event that passes the filter. Returns none if the event log is closed.
    async fn next(mut self) -> Option<(Message, Self)> {
        loop {
            // Before reading the log, so that later events wake this reader.
            self.changes.borrow_and_update();
            match self.service.event_log.after(self.read) {
                Next::Event(next) => {
                    let event = &next.content;
                    self.read = next.number;
                    if is_for(&self.client, event) && self.filter.matches(event) {
                        let message = self.opening().event(event.kind()).data(next.text(json));
                        return Some((message, self));
                    }
                }
                Next::Lagged(last) => {
                    self.read = last;
                    let reset = ServiceEvent::Reset(Reset::because("events were published faster than they were read"));
                    let message = message(self.opening(), &reset)?;
                    return Some((message, self));
                }
                Next::Nothing => self.changes.changed().await.ok()?,
                Next::End => return None,
            }
        }
    }

    fn opening(&self) -> Message {
        Message::default().id(self.service.event_log.id(self.read))
    }
}

/// Returns an event as JSON, with the hints of its error as requests.
fn json(event: &ServiceEvent) -> String {
    let json = match event {
        ServiceEvent::Operation(view) => serde_json::to_string(&view.as_ref().clone().written(api::as_request)),
        other => serde_json::to_string(other),
    };
    // An event always serializes: it has no map with keys other than strings.
    json.unwrap_or_default()
}

fn message(opening: Message, event: &ServiceEvent) -> Option<Message> {
    opening.event(event.kind()).json_data(event).ok()
}

fn full() -> Problem {
    let error = Error::new(Code::Busy, "too many clients are reading events").hint("Try again later");
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, Code::Busy.name(), error).header(header::RETRY_AFTER, "30")
}

#[cfg(test)]
mod tests {
    use axum::{body::Body, http::Request, response::Response};
    use tower::ServiceExt;

    use super::*;
    use crate::{api::Scope, ops::vm, service::job::Job};

    fn event_of(vm: &str, kind: &str) -> ServiceEvent {
        let (vm, kind, detail) = (vm.to_owned(), kind.to_owned(), "Started Booted".to_owned());
        ServiceEvent::Vm(vm::Event { time: jiff::Timestamp::UNIX_EPOCH, vm, kind, detail })
    }

    /// Returns a service with three events: two of `web` and one of `db`.
    fn service() -> Arc<Service> {
        let service = Service::for_test();
        for (vm, kind) in [("web", "lifecycle"), ("web", "reboot"), ("db", "lifecycle")] {
            service.event_log.publish(event_of(vm, kind));
        }
        service
    }

    async fn get(service: &Arc<Service>, path: &str, last: &str) -> Response {
        let request = Request::get(path).header("last-event-id", last).body(Body::empty()).unwrap();
        super::super::routes::router(
            service.clone(),
            Arc::new(
                super::super::authentication::Authenticator::new(super::super::Access::default(), String::new())
                    .unwrap(),
            ),
            super::super::mcp_transport::Mcp::new(service.clone()),
        )
        .oneshot(request)
        .await
        .unwrap()
    }

    /// Returns the messages of a closed event log: the ID without the epoch, and the event.
    async fn read(service: &Arc<Service>, path: &str, last: &str) -> Vec<String> {
        service.event_log.close();
        let response = get(service, path, last).await;
        assert_eq!(response.headers()[header::CONTENT_TYPE], "text/event-stream");
        let bytes = axum::body::to_bytes(response.into_body(), 1 << 20).await.unwrap();
        let text = String::from_utf8(bytes.to_vec()).unwrap();
        let messages = text.trim().split("\n\n").map(|message| {
            let field = |name: &str| message.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
            format!("{} {}", field("id: ").rsplit('-').next().unwrap(), field("event: "))
        });
        messages.collect()
    }

    #[tokio::test]
    async fn a_new_reader_receives_the_connection_state_and_an_id_to_continue_from() {
        let service = service();
        assert_eq!(read(&service, "/api/events", "").await, ["3 libvirt"]);
        assert_eq!(read(&service, "/api/events?kind=reboot", "").await, ["3 "]);
    }

    #[tokio::test]
    async fn a_reconnecting_reader_continues_after_its_last_event() {
        let service = service();
        let all = ["0 libvirt", "1 lifecycle", "2 reboot", "3 lifecycle"];
        assert_eq!(read(&service, "/api/events", &service.event_log.id(0)).await, all);
        assert_eq!(read(&service, "/api/events", &service.event_log.id(2)).await, ["2 libvirt", "3 lifecycle"]);
        assert_eq!(read(&service, "/api/events", "another-2").await, ["3 reset"]);
    }

    #[tokio::test]
    async fn readers_filter_by_vm_and_kind_and_always_receive_a_reset() {
        let service = service();
        service.event_log.publish(ServiceEvent::Reset(Reset::because("a test")));
        let all = service.event_log.id(0);
        let of = async |query: &str| read(&service, &format!("/api/events?{query}"), &all).await;
        assert_eq!(of("vm=db").await, ["0 libvirt", "3 lifecycle", "4 reset"]);
        assert_eq!(of("vm=web&kind=lifecycle,operation").await, ["0 ", "1 lifecycle", "4 reset"]);
        for wrong in ["kind=lifecycle,other", "since=3"] {
            let response = get(&service, &format!("/api/events?{wrong}"), "").await;
            assert_eq!(response.status(), StatusCode::BAD_REQUEST, "{wrong}");
        }
    }

    #[tokio::test]
    async fn a_slow_reader_receives_a_reset() {
        let service = service();
        let response = get(&service, "/api/events", &service.event_log.id(0)).await;
        for _ in 0..2000 {
            service.event_log.publish(event_of("db", "reboot"));
        }
        service.event_log.close();
        let bytes = axum::body::to_bytes(response.into_body(), 1 << 20).await.unwrap();
        let text = String::from_utf8(bytes.to_vec()).unwrap();
        let events: Vec<_> = text.lines().filter_map(|line| line.strip_prefix("event: ")).collect();
        assert_eq!(events, ["libvirt", "reset"]);
        assert!(text.contains(&service.event_log.id(2003)), "{text}");
    }

    #[tokio::test]
    async fn readers_over_the_limit_are_refused_until_one_disconnects() {
        let service = service();
        let mut readers = Vec::new();
        let mut refused = StatusCode::OK;
        while refused == StatusCode::OK && readers.len() < 1000 {
            let response = get(&service, "/api/events", "").await;
            refused = response.status();
            readers.push(response);
        }
        readers.pop();
        assert_eq!((readers.len(), refused), (256, StatusCode::SERVICE_UNAVAILABLE));
        readers.pop();
        assert_eq!(get(&service, "/api/events", "").await.status(), StatusCode::OK);
    }

    #[test]
    fn operations_are_visible_to_their_client_and_to_admins() {
        let service = Service::for_test();
        let operation = api::find("vm_create").unwrap();
        let job = Job::new(
            operation,
            &serde_json::json!({"name": "web", "vm": "web"}),
            ("other", "1"),
            (&service.metrics, &service.event_log),
        );
        let event = ServiceEvent::Operation(Box::new(job.summary()));
        let client = |name: &str, scope| Client { name: name.to_owned(), scope, ..Client::anonymous() };
        assert!(is_for(&client("other", Scope::Read), &event));
        assert!(is_for(&client("root", Scope::Admin), &event));
        assert!(!is_for(&client("another", Scope::Operate), &event));
    }
}
