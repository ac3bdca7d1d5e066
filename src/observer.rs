//! [`Observer`]: how somebody who counts is told of what is done.

use std::{fmt::Debug, time::Duration};

use crate::error::Error;

/// Told of what is done, by the thread that does it: so it must not take long. The command line has none.
pub trait Observer: Debug + Send + Sync {
    /// A program is called.
    fn program_started(&self, _program: &'static str) {}

    /// A call has ended, and succeeded if its exit status was 0. There is no duration where it was listened to for as long
    /// as somebody liked.
    fn program_ended(&self, _program: &'static str, _took: Option<Duration>, _succeeded: bool) {}

    /// So many more bytes of an image have come.
    fn received(&self, _bytes: u64) {}

    /// The download of an image has ended.
    fn download_ended(&self, _result: Result<(), &Error>) {}
}
