//! The OpenAPI 3.1 document of the API, generated from the table of operations.
//!
//! `src/http/openapi.json` is the checked-in copy.

mod own;

use std::{collections::BTreeMap, sync::LazyLock};

use serde_json::{Map, Value, json};
use utoipa::{PartialSchema, ToSchema};

use super::{
    problem::{MEDIA_TYPE, Members},
    response::Accepted,
};
use crate::api::{self, Effect, ExecutionMode, Operation};

/// The description of the API.
const ABOUT: &str = "Provisions virtual machines on libvirt/QEMU from cloud images, with SSH keys.

Every member of a request that has a default can be omitted or null. An operation that does not end within 45 seconds, \
or within the time in `Prefer: wait=N`, is answered with 202 and continues in the background; poll it with \
`GET /api/operations/{id}`. Errors are `application/problem+json` (RFC 9457); `hint` says what to do next.";

/// Returns the document.
pub fn document() -> &'static Value {
    static DOCUMENT: LazyLock<Value> = LazyLock::new(write);
    &DOCUMENT
}

fn write() -> Value {
    let mut paths: BTreeMap<&str, Map<String, Value>> = BTreeMap::new();
    let mut schemas = BTreeMap::new();
    for operation in api::operations() {
        let methods = paths.entry(operation.path).or_default();
        methods.insert(operation.method.to_ascii_lowercase(), describe(operation));
        schemas.extend(operation.schemas.0.clone());
    }
    for (path, method, description) in own::routes() {
        paths.entry(path).or_default().insert(method.to_ascii_lowercase(), description);
    }
    add::<Members>(&mut schemas);
    add::<Accepted>(&mut schemas);
    own::schemas(&mut schemas);
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "vmprov",
            "description": ABOUT,
            "version": env!("CARGO_PKG_VERSION"),
        },
        "servers": [{"url": "/", "description": "The service that serves this document"}],
        "security": [{}, {"bearer": []}],
        "tags": tags(),
        "paths": paths,
        "components": {
            "schemas": schemas,
            "responses": problems().map(|(status, about)| (format!("Problem{status}"), problem(status, about))).collect::<Map<_, _>>(),
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer", "description": "A token in the service's token file"},
            },
        },
    })
}

/// Adds a schema that is not of an operation, and the schemas to which it refers.
fn add<T: ToSchema + PartialSchema>(schemas: &mut BTreeMap<String, Value>) {
    let mut found = vec![(T::name().into_owned(), T::schema())];
    T::schemas(&mut found);
    for (name, schema) in found {
        schemas.entry(name).or_insert_with(|| serde_json::to_value(schema).unwrap_or_default());
    }
}

fn reference(schema: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{schema}")})
}

/// Returns the groups in which the documentation shows the operations.
fn tags() -> Value {
    json!([
        {"name": "vms", "description": "Virtual machines"},
        {"name": "images", "description": "Images from which VMs are created"},
        {"name": "ssh-keys", "description": "SSH keys for logging in to VMs"},
        {"name": "host", "description": "The host on which VMs run"},
        {"name": "tools", "description": "The operations as tools for language models"},
        {"name": "operations", "description": "Running and recently ended operations"},
        {"name": "service", "description": "The service itself"},
    ])
}

fn tag(path: &str) -> &'static str {
    match path.split('/').nth(2) {
        Some("vms" | "ssh-config") => "vms",
        Some("images" | "catalogue") => "images",
        Some("ssh-keys") => "ssh-keys",
        _ => "host",
    }
}

/// Describes an operation.
fn describe(operation: &Operation) -> Value {
    let mut description = json!({
        "operationId": operation.name,
        "summary": operation.summary,
        "description": remarks(operation),
        "tags": [tag(operation.path)],
        "parameters": parameters(operation),
        "responses": responses(operation),
    });
    if !in_query(operation)
        && let Some(mut body) = body(operation)
    {
        if body["required"] == false {
            // A body that can be omitted can also be null, like every optional member.
            body["content"]["application/json"]["schema"]["type"] = json!(["object", "null"]);
        }
        description["requestBody"] = body;
    }
    description
}

fn remarks(operation: &Operation) -> String {
    let scope = serde_json::to_value(operation.scope).unwrap_or_default();
    let scope = scope.as_str().unwrap_or_default();
    let pace = match operation.mode {
        ExecutionMode::Quick => "The response is immediate.",
        ExecutionMode::Long | ExecutionMode::Guest | ExecutionMode::Compute => "It may take long: see 202.",
        ExecutionMode::Ordered => {
            "It may take long: see 202. Operations on the same VM run in the order in which they were submitted."
        }
    };
    let effect = if operation.effect == Effect::Destroy { " It may delete data." } else { "" };
    format!("Requires the scope `{scope}`. Command line: `vmprov {}`. {pace}{effect}", operation.command)
}

/// Returns whether the members that are not in the path are in the query.
fn in_query(operation: &Operation) -> bool {
    matches!(operation.method, "GET" | "DELETE")
}

