//! The Model Context Protocol: [`Agent`] serves one client, over a pipe or over HTTP.
//!
//! A failed call is a result, which the model reads. Many clients do not show errors of the protocol to the model.

use std::{
    convert::Infallible,
    sync::Arc,
    time::{Duration, Instant},
};

use rmcp::{
    ErrorData, RoleServer, ServerHandler,
    model::{
        CallToolRequestParams, CallToolResponse, CallToolResult, CompleteRequestParams, CompleteResult, CompletionInfo,
        ContentBlock, CustomRequest, CustomResult, ErrorCode, Extensions, GetPromptRequestParams, GetPromptResponse,
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
    call::{self, Answer, Call},
    failure::{self, Failure, in_one_text},
    find, format, prompts, resources,
    tool::CONFIRM,
    tools,
};
use crate::{
    api::{OperationView, Report, Scope},
    error::{Code, Error},
    service::{
        ANSWER_WITHIN, Service,
        audit::{AuditOrigin, AuditResponse, RequestInfo},
        client::Client,
        job::Job,
    },
};

/// The instructions for every client.
const INSTRUCTIONS: &str = "vmprov creates virtual machines from cloud images, adds SSH keys to them, and runs \
commands in them. Typical sequence: image_search; ssh_key_generate; vm_create with image, sshKeys and wait \"ssh\"; \
vm_exec; vm_delete. A call that takes long returns an operation: call operation_get with its ID until it has ended, \
and do not repeat the call. Every error names the tool to call next.";

/// The interval of progress notifications.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(1);

/// Limits the number of concurrent calls of all clients.
static CALL_PERMITS: Semaphore = Semaphore::const_new(256);

/// Who sent a message, and the ID of its request in all logs.
pub(crate) struct Sender {
    pub(crate) client: Arc<Client>,
    pub(crate) request_id: String,
}

/// The clients of a connection.
#[derive(Clone)]
pub(crate) enum Clients {
    /// All messages are from one client.
    One(Arc<Client>),
    /// The transport authenticates the sender of each message. A session cannot be used with another token.
    Any(fn(&Extensions) -> Option<Sender>),
}

/// The server's end of one connection.
#[derive(Clone)]
pub(crate) struct Agent {
    pub(crate) service: Arc<Service>,
    pub(crate) clients: Clients,
    /// The time after which a call returns a running operation to poll.
    pub(crate) answer_within: Duration,
}

impl Agent {
    fn sender(&self, context: &RequestContext<RoleServer>) -> Result<Sender, ErrorData> {
        match &self.clients {
            Clients::One(client) => Ok(Sender { client: client.clone(), request_id: Uuid::new_v4().to_string() }),
            Clients::Any(sender) => sender(&context.extensions)
                .ok_or_else(|| ErrorData::internal_error("the request was not authenticated", None)),
        }
    }

    fn client(&self, context: &RequestContext<RoleServer>) -> Result<Arc<Client>, ErrorData> {
        self.sender(context).map(|sender| sender.client)
    }

    /// Returns the instructions for the client, with its restrictions if they are known.
    fn instructions(&self) -> String {
        let Clients::One(client) = &self.clients else {
            return format!("{INSTRUCTIONS} Your token may restrict the names that you can use; an error says how.");
        };
        let read_only = (client.scope == Scope::Read).then_some(" Only read-only tools are available.");
        let names =
            client.prefix.as_ref().map(|prefix| format!(" The names of all VMs and keys must begin with `{prefix}`."));
        let ttl =
            client.ttl_default.map(|ttl| format!(" A VM expires after {ttl} unless vm_create is given another ttl."));
        [Some(INSTRUCTIONS), read_only, names.as_deref(), ttl.as_deref()].into_iter().flatten().collect()
    }

    /// Runs a call and returns its report.
    async fn answer(
        &self,
        call: &Call,
        context: &RequestContext<RoleServer>,
        info: &RequestInfo,
    ) -> Result<Report, Error> {
        let _permit = CALL_PERMITS
            .try_acquire()
            .map_err(|_| Error::new(Code::Busy, "too many concurrent calls").hint("Try again later"))?;
        let since = Instant::now();
        require_confirmation(call)?;
        let request = call.request()?;
        let _ = info.targets.set(call.targets(&request));
        let watched = call.watched(&self.service, &request);
        let beginning = call.begin(&self.service, request);
        let answer = match &watched {
            Some(job) => tokio::select! {
                answer = beginning => answer,
                never = self.notify_progress(job, context) => match never {},
            },
            None => beginning.await,
        };
        match answer? {
            Answer::Done(report) => Ok(report),
            Answer::Job(job) => {
                let _ = info.job.set(job.id);
                self.wait(&job, context, self.answer_within.saturating_sub(since.elapsed())).await;
                call.outcome(&job).unwrap_or_else(|| {
                    let pending = serde_json::to_value(call::pending(&job)).map(Report::Json);
                    pending.map_err(|error| Error::internal("cannot write the operation").because(error))
                })
            }
        }
    }

    /// Waits until a job has ended or the time limit is reached, and sends progress notifications. If the client
    /// cancels the call, the job is canceled and rolled back.
    async fn wait(&self, job: &Job, context: &RequestContext<RoleServer>, limit: Duration) {
        tokio::select! {
            () = job.ends_within(limit) => {}
            never = self.notify_progress(job, context) => match never {},
            () = context.ct.cancelled() => {
                job.stop();
                job.ends_within(ANSWER_WITHIN).await;
            }
        }
    }

    /// Sends progress notifications of a job, if the client requested them.
    async fn notify_progress(&self, job: &Job, context: &RequestContext<RoleServer>) -> Infallible {
        let Some(token) = context.meta.get_progress_token() else { return std::future::pending().await };
        for count in 1_u32.. {
            let progress =
                ProgressNotificationParam::new(token.clone(), f64::from(count)).with_message(progress(&job.summary()));
            if context.peer.notify_progress(progress).await.is_err() {
                // The client has disconnected; the call ends on its own.
                break;
            }
            tokio::time::sleep(PROGRESS_INTERVAL).await;
        }
        std::future::pending().await
    }

    /// Writes a call and its outcome to the audit log and to the log.
    fn log(&self, call: &Call, info: &RequestInfo, outcome: Result<(), Code>, began: Instant) {
        let client = &call.client.name;
        let (route, job) = (format!("mcp {}", call.tool.name), info.job.get().map(ToString::to_string));
        let response = AuditResponse {
            origin: AuditOrigin { client: Some(client), peer: None, method: "CALL", route: &route },
            request_id: &call.request_id,
            status: outcome.map_or_else(Code::http_status, |()| 200),
            code: outcome.err().map(Code::name),
            operation_id: job.as_deref(),
            duration: began.elapsed(),
        };
        self.service.audit.record_response(info, &response);
        tracing::info!(
            request_id = call.request_id,
            client,
            tool = call.tool.name,
            code = outcome.err().map_or("ok", Code::name),
            ms = response.duration.as_millis(),
            "called"
        );
    }
}

/// Refuses to delete a VM without a confirmation, which repeats its name.
fn require_confirmation(call: &Call) -> Result<(), Error> {
    if !call.tool.must_confirm(&call.arguments) || !call.arguments[CONFIRM].is_null() {
        return Ok(());
    }
    let name = call.arguments["name"].as_str().unwrap_or("NAME");
    Err(Error::invalid(format!("deleting a VM requires a confirmation: `{CONFIRM}` must equal `name`"))
        .hint(format!("Repeat the name in `{CONFIRM}`: {name}")))
}

/// Returns the progress of a job as text.
fn progress(view: &OperationView) -> String {
    let step = view.step.as_deref().unwrap_or_else(|| view.state.into());
    let mib = |bytes: u64| bytes >> 20;
    match (view.bytes_done, view.bytes_total) {
        (Some(done), Some(total)) => format!("{step} ({} of {} MiB)", mib(done), mib(total)),
        (Some(done), None) => format!("{step} ({} MiB)", mib(done)),
        _ => step.to_owned(),
    }
}

/// Returns a report as the result of a call. Only JSON has structured content.
fn succeeded(report: Report) -> CallToolResult {
    match report {
        Report::Json(value) => CallToolResult::structured(value),
        Report::Text(text) => CallToolResult::success(vec![ContentBlock::text(text)]),
        Report::Png(png) => CallToolResult::success(vec![ContentBlock::image(call::encoded(&png), "image/png")]),
    }
}

/// Returns a failure as the result of a call. It has text, too, because not every client shows structured content to
/// its model.
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
        let allowed = tools().iter().filter(|tool| failure::has(&client, tool.name));
        let definitions = allowed.map(|tool| serde_json::from_value::<Definition>(format::mcp(tool)));
        let definitions = definitions.collect::<Result<_, _>>();
        let invalid = |error: serde_json::Error| ErrorData::internal_error(error.to_string(), None);
        Ok(ListToolsResult::with_all_items(definitions.map_err(invalid)?))
    }

    async fn call_tool(
        &self,
        request: CallToolRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ErrorData> {
        let began = Instant::now();
        let tool = find(&request.name).map_err(|error| ErrorData::invalid_params(in_one_text(&error), None))?;
        let arguments = request.arguments.map_or_else(|| json!({}), Value::Object);
        let Sender { client, request_id } = self.sender(&context)?;
        let call = Call::new(tool, arguments, &client, request_id);
        let info = RequestInfo::default();
        if let Some(operation) = call.operation() {
            let _ = info.operation.set(operation);
        }
        let result = self.answer(&call, &context, &info).await;
        self.log(&call, &info, result.as_ref().map(|_| ()).map_err(|error| error.code), began);
        Ok(match result {
            Ok(report) => succeeded(report),
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

    /// Refuses a request that is not part of the protocol. A call whose arguments are not an object arrives here, too.
    async fn on_custom_request(
        &self,
        request: CustomRequest,
        _: RequestContext<RoleServer>,
    ) -> Result<CustomResult, ErrorData> {
        let method = request.method;
        if method == "tools/call" {
            let form =
                "invalid call: it must be {\"name\": TOOL, \"arguments\": {…}}, where the arguments are a JSON object";
            return Err(ErrorData::invalid_params(form, None));
        }
        Err(ErrorData::new(ErrorCode::METHOD_NOT_FOUND, format!("unknown method `{}`", method.escape_debug()), None))
    }
}
