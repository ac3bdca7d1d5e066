//! The finding of a check, and how to fix the problem.

use super::{CheckStatus, Checked};
use crate::{
    error::{Code, Error, Hint, Result},
    ops::Host,
};

/// A fix without risk. It returns what it has done.
type SafeFix = Box<dyn Fn(&Host) -> Result<String>>;

/// The finding of a check.
pub(super) struct Finding {
    pub(super) status: CheckStatus,
    pub(super) observed: String,
    code: Option<Code>,
    fix_command: Option<String>,
    safe_fix: Option<SafeFix>,
}

impl Finding {
    fn new(status: CheckStatus, observed: impl Into<String>) -> Self {
        Self { status, observed: observed.into(), code: None, fix_command: None, safe_fix: None }
    }

    /// Returns the finding that there is no problem.
    pub(super) fn ok(observed: impl Into<String>) -> Self {
        Self::new(CheckStatus::Ok, observed)
    }

    /// Returns a problem that does not prevent VMs from being created.
    pub(super) fn warn(observed: impl Into<String>) -> Self {
        Self::new(CheckStatus::Warn, observed)
    }

    /// Returns a problem because of which something will not work.
    pub(super) fn fail(code: Code, observed: impl Into<String>) -> Self {
        Self { code: Some(code), ..Self::new(CheckStatus::Fail, observed) }
    }

    /// Returns that nothing was checked or could be determined, and why.
    pub(super) fn skip(observed: impl Into<String>) -> Self {
        Self::new(CheckStatus::Skip, observed)
    }

    /// Returns the finding of a check that failed to run, which proves neither that there is a problem nor that there
    /// is none.
    pub(super) fn unknown(error: &Error) -> Self {
        Self::skip(error.to_string().replace('\n', " "))
    }

    /// Adds the command that fixes the problem, which a person must decide to run.
    pub(super) fn fix(self, command: impl Into<String>) -> Self {
        Self { fix_command: Some(command.into()), ..self }
    }

    /// Adds the command that fixes the problem, and a function that does the same without risk.
    pub(super) fn fix_by(self, command: impl Into<String>, fix: impl Fn(&Host) -> Result<String> + 'static) -> Self {
        Self { fix_command: Some(command.into()), safe_fix: Some(Box::new(fix)), ..self }
    }

    /// Returns the fix without risk, if there is one.
    pub(super) fn safe_fix(&self) -> Option<&SafeFix> {
        self.safe_fix.as_ref()
    }

    /// Returns the finding after its safe fix has failed.
    pub(super) fn fix_failed(self, error: &Error) -> Self {
        let observed = format!("{}; the fix failed: {}", self.observed, error.to_string().replace('\n', " "));
        Self { observed, ..self }
    }

    pub(super) fn report(self, id: &'static str, actions: Vec<String>) -> Checked {
        Checked {
            id,
            status: self.status,
            observed: self.observed,
            code: self.code,
            safe: self.safe_fix.is_some(),
            fix_command: self.fix_command,
            fixed: !actions.is_empty(),
            actions,
        }
    }

    /// Returns the problem and the command that fixes it as a hint; none if there is no problem.
    pub(super) fn as_hint(&self) -> Option<Hint> {
        if !matches!(self.status, CheckStatus::Warn | CheckStatus::Fail) {
            return None;
        }
        Some(match &self.fix_command {
            Some(command) => Hint::run(&self.observed, command),
            None => Hint::new(&self.observed),
        })
    }
}
