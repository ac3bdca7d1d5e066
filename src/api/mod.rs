//! The table of operations, for every front end except the command line. Each operation has a name, the schema of its
//! request, its effect, its HTTP route, and a function from JSON to a report.
//!
//! The command line reads the same structs with clap. `tests/faces.rs` checks that all front ends offer the same.

mod builder;
mod constraints;
mod hints;
mod operation_view;
mod reference;
mod request;
mod schema;
mod table;
mod tool;

use std::{fmt, sync::LazyLock};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

pub use crate::error::ResourceKind as Kind;
use crate::{
    error::{Call, Result},
    ops::Host,
};
pub use hints::{as_command, as_request, command_line, with_members};
pub use operation_view::{OperationState, OperationView};
pub use reference::{Reference, Resource};
pub use request::{Names, members, nearest, reread, typed, unknown_member};
pub use schema::{COMPONENTS, Schemas};
pub use tool::{Brief, ToolPart};

/// Every operation, in the order of the documentation.
pub fn operations() -> &'static [Operation] {
    static ALL: LazyLock<Vec<Operation>> = LazyLock::new(table::operations);
    &ALL
}

/// Finds an operation by its name.
pub fn find(name: &str) -> Option<&'static Operation> {
    operations().iter().find(|operation| operation.name == name)
}

/// Returns text as a segment of a URL's path, percent-encoded.
pub fn segment(text: &str) -> String {
    const PLAIN: &percent_encoding::AsciiSet =
        &percent_encoding::NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b':');
    percent_encoding::utf8_percent_encode(text, PLAIN).to_string()
}

/// The effect of an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Effect {
    /// It only reads.
    Read,
    /// It creates or changes something.
    Change,
    /// It may delete something.
    Destroy,
}

/// The scope that a caller needs; each includes the ones before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// Read everything.
    Read,
    /// Create, change and delete VMs and keys, and fetch images.
    Operate,
    /// Change what all clients share: images, the host, leftovers.
    Admin,
}

impl Scope {
    /// Returns its name, as in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Operate => "operate",
            Self::Admin => "admin",
        }
    }
}

/// How an operation is run: whether as a job, and what it must not run in parallel with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExecutionMode {
    /// It is answered immediately. Identical concurrent requests share one response.
    Quick,
    /// It may take long and is a job: it has an id, its progress can be polled, and it can be canceled.
    Long,
    /// A job that spends nearly all of its time waiting for a guest.
    Guest,
    /// A job that spends nearly all of its time computing. Only one of these runs at a time.
    Compute,
    /// A job that waits for earlier jobs of the same VM: they run one after the other, in the order of their requests.
    Ordered,
}

/// The result of an operation.
#[derive(Debug, Clone, PartialEq)]
pub enum Report {
    /// A report as JSON.
    Json(Value),
    /// A PNG image.
    Png(Vec<u8>),
    /// One line of text.
    Text(String),
}

/// An operation.
pub struct Operation {
    /// Its permanent name: `vm_create`.
    pub name: &'static str,
    /// The equivalent command: `vm create`.
    pub command: &'static str,
    /// A summary in one line.
    pub summary: &'static str,
    /// The HTTP method.
    pub method: &'static str,
    /// The route. Each `{…}` is a member of the request.
    pub path: &'static str,
    /// The HTTP status of success.
    pub status: u16,
    /// Its effect.
    pub effect: Effect,
    /// The scope that a caller needs.
    pub scope: Scope,
    /// How it is run.
    pub mode: ExecutionMode,
    /// The members of the request that name resources.
    pub references: Vec<Reference>,
    /// The resources that it may create, or `None` if the table does not declare them.
    pub takes: Option<&'static [Resource]>,
    /// The switches that only an administrator may set, each with what it does.
    pub admin_switches: Vec<(&'static str, &'static str)>,
    /// What it does to the whole host, which a client that is limited to a prefix may not do.
    pub whole_host: Option<&'static str>,
    /// What it adds to its tool for language models. An operation without it has no tool.
    pub tool: Option<ToolPart>,
    /// Examples of its command: what one does, and the line to type.
    shell: &'static [(&'static str, &'static str)],
    /// An example: a request with every required member.
    pub example: Value,
    /// The schema of the request, an object.
    pub request: Value,
    /// The schema of the request with every reference replaced by its target.
    pub complete: Value,
    /// The schema of the report, or `None` if it is not JSON.
    pub report: Option<Value>,
    /// The schemas that request and report refer to.
    pub schemas: Schemas,
    read: Box<Read>,
    run: Box<Run>,
}

