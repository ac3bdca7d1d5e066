//! A call of a tool, whoever makes it: over HTTP, or by the Model Context Protocol.

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
    api::{self, Operation, Report, Scope},
    error::{Error, Result},
    service::{
        Begun, Service, Submission, authorization,
        client::Client,
        job::{Job, View},
        jobs::IdempotencyKey,
    },
};

/// The argument that repeats the name of a VM which is to be deleted.
pub(super) const CONFIRM: &str = "confirm";

/// The most that a text in an answer has, in bytes: what is longer is shortened in its middle. A model reads all of it.
const LONGEST_TEXT: usize = 16 << 10;

/// A call of a tool.
pub(crate) struct Call {
    pub(crate) tool: &'static Tool,
    pub(crate) arguments: Value,
    pub(crate) client: Arc<Client>,
    pub(crate) request_id: String,
    /// The client's own name for it.
    pub(crate) key: Option<IdempotencyKey>,
}

/// What was begun by a call.
pub(crate) enum Answer {
    /// The answer.
    Done(Report),
    /// It may take long.
    Job(Arc<Job>),
}

/// What is said of an operation that is under way.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = ToolPending)]
pub(crate) struct Pending {
    /// `accepted`.
    status: &'static str,
    /// What is to be done next, in words.
    message: String,
    /// The call that tells how far it is.
    #[schema(value_type = Object)]
    next: Next,
    /// The operation, as it is now.
    operation: View,
}

impl Call {
    /// A call by a client. Whoever it is, a tool does nothing that is an administrator's.
    pub(crate) fn new(tool: &'static Tool, arguments: Value, client: &Client, request_id: String) -> Self {
        let client = Client { scope: client.scope.min(Scope::Operate), ..client.clone() };
        Self { tool, arguments, client: Arc::new(client), request_id, key: None }
    }

    /// Reads the request out of the arguments, where they can be used and the client may ask for it.
    pub(crate) fn request(&self) -> Result<Value> {
        self.client.require(self.tool.scope, &format!("call {}", self.tool.name))?;
        self.tool.read(self.arguments.clone())
    }

    /// The operation that it runs.
    pub(crate) fn operation(&self) -> Option<&'static Operation> {
        match self.tool.does {
            Does::Operation(operation) => Some(operation),
            Does::Get | Does::Cancel => None,
        }
    }

    /// The names of what a request is about.
    pub(crate) fn targets(&self, request: &Value) -> Vec<String> {
        self.operation().map(|operation| authorization::targets(operation, request)).unwrap_or_default()
    }

    /// Begins what is asked for by what [`Self::request`] has returned.
    pub(crate) async fn begin(&self, service: &Arc<Service>, request: Value) -> Result<Answer> {
        let client = self.client.clone();
        match self.tool.does {
            Does::Operation(operation) => {
                let (request_id, key) = (self.request_id.clone(), self.key.clone());
                match service.ask(Submission { client, operation, request, request_id, key }).await? {
                    Begun::Look(seen) => Ok(Answer::Done(self.told(seen.as_ref().as_ref().map_err(Clone::clone)?))),
                    Begun::Job(job) => Ok(Answer::Job(job)),
                }
            }
            Does::Get => {
                let OfOperation { id, wait } = api::again(request)?;
                let job = service.operation(&client, &id)?;
                job.ends_within(Duration::from_secs(wait.0)).await;
                Ok(Answer::Done(self.view(job.view())))
            }
            Does::Cancel => {
                let Cancelled { id } = api::again(request)?;
                Ok(Answer::Done(self.view(service.cancel(&client, &id).await?)))
            }
        }
    }

    /// The operation that it asks after, where it does.
    pub(crate) fn watched(&self, service: &Service, request: &Value) -> Option<Arc<Job>> {
        let id = request["id"].as_str().filter(|_| matches!(self.tool.does, Does::Get))?;
        service.operation(&self.client, id).ok()
    }

    /// An operation as a model reads it: with what to call next, until it has succeeded.
    fn view(&self, view: View) -> Report {
        let error = view.error.clone();
        let (vm, operation, is_final) = (view.vm.clone(), view.operation, view.state.is_final());
        let mut told = serde_json::to_value(view.written(as_tool_call)).unwrap_or_default();
        if let Some(error) = error
            && let Ok(tool) = find(operation)
        {
            let failure = Failure::new(error, tool, &json!({"name": vm}), &self.client);
            told["next"] = serde_json::to_value(&failure.next).unwrap_or_default();
            told["error"] = serde_json::to_value(&failure.error).unwrap_or_default();
        } else if !is_final {
            told["next"] = json!(Next::new("operation_get", &[("id", told["id"].as_str().unwrap_or_default())]));
        }
        shorten(&mut told);
        Report::Json(told)
    }

    /// What came of a job that it began, once that has ended.
    pub(crate) fn outcome(&self, job: &Job) -> Option<Result<Report>> {
        job.outcome().map(|outcome| outcome.map(|report| self.told(&report)))
    }

    /// A report as a model reads it.
    fn told(&self, report: &Report) -> Report {
        match report.clone() {
            Report::Json(mut value) => {
                if let Some(brief) = self.tool.brief {
                    brief.shorten(&mut value);
                }
                shorten(&mut value);
                Report::Json(value)
            }
            other => other,
        }
    }

    /// What went wrong, for whoever called.
    pub(crate) fn failure(&self, error: Error) -> Failure {
        Failure::new(error, self.tool, &self.arguments, &self.client)
    }
}

