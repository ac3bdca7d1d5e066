//! The Model Context Protocol: [`Agent`] answers one client, over a pipe or over HTTP.
//!
//! What cannot be done is an answer, which the model reads, and no error of the protocol, which many clients keep from it.

use std::{
    convert::Infallible,
    sync::Arc,
    time::{Duration, Instant},
};

use axum::http::request;
use rmcp::{
    ErrorData, RoleServer, ServerHandler,
    model::{
        CallToolRequestParams, CallToolResponse, CallToolResult, CompleteRequestParams, CompleteResult, CompletionInfo,
        ContentBlock, CustomRequest, CustomResult, ErrorCode, GetPromptRequestParams, GetPromptResponse,
        Implementation, ListPromptsResult, ListResourceTemplatesResult, ListResourcesResult, ListToolsResult,
        PaginatedRequestParams, ProgressNotificationParam, ReadResourceRequestParams, ReadResourceResponse,
        ServerCapabilities, ServerConfig, Tool as Definition,
    },
    service::RequestContext,
};
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use uuid::Uuid;

use super::{
    call::{self, Answer, CONFIRM, Call},
    failure::{self, Failure, in_one_text},
    find, format, prompts, resources, tools,
};
use crate::{
    api::{Report, Scope},
    error::{Code, Error},
    service::{
        ANSWER_WITHIN, Service,
        audit::{Answered, AuditOrigin, RequestInfo},
        client::Client,
        job::{Job, View},
    },
};

/// What a client is told of the whole.
const INSTRUCTIONS: &str = "vmprov makes virtual machines from cloud images, gets ssh keys into them, and runs commands in them. \
The usual way: image_search; ssh_key_generate; vm_create with image, sshKeys and wait \"ssh\"; vm_exec; vm_delete. What takes \
long answers with an operation: call operation_get with its id until it has ended, and do not repeat the call. Every error \
says what to call next.";

/// How often a client that waits is told how far it is.
const TELLING: Duration = Duration::from_secs(1);

/// How many calls are answered at a time, whoever makes them.
static CALLS: Semaphore = Semaphore::const_new(256);

/// Who is at the other end.
#[derive(Clone)]
pub(crate) enum Who {
    /// One and the same for good.
    One(Arc<Client>),
    /// Whoever the token of each request says.
    Bearer,
}

/// The server's end of one connection.
#[derive(Clone)]
pub(crate) struct Agent {
    pub(crate) service: Arc<Service>,
    pub(crate) who: Who,
    /// How long an answer may take; then it is an operation to ask for.
    pub(crate) answer_within: Duration,
}

impl Agent {
    /// Who asks. Over HTTP each request says so anew, so that a session is of no use to another token.
    pub(super) fn client(&self, context: &RequestContext<RoleServer>) -> Result<Arc<Client>, ErrorData> {
        match &self.who {
            Who::One(client) => Ok(client.clone()),
            Who::Bearer => {
                let head = context.extensions.get::<request::Parts>();
                let client = head.and_then(|head| head.extensions.get::<Arc<Client>>()).cloned();
                client.ok_or_else(|| ErrorData::internal_error("nobody has asked who asks", None))
            }
        }
    }

    /// What the client is told of the whole, and of what bounds it where that is known.
    fn instructions(&self) -> String {
        let Who::One(client) = &self.who else {
            return format!("{INSTRUCTIONS} Your token may bound the names that you may use; an error then says how.");
        };
        let looks = (client.scope == Scope::Read)
            .then_some(" You may only look: the tools that change something are not there.");
        let names =
            client.prefix.as_ref().map(|prefix| format!(" The names of all VMs and keys must begin with `{prefix}`."));
        let ttl =
            client.ttl_default.map(|ttl| format!(" A VM expires after {ttl} unless vm_create is given another ttl."));
        [Some(INSTRUCTIONS), looks, names.as_deref(), ttl.as_deref()].into_iter().flatten().collect()
    }

