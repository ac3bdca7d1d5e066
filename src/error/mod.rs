//! The one error type: what failed, why, and what to do next.
//!
//! The [`Code`] decides the exit status, the HTTP status and whether a retry can help, so that a shell script, an
//! HTTP client and a language model are told the same thing. Nothing here knows how an error is printed.

mod fault;
mod hint;

use std::fmt;

use serde::{Serialize, Serializer, ser::SerializeStruct};
use serde_json::Value;

pub use fault::{Fault, ResourceKind};
pub use hint::{Action, Call, Hint, WriteHint, join};

/// What every fallible function of this crate returns.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A failure: its kind, what failed, why in the words of whoever said so, and what to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    /// The kind, from which every status is derived.
    pub code: Code,
    /// What failed: one sentence without a full stop.
    pub message: String,
    /// Why, in the words of the tool or the operating system.
    pub cause: Option<String>,
    /// What to do next.
    pub hints: Vec<Hint>,
    /// The fault behind it, where it is a known one.
    pub fault: Option<Box<Fault>>,
    /// What a program may want to know beyond that: members named by whoever fails.
    pub details: Option<Box<Value>>,
}

impl Error {
    /// Makes an error of a kind.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), cause: None, hints: Vec::new(), fault: None, details: None }
    }

    /// Something the caller gave cannot be used.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(Code::InvalidInput, message)
    }

    /// Something named does not exist.
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(Code::NotFound, message)
    }

    /// The thing is in a state in which this cannot be done.
    pub fn conflict(message: impl Into<String>) -> Self {
        Self::new(Code::Conflict, message)
    }

    /// A fault of vmprov's own.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(Code::Internal, message)
    }

    /// Turns a file-system error into ours; `what` says what was being done to which path.
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

    /// Adds what to do next.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<Hint>) -> Self {
        self.hints.push(hint.into());
        self
    }

    /// Adds the fault behind it.
    #[must_use]
    pub fn fault(self, fault: Fault) -> Self {
        Self { fault: Some(Box::new(fault)), ..self }
    }

    /// Returns the command that the first hint with one says to run on the host.
    pub fn command(&self) -> Option<&str> {
        self.hints.iter().find_map(Hint::command)
    }

    /// Returns all hints as one text, each as a front end writes it.
    pub fn hint_text(&self, write: impl Fn(&Hint) -> String) -> Option<String> {
        join(self.hints.iter().map(write))
    }

    /// Returns the error with its hints as a front end writes them.
    #[must_use]
    pub fn written(self, write: impl Fn(&Hint) -> String) -> Self {
        let hints = self.hint_text(write).map(Hint::new).into_iter().collect();
        Self { hints, ..self }
    }

    /// Adds what a program may want to know.
    #[must_use]
    pub fn details(mut self, details: Value) -> Self {
        self.details = Some(Box::new(details));
        self
    }

    /// Adds why it failed.
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
    /// `{"error", "code", "exitStatus", "cause", "hint", "retryable", "details"}`; `error` is the member that the first clients know.
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

/// The kind of a failure: every decision that a caller can make from one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Code {
    /// A bug in vmprov.
    Internal,
    /// Cannot be parsed, is out of range, or contradicts itself.
    InvalidInput,
    /// No such VM, key, image, pool, network or file.
    NotFound,
    /// The name is taken.
    AlreadyExists,
    /// The thing is in a state in which this cannot be done.
    Conflict,
    /// An idempotency key was used for another request.
    KeyReused,
    /// Another vmprov is working on the same thing.
    Busy,
    /// The operating system or libvirt does not permit it.
    Denied,
    /// Whoever asks may not do that: their token's scope or names, or the limits of an agent.
    Forbidden,
    /// Whoever asks has as much as they may have.
    QuotaExceeded,
    /// A program that vmprov calls is not installed.
    ToolMissing,
    /// A program failed in a way that vmprov does not know.
    ToolFailed,
    /// libvirtd, a guest or a download host cannot be reached.
    Unreachable,
    /// A call or a wait took longer than its limit.
    Timeout,
    /// The guest itself has failed, so that waiting for it is in vain.
    GuestFailed,
    /// Stopped by a signal; what was begun has been undone.
    Interrupted,
}

impl Serialize for Code {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

impl Code {
    /// Every code, in the order of the documentation's table.
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

    /// The name in JSON.
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

    /// The exit status of the command line.
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

    /// The status over HTTP (RFC 9110, section 15).
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

    /// Whether the same request can succeed later without anybody changing anything.
    pub const fn is_retryable(self) -> bool {
        matches!(self, Self::Busy | Self::Unreachable | Self::Timeout | Self::Interrupted)
    }

    /// When it happens, for the table in the manual.
    pub const fn meaning(self) -> &'static str {
        match self {
            Self::Internal => "a bug in vmprov",
            Self::InvalidInput => "the arguments or the input cannot be used",
            Self::NotFound => "no such VM, key, image, pool, network or file",
            Self::AlreadyExists => "the name is taken",
            Self::Conflict => "not possible in the state that the thing is in",
            Self::KeyReused => "the Idempotency-Key was used for another request to `serve`",
            Self::Busy => "another vmprov is working on the same thing",
            Self::Denied => "the operating system or libvirt does not permit it",
            Self::Forbidden => "whoever asks `serve` or `mcp` may not do that",
            Self::QuotaExceeded => "whoever asks `serve` has as much as they may have",
            Self::ToolMissing => "a program that vmprov calls is not installed",
            Self::ToolFailed => "a program failed in a way that vmprov does not know",
            Self::Unreachable => "libvirtd, the guest or the download host cannot be reached",
            Self::Timeout => "a call or a wait took longer than its limit",
            Self::GuestFailed => {
                "the guest has failed: no boot device, kernel panic, stopped by itself, cloud-init error"
            }
            Self::Interrupted => "stopped by a signal; what was begun has been undone",
        }
    }
}
