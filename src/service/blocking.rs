//! Work off the async threads, as much of it at a time as is allowed.

use tokio::sync::{Semaphore, SemaphorePermit};

use crate::error::{Error, Result};

/// Runs something that blocks when there is room for it.
pub(crate) async fn run<T: Send + 'static>(
    room: &'static Semaphore,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    run_at(place(room).await?, work).await
}

/// Waits for room.
pub(crate) async fn place(room: &'static Semaphore) -> Result<SemaphorePermit<'static>> {
    room.acquire().await.map_err(|error| Error::internal("the pool is closed").because(error))
}

/// Runs something that blocks and has its room.
pub(crate) async fn run_at<T: Send + 'static>(
    _place: SemaphorePermit<'static>,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|panic| {
        Err(Error::internal("an operation has failed in a way that nobody foresaw").because(panic))
    })
}