/// Reads the members of a request into its canonical form.
type Read = dyn Fn(Map<String, Value>, Names) -> Result<Value> + Send + Sync;

/// Runs the operation with a request in canonical form.
type Run = dyn Fn(&Host, Value) -> Result<Report> + Send + Sync;

impl fmt::Debug for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Operation").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Operation {
    /// Reads a request. Checks the names, types and forms of its members, and returns it in canonical form, with the
    /// defaults. A null is treated as a missing member.
    pub fn read(&self, request: Value) -> Result<Value> {
        self.read_as(request, &[])
    }

    /// Reads a request as [`Self::read`] does. Errors use a front end's own names of the members.
    pub fn read_as(&self, request: Value, names: Names) -> Result<Value> {
        (self.read)(members(request, &self.complete)?, names)
    }

    /// Runs it with a request that [`Self::read`] returned.
    pub fn run(&self, host: &Host, request: Value) -> Result<Report> {
        (self.run)(host, request)
    }

    /// Returns the HTTP status of a report. It is 200 instead of 201 if the resource existed already.
    pub fn status_of(&self, report: &Report) -> u16 {
        let is_unchanged = matches!(report, Report::Json(value) if value["changed"] == Value::Bool(false));
        if is_unchanged { 200 } else { self.status }
    }

    /// Returns the members in the route.
    pub fn path_members(&self) -> impl Iterator<Item = &'static str> {
        self.path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'))
    }

    /// Returns the members of the request and their schemas; required members come first.
    pub fn members(&self) -> impl Iterator<Item = (&String, &Value)> {
        self.request["properties"].as_object().into_iter().flatten()
    }

    /// Returns the examples of its command. By default, it is the example of a request as a command line.
    pub fn shell_examples(&self) -> Vec<(&'static str, String)> {
        if self.shell.is_empty() {
            let members = self.example.as_object().cloned().unwrap_or_default();
            return vec![(self.summary, command_line(&Call { operation: self.name, members }))];
        }
        self.shell.iter().map(|&(about, line)| (about, line.to_owned())).collect()
    }

    /// Returns the path of the resource that a request creates, if it creates one. This is where the resource is read.
    pub fn location(&self, request: &Value) -> Option<String> {
        let new = self.references.iter().find(|reference| reference.is_new && self.status == 201)?;
        let reads = |operation: &&Self| {
            let mut references = operation.references.iter();
            operation.method == "GET"
                && references.any(|of| of.kind == new.kind && operation.path.ends_with(&format!("/{{{}}}", of.member)))
        };
        let (collection, _) = operations().iter().find(reads)?.path.rsplit_once('/')?;
        Some(format!("{collection}/{}", segment(request.get(new.member)?.as_str()?)))
    }

    /// Returns whether it may create a resource.
    pub fn may_take(&self, resource: Resource) -> bool {
        self.takes.is_some_and(|takes| takes.contains(&resource))
    }

    /// Returns whether a request waits for earlier requests about the same VM. A request that powers a VM off does not
    /// wait, because it may be needed to end the running operation.
    pub fn is_ordered(&self, request: &Value) -> bool {
        self.mode == ExecutionMode::Ordered && request["force"] != Value::Bool(true)
    }

    /// Returns whether it waits for a guest, which uses no resources of the host.
    pub fn waits(&self) -> bool {
        self.mode == ExecutionMode::Guest
    }

    /// Returns whether a request keeps CPUs busy. Generating an ed25519 key does not.
    pub fn computes(&self, request: &Value) -> bool {
        self.mode == ExecutionMode::Compute && request["type"] != "ed25519"
    }

    /// Returns the VM that a request is about, if any.
    pub fn vm<'r>(&self, request: &'r Value) -> Option<&'r str> {
        let reference = self.references.iter().find(|reference| reference.kind == Kind::Vm)?;
        request.get(reference.member)?.as_str()
    }
}

/// The member that names the VM that a request is about.
const VM: &str = "vm";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_created_resource_has_the_path_at_which_it_is_read() {
        let created = operations().iter().filter(|operation| operation.status == 201);
        let locations: Vec<_> = created.map(|operation| operation.location(&operation.example)).collect();
        let expected = ["/api/vms/web", "/api/images/golden", "/api/images/golden", "/api/ssh-keys/dev"];
        assert_eq!(locations, expected.map(|path| Some(path.to_owned())));
        assert!(find("vm_start").is_some_and(|start| start.location(&start.example).is_none()));
    }
}
