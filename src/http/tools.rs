//! `/api/tools`: the operations as tools of language models, for tool servers that forward a model's calls.

use std::{sync::Arc, time::Instant};

use axum::{
    Extension, Json,
    body::Body,
    extract::{Request, State},
    http::{Response, StatusCode, Uri, header},
    response::IntoResponse,
};
use serde_json::Value;
use url::form_urlencoded;

use super::{body, prefer, problem::Problem, submit};
use crate::{
    agents::{
        self, Format,
        call::{Answer, Call},
        failure::Failure,
    },
    api::Report,
    error::Error,
    service::{Service, client::Client, job::Job},
};

/// Returns the definitions of the tools.
pub(super) async fn list(uri: Uri) -> Result<Json<Value>, Problem> {
    let mut format = Format::default();
    for (name, value) in form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes()) {
        if name != "format" {
            let error = Error::invalid(format!("unknown query parameter `{}`", name.escape_debug()));
            return Err(error.hint("Use the parameter format").into());
        }
        format = serde_json::from_value(Value::String(value.into_owned())).map_err(|error| {
            Error::invalid("invalid query parameter `format`")
                .because(error)
                .hint("Use one of kfuncdb, openai, mcp, json-schema")
        })?;
    }
    Ok(Json(agents::definitions(format)))
}

/// Calls a tool with its arguments.
pub(super) async fn call(
    State(service): State<Arc<Service>>,
    Extension(client): Extension<Arc<Client>>,
    route: submit::Route,
    request: Request,
) -> Result<Response<Body>, Problem> {
    let route = submit::parameters(route)?;
    let tool = agents::find(route.iter().next().map(|(_, name)| name).unwrap_or_default())?;
    let (head, body) = request.into_parts();
    let arguments = Value::Object(body::json(&head.headers, body).await?);
    let request_id = submit::request_id(&head.headers).to_owned();
    let mut call = Call::new(tool, arguments, &client, request_id);
    if let Some(operation) = call.operation() {
        submit::record(&head, |info| info.operation.set(operation).is_ok());
    }
    let members = call.request().map_err(|error| problem(call.failure(error)))?;
    submit::record(&head, |info| info.targets.set(call.targets(&members)).is_ok());
    call.key = submit::idempotency_key(&client, tool.name, &head.headers, &members)?;
    let failed = |error: Error| problem(call.failure(error));
    let started = Instant::now();
    match call.begin(&service, members).await.map_err(failed)? {
        Answer::Done(report) => Ok(done(report)),
        Answer::Job(job) => {
            let preference = prefer::read(&head.headers);
            job.ends_within(preference.wait.saturating_sub(started.elapsed())).await;
            let mut response = match call.outcome(&job) {
                Some(Ok(report)) => done(report),
                Some(Err(error)) => failed(error).into_response(),
                None => pending(&job),
            };
            submit::add_job_headers(&mut response, &job, preference.applied);
            Ok(response)
        }
    }
}

fn done(report: Report) -> Response<Body> {
    Json(agents::call::json_of(report)).into_response()
}

fn pending(job: &Job) -> Response<Body> {
    let poll = format!("/api/operations/{}", job.id);
    let headers = [(header::LOCATION, poll), (header::RETRY_AFTER, super::response::POLL.to_owned())];
    (StatusCode::ACCEPTED, headers, Json(agents::call::pending(job))).into_response()
}

/// Returns the problem of a failed call, with the tool call to make next.
fn problem(Failure { error, next }: Failure) -> Problem {
    Problem::from(error).next(next.and_then(|next| serde_json::to_value(next).ok()))
}
