//! [`CachedProbe`]: a look that many ask for again and again, and that costs one look in a while.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use futures_util::{
    FutureExt,
    future::{BoxFuture, Shared},
};

use crate::error::{Code, Error, Result};

/// What was found, for all who asked.
pub(crate) type Found<T> = Arc<Result<T>>;

type Pending<T> = Shared<BoxFuture<'static, Found<T>>>;

/// What was last found, and the look that is under way. There is never a second one beside it.
pub(crate) struct CachedProbe<T>(Arc<Mutex<Slot<T>>>);

struct Slot<T> {
    last: Option<(Instant, Found<T>)>,
    under_way: Option<Pending<T>>,
}

impl<T> Default for CachedProbe<T> {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(Slot { last: None, under_way: None })))
    }
}

impl<T: Send + Sync + 'static> CachedProbe<T> {
    /// What was found not longer ago than `keep`; else looks, or waits for the look that is under way, as long as `bound`.
    /// A look that takes longer goes on, and is what the next ones wait for.
    pub(crate) async fn look(
        &self,
        keep: Duration,
        bound: Duration,
        work: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Found<T> {
        let look = {
            let mut slot = lock(&self.0);
            match &slot.last {
                Some((when, found)) if when.elapsed() < keep => return found.clone(),
                _ => slot.under_way.get_or_insert_with(|| begin(self.0.clone(), work)).clone(),
            }
        };
        tokio::time::timeout(bound, look).await.unwrap_or_else(|_| {
            Arc::new(Err(Error::new(Code::Timeout, format!("nothing was found within {} s", bound.as_secs()))))
        })
    }
}

fn lock<T>(slot: &Mutex<Slot<T>>) -> MutexGuard<'_, Slot<T>> {
    slot.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Begins a look off the async threads, which goes on when nobody waits for it any more.
fn begin<T: Send + Sync + 'static>(
    slot: Arc<Mutex<Slot<T>>>,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Pending<T> {
    let task = tokio::spawn(async move {
        let found = tokio::task::spawn_blocking(work).await;
        let found = found.unwrap_or_else(|panic| Err(Error::internal("a look has failed").because(panic)));
        let found = Arc::new(found);
        let mut slot = lock(&slot);
        *slot = Slot { last: Some((Instant::now(), found.clone())), under_way: None };
        found
    });
    let failed = |panic| Arc::new(Err(Error::internal("a look has failed").because(panic)));
    task.map(move |found| found.unwrap_or_else(failed)).boxed().shared()
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
    async fn all_who_ask_meanwhile_have_one_look_and_so_do_those_who_ask_soon_after() {
        let glance = CachedProbe::default();
        let looks = Arc::new(AtomicUsize::new(0));
        let look = |keep| {
            let looks = looks.clone();
            glance.look(keep, LONG, move || Ok(looks.fetch_add(1, Ordering::SeqCst)))
        };
        let (first, second) = tokio::join!(look(Duration::ZERO), look(Duration::ZERO));
        assert_eq!((first.as_ref(), second.as_ref()), (&Ok(0), &Ok(0)));
        assert_eq!(look(LONG).await.as_ref(), &Ok(0));
        assert_eq!(look(Duration::ZERO).await.as_ref(), &Ok(1));
    }

    #[tokio::test]
    async fn one_that_takes_too_long_is_not_waited_for_and_not_begun_again() {
        let glance = CachedProbe::default();
        let (open, gate) = channel::<()>();
        let late = glance.look(LONG, Duration::ZERO, move || Ok(gate.recv().is_ok())).await;
        assert_eq!(late.as_ref().as_ref().unwrap_err().code, Code::Timeout);
        let mut second = Box::pin(glance.look(LONG, LONG, || Ok(false)));
        assert!((&mut second).now_or_never().is_none(), "it does not wait for the first");
        open.send(()).unwrap();
        assert_eq!(second.await.as_ref(), &Ok(true));
    }
}
