//! Runs blocking work on its own threads, limited by permits.

use tokio::sync::{Semaphore, SemaphorePermit};

use crate::error::{Error, Result};

/// Waits for a permit and runs blocking work.
pub(crate) async fn run<T: Send + 'static>(
    permits: &'static Semaphore,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    run_with(permit(permits).await?, work).await
}

/// Waits for a permit.
pub(crate) async fn permit(permits: &'static Semaphore) -> Result<SemaphorePermit<'static>> {
    permits.acquire().await.map_err(|error| Error::internal("the semaphore is closed").because(error))
}

/// Runs blocking work that has a permit.
pub(crate) async fn run_with<T: Send + 'static>(
    _permit: SemaphorePermit<'static>,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|panic| Err(Error::internal("the operation panicked").because(panic)))
}
