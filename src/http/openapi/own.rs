//! What HTTP has beside the operations, as OpenAPI has it.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{add, reference};
use crate::{
    agents::{self, Format, call::Pending},
    http::{health::Ready, operations::Listing},
    service::event_log::ServiceEvent,
};

/// The routes of HTTP's own.
pub(super) fn routes() -> Vec<(&'static str, &'static str, Value)> {
    let id = json!([{
        "name": "id", "in": "path", "required": true, "schema": {"type": "string", "format": "uuid"},
        "description": "The operation, as X-Operation-Id and the answer with 202 name it",
    }]);
    let one = json_answer("The operation, as it is now", "Operation");
    let all = json_answer("They, the newest first", "Operations");
    let none = json!([]);
    let list = "List what is under way, and what has ended not long ago";
    let get = "Show how far an operation is, and what came of it";
    let cancel = "Cancel an operation, and undo what it has done";
    let tools = "Show the definitions of the tools, as a language model's interface takes them";
    let format = json!([{
        "name": "format", "in": "query", "required": false, "schema": reference("ToolFormat"), "example": "openai",
        "description": "How tools are defined",
    }]);
    let any = json!({"description": "The definitions", "content": {"application/json": {"schema": {"type": ["object", "array"]}}}});
    let events = "Follow what happens to VMs and operations, as server-sent events";
    let ready = "Whether the service can do its work: libvirt answers, and pool and network are there";
    let metrics = "Show what is counted, for Prometheus: of libvirt's VMs and pools, and of the service";
    let counted = text("application/openmetrics-text", "What is counted");
    let document = "Show this document";
    let alive = "Whether the service lives; nothing else is looked at";
    vec![
        ("/api/operations", "GET", route("operation_list", "operations", list, &none, &all, &[401, 403, 421])),
        ("/api/operations/{id}", "GET", route("operation_get", "operations", get, &id, &one, &[401, 403, 404, 421])),
        (
            "/api/operations/{id}",
            "DELETE",
            route("operation_cancel", "operations", cancel, &id, &one, &[401, 403, 404, 409, 421]),
        ),
        ("/api/tools", "GET", route("tool_list", "tools", tools, &format, &any, &[400, 401, 403, 421])),
        ("/api/tools/{name}", "POST", call()),
        ("/api/events", "GET", route("events", "operations", events, &wanted(), &stream(), &[400, 401, 403, 421, 503])),
        ("/healthz", "GET", route("healthz", "service", alive, &none, &text("text/plain", "`OK`"), &[421])),
        ("/readyz", "GET", route("readyz", "service", ready, &none, &json_answer("It can", "Ready"), &[421, 503])),
        ("/metrics", "GET", route("metrics", "service", metrics, &none, &counted, &[401, 403, 421])),
        ("/openapi.json", "GET", route("openapi", "service", document, &none, &json_object(), &[421])),
    ]
}

/// A call of a tool: what it takes and answers, its own definition says.
fn call() -> Value {
    let name = json!({
        "name": "name", "in": "path", "required": true, "description": "Tool",
        "schema": {"type": "string", "enum": agents::tools().iter().map(|tool| tool.name).collect::<Vec<_>>()},
    });
    let [prefer, key] = preferences();
    let answer = json!({"description": "What the tool has to say", "content": {"application/json": {"schema": {"type": "object"}}}});
    let about = "Call a tool with its arguments";
    let parameters = json!([name, prefer, key]);
    let problems = [400, 401, 403, 404, 408, 409, 413, 415, 421, 422, 423, 500, 502, 503, 504];
    let mut call = route("tool_call", "tools", about, &parameters, &answer, &problems);
    call["description"] = json!(
        "The body is what GET /api/tools describes as the tool's arguments. Hints in errors are calls of tools; `next` is the \
         first of them, for programs. A token needs the scope that the tool's operation needs."
    );
    call["requestBody"] = json!({
        "required": false,
        "content": {"application/json": {"schema": {"type": ["object", "null"]}, "example": {"name": "web"}}},
    });
    call["responses"]["202"] = accepted_as("ToolPending");
    call
}

/// Which events are wanted.
fn wanted() -> Value {
    json!([
        {"name": "vm", "in": "query", "required": false, "schema": {"type": "string"}, "description": "Only those about this VM"},
        {
            "name": "kind", "in": "query", "required": false, "schema": {"type": "string"}, "example": "lifecycle,operation",
            "description": "Only those of these kinds, with commas between them",
        },
        {
            "name": "Last-Event-ID", "in": "header", "required": false, "schema": {"type": "string"},
            "description": "The id of the last event that was read: those that came since are told first",
        },
    ])
}

/// The events as they come. Each has the form of a line of JSON.
fn stream() -> Value {
    json!({
        "description": "Server-sent events, until one of both ends hangs up: libvirt's (`lifecycle`, `agent-lifecycle`, …), `operation`, \
                        `libvirt` (whether it is heard) and `reset` (some may be lost: ask again for what you show)",
        "content": {"text/event-stream": {}},
    })
}

fn json_object() -> Value {
    json!({"description": "This document", "content": {"application/json": {"schema": {"type": "object"}}}})
}

fn route(id: &str, tag: &str, summary: &str, parameters: &Value, success: &Value, problems: &[u16]) -> Value {
    let mut responses = json!({"200": success});
    for status in problems {
        responses[status.to_string()] = json!({"$ref": format!("#/components/responses/Problem{status}")});
    }
    json!({"operationId": id, "summary": summary, "tags": [tag], "parameters": parameters, "responses": responses})
}

fn json_answer(about: &str, schema: &str) -> Value {
    json!({"description": about, "content": {"application/json": {"schema": reference(schema)}}})
}

fn text(kind: &str, about: &str) -> Value {
    json!({"description": about, "content": {kind: {"schema": {"type": "string"}}}})
}

/// The schemas that those routes have beside the operations'.
pub(super) fn schemas(schemas: &mut BTreeMap<String, Value>) {
    add::<Listing>(schemas);
    add::<Ready>(schemas);
    add::<ServiceEvent>(schemas);
    add::<Format>(schemas);
    add::<Pending>(schemas);
}

/// How a client says how long it waits, and that it sends the same again.
pub(super) fn preferences() -> [Value; 2] {
    [
        json!({
            "name": "Prefer", "in": "header", "required": false, "schema": {"type": "string"}, "example": "wait=10",
            "description": "`respond-async` for an answer at once, `wait=N` for one within N seconds (RFC 7240)",
        }),
        json!({
            "name": "Idempotency-Key", "in": "header", "required": false,
            "schema": {"type": "string", "pattern": "^[!-~]{1,255}$"},
            "description": "A name of the client's own for this request: sent again with it, it is not carried out again, and has the first answer",
        }),
    ]
}

/// The answer of what is under way.
pub(super) fn accepted() -> Value {
    accepted_as("Accepted")
}

fn accepted_as(schema: &str) -> Value {
    json!({
        "description": "It is under way, and goes on by itself: ask how far it is",
        "headers": {
            "Location": {"description": "Where to ask", "schema": {"type": "string"}},
            "Retry-After": {"description": "After how many seconds", "schema": {"type": "integer"}},
        },
        "content": {"application/json": {"schema": reference(schema)}},
    })
}
