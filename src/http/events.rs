//! `GET /api/events`: what happens, as server-sent events.

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
    error::{Code, Error},
    ops::vm::EVENT_KINDS,
    service::{
        Service,
        client::Client,
        event_listener,
        event_log::{Event, Next, Reset, ServiceEvent},
    },
};

/// How often a stream says that it lives, so that no proxy takes it for dead.
const HEARTBEAT: Duration = Duration::from_secs(15);

/// How long a client waits before it connects again, which its `EventSource` does by itself.
const RETRY: Duration = Duration::from_secs(3);

/// Tells nginx to hand on each event at once.
const UNBUFFERED: HeaderName = HeaderName::from_static("x-accel-buffering");

/// The kinds that are the service's own, beside libvirt's. A `reset` is for everybody.
const OWN_KINDS: [&str; 2] = ["operation", "libvirt"];

/// Which events somebody wants.
#[derive(Debug, Default, PartialEq, Eq)]
struct Wanted {
    /// About this VM.
    vm: Option<String>,
    /// Of these kinds; of every kind where none is named.
    kinds: Vec<String>,
}

impl Wanted {
    fn from_query(query: &str) -> Result<Self, Error> {
        let mut wanted = Self::default();
        for (name, text) in form_urlencoded::parse(query.as_bytes()) {
            match &*name {
                "vm" => wanted.vm = Some(text.into_owned()),
                "kind" => wanted.kinds.extend(text.split(',').map(|kind| kind.trim().to_owned())),
                other => {
                    let message = format!("there is no member `{}`", other.escape_debug());
                    return Err(Error::invalid(message).hint("There are: vm, kind."));
                }
            }
        }
        let known = || EVENT_KINDS.into_iter().chain(OWN_KINDS);
        if let Some(unknown) = wanted.kinds.iter().find(|kind| known().all(|known| known != kind.as_str())) {
            let kinds = known().collect::<Vec<_>>().join(", ");
            let message = format!("there is no kind of event `{}`", unknown.escape_debug());
            return Err(Error::invalid(message).hint(format!("There are: {kinds}.")));
        }
        Ok(wanted)
    }

    fn wants(&self, happening: &ServiceEvent) -> bool {
        let is_about = |vm: &str| self.vm.as_deref().is_none_or(|wanted| wanted == vm);
        let is_of_kind = self.kinds.is_empty() || self.kinds.iter().any(|kind| kind == happening.kind());
        match happening {
            ServiceEvent::Reset(_) => true,
            ServiceEvent::Libvirt(_) => is_of_kind,
            ServiceEvent::Vm(event) => is_of_kind && is_about(&event.vm),
            ServiceEvent::Operation(view) => {
                is_of_kind && (self.vm.is_none() || view.vm.as_deref().is_some_and(is_about))
            }
        }
    }
}

/// Whether an event is a client's to see.
fn is_for(client: &Client, happening: &ServiceEvent) -> bool {
    match happening {
        ServiceEvent::Vm(event) => client.may_see_vm(&event.vm),
        ServiceEvent::Operation(view) => client.may_see(&view.client),
        ServiceEvent::Libvirt(_) | ServiceEvent::Reset(_) => true,
    }
}

/// Whoever reads the events.
struct Reader {
    service: Arc<Service>,
    client: Arc<Client>,
    wanted: Wanted,
    /// The number of the last event that was read.
    read: u64,
    changes: watch::Receiver<()>,
    _place: OwnedSemaphorePermit,
}

