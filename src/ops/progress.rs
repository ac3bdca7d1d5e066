//! [`Progress`]: receives an operation's progress.

/// Receives an operation's progress. The command line displays it, an HTTP operation records it, `()` ignores it.
pub trait Progress: Send + Sync {
    /// Called when a step begins, as in "waiting for an address".
    fn step(&self, _text: &str) {}

    /// Called with the bytes of the current step that are done, and with their total if that is known.
    fn bytes(&self, _done: u64, _total: Option<u64>) {}

    /// Called with a warning.
    fn warn(&self, _text: &str) {}

    /// Called with a note about something that the operation did beyond the request.
    fn note(&self, _text: &str) {}
}

impl Progress for () {}
