//! `/api/tools`: the operations as tools of language models, for tool servers that hand on a model's call as it is.

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

/// The definitions of the tools.
pub(super) async fn list(uri: Uri) -> Result<Json<Value>, Problem> {
    let mut format = Format::default();
    for (name, value) in form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes()) {
        if name != "format" {
            let error = Error::invalid(format!("there is no member `{}` in this request", name.escape_debug()));
            return Err(error.hint("Its members are format.").into());
        }
        format = serde_json::from_value(Value::String(value.into_owned())).map_err(|error| {
            Error::invalid("the member `format` cannot be used")
                .because(error)
                .hint("Formats are kfuncdb, openai, mcp and json-schema.")
        })?;
    }
    Ok(Json(agents::definitions(format)))
}

/// Calls one with its arguments.
pub(super) async fn call(
    State(service): State<Arc<Service>>,
    Extension(client): Extension<Arc<Client>>,
    route: submit::Route,
    request: Request,
) -> Result<Response<Body>, Problem> {
    let route = submit::names(route)?;
    let tool = agents::find(route.iter().next().map(|(_, name)| name).unwrap_or_default())?;
    let (head, body) = request.into_parts();
    let arguments = Value::Object(body::json(&head.headers, body).await?);
    let request_id = submit::request_id(&head.headers).to_owned();
    let mut call = Call::new(tool, arguments, &client, request_id);
    if let Some(operation) = call.operation() {
        submit::note(&head, |noted| noted.operation.set(operation).is_ok());
    }
    let asked = call.request().map_err(|error| refused(call.failure(error)))?;
    submit::note(&head, |noted| noted.targets.set(call.targets(&asked)).is_ok());
    call.key = submit::idempotency_key(&client, tool.name, &head.headers, &asked)?;
    let failed = |error: Error| refused(call.failure(error));
    let began = Instant::now();
    match call.begin(&service, asked).await.map_err(failed)? {
        Answer::Done(report) => Ok(told(report)),
        Answer::Job(job) => {
            let preference = prefer::read(&head.headers);
            job.ends_within(preference.wait.saturating_sub(began.elapsed())).await;
            let mut response = match call.outcome(&job) {
                Some(Ok(report)) => told(report),
                Some(Err(error)) => failed(error).into_response(),
                None => pending(&job),
            };
            submit::say_of_job(&mut response, &job, preference.applied);
            Ok(response)
        }
    }
}

fn told(report: Report) -> Response<Body> {
    Json(agents::call::json_of(report)).into_response()
}

fn pending(job: &Job) -> Response<Body> {
    let poll = format!("/api/operations/{}", job.id);
    let headers = [(header::LOCATION, poll), (header::RETRY_AFTER, super::response::POLL.to_owned())];
    (StatusCode::ACCEPTED, headers, Json(agents::call::pending(job))).into_response()
}

/// What went wrong, in calls of tools.
fn refused(Failure { error, next }: Failure) -> Problem {
    Problem::from(error).next(next.and_then(|next| serde_json::to_value(next).ok()))
}