/// Streams events from now on, or from where the client was.
pub(super) async fn stream(
    State(service): State<Arc<Service>>,
    Extension(client): Extension<Arc<Client>>,
    uri: Uri,
    headers: HeaderMap,
) -> Result<([(HeaderName, &'static str); 1], Sse<impl Stream<Item = Result<Message, Infallible>> + use<>>), Problem> {
    let wanted = Wanted::from_query(uri.query().unwrap_or_default())?;
    let place = service.feed.places.clone().try_acquire_owned().map_err(|_| full())?;
    event_listener::begin(&service);
    let changes = service.feed.changes();
    let (hearing, last) = service.feed.present();
    let given = headers.get("last-event-id").filter(|id| !id.is_empty());
    let known = given.and_then(|id| service.feed.number(id.to_str().ok()?));
    let mut first = Vec::new();
    let read = known.unwrap_or(last);
    let opening = Message::default().retry(RETRY).id(service.feed.id(read));
    if given.is_some() && known.is_none() {
        let reset = ServiceEvent::Reset(Reset::because("the event that was read last is not known any more"));
        first.extend(message(opening, &reset));
    } else {
        let now = ServiceEvent::Libvirt(hearing);
        // Even where it is not wanted its id tells the client where to go on.
        first.push(if wanted.wants(&now) { message(opening.clone(), &now).unwrap_or(opening) } else { opening });
    }
    let reader = Reader { service, client, wanted, read, changes, _place: place };
    let messages = stream::iter(first).chain(stream::unfold(reader, Reader::next)).map(Ok);
    let stream = Sse::new(messages).keep_alive(KeepAlive::new().interval(HEARTBEAT).text("alive"));
    Ok(([(UNBUFFERED, "no")], stream))
}

impl Reader {
    /// Waits for the next event that is wanted; none when the service ends.
    async fn next(mut self) -> Option<(Message, Self)> {
        loop {
            // Before the look, so that what comes after it is noticed.
            self.changes.borrow_and_update();
            match self.service.feed.after(self.read) {
                Next::Event(event) => {
                    self.read = event.number;
                    if is_for(&self.client, &event.happening) && self.wanted.wants(&event.happening) {
                        let Event { happening, data, .. } = &*event;
                        let message = self.opening().event(happening.kind()).data(data);
                        return Some((message, self));
                    }
                }
                Next::Lagged(last) => {
                    self.read = last;
                    let reset = ServiceEvent::Reset(Reset::because("events came faster than they were read"));
                    let message = message(self.opening(), &reset)?;
                    return Some((message, self));
                }
                Next::Nothing => self.changes.changed().await.ok()?,
                Next::End => return None,
            }
        }
    }

    fn opening(&self) -> Message {
        Message::default().id(self.service.feed.id(self.read))
    }
}

fn message(opening: Message, happening: &ServiceEvent) -> Option<Message> {
    opening.event(happening.kind()).json_data(happening).ok()
}

fn full() -> Problem {
    let error = Error::new(Code::Busy, "as many clients read the events as may").hint("Try again later.");
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, Code::Busy.name(), error).header(header::RETRY_AFTER, "30")
}

#[cfg(test)]
mod tests {
    use axum::{body::Body, http::Request, response::Response};
    use tower::ServiceExt;

    use super::*;
    use crate::{api::Scope, ops::vm, service::job::Job};

    fn happened(vm: &str, kind: &str) -> ServiceEvent {
        let (vm, kind, detail) = (vm.to_owned(), kind.to_owned(), "Started Booted".to_owned());
        ServiceEvent::Vm(vm::Event { time: jiff::Timestamp::UNIX_EPOCH, vm, kind, detail })
    }

    /// Three events: of `web`, of `web` again and of `db`.
    fn service() -> Arc<Service> {
        let service = Service::for_test();
        for (vm, kind) in [("web", "lifecycle"), ("web", "reboot"), ("db", "lifecycle")] {
            service.feed.tell(happened(vm, kind));
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

    /// What is read of a service that ends: each message's id, but for its epoch, and its event.
    async fn read(service: &Arc<Service>, path: &str, last: &str) -> Vec<String> {
        service.feed.end();
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
    async fn a_new_reader_is_told_what_comes_and_where_to_go_on() {
        let service = service();
        assert_eq!(read(&service, "/api/events", "").await, ["3 libvirt"]);
        assert_eq!(read(&service, "/api/events?kind=reboot", "").await, ["3 "]);
    }

    #[tokio::test]
    async fn whoever_comes_back_goes_on_behind_the_last_event_that_they_have() {
        let service = service();
        let all = ["0 libvirt", "1 lifecycle", "2 reboot", "3 lifecycle"];
        assert_eq!(read(&service, "/api/events", &service.feed.id(0)).await, all);
        assert_eq!(read(&service, "/api/events", &service.feed.id(2)).await, ["2 libvirt", "3 lifecycle"]);
        assert_eq!(read(&service, "/api/events", "another-2").await, ["3 reset"]);
    }

    #[tokio::test]
    async fn a_reader_chooses_by_vm_and_kind_and_is_told_of_a_reset_whatever_it_chose() {
        let service = service();
        service.feed.tell(ServiceEvent::Reset(Reset::because("a test")));
        let all = service.feed.id(0);
        let of = async |query: &str| read(&service, &format!("/api/events?{query}"), &all).await;
        assert_eq!(of("vm=db").await, ["0 libvirt", "3 lifecycle", "4 reset"]);
        assert_eq!(of("vm=web&kind=lifecycle,operation").await, ["0 ", "1 lifecycle", "4 reset"]);
        for wrong in ["kind=lifecycle,other", "since=3"] {
            let response = get(&service, &format!("/api/events?{wrong}"), "").await;
            assert_eq!(response.status(), StatusCode::BAD_REQUEST, "{wrong}");
        }
    }

    #[tokio::test]
    async fn a_slow_reader_is_told_what_it_has_missed() {
        let service = service();
        let response = get(&service, "/api/events", &service.feed.id(0)).await;
        for _ in 0..2000 {
            service.feed.tell(happened("db", "reboot"));
        }
        service.feed.end();
        let bytes = axum::body::to_bytes(response.into_body(), 1 << 20).await.unwrap();
        let text = String::from_utf8(bytes.to_vec()).unwrap();
        let events: Vec<_> = text.lines().filter_map(|line| line.strip_prefix("event: ")).collect();
        assert_eq!(events, ["libvirt", "reset"]);
        assert!(text.contains(&service.feed.id(2003)), "{text}");
    }

    #[tokio::test]
    async fn more_readers_than_may_are_refused_until_one_has_gone() {
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
    fn an_operation_is_for_whoever_may_ask_for_it() {
        let service = Service::for_test();
        let operation = crate::api::find("vm_create").unwrap();
        let job = Job::new(
            operation,
            &serde_json::json!({"name": "web", "vm": "web"}),
            ("somebody", "1"),
            (&service.metrics, &service.feed),
        );
        let told = ServiceEvent::Operation(Box::new(job.summary()));
        let client = |name: &str, scope| Client { name: name.to_owned(), scope, ..Client::anonymous() };
        assert!(is_for(&client("somebody", Scope::Read), &told));
        assert!(is_for(&client("root", Scope::Admin), &told));
        assert!(!is_for(&client("another", Scope::Operate), &told));
    }
}
