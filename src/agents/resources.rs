//! Resources, which a client reads without a tool: `vm://NAME`, `vm://NAME/console`, and `key://NAME`, the public key.

use std::{sync::Arc, time::Instant};

use rmcp::{
    ErrorData,
    model::{
        CompleteRequestParams, CompletionInfo, ReadResourceResult, Reference, Resource, ResourceContents,
        ResourceTemplate,
    },
};
use serde_json::{Value, json};
use uuid::Uuid;

use super::failure::in_one_text;
use crate::{
    api::{self, Report},
    error::{Code, Error, Result},
    service::{
        Begun, Service, Submission,
        audit::{AuditOrigin, AuditResponse, RequestInfo},
        authorization,
        client::Client,
    },
};

/// The number of lines that are read of a console: a model reads all of them.
const CONSOLE_LINES: u64 = 500;

/// The maximum length of a name in the audit log. No valid name is longer.
const MAX_NAME: usize = 255;

const JSON: &str = "application/json";
const TEXT: &str = "text/plain";

/// Returns the templates of the resources' URIs.
pub(super) fn templates() -> Vec<ResourceTemplate> {
    let template = |uri, name: &str, about: &str, kind: &str| {
        ResourceTemplate::new(uri, name).with_description(about).with_mime_type(kind)
    };
    vec![
        template("vm://{name}", "VM", "The details of a VM", JSON),
        template("vm://{name}/console", "VM console", "A VM's serial console output since its last start", TEXT),
        template("key://{name}", "SSH key", "A public SSH key as a line of authorized_keys", TEXT),
    ]
}

/// Lists the existing resources.
pub(super) async fn list(service: &Arc<Service>, client: &Arc<Client>) -> Result<Vec<Resource>, ErrorData> {
    let mut found = Vec::new();
    let (vms, keys) =
        tokio::join!(names(service, client, "vm_list", "vms"), names(service, client, "ssh_key_list", "keys"));
    for name in vms? {
        let about = format!("The details of the VM {name}");
        found.push(
            Resource::new(format!("vm://{}", api::segment(&name)), &*name).with_description(about).with_mime_type(JSON),
        );
        let about = format!("The serial console output of the VM {name} since its last start");
        let console = Resource::new(format!("vm://{}/console", api::segment(&name)), format!("{name} console"));
        found.push(console.with_description(about).with_mime_type(TEXT));
    }
    for name in keys? {
        let about = format!("The public key of the SSH key {name}");
        found.push(
            Resource::new(format!("key://{}", api::segment(&name)), &*name)
                .with_description(about)
                .with_mime_type(TEXT),
        );
    }
    Ok(found)
}

/// Reads a resource.
pub(super) async fn read(
    service: &Arc<Service>,
    client: &Arc<Client>,
    uri: &str,
) -> Result<ReadResourceResult, ErrorData> {
    let unknown = || {
        let forms: Vec<_> = templates().into_iter().map(|template| template.uri_template).collect();
        ErrorData::resource_not_found(format!("unknown resource. Use one of the URIs {}", forms.join(", ")), None)
    };
    let (kind, path) = uri.split_once("://").ok_or_else(unknown)?;
    let (name, part) = path.split_once('/').unwrap_or((path, ""));
    let name = percent_encoding::percent_decode_str(name).decode_utf8().map_err(|_| unknown())?;
    let (operation, request) = match (kind, part) {
        ("key", "") => ("ssh_key_public", json!({"name": name})),
        ("vm", "") => ("vm_info", json!({"vm": name})),
        ("vm", "console") => ("vm_logs", json!({"vm": name, "lines": CONSOLE_LINES})),
        _ => return Err(unknown()),
    };
    let (text, kind) = match run(service, client, operation, request).await? {
        Report::Text(text) => (text, TEXT),
        Report::Json(log) if operation == "vm_logs" => (lines(&log), TEXT),
        Report::Json(value) => (value.to_string(), JSON),
        Report::Png(_) => return Err(unknown()),
    };
    Ok(ReadResourceResult::new(vec![ResourceContents::text(text, uri).with_mime_type(kind)]))
}

