//! [`CachedProbe`]: a probe whose result is cached and shared by all callers.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use futures_util::{
    FutureExt,
    future::{BoxFuture, Shared},
};

use crate::error::{Code, Error, Result};

/// The result of a probe, shared by all callers.
pub(crate) type Probed<T> = Arc<Result<T>>;

type Pending<T> = Shared<BoxFuture<'static, Probed<T>>>;

/// The last result, and the running probe. There is never more than one running probe.
pub(crate) struct CachedProbe<T>(Arc<Mutex<Slot<T>>>);

struct Slot<T> {
    last: Option<(Instant, Probed<T>)>,
    pending: Option<Pending<T>>,
}

impl<T> Default for CachedProbe<T> {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(Slot { last: None, pending: None })))
    }
}

impl<T: Send + Sync + 'static> CachedProbe<T> {
    /// Returns the cached result if it is younger than `ttl`. Otherwise waits at most `limit` for the running probe or
    /// a new one. A probe that takes longer continues, and later callers wait for it.
    pub(crate) async fn get(
        &self,
        ttl: Duration,
        limit: Duration,
        work: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Probed<T> {
        let probe = {
            let mut slot = lock(&self.0);
            match &slot.last {
                Some((when, result)) if when.elapsed() < ttl => return result.clone(),
                _ => slot.pending.get_or_insert_with(|| start(self.0.clone(), work)).clone(),
            }
        };
        tokio::time::timeout(limit, probe).await.unwrap_or_else(|_| {
            Arc::new(Err(Error::new(Code::Timeout, format!("the probe took longer than {} s", limit.as_secs()))))
        })
    }
}

fn lock<T>(slot: &Mutex<Slot<T>>) -> MutexGuard<'_, Slot<T>> {
    slot.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Starts a probe on a blocking thread. The probe continues if all callers stop waiting.
fn start<T: Send + Sync + 'static>(
    slot: Arc<Mutex<Slot<T>>>,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Pending<T> {
    let task = tokio::spawn(async move {
        let result = tokio::task::spawn_blocking(work).await;
        let result = result.unwrap_or_else(|panic| Err(Error::internal("the probe panicked").because(panic)));
        let result = Arc::new(result);
        let mut slot = lock(&slot);
        *slot = Slot { last: Some((Instant::now(), result.clone())), pending: None };
        result
    });
    let failed = |panic| Arc::new(Err(Error::internal("the probe panicked").because(panic)));
    task.map(move |result| result.unwrap_or_else(failed)).boxed().shared()
}

#[cfg(test)]
mod tests {
    use std::sync::{
        atomic::{AtomicUsize, Ordering},
        mpsc::channel,
    };

    use super::*;

    const LONG: Duration = Duration::from_hours(1);

    #[tokio::test]
    async fn concurrent_callers_share_one_probe_and_later_callers_the_cached_result() {
        let probe = CachedProbe::default();
        let runs = Arc::new(AtomicUsize::new(0));
        let get = |ttl| {
            let runs = runs.clone();
            probe.get(ttl, LONG, move || Ok(runs.fetch_add(1, Ordering::SeqCst)))
        };
        let (first, second) = tokio::join!(get(Duration::ZERO), get(Duration::ZERO));
        assert_eq!((first.as_ref(), second.as_ref()), (&Ok(0), &Ok(0)));
        assert_eq!(get(LONG).await.as_ref(), &Ok(0));
        assert_eq!(get(Duration::ZERO).await.as_ref(), &Ok(1));
    }

    #[tokio::test]
    async fn a_probe_over_its_limit_times_out_and_is_not_started_again() {
        let probe = CachedProbe::default();
        let (release, released) = channel::<()>();
        let late = probe.get(LONG, Duration::ZERO, move || Ok(released.recv().is_ok())).await;
        assert_eq!(late.as_ref().as_ref().unwrap_err().code, Code::Timeout);
        let mut second = Box::pin(probe.get(LONG, LONG, || Ok(false)));
        assert!((&mut second).now_or_never().is_none(), "it does not wait for the first");
        release.send(()).unwrap();
        assert_eq!(second.await.as_ref(), &Ok(true));
    }
}