    /// Answers a call, whatever comes of it.
    async fn answer(
        &self,
        call: &Call,
        context: &RequestContext<RoleServer>,
        noted: &RequestInfo,
    ) -> Result<Report, Error> {
        let _place = CALLS.try_acquire().map_err(|_| {
            Error::new(Code::Busy, "as many calls are answered as may be at a time")
                .hint("Try again when some of them have been answered.")
        })?;
        let since = Instant::now();
        require_confirmation(call)?;
        let request = call.request()?;
        // What is noted already stays.
        let _ = noted.targets.set(call.targets(&request));
        let watched = call.watched(&self.service, &request);
        let beginning = call.begin(&self.service, request);
        let answer = match &watched {
            Some(job) => tokio::select! {
                answer = beginning => answer,
                never = self.tell(job, context) => match never {},
            },
            None => beginning.await,
        };
        match answer? {
            Answer::Done(report) => Ok(report),
            Answer::Job(job) => {
                let _ = noted.job.set(job.id);
                self.wait(&job, context, self.answer_within.saturating_sub(since.elapsed())).await;
                call.outcome(&job).unwrap_or_else(|| {
                    let pending = serde_json::to_value(call::pending(&job)).map(Report::Json);
                    pending.map_err(|error| Error::internal("cannot say how far it is").because(error))
                })
            }
        }
    }

    /// Waits until a job has ended, or for so long, and tells how far it is. A client that gives it up has it cancelled and
    /// undone.
    async fn wait(&self, job: &Job, context: &RequestContext<RoleServer>, limit: Duration) {
        tokio::select! {
            () = job.ends_within(limit) => {}
            never = self.tell(job, context) => match never {},
            () = context.ct.cancelled() => {
                job.stop();
                job.ends_within(ANSWER_WITHIN).await;
            }
        }
    }

    /// Tells a client how far a job is, again and again, where it wants to be told.
    async fn tell(&self, job: &Job, context: &RequestContext<RoleServer>) -> Infallible {
        let Some(token) = context.meta.get_progress_token() else { return std::future::pending().await };
        for told in 1_u32.. {
            let progress =
                ProgressNotificationParam::new(token.clone(), f64::from(told)).with_message(progress(&job.summary()));
            if context.peer.notify_progress(progress).await.is_err() {
                // Nobody listens any more; the answer is waited for all the same.
                break;
            }
            tokio::time::sleep(TELLING).await;
        }
        std::future::pending().await
    }

    /// Notes a call and what came of it.
    fn note(&self, call: &Call, noted: &RequestInfo, outcome: Result<(), Code>, began: Instant) {
        let client = &call.client.name;
        let (path, job) = (format!("mcp {}", call.tool.name), noted.job.get().map(ToString::to_string));
        let answered = Answered {
            whence: AuditOrigin { client: Some(client), peer: None, method: "CALL", path: &path },
            request_id: &call.request_id,
            status: outcome.map_or_else(Code::http_status, |()| 200),
            code: outcome.err().map(Code::name),
            operation_id: job.as_deref(),
            duration: began.elapsed(),
        };
        self.service.audit.answered(noted, &answered);
        tracing::info!(
            request_id = call.request_id,
            client,
            tool = call.tool.name,
            code = outcome.err().map_or("ok", Code::name),
            ms = answered.duration.as_millis(),
            "called"
        );
    }
}

/// Refuses to delete a VM whose name was not given again.
fn require_confirmation(call: &Call) -> Result<(), Error> {
    if !call.tool.must_confirm(&call.arguments) || !call.arguments[CONFIRM].is_null() {
        return Ok(());
    }
    let name = call.arguments["name"].as_str().unwrap_or("NAME");
    Err(Error::invalid("a VM is deleted only where its name is given again")
        .hint(format!("Nothing was done. Give the same as `name` and as `{CONFIRM}`: {name}.")))
}

/// The id of a request, as other logs have it where it came over HTTP.
fn request_id(context: &RequestContext<RoleServer>) -> String {
    let head = context.extensions.get::<request::Parts>();
    let given = head.and_then(|head| head.headers.get("x-request-id")?.to_str().ok());
    given.map_or_else(|| Uuid::new_v4().to_string(), str::to_owned)
}

/// How far a job is, in words.
fn progress(view: &View) -> String {
    let step = view.step.as_deref().unwrap_or_else(|| view.state.name());
    let mib = |bytes: u64| bytes >> 20;
    match (view.bytes_done, view.bytes_total) {
        (Some(done), Some(total)) => format!("{step} ({} of {} MiB)", mib(done), mib(total)),
        (Some(done), None) => format!("{step} ({} MiB)", mib(done)),
        _ => step.to_owned(),
    }
}

/// A report as an answer. What is no JSON has no structure.
fn told(report: Report) -> CallToolResult {
    match report {
        Report::Json(value) => CallToolResult::structured(value),
        Report::Text(text) => CallToolResult::success(vec![ContentBlock::text(text)]),
        Report::Png(png) => CallToolResult::success(vec![ContentBlock::image(call::encoded(&png), "image/png")]),
    }
}

