//! [`View`]: an operation as its clients are shown it.

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

/// How far an operation is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(as = OperationState)]
pub(crate) enum State {
    /// It waits for its turn.
    Queued,
    /// It is at it.
    Running,
    /// It has been told to end, and undoes what it has done.
    Cancelling,
    /// It has succeeded.
    Succeeded,
    /// It has failed, and undone what it had done.
    Failed,
    /// It was cancelled, and has undone what it had done.
    Cancelled,
}

impl State {
    /// Its word, on every face.
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

/// An operation that was asked for, as it is now. Its result is left out of lists and events.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Operation)]
pub(crate) struct View {
    /// What it is asked for by, at `/api/operations/{id}`.
    pub(crate) id: Uuid,
    /// What it does.
    pub(crate) operation: &'static str,
    /// The VM that it is about.
    pub(crate) vm: Option<String>,
    /// How far it is.
    pub(crate) state: State,
    /// What is being done now.
    pub(crate) step: Option<String>,
    /// How many bytes of that are done.
    pub(crate) bytes_done: Option<u64>,
    /// Of how many, where that is known.
    pub(crate) bytes_total: Option<u64>,
    /// Who asked for it.
    pub(crate) client: String,
    /// The request that asked for it.
    pub(crate) request_id: String,
    /// When it was asked for (RFC 3339, UTC).
    pub(crate) created: Timestamp,
    /// When it was begun.
    pub(crate) started: Option<Timestamp>,
    /// When it ended.
    pub(crate) finished: Option<Timestamp>,
    /// The HTTP status that it is answered with.
    pub(crate) status: Option<u16>,
    /// What came of it: the report, or the text that it is. Shared, because it may be large and many may ask for it.
    #[serde(serialize_with = "serialize_result")]
    #[schema(schema_with = result)]
    pub(crate) result: Option<Arc<Report>>,
    /// Why it failed.
    pub(crate) error: Option<Error>,
}

fn result() -> utoipa::openapi::Object {
    let kinds = [Type::Object, Type::String, Type::Null];
    ObjectBuilder::new()
        .schema_type(SchemaType::from_iter(kinds))
        .description(Some("The report, or the text that it is. Null in lists and events."))
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
