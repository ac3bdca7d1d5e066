//! [`Observer`]: receives notifications of program calls and downloads, for metrics.

use std::{fmt::Debug, time::Duration};

use crate::error::Error;

/// Receives notifications of program calls and downloads.
///
/// Its functions run on the thread that does the work, so they must be quick. The command line has no observer.
pub trait Observer: Debug + Send + Sync {
    /// Called when a program is started.
    fn program_started(&self, _program: &'static str) {}

    /// Called when a call has ended. It succeeded if its exit status was 0. `_took` is none for a call whose output was
    /// followed until the caller stopped it.
    fn program_ended(&self, _program: &'static str, _took: Option<Duration>, _succeeded: bool) {}

    /// Called when more bytes of an image were received.
    fn received(&self, _bytes: u64) {}

    /// Called when the download of an image has ended.
    fn download_ended(&self, _result: Result<(), &Error>) {}
}