fn parameters(operation: &Operation) -> Vec<Value> {
    let in_path: Vec<_> = operation.path_members().collect();
    let mut parameters = Vec::new();
    for (name, schema) in operation.members() {
        let is_path = in_path.contains(&name.as_str());
        if !is_path && !in_query(operation) {
            continue;
        }
        let mut schema = schema.clone();
        let about = schema.as_object_mut().and_then(|schema| schema.shift_remove("description"));
        let mut parameter = json!({
            "name": name,
            "in": if is_path { "path" } else { "query" },
            "required": is_path,
            "description": about.or_else(|| nested(&schema)).unwrap_or_default(),
            "schema": not_null(schema),
        });
        if let Some(example) = operation.example.get(name) {
            parameter["example"] = example.clone();
        }
        parameters.push(parameter);
    }
    if operation.mode != ExecutionMode::Quick {
        parameters.extend(own::preferences());
    }
    parameters
}

/// Returns the description next to a reference.
fn nested(schema: &Value) -> Option<Value> {
    schema["oneOf"].as_array()?.iter().find_map(|part| part.get("description").cloned())
}

/// Removes null from a schema, because the parameters of a query or path are omitted instead.
fn not_null(mut schema: Value) -> Value {
    if let Some([kind, null]) = schema["type"].as_array().map(Vec::as_slice)
        && null == "null"
    {
        schema["type"] = kind.clone();
    }
    match schema["oneOf"].as_array().map(Vec::as_slice) {
        Some([some, null]) if null["type"] == "null" => {
            let mut some = some.clone();
            if let Some(default) = schema.get("default") {
                some["default"] = default.clone();
            }
            some
        }
        _ => schema,
    }
}

/// Describes the members that are not in the path, as a body. Returns none if there are no such members.
fn body(operation: &Operation) -> Option<Value> {
    let mut schema = operation.request.clone();
    let in_path: Vec<_> = operation.path_members().collect();
    for name in &in_path {
        schema["properties"].as_object_mut()?.shift_remove(*name);
        schema["examples"][0].as_object_mut()?.shift_remove(*name);
    }
    let required = schema["required"].as_array_mut().map(|names| {
        names.retain(|name| !in_path.iter().any(|member| name == member));
        !names.is_empty()
    });
    if schema["properties"].as_object().is_none_or(Map::is_empty) {
        return None;
    }
    Some(json!({
        "required": required.unwrap_or_default() || operation.method == "PATCH",
        "content": {"application/json": {"schema": schema}},
    }))
}

fn responses(operation: &Operation) -> Value {
    let mut responses = Map::new();
    let content = match &operation.report {
        Some(schema) => json!({"application/json": {"schema": schema}}),
        None if operation.name == "vm_screenshot" => json!({"image/png": {}}),
        None => json!({"text/plain": {"schema": {"type": "string"}}}),
    };
    let mut success = json!({"description": "Done", "content": content});
    if operation.status == 201 {
        responses.insert("200".to_owned(), json!({"description": "It already existed", "content": success["content"]}));
        success["headers"] =
            json!({"Location": {"description": "The path of the resource", "schema": {"type": "string"}}});
    }
    responses.insert(operation.status.to_string(), success);
    if operation.mode != ExecutionMode::Quick {
        responses.insert("202".to_owned(), own::accepted());
    }
    for (status, _) in problems().filter(|(status, _)| can_be(operation, *status)) {
        responses.insert(status.to_string(), json!({"$ref": format!("#/components/responses/Problem{status}")}));
    }
    Value::Object(responses)
}

/// Returns whether an operation can fail with a status.
fn can_be(operation: &Operation, status: u16) -> bool {
    match status {
        408 | 413 | 415 => !in_query(operation),
        409 | 422 | 423 => operation.mode != ExecutionMode::Quick || operation.path.contains('{'),
        _ => true,
    }
}

/// Returns the statuses with which a request can fail, and their descriptions.
fn problems() -> impl Iterator<Item = (u16, &'static str)> {
    [
        (400, "The request is invalid; `error` names the member and the reason"),
        (401, "Authentication is required, or the token is invalid"),
        (403, "The client is not authorized, its quota is exceeded, or the host denies access"),
        (404, "The resource or the route does not exist"),
        (408, "The body did not arrive in time"),
        (409, "The name is taken, or the resource's current state does not allow this"),
        (413, "The body is too large"),
        (415, "The body is not JSON"),
        (421, "The request names a host that is not allowed"),
        (422, "The Idempotency-Key was used for another request"),
        (423, "Another vmprov is working on the same resource"),
        (500, "A program that vmprov runs is missing or failed, or vmprov has a bug"),
        (502, "The guest failed"),
        (503, "libvirt, the guest or a download host cannot be reached, or the service is shutting down"),
        (504, "The time limit was exceeded"),
    ]
    .into_iter()
}

fn problem(status: u16, about: &str) -> Value {
    let mut problem = json!({
        "description": about,
        "content": {MEDIA_TYPE: {"schema": reference("Problem")}},
    });
    if matches!(status, 423 | 503 | 504) {
        let header = json!({"description": "After how many seconds to retry", "schema": {"type": "integer"}});
        problem["headers"] = json!({"Retry-After": header});
    }
    problem
}