/// Returns the names that complete an argument.
pub(super) async fn complete(
    service: &Arc<Service>,
    client: &Arc<Client>,
    request: &CompleteRequestParams,
) -> Result<Vec<String>, ErrorData> {
    let is_key = match &request.r#ref {
        Reference::Resource(resource) => resource.uri.starts_with("key:"),
        _ => request.argument.name == "key",
    };
    // This prompt creates its VM, so existing names do not complete it.
    let is_new = matches!(&request.r#ref, Reference::Prompt(prompt) if prompt.name == "development-vm");
    let is_name =
        matches!(request.argument.name.as_str(), "name" | "vm" | "key" if !is_new) || request.argument.name == "image";
    let (operation, member) = match request.argument.name.as_str() {
        "image" => ("image_search", "images"),
        _ if is_key => ("ssh_key_list", "keys"),
        _ => ("vm_list", "vms"),
    };
    let names = if is_name { names(service, client, operation, member).await? } else { Vec::new() };
    let matching = names.into_iter().filter(|name| name.starts_with(&request.argument.value));
    Ok(matching.take(CompletionInfo::MAX_VALUES).collect())
}

fn lines(log: &Value) -> String {
    let lines = log["lines"].as_array().into_iter().flatten().filter_map(Value::as_str);
    lines.collect::<Vec<_>>().join("\n")
}

async fn names(
    service: &Arc<Service>,
    client: &Arc<Client>,
    operation: &str,
    member: &str,
) -> Result<Vec<String>, ErrorData> {
    let Report::Json(found) = run(service, client, operation, json!({})).await? else { return Ok(Vec::new()) };
    let items = found[member].as_array().into_iter().flatten();
    Ok(items.filter_map(|item| item["name"].as_str().map(str::to_owned)).collect())
}

/// Runs an operation that only reads, and writes it to the audit log.
async fn run(service: &Arc<Service>, client: &Arc<Client>, name: &str, request: Value) -> Result<Report, ErrorData> {
    let request_id = Uuid::new_v4().to_string();
    let is_short = |name: &String| name.len() <= MAX_NAME;
    let targets = api::find(name).map(|operation| authorization::targets(operation, &request)).unwrap_or_default();
    let targets = targets.into_iter().filter(is_short).collect();
    let reading = async {
        let operation = api::find(name).ok_or_else(|| Error::internal("the operation does not exist"))?;
        client.require(operation.scope, "read this resource")?;
        let (client, request, request_id) = (client.clone(), operation.read(request)?, request_id.clone());
        match service.submit(Submission { client, operation, request, request_id, key: None }).await? {
            Begun::Read(result) => result.as_ref().clone(),
            Begun::Job(_) => Err(Error::internal("the operation of a resource is a job")),
        }
    };
    let began = Instant::now();
    let result = reading.await;
    let info = RequestInfo::default();
    let response = AuditResponse {
        origin: AuditOrigin { client: Some(&client.name), peer: None, method: "READ", route: &format!("mcp {name}") },
        request_id: &request_id,
        status: result.as_ref().map_or_else(|error| error.code.http_status(), |_| 200),
        code: result.as_ref().err().map(|error| error.code.name()),
        operation_id: None,
        duration: began.elapsed(),
    };
    let _ = info.targets.set(targets);
    service.audit.record_response(&info, &response);
    result.map_err(|error| protocol_error(&error))
}

/// Returns an error as an error of the protocol, because a resource has no result for errors.
fn protocol_error(error: &Error) -> ErrorData {
    let text = in_one_text(error);
    match error.code {
        Code::NotFound => ErrorData::resource_not_found(text, None),
        Code::InvalidInput => ErrorData::invalid_params(text, None),
        _ => ErrorData::internal_error(text, None),
    }
}
