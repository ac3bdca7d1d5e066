//! The operations as every face but the command line offers them: each once, with its name, its members and their schema,
//! what it does to the world, its HTTP route, and a function from JSON to a report.
//!
//! The command line has the same structs by clap; `tests/faces.rs` holds that all faces offer the same.

mod builder;
mod constraints;
mod hints;
mod reference;
mod request;
mod schema;
mod table;

use std::{fmt, sync::LazyLock};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

pub use crate::error::ResourceKind as Kind;
use crate::{error::Result, ops::Host};
pub use hints::{as_command, as_request, command_line, with_members};
pub use reference::{Reference, Resource};
pub use request::{Names, again, members, nearest, typed, unknown_member};
pub use schema::{COMPONENTS, Schemas};

/// Every operation, in the order of the documentation.
pub fn operations() -> &'static [Operation] {
    static ALL: LazyLock<Vec<Operation>> = LazyLock::new(table::operations);
    &ALL
}

/// Finds an operation by its name.
pub fn find(name: &str) -> Option<&'static Operation> {
    operations().iter().find(|operation| operation.name == name)
}

/// Text as a part of a path.
pub fn segment(text: &str) -> String {
    const PLAIN: &percent_encoding::AsciiSet =
        &percent_encoding::NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b':');
    percent_encoding::utf8_percent_encode(text, PLAIN).to_string()
}

/// What an operation does to the world.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Effect {
    /// Nothing: it looks.
    Read,
    /// It makes or changes something.
    Change,
    /// Something may be gone afterwards.
    Destroy,
}

/// What a caller must be allowed to do; each includes the ones before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// To look.
    Read,
    /// To make, change and delete VMs and keys, and to fetch images.
    Operate,
    /// To change what belongs to nobody alone: images, the host, what was left behind.
    Admin,
}

impl Scope {
    /// Its word, on every face.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Operate => "operate",
            Self::Admin => "admin",
        }
    }
}

/// How long an operation takes, and what else it must not run beside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExecutionMode {
    /// It is answered at once, and one answer serves all who ask the same at the same time.
    Quick,
    /// It may take long: it has an id, its progress can be asked for, and it can be cancelled.
    Long,
    /// The same, and nearly all of that time it waits for a guest.
    Guest,
    /// The same, and nearly all of that time it computes: one runs at a time.
    Compute,
    /// It may take long, and is done one after the other for each VM, in the order in which they were asked for.
    Ordered,
}

/// What an operation answers with.
#[derive(Debug, Clone, PartialEq)]
pub enum Report {
    /// The report's struct.
    Json(Value),
    /// A PNG image.
    Png(Vec<u8>),
    /// One line of text.
    Text(String),
}

/// An operation.
pub struct Operation {
    /// Its name, for good: `vm_create`.
    pub name: &'static str,
    /// The words of the command line that do the same: `vm create`.
    pub command: &'static str,
    /// What it does, in one line.
    pub summary: &'static str,
    /// The HTTP method.
    pub method: &'static str,
    /// The route, whose `{…}` are members of the request.
    pub path: &'static str,
    /// The status of an answer that reports success.
    pub status: u16,
    /// What it does to the world.
    pub effect: Effect,
    /// What a caller must be allowed to do.
    pub scope: Scope,
    /// How long it takes.
    pub pace: ExecutionMode,
    /// The members of the request that name resources.
    pub references: Vec<Reference>,
    /// The resources of which it may create more; none where the row does not declare them.
    pub takes: Option<&'static [Resource]>,
    /// A request that names what must be named.
    pub example: Value,
    /// The request: an object.
    pub request: Value,
    /// The same with what it refers to in its place.
    pub complete: Value,
    /// The report; none where it is no JSON.
    pub report: Option<Value>,
    /// The schemas that both refer to.
    pub schemas: Schemas,
    read: Box<Read>,
    run: Box<Run>,
}

/// Reads the members of a request into its one form.
type Read = dyn Fn(Map<String, Value>, Names) -> Result<Value> + Send + Sync;

/// Runs on a request in that form.
type Run = dyn Fn(&Host, Value) -> Result<Report> + Send + Sync;

impl fmt::Debug for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Operation").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Operation {
    /// Reads a request: every member named, of its type, and in its one form, with the defaults. A null is a member that
    /// is left out.
    pub fn read(&self, request: Value) -> Result<Value> {
        self.read_as(request, &[])
    }

    /// Reads a request as [`Self::read`] does; errors call its members what a front end calls them.
    pub fn read_as(&self, request: Value, names: Names) -> Result<Value> {
        (self.read)(members(request, &self.complete)?, names)
    }

    /// Runs it with a request that [`Self::read`] has returned.
    pub fn run(&self, host: &Host, request: Value) -> Result<Report> {
        (self.run)(host, request)
    }

    /// The status over HTTP of an answer that reports success: what was there already has not been created.
    pub fn status_of(&self, report: &Report) -> u16 {
        let is_unchanged = matches!(report, Report::Json(value) if value["changed"] == Value::Bool(false));
        if is_unchanged { 200 } else { self.status }
    }

    /// The members that stand in the route.
    pub fn path_members(&self) -> impl Iterator<Item = &'static str> {
        self.path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'))
    }

    /// The members of the request and their schemas, those that must be named first.
    pub fn members(&self) -> impl Iterator<Item = (&String, &Value)> {
        self.request["properties"].as_object().into_iter().flatten()
    }

    /// Whether it may create more of a resource.
    pub fn may_take(&self, resource: Resource) -> bool {
        self.takes.is_some_and(|takes| takes.contains(&resource))
    }

    /// Whether a request waits for those about the same VM that came before it. What powers a VM off does not: it may be the
    /// way out of what is under way.
    pub fn is_ordered(&self, request: &Value) -> bool {
        self.pace == ExecutionMode::Ordered && request["force"] != Value::Bool(true)
    }

    /// Whether it waits for a guest, which keeps nothing busy.
    pub fn waits(&self) -> bool {
        self.pace == ExecutionMode::Guest
    }

    /// Whether a request keeps processors busy. An ed25519 key takes no time.
    pub fn computes(&self, request: &Value) -> bool {
        self.pace == ExecutionMode::Compute && request["type"] != "ed25519"
    }

    /// The VM that a request is about, where it is about one.
    pub fn vm<'r>(&self, request: &'r Value) -> Option<&'r str> {
        let reference = self.references.iter().find(|reference| reference.kind == Kind::Vm)?;
        request.get(reference.member)?.as_str()
    }
}

/// The member that names the VM that a request is about.
const VM: &str = "vm";