/// What is said of a job that goes on.
pub(crate) fn pending(job: &Job) -> Pending {
    let operation = job.view().written(as_tool_call);
    let next = Next::new("operation_get", &[("id", &operation.id.to_string())]);
    let message = format!(
        "{} is under way and goes on by itself. Ask how far it is, and for what came of it: {}. Do not call {} again.",
        operation.operation,
        next.text(),
        operation.operation
    );
    Pending { status: "accepted", message, next, operation }
}

/// Shortens every text that is too long, in its middle, and every long list of lines, at its beginning: most is told by how
/// something ends.
fn shorten(value: &mut Value) {
    match value {
        Value::String(text) if text.len() > LONGEST_TEXT => {
            let begin = text.floor_char_boundary(LONGEST_TEXT / 4);
            let end = text.ceil_char_boundary(text.len() - LONGEST_TEXT * 3 / 4);
            let left_out = end - begin;
            *text = format!("{}\n[… {left_out} bytes are left out here …]\n{}", &text[..begin], &text[end..]);
        }
        Value::Array(lines) if lines.iter().all(Value::is_string) => {
            lines.iter_mut().for_each(shorten);
            let mut room = LONGEST_TEXT;
            let fits = |line: &&Value| {
                let left = room.checked_sub(line.as_str().map_or(0, str::len));
                room = left.unwrap_or_default();
                left.is_some()
            };
            let kept = lines.iter().rev().take_while(fits).count();
            let left_out = lines.len() - kept;
            if left_out > 0 {
                lines.splice(..left_out, [json!(format!("[… {left_out} lines are left out here …]"))]);
            }
        }
        Value::Array(items) => items.iter_mut().for_each(shorten),
        Value::Object(members) => members.values_mut().for_each(shorten),
        _ => {}
    }
}

/// A picture as text, which is how it stands in JSON.
pub(crate) fn encoded(png: &[u8]) -> String {
    use base64::{Engine, prelude::BASE64_STANDARD};
    BASE64_STANDARD.encode(png)
}

/// A report as JSON, also where it is a picture.
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
    fn long_texts_are_shortened_in_their_middle_and_stay_texts() {
        let mut value = json!({"stdout": format!("begin{}end", "ü".repeat(LONGEST_TEXT)), "stderr": "short"});
        shorten(&mut value);
        let text = value["stdout"].as_str().unwrap();
        assert!(text.starts_with("beginü") && text.ends_with("üend"), "{text}");
        assert!(text.len() < LONGEST_TEXT + 100 && text.contains("bytes are left out here"), "{}", text.len());
        assert_eq!(value["stderr"], "short");
        let mut lines = json!({"lines": vec!["x".repeat(99); 1000], "few": ["a", "b"]});
        shorten(&mut lines);
        let kept = lines["lines"].as_array().unwrap();
        assert_eq!((kept.len(), &lines["few"]), (1 + LONGEST_TEXT / 99, &json!(["a", "b"])));
        assert_eq!(kept[0], format!("[… {} lines are left out here …]", 1001 - kept.len()));
    }
}
