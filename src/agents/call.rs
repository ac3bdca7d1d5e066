//! A call of a tool, over HTTP or the Model Context Protocol.

use std::{sync::Arc, time::Duration};

use serde::Serialize;
use serde_json::{Value, json};
use utoipa::ToSchema;

use super::{
    Tool, as_tool_call,
    failure::Failure,
    find,
    hints::Next,
    tool::{Cancelled, Does, OfOperation},
};
use crate::{
    api::{self, Brief, Operation, OperationView, Report, Scope},
    error::{Error, Result},
    service::{Begun, Service, Submission, authorization, client::Client, job::Job, jobs::IdempotencyKey},
};

/// The maximum length of a text in a result, in bytes. Longer text is shortened in the middle, because a model reads
/// all of it.
const MAX_TEXT: usize = 16 << 10;

/// A call of a tool.
pub(crate) struct Call {
    pub(crate) tool: &'static Tool,
    pub(crate) arguments: Value,
    pub(crate) client: Arc<Client>,
    pub(crate) request_id: String,
    /// The client's idempotency key.
    pub(crate) key: Option<IdempotencyKey>,
}

/// The result of starting a call.
pub(crate) enum Answer {
    /// The call has ended with a report.
    Done(Report),
    /// The call is running as a job.
    Job(Arc<Job>),
}

/// The result of a call whose operation is still running.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = ToolPending)]
pub(crate) struct Pending {
    /// `accepted`.
    status: &'static str,
    /// What to do next, as text.
    message: String,
    /// The call that returns the operation's progress.
    #[schema(value_type = Object)]
    next: Next,
    /// The operation in its current state.
    operation: OperationView,
}

impl Call {
    /// Returns a call by a client. Its scope is at most operate: tools never run operations of administrators.
    pub(crate) fn new(tool: &'static Tool, arguments: Value, client: &Client, request_id: String) -> Self {
        let client = Client { scope: client.scope.min(Scope::Operate), ..client.clone() };
        Self { tool, arguments, client: Arc::new(client), request_id, key: None }
    }

    /// Reads the request from the arguments. Refuses invalid arguments, and a client without the tool's scope.
    pub(crate) fn request(&self) -> Result<Value> {
        self.client.require(self.tool.scope, &format!("call {}", self.tool.name))?;
        self.tool.read(self.arguments.clone())
    }

    /// Returns the operation that it runs, if it runs one.
    pub(crate) fn operation(&self) -> Option<&'static Operation> {
        match self.tool.does {
            Does::Operation(operation) => Some(operation),
            Does::Get | Does::Cancel => None,
        }
    }

    /// Returns the names of the resources that a request is about.
    pub(crate) fn targets(&self, request: &Value) -> Vec<String> {
        self.operation().map(|operation| authorization::targets(operation, request)).unwrap_or_default()
    }

    /// Starts the request that [`Self::request`] returned.
    pub(crate) async fn begin(&self, service: &Arc<Service>, request: Value) -> Result<Answer> {
        let client = self.client.clone();
        match self.tool.does {
            Does::Operation(operation) => {
                let (request_id, key) = (self.request_id.clone(), self.key.clone());
                match service.submit(Submission { client, operation, request, request_id, key }).await? {
                    Begun::Read(result) => {
                        Ok(Answer::Done(self.shortened(result.as_ref().as_ref().map_err(Clone::clone)?)))
                    }
                    Begun::Job(job) => Ok(Answer::Job(job)),
                }
            }
            Does::Get => {
                let OfOperation { id, wait } = api::reread(request)?;
                let job = service.operation(&client, &id)?;
                job.ends_within(Duration::from_secs(wait.0)).await;
                Ok(Answer::Done(self.view(job.view())))
            }
            Does::Cancel => {
                let Cancelled { id } = api::reread(request)?;
                Ok(Answer::Done(self.view(service.cancel(&client, &id).await?)))
            }
        }
    }

    /// Returns the operation that it waits for, if it waits for one.
    pub(crate) fn watched(&self, service: &Service, request: &Value) -> Option<Arc<Job>> {
        let id = request["id"].as_str().filter(|_| matches!(self.tool.does, Does::Get))?;
        service.operation(&self.client, id).ok()
    }

    /// Returns an operation for a model: with the next call, until it has succeeded.
    fn view(&self, view: OperationView) -> Report {
        let error = view.error.clone();
        let (vm, operation, is_final) = (view.vm.clone(), view.operation, view.state.is_final());
        let mut value = serde_json::to_value(view.written(as_tool_call)).unwrap_or_default();
        if let Some(error) = error
            && let Ok(tool) = find(operation)
        {
            let failure = Failure::new(error, tool, &json!({"name": vm}), &self.client);
            value["next"] = serde_json::to_value(&failure.next).unwrap_or_default();
            value["error"] = serde_json::to_value(&failure.error).unwrap_or_default();
        } else if !is_final {
            value["next"] = json!(Next::new("operation_get", &[("id", value["id"].as_str().unwrap_or_default())]));
        }
        shorten(&mut value);
        Report::Json(value)
    }

    /// Returns the outcome of a job that it started, or `None` while the job is running.
    pub(crate) fn outcome(&self, job: &Job) -> Option<Result<Report>> {
        job.outcome().map(|outcome| outcome.map(|report| self.shortened(&report)))
    }

    /// Returns a report for a model, with long content shortened.
    fn shortened(&self, report: &Report) -> Report {
        match report.clone() {
            Report::Json(mut value) => {
                if let Some(brief) = self.tool.brief {
                    leave_out(&mut value, brief);
                }
                shorten(&mut value);
                Report::Json(value)
            }
            other => other,
        }
    }

    /// Returns the failure for an error of this call.
    pub(crate) fn failure(&self, error: Error) -> Failure {
        Failure::new(error, self.tool, &self.arguments, &self.client)
    }
}

