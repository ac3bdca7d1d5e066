//! The crate's only error type: what failed, why, and what to do next.
//!
//! The [`Code`] decides the exit status, the HTTP status and whether a retry can help, so that shell scripts, HTTP
//! clients and language models get the same information. Printing an error is up to the front ends.

mod fault;
mod hint;

use std::fmt;

use serde::{Serialize, Serializer, ser::SerializeStruct};
use serde_json::Value;

pub use fault::{Fault, ResourceKind};
pub use hint::{Action, Call, Hint, WriteHint, join};

/// The result of every fallible function of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A failure: its kind, what failed, why (in the words of the program or operating system), and what to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    /// The kind. Every status is derived from it.
    pub code: Code,
    /// What failed: one sentence without a full stop.
    pub message: String,
    /// Why, in the words of the tool or the operating system.
    pub cause: Option<String>,
    /// What to do next.
    pub hints: Vec<Hint>,
    /// The cause as a code, if it is a known one.
    pub fault: Option<Box<Fault>>,
    /// Further information for programs, as a JSON object. Its members depend on the error.
    pub details: Option<Box<Value>>,
}

impl Error {
    /// Returns an error of a kind.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), cause: None, hints: Vec::new(), fault: None, details: None }
    }

    /// Returns an error about invalid input.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(Code::InvalidInput, message)
    }

    /// Returns an error about a resource that does not exist.
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(Code::NotFound, message)
    }

    /// Returns an error about a resource whose current state does not allow the request.
    pub fn conflict(message: impl Into<String>) -> Self {
        Self::new(Code::Conflict, message)
    }

    /// Returns an error about a bug in vmprov.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(Code::Internal, message)
    }

    /// Converts an I/O error. `what` completes "cannot …" and names the path.
    pub fn io(what: impl fmt::Display, error: &std::io::Error) -> Self {
        use std::io::ErrorKind as Kind;
        let code = match error.kind() {
            Kind::NotFound => Code::NotFound,
            Kind::PermissionDenied | Kind::ReadOnlyFilesystem => Code::Denied,
            Kind::AlreadyExists => Code::AlreadyExists,
            Kind::IsADirectory
            | Kind::NotADirectory
            | Kind::InvalidFilename
            | Kind::InvalidInput
            | Kind::InvalidData => Code::InvalidInput,
            _ => Code::ToolFailed,
        };
        let failed = Self::new(code, format!("cannot {what}")).because(error);
        if error.kind() == Kind::StorageFull { failed.fault(Fault::DiskFull) } else { failed }
    }

    /// Adds a hint: what to do next.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<Hint>) -> Self {
        self.hints.push(hint.into());
        self
    }

    /// Sets the cause as a code.
    #[must_use]
    pub fn fault(self, fault: Fault) -> Self {
        Self { fault: Some(Box::new(fault)), ..self }
    }

    /// Returns the first shell command that a hint suggests.
    pub fn command(&self) -> Option<&str> {
        self.hints.iter().find_map(Hint::command)
    }

    /// Returns all hints as one text, each written by a front end's function.
    pub fn hint_text(&self, write: impl Fn(&Hint) -> String) -> Option<String> {
        join(self.hints.iter().map(write))
    }

    /// Returns the error with all its hints written by a front end's function, as one text.
    #[must_use]
    pub fn written(self, write: impl Fn(&Hint) -> String) -> Self {
        let hints = self.hint_text(write).map(Hint::new).into_iter().collect();
        Self { hints, ..self }
    }

    /// Sets further information for programs.
    #[must_use]
    pub fn details(mut self, details: Value) -> Self {
        self.details = Some(Box::new(details));
        self
    }

    /// Sets the cause.
    #[must_use]
    pub fn because(mut self, cause: impl fmt::Display) -> Self {
        self.cause = Some(cause.to_string());
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        if let Some(cause) = &self.cause {
            write!(f, ": {cause}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {}

impl Serialize for Error {
    /// Writes `{"error", "code", "exitStatus", "cause", "hint", "retryable", "details"}`. The message is in `error`,
    /// because the first clients read that member.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut object = serializer.serialize_struct("Error", 7)?;
        object.serialize_field("error", &self.message)?;
        object.serialize_field("code", &self.code)?;
        object.serialize_field("exitStatus", &self.code.exit_status())?;
        object.serialize_field("cause", &self.cause)?;
        object.serialize_field("hint", &self.hint_text(|hint| hint.text.clone()))?;
        object.serialize_field("retryable", &self.code.is_retryable())?;
        object.serialize_field("details", &self.details)?;
        object.end()
    }
}

/// The kind of a failure. A caller decides by it how to react.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Code {
    /// A bug in vmprov.
    Internal,
    /// The input cannot be parsed, is out of range or contradicts itself.
    InvalidInput,
    /// No such VM, key, image, pool, network or file.
    NotFound,
    /// The name is already in use.
    AlreadyExists,
    /// The resource's current state does not allow this.
    Conflict,
    /// An idempotency key was already used for a different request.
    KeyReused,
    /// Another vmprov is working on the same resource.
    Busy,
    /// The operating system or libvirt denied access.
    Denied,
    /// The client is not authorized: by its token's scope or names, or by the limits of an agent.
    Forbidden,
    /// The client's quota is exceeded.
    QuotaExceeded,
    /// A program that vmprov needs is not installed.
    ToolMissing,
    /// An external program failed for a reason that vmprov does not recognize.
    ToolFailed,
    /// libvirtd, a guest or a download host is unreachable.
    Unreachable,
    /// A call or a wait exceeded its time limit.
    Timeout,
    /// The guest itself failed, so waiting longer cannot help.
    GuestFailed,
    /// Canceled, for example by a signal. The changes were rolled back.
    Interrupted,
}

impl Serialize for Code {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

impl Code {
    /// All codes, in the order of the documentation's table.
    pub const ALL: [Self; 16] = [
        Self::Internal,
        Self::InvalidInput,
        Self::NotFound,
        Self::AlreadyExists,
        Self::Conflict,
        Self::KeyReused,
        Self::Busy,
        Self::Denied,
        Self::Forbidden,
        Self::QuotaExceeded,
        Self::ToolMissing,
        Self::ToolFailed,
        Self::Unreachable,
        Self::Timeout,
        Self::GuestFailed,
        Self::Interrupted,
    ];

    /// Returns the name in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Internal => "internal",
            Self::InvalidInput => "invalid_input",
            Self::NotFound => "not_found",
            Self::AlreadyExists => "already_exists",
            Self::Conflict => "conflict",
            Self::KeyReused => "key_reused",
            Self::Busy => "busy",
            Self::Denied => "denied",
            Self::Forbidden => "forbidden",
            Self::QuotaExceeded => "quota_exceeded",
            Self::ToolMissing => "tool_missing",
            Self::ToolFailed => "tool_failed",
            Self::Unreachable => "unreachable",
            Self::Timeout => "timeout",
            Self::GuestFailed => "guest_failed",
            Self::Interrupted => "interrupted",
        }
    }

    /// Returns the exit status of the command line.
    pub const fn exit_status(self) -> u8 {
        match self {
            Self::Internal => 1,
            Self::InvalidInput => 2,
            Self::NotFound => 3,
            Self::AlreadyExists | Self::Conflict | Self::KeyReused => 4,
            Self::Busy => 5,
            Self::Denied | Self::Forbidden | Self::QuotaExceeded => 6,
            Self::ToolMissing => 7,
            Self::ToolFailed => 8,
            Self::Unreachable => 9,
            Self::Timeout => 10,
            Self::GuestFailed => 11,
            Self::Interrupted => 130,
        }
    }

    /// Returns the HTTP status (RFC 9110, section 15).
    pub const fn http_status(self) -> u16 {
        match self {
            Self::InvalidInput => 400,
            Self::Denied | Self::Forbidden | Self::QuotaExceeded => 403,
            Self::NotFound => 404,
            Self::AlreadyExists | Self::Conflict => 409,
            Self::KeyReused => 422,
            Self::Busy => 423,
            Self::Internal | Self::ToolMissing | Self::ToolFailed => 500,
            Self::GuestFailed => 502,
            Self::Unreachable | Self::Interrupted => 503,
            Self::Timeout => 504,
        }
    }

    /// Returns whether the same request can succeed later without a change.
    pub const fn is_retryable(self) -> bool {
        matches!(self, Self::Busy | Self::Unreachable | Self::Timeout | Self::Interrupted)
    }

    /// Returns what the code means, for the table in the manual.
    pub const fn meaning(self) -> &'static str {
        match self {
            Self::Internal => "a bug in vmprov",
            Self::InvalidInput => "the arguments or the input are invalid",
            Self::NotFound => "no such VM, key, image, pool, network or file",
            Self::AlreadyExists => "the name is already in use",
            Self::Conflict => "the resource's current state does not allow this",
            Self::KeyReused => "the Idempotency-Key was already used for a different request",
            Self::Busy => "another vmprov is working on the same resource",
            Self::Denied => "the operating system or libvirt denied access",
            Self::Forbidden => "the client is not authorized",
            Self::QuotaExceeded => "quota exceeded",
            Self::ToolMissing => "a required program is not installed",
            Self::ToolFailed => "an external program failed",
            Self::Unreachable => "libvirtd, the guest or the download host is unreachable",
            Self::Timeout => "a call or a wait exceeded its time limit",
            Self::GuestFailed => {
                "the guest failed: no boot device, kernel panic, unexpected shutdown, cloud-init error"
            }
            Self::Interrupted => "interrupted; changes were rolled back",
        }
    }
}