/// A failure as an answer: in words first, because not every client shows the structure to its model.
fn failed(failure: &Failure) -> CallToolResult {
    let mut result = CallToolResult::error(vec![ContentBlock::text(failure.text())]);
    result.structured_content = serde_json::to_value(failure).ok();
    result
}

impl ServerHandler for Agent {
    fn get_info(&self) -> ServerConfig {
        let capabilities = ServerCapabilities::builder()
            .enable_tools()
            .enable_resources()
            .enable_prompts()
            .enable_completions()
            .build();
        let server =
            Implementation::new("vmprov", env!("CARGO_PKG_VERSION")).with_title("vmprov: virtual machines on libvirt");
        ServerConfig::new(capabilities).with_server_info(server).with_instructions(self.instructions())
    }

    async fn list_tools(
        &self,
        _: Option<PaginatedRequestParams>,
        context: RequestContext<RoleServer>,
    ) -> Result<ListToolsResult, ErrorData> {
        let client = self.client(&context)?;
        let theirs = tools().iter().filter(|tool| failure::has(&client, tool.name));
        let tools = theirs.map(|tool| serde_json::from_value::<Definition>(format::mcp(tool)));
        let tools = tools.collect::<Result<_, _>>();
        let unread = |error: serde_json::Error| ErrorData::internal_error(error.to_string(), None);
        Ok(ListToolsResult::with_all_items(tools.map_err(unread)?))
    }

    async fn call_tool(
        &self,
        request: CallToolRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ErrorData> {
        let began = Instant::now();
        let tool = find(&request.name).map_err(|error| ErrorData::invalid_params(in_one_text(&error), None))?;
        let arguments = request.arguments.map_or_else(|| json!({}), Value::Object);
        let call = Call::new(tool, arguments, &*self.client(&context)?, request_id(&context));
        let noted = RequestInfo::default();
        if let Some(operation) = call.operation() {
            let _ = noted.operation.set(operation);
        }
        let answered = self.answer(&call, &context, &noted).await;
        self.note(&call, &noted, answered.as_ref().map(|_| ()).map_err(|error| error.code), began);
        Ok(match answered {
            Ok(report) => told(report),
            Err(error) => failed(&call.failure(error)),
        }
        .into())
    }

    async fn list_resources(
        &self,
        _: Option<PaginatedRequestParams>,
        context: RequestContext<RoleServer>,
    ) -> Result<ListResourcesResult, ErrorData> {
        Ok(ListResourcesResult::with_all_items(resources::list(&self.service, &self.client(&context)?).await?))
    }

    async fn list_resource_templates(
        &self,
        _: Option<PaginatedRequestParams>,
        _: RequestContext<RoleServer>,
    ) -> Result<ListResourceTemplatesResult, ErrorData> {
        Ok(ListResourceTemplatesResult::with_all_items(resources::templates()))
    }

    async fn read_resource(
        &self,
        request: ReadResourceRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<ReadResourceResponse, ErrorData> {
        resources::read(&self.service, &self.client(&context)?, &request.uri).await.map(Into::into)
    }

    async fn list_prompts(
        &self,
        _: Option<PaginatedRequestParams>,
        context: RequestContext<RoleServer>,
    ) -> Result<ListPromptsResult, ErrorData> {
        Ok(ListPromptsResult::with_all_items(prompts::list(self.client(&context)?.scope)))
    }

    async fn get_prompt(
        &self,
        request: GetPromptRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<GetPromptResponse, ErrorData> {
        let scope = self.client(&context)?.scope;
        prompts::get(scope, &request.name, &request.arguments.unwrap_or_default()).map(Into::into)
    }

    async fn complete(
        &self,
        request: CompleteRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<CompleteResult, ErrorData> {
        let client = self.client(&context)?;
        let values = resources::complete(&self.service, &client, &request).await?;
        CompletionInfo::new(values).map(CompleteResult::new).map_err(|error| ErrorData::internal_error(error, None))
    }

    /// What is no request of the protocol; calls are, where their arguments are an object.
    async fn on_custom_request(
        &self,
        request: CustomRequest,
        _: RequestContext<RoleServer>,
    ) -> Result<CustomResult, ErrorData> {
        let method = request.method;
        if method == "tools/call" {
            let form =
                "a call is {\"name\": TOOL, \"arguments\": {…}}, and the arguments are one JSON object, not text";
            return Err(ErrorData::invalid_params(form, None));
        }
        Err(ErrorData::new(
            ErrorCode::METHOD_NOT_FOUND,
            format!("there is no method `{}`", method.escape_debug()),
            None,
        ))
    }
}