/// Returns the result of a call whose job is still running.
pub(crate) fn pending(job: &Job) -> Pending {
    let operation = job.view().written(as_tool_call);
    let next = Next::new("operation_get", &[("id", &operation.id.to_string())]);
    let message = format!(
        "{} is running in the background. Poll it with {}. Do not call {} again.",
        operation.operation,
        next.text(),
        operation.operation
    );
    Pending { status: "accepted", message, next, operation }
}

/// Removes what the result of a tool leaves out of a list's items.
fn leave_out(result: &mut Value, brief: Brief) {
    let items = result.get_mut(brief.list).and_then(Value::as_array_mut).into_iter().flatten();
    for item in items.filter_map(Value::as_object_mut) {
        item.retain(|name, _| !brief.members.contains(&name.as_str()));
    }
}

/// Shortens every long text in the middle, and every long list of lines at the beginning, because the end matters most.
fn shorten(value: &mut Value) {
    match value {
        Value::String(text) if text.len() > MAX_TEXT => {
            let begin = text.floor_char_boundary(MAX_TEXT / 4);
            let end = text.ceil_char_boundary(text.len() - MAX_TEXT * 3 / 4);
            let omitted = end - begin;
            *text = format!("{}\n[… {omitted} bytes omitted …]\n{}", &text[..begin], &text[end..]);
        }
        Value::Array(lines) if lines.iter().all(Value::is_string) => {
            lines.iter_mut().for_each(shorten);
            let mut available = MAX_TEXT;
            let fits = |line: &&Value| {
                let rest = available.checked_sub(line.as_str().map_or(0, str::len));
                available = rest.unwrap_or_default();
                rest.is_some()
            };
            let kept = lines.iter().rev().take_while(fits).count();
            let omitted = lines.len() - kept;
            if omitted > 0 {
                lines.splice(..omitted, [json!(format!("[… {omitted} lines omitted …]"))]);
            }
        }
        Value::Array(items) => items.iter_mut().for_each(shorten),
        Value::Object(members) => members.values_mut().for_each(shorten),
        _ => {}
    }
}

/// Returns an image in Base64, for JSON.
pub(crate) fn encoded(png: &[u8]) -> String {
    use base64::{Engine, prelude::BASE64_STANDARD};
    BASE64_STANDARD.encode(png)
}

/// Returns a report as JSON, even if it is an image.
pub(crate) fn json_of(report: Report) -> Value {
    match report {
        Report::Json(value) => value,
        Report::Text(text) => json!({ "text": text }),
        Report::Png(png) => json!({"mimeType": "image/png", "data": encoded(&png)}),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_text_is_shortened_in_the_middle() {
        let mut value = json!({"stdout": format!("begin{}end", "ü".repeat(MAX_TEXT)), "stderr": "short"});
        shorten(&mut value);
        let text = value["stdout"].as_str().unwrap();
        assert!(text.starts_with("beginü") && text.ends_with("üend"), "{text}");
        assert!(text.len() < MAX_TEXT + 100 && text.contains("bytes omitted"), "{}", text.len());
        assert_eq!(value["stderr"], "short");
        let mut lines = json!({"lines": vec!["x".repeat(99); 1000], "few": ["a", "b"]});
        shorten(&mut lines);
        let kept = lines["lines"].as_array().unwrap();
        assert_eq!((kept.len(), &lines["few"]), (1 + MAX_TEXT / 99, &json!(["a", "b"])));
        assert_eq!(kept[0], format!("[… {} lines omitted …]", 1001 - kept.len()));
    }
}
