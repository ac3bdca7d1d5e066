//! [`OperationView`]: a submitted operation as clients see it.

use std::sync::Arc;

use jiff::Timestamp;
use serde::{Serialize, Serializer};
use serde_json::Value;
use utoipa::{
    ToSchema,
    openapi::{
        ObjectBuilder,
        schema::{SchemaType, Type},
    },
};
use uuid::Uuid;

use super::{Operation, Report};
use crate::error::{Code, Error, Result, WriteHint};

/// The state of an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema, strum::Display, strum::IntoStaticStr)]
#[serde(rename_all = "lowercase")]
#[schema(as = OperationState)]
#[strum(serialize_all = "lowercase")]
pub enum OperationState {
    /// Waiting to run.
    Queued,
    /// Running.
    Running,
    /// Cancelled, and rolling back its changes.
    Cancelling,
    /// Succeeded.
    Succeeded,
    /// Failed; its changes were rolled back.
    Failed,
    /// Cancelled; its changes were rolled back.
    Cancelled,
}

impl OperationState {
    /// Returns whether the operation has ended.
    pub const fn is_final(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Cancelled)
    }
}

/// An operation and its current state. Lists and events omit the result.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Operation)]
pub struct OperationView {
    /// The ID of the operation.
    pub id: Uuid,
    /// What it does, such as `vm_create`.
    pub operation: &'static str,
    /// The VM in the request.
    pub vm: Option<String>,
    /// The current state.
    pub state: OperationState,
    /// The current step.
    pub step: Option<String>,
    /// The bytes transferred in the current step.
    pub bytes_done: Option<u64>,
    /// The bytes to transfer in the current step, if known.
    pub bytes_total: Option<u64>,
    /// The name of the client that submitted it.
    pub client: String,
    /// The ID of the request that submitted it.
    pub request_id: String,
    /// When it was submitted (RFC 3339, UTC).
    pub created: Timestamp,
    /// When it started to run.
    pub started: Option<Timestamp>,
    /// When it ended.
    pub finished: Option<Timestamp>,
    /// The HTTP status of its outcome.
    pub status: Option<u16>,
    /// The report: an object or a text. Shared, because it may be large and several clients may read it.
    #[serde(serialize_with = "serialize_result")]
    #[schema(schema_with = result)]
    pub result: Option<Arc<Report>>,
    /// The error, if it failed or was cancelled.
    pub error: Option<Error>,
}

fn result() -> utoipa::openapi::Object {
    let kinds = [Type::Object, Type::String, Type::Null];
    ObjectBuilder::new()
        .schema_type(SchemaType::from_iter(kinds))
        .description(Some("The report: an object or a text. Null in lists and events."))
        .build()
}

#[expect(clippy::ref_option, reason = "serde passes a reference to the member")]
fn serialize_result<S: Serializer>(result: &Option<Arc<Report>>, serializer: S) -> Result<S::Ok, S::Error> {
    match result.as_deref() {
        Some(Report::Json(value)) => value.serialize(serializer),
        Some(Report::Text(text)) => serializer.serialize_str(text),
        Some(Report::Png(_)) | None => serializer.serialize_none(),
    }
}

impl OperationView {
    /// Returns a new operation, which waits to run.
    pub fn new(operation: &Operation, request: &Value, client: &str, request_id: &str) -> Self {
        Self {
            id: Uuid::new_v4(),
            operation: operation.name,
            vm: operation.vm(request).map(str::to_owned),
            state: OperationState::Queued,
            step: None,
            bytes_done: None,
            bytes_total: None,
            client: client.to_owned(),
            request_id: request_id.to_owned(),
            created: Timestamp::now(),
            started: None,
            finished: None,
            status: None,
            result: None,
            error: None,
        }
    }

    /// Records that the operation has ended.
    pub fn end(&mut self, operation: &Operation, outcome: &Result<Report>) {
        self.finished = Some(Timestamp::now());
        (self.step, self.bytes_done, self.bytes_total) = (None, None, None);
        match outcome {
            Ok(report) => {
                self.state = OperationState::Succeeded;
                self.status = Some(operation.status_of(report));
            }
            Err(error) => {
                let is_cancelled = self.state == OperationState::Cancelling && error.code == Code::Interrupted;
                self.state = if is_cancelled { OperationState::Cancelled } else { OperationState::Failed };
                self.status = Some(error.code.http_status());
                self.error = Some(error.clone());
            }
        }
    }

    /// Returns the view with the hints of its error as a front end writes them.
    #[must_use]
    pub fn written(self, write: WriteHint) -> Self {
        Self { error: self.error.map(|error| error.written(write)), ..self }
    }
}
