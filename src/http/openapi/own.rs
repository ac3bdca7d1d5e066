//! The routes that are not operations, in the OpenAPI document.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{add, reference};
use crate::{
    agents::{self, Format, call::Pending},
    http::{health::Ready, operations::Listing},
    service::event_log::ServiceEvent,
};

/// Describes the routes that are not operations.
pub(super) fn routes() -> Vec<(&'static str, &'static str, Value)> {
    let id = json!([{
        "name": "id", "in": "path", "required": true, "schema": {"type": "string", "format": "uuid"},
        "description": "ID of the operation, from the header X-Operation-Id or a 202 response",
    }]);
    let one = json_answer("The operation and its current state", "Operation");
    let all = json_answer("The operations, the newest first", "Operations");
    let none = json!([]);
    let list = "List running and recently ended operations";
    let get = "Show the state and the result of an operation";
    let cancel = "Cancel an operation and roll back its changes";
    let tools = "List the tool definitions for language models";
    let format = json!([{
        "name": "format", "in": "query", "required": false, "schema": reference("ToolFormat"), "example": "openai",
        "description": "Format of the definitions",
    }]);
    let any = json!({"description": "The definitions", "content": {"application/json": {"schema": {"type": ["object", "array"]}}}});
    let events = "Follow events of VMs and operations as server-sent events";
    let ready = "Check whether the service is ready: libvirt, storage pool and network are available";
    let metrics = "Show the metrics of VMs, storage pools and the service for Prometheus";
    let counted = text("application/openmetrics-text", "The metrics");
    let document = "Show this document";
    let alive = "Check whether the service is alive, without checking anything else";
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
        (
            "/api/events",
            "GET",
            route("events", "operations", events, &filters(), &stream(), &[400, 401, 403, 421, 503]),
        ),
        ("/healthz", "GET", route("healthz", "service", alive, &none, &text("text/plain", "`OK`"), &[421])),
        (
            "/readyz",
            "GET",
            route("readyz", "service", ready, &none, &json_answer("The service is ready", "Ready"), &[421, 503]),
        ),
        ("/metrics", "GET", route("metrics", "service", metrics, &none, &counted, &[401, 403, 421])),
        ("/openapi.json", "GET", route("openapi", "service", document, &none, &json_object(), &[421])),
    ]
}

/// Describes the call of a tool. The definition of the tool describes its arguments and result.
fn call() -> Value {
    let name = json!({
        "name": "name", "in": "path", "required": true, "description": "Name of the tool",
        "schema": {"type": "string", "enum": agents::tools().iter().map(|tool| tool.name).collect::<Vec<_>>()},
    });
    let [prefer, key] = preferences();
    let answer = json!({"description": "The result of the tool", "content": {"application/json": {"schema": {"type": "object"}}}});
    let about = "Call a tool with its arguments";
    let parameters = json!([name, prefer, key]);
    let problems = [400, 401, 403, 404, 408, 409, 413, 415, 421, 422, 423, 500, 502, 503, 504];
    let mut call = route("tool_call", "tools", about, &parameters, &answer, &problems);
    call["description"] = json!(
        "The body contains the arguments that GET /api/tools describes. Hints in errors are tool calls; `next` is the first \
         of them, for programs. Requires the scope of the tool's operation."
    );
    call["requestBody"] = json!({
        "required": false,
        "content": {"application/json": {"schema": {"type": ["object", "null"]}, "example": {"name": "web"}}},
    });
    call["responses"]["202"] = accepted_as("ToolPending");
    call
}

/// Returns the parameters that filter events.
fn filters() -> Value {
    json!([
        {"name": "vm", "in": "query", "required": false, "schema": {"type": "string"}, "description": "Only events of this VM"},
        {
            "name": "kind", "in": "query", "required": false, "schema": {"type": "string"}, "example": "lifecycle,operation",
            "description": "Only events of these kinds, separated by commas",
        },
        {
            "name": "Last-Event-ID", "in": "header", "required": false, "schema": {"type": "string"},
            "description": "ID of the last event received; the stream continues after it",
        },
    ])
}

/// Describes the stream of events. The data of each event is one line of JSON.
fn stream() -> Value {
    json!({
        "description": "Server-sent events until either side closes the connection: those of libvirt (`lifecycle`, \
                        `agent-lifecycle`, …), `operation`, `libvirt` (the connection to libvirt changed) and `reset` \
                        (events may be lost: read the lists again)",
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

/// Adds the schemas of the routes that are not operations.
pub(super) fn schemas(schemas: &mut BTreeMap<String, Value>) {
    add::<Listing>(schemas);
    add::<Ready>(schemas);
    add::<ServiceEvent>(schemas);
    add::<Format>(schemas);
    add::<Pending>(schemas);
}

/// Returns the headers that set the wait and the idempotency key.
pub(super) fn preferences() -> [Value; 2] {
    [
        json!({
            "name": "Prefer", "in": "header", "required": false, "schema": {"type": "string"}, "example": "wait=10",
            "description": "`respond-async` to respond at once, `wait=N` to wait up to N seconds (RFC 7240)",
        }),
        json!({
            "name": "Idempotency-Key", "in": "header", "required": false,
            "schema": {"type": "string", "pattern": "^[!-~]{1,255}$"},
            "description": "A unique key for this request; repeating the request with it returns the first result instead of running it again",
        }),
    ]
}

/// Describes the response for an operation that is still running.
pub(super) fn accepted() -> Value {
    accepted_as("Accepted")
}

fn accepted_as(schema: &str) -> Value {
    json!({
        "description": "The operation is running in the background; poll it",
        "headers": {
            "Location": {"description": "The path at which to poll the operation", "schema": {"type": "string"}},
            "Retry-After": {"description": "After how many seconds to poll", "schema": {"type": "integer"}},
        },
        "content": {"application/json": {"schema": reference(schema)}},
    })
}
