//! [`undoing`]: whole, or not at all.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use crate::error::{Error, Hint, Result};

/// What is to be undone when the work fails, in the order it was begun.
#[derive(Default)]
pub struct Undo<'a>(Vec<Step<'a>>);

struct Step<'a> {
    what: String,
    claim: Claim,
    undo: Box<dyn FnOnce() -> Result<()> + 'a>,
}

/// That what a step undoes is ours.
#[derive(Debug, Clone, Default)]
pub struct Claim(Arc<AtomicBool>);

impl Claim {
    /// It turned out not to be: the step is left out.
    pub fn waive(&self) {
        self.0.store(true, Ordering::SeqCst);
    }

    fn holds(&self) -> bool {
        !self.0.load(Ordering::SeqCst)
    }
}

impl<'a> Undo<'a> {
    /// Adds a step. It is added before what it undoes is tried, because a call that failed may have done its work;
    /// so it must bear that there is nothing to undo.
    pub fn push(&mut self, what: impl Into<String>, undo: impl FnOnce() -> Result<()> + 'a) -> Claim {
        let claim = Claim::default();
        self.0.push(Step { what: what.into(), claim: claim.clone(), undo: Box::new(undo) });
        claim
    }

    /// Undoes in reverse order, all of it even where a step fails, and names what is left behind.
    fn run(&mut self) -> Vec<String> {
        let undo = |Step { what, undo, .. }: Step| {
            tracing::info!("# undoing: {what}");
            undo().err().map(|error| format!("{what} ({error})"))
        };
        self.0.drain(..).rev().filter(|step| step.claim.holds()).filter_map(undo).collect()
    }
}

impl Drop for Undo<'_> {
    /// Runs in a panic only: [`undoing`] has emptied it otherwise.
    fn drop(&mut self) {
        self.run();
    }
}

/// Does `work`; when it fails, everything that it pushed is undone and what could not be is named in the error.
pub fn undoing<'a, T>(work: impl FnOnce(&mut Undo<'a>) -> Result<T>) -> Result<T> {
    undoing_with(work, left_behind)
}

/// The same, where `tell` names in the error what could not be undone.
pub fn undoing_with<'a, T>(
    work: impl FnOnce(&mut Undo<'a>) -> Result<T>,
    tell: impl FnOnce(Error, &[String]) -> Error,
) -> Result<T> {
    let mut undo = Undo::default();
    match work(&mut undo) {
        Ok(value) => {
            undo.0.clear();
            Ok(value)
        }
        Err(error) => {
            let left = undo.run();
            Err(if left.is_empty() { error } else { tell(error, &left) })
        }
    }
}

fn left_behind(error: Error, left: &[String]) -> Error {
    error.hint(Hint::leftovers(left))
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    #[test]
    fn a_failure_undoes_in_reverse_and_names_what_is_left() {
        let log = RefCell::new(Vec::new());
        let error = undoing(|undo| {
            for step in ["a", "b", "c"] {
                let log = &log;
                undo.push(step, move || {
                    log.borrow_mut().push(step);
                    if step == "b" { Err(Error::internal("stuck")) } else { Ok(()) }
                });
            }
            undo.push("d", || unreachable!("it was not ours")).waive();
            Err::<(), _>(Error::internal("boom").hint("Do this"))
        })
        .unwrap_err();
        assert_eq!(*log.borrow(), ["c", "b", "a"]);
        assert_eq!(error.hints, [Hint::new("Do this"), Hint::leftovers(&["b (stuck)".to_owned()])]);
    }

    #[test]
    fn success_keeps_everything() {
        assert_eq!(
            undoing(|undo| {
                undo.push("a", || unreachable!("nothing failed"));
                Ok(1)
            }),
            Ok(1)
        );
    }

    #[test]
    fn a_panic_undoes_too() {
        let undone = AtomicBool::new(false);
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            undoing::<()>(|undo| {
                undo.push("a", || {
                    undone.store(true, Ordering::SeqCst);
                    Ok(())
                });
                panic!("boom")
            })
        }));
        assert!(result.is_err() && undone.into_inner());
    }
}
