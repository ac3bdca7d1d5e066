//! What a check found, and what mends it.

use super::{CheckStatus, Checked};
use crate::{
    error::{Code, Error, Hint, Result},
    ops::Host,
};

/// What mends a fault without a risk; it returns what it has done.
type Act = Box<dyn Fn(&Host) -> Result<String>>;

/// What a check found.
pub(super) struct Finding {
    pub(super) status: CheckStatus,
    pub(super) saw: String,
    code: Option<Code>,
    fix: Option<String>,
    act: Option<Act>,
}

impl Finding {
    fn new(status: CheckStatus, saw: impl Into<String>) -> Self {
        Self { status, saw: saw.into(), code: None, fix: None, act: None }
    }

    /// All is well.
    pub(super) fn ok(saw: impl Into<String>) -> Self {
        Self::new(CheckStatus::Ok, saw)
    }

    /// Something is not as it should be.
    pub(super) fn warn(saw: impl Into<String>) -> Self {
        Self::new(CheckStatus::Warn, saw)
    }

    /// Something will not work.
    pub(super) fn fail(code: Code, saw: impl Into<String>) -> Self {
        Self { code: Some(code), ..Self::new(CheckStatus::Fail, saw) }
    }

    /// Nothing was looked at, or nothing could be seen.
    pub(super) fn skip(saw: impl Into<String>) -> Self {
        Self::new(CheckStatus::Skip, saw)
    }

    /// A look that did not succeed shows neither that all is well nor that it is not.
    pub(super) fn unknown(error: &Error) -> Self {
        Self::skip(error.to_string().replace('\n', " "))
    }

    /// The command that mends it, which is for a human to decide on.
    pub(super) fn mend(self, command: impl Into<String>) -> Self {
        Self { fix: Some(command.into()), ..self }
    }

    /// The command that mends it, and what does the same without a risk.
    pub(super) fn mend_by(self, command: impl Into<String>, act: impl Fn(&Host) -> Result<String> + 'static) -> Self {
        Self { fix: Some(command.into()), act: Some(Box::new(act)), ..self }
    }

    /// What mends it without a risk.
    pub(super) fn act(&self) -> Option<&Act> {
        self.act.as_ref()
    }

    /// The same, after mending it has failed.
    pub(super) fn not_mended(self, error: &Error) -> Self {
        let saw = format!("{}; mending it failed: {}", self.saw, error.to_string().replace('\n', " "));
        Self { saw, ..self }
    }

    pub(super) fn report(self, id: &'static str, did: Vec<String>) -> Checked {
        Checked {
            id,
            status: self.status,
            saw: self.saw,
            code: self.code,
            safe: self.act.is_some(),
            fix: self.fix,
            fixed: !did.is_empty(),
            did,
        }
    }

    /// Returns it as a hint: what is wrong, and the command that fixes it. None where nothing is wrong.
    pub(super) fn as_hint(&self) -> Option<Hint> {
        if !matches!(self.status, CheckStatus::Warn | CheckStatus::Fail) {
            return None;
        }
        Some(match &self.fix {
            Some(fix) => Hint::run(&self.saw, fix),
            None => Hint::new(&self.saw),
        })
    }
}
