//! [`View`]: an operation as clients see it.

use std::sync::Arc;

use jiff::Timestamp;
use serde::{Serialize, Serializer};
use utoipa::{
    ToSchema,
    openapi::{
        ObjectBuilder,
        schema::{SchemaType, Type},
    },
};
use uuid::Uuid;

use crate::{
    api::Report,
    error::{Error, WriteHint},
};

/// The state of an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(as = OperationState)]
pub(crate) enum State {
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

impl State {
    /// Returns the name in JSON.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Cancelling => "cancelling",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }

    pub(crate) const fn is_final(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Cancelled)
    }
}

/// An operation and its current state. Lists and events omit the result.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Operation)]
pub(crate) struct View {
    /// The ID of the operation.
    pub(crate) id: Uuid,
    /// What it does, such as `vm_create`.
    pub(crate) operation: &'static str,
    /// The VM in the request.
    pub(crate) vm: Option<String>,
    /// The current state.
    pub(crate) state: State,
    /// The current step.
    pub(crate) step: Option<String>,
    /// The bytes transferred in the current step.
    pub(crate) bytes_done: Option<u64>,
    /// The bytes to transfer in the current step, if known.
    pub(crate) bytes_total: Option<u64>,
    /// The name of the client that submitted it.
    pub(crate) client: String,
    /// The ID of the request that submitted it.
    pub(crate) request_id: String,
    /// When it was submitted (RFC 3339, UTC).
    pub(crate) created: Timestamp,
    /// When it started to run.
    pub(crate) started: Option<Timestamp>,
    /// When it ended.
    pub(crate) finished: Option<Timestamp>,
    /// The HTTP status of its outcome.
    pub(crate) status: Option<u16>,
    /// The report: an object or a text. Shared, because it may be large and several clients may read it.
    #[serde(serialize_with = "serialize_result")]
    #[schema(schema_with = result)]
    pub(crate) result: Option<Arc<Report>>,
    /// The error, if it failed or was cancelled.
    pub(crate) error: Option<Error>,
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

impl View {
    /// Returns the view with the hints of its error as a front end writes them.
    pub(crate) fn written(self, write: WriteHint) -> Self {
        Self { error: self.error.map(|error| error.written(write)), ..self }
    }
}
