//! [`Progress`]: what an operation tells whoever waits for it.

/// Told of an operation's progress. The command line draws it, an HTTP operation records it, `()` ignores it.
pub trait Progress: Send + Sync {
    /// What is being done now, as in "waiting for an address".
    fn step(&self, _text: &str) {}

    /// How many bytes of the current step are done, of how many where that is known.
    fn bytes(&self, _done: u64, _total: Option<u64>) {}

    /// Something that the user should know although nothing failed.
    fn warn(&self, _text: &str) {}

    /// Something that was done beside what was asked for.
    fn note(&self, _text: &str) {}
}

impl Progress for () {}
