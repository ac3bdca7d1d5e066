//! [`undoing`]: rolls back partial work when an operation fails.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use crate::error::{Error, Hint, Result};

/// The steps that roll back an operation's work if it fails, in the order in which the work was begun.
#[derive(Default)]
pub struct Undo<'a>(Vec<Step<'a>>);

struct Step<'a> {
    what: String,
    claim: Claim,
    undo: Box<dyn FnOnce() -> Result<()> + 'a>,
}

/// Whether this operation made what a step undoes.
#[derive(Debug, Clone, Default)]
pub struct Claim(Arc<AtomicBool>);

impl Claim {
    /// Skips the step, because this operation did not make what it would undo.
    pub fn waive(&self) {
        self.0.store(true, Ordering::SeqCst);
    }

    fn holds(&self) -> bool {
        !self.0.load(Ordering::SeqCst)
    }
}

impl<'a> Undo<'a> {
    /// Adds a step. Add it before the call that it undoes, because a call that failed may have done its work. So a step
    /// must succeed if there is nothing to undo.
    pub fn push(&mut self, what: impl Into<String>, undo: impl FnOnce() -> Result<()> + 'a) -> Claim {
        let claim = Claim::default();
        self.0.push(Step { what: what.into(), claim: claim.clone(), undo: Box::new(undo) });
        claim
    }

    /// Runs all steps in reverse order, even if some of them fail, and returns what could not be undone.
    fn run(&mut self) -> Vec<String> {
        let undo = |Step { what, undo, .. }: Step| {
            tracing::info!("# undoing: {what}");
            undo().err().map(|error| format!("{what} ({error})"))
        };
        self.0.drain(..).rev().filter(|step| step.claim.holds()).filter_map(undo).collect()
    }
}

impl Drop for Undo<'_> {
    /// Runs the steps in a panic. In every other case [`undoing`] has already emptied the list.
    fn drop(&mut self) {
        self.run();
    }
}

/// Runs `work`. If it fails, undoes every step that it pushed; the error names what could not be undone.
pub fn undoing<'a, T>(work: impl FnOnce(&mut Undo<'a>) -> Result<T>) -> Result<T> {
    undoing_with(work, with_leftovers)
}

/// Does the same as [`undoing`], but `report` adds to the error what could not be undone.
pub fn undoing_with<'a, T>(
    work: impl FnOnce(&mut Undo<'a>) -> Result<T>,
    report: impl FnOnce(Error, &[String]) -> Error,
) -> Result<T> {
    let mut undo = Undo::default();
    match work(&mut undo) {
        Ok(value) => {
            undo.0.clear();
            Ok(value)
        }
        Err(error) => {
            let left = undo.run();
            Err(if left.is_empty() { error } else { report(error, &left) })
        }
    }
}

fn with_leftovers(error: Error, left: &[String]) -> Error {
    error.hint(Hint::leftovers(left))
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    #[test]
    fn failure_undoes_in_reverse_order_and_names_leftovers() {
        let log = RefCell::new(Vec::new());
        let error = undoing(|undo| {
            for step in ["a", "b", "c"] {
                let log = &log;
                undo.push(step, move || {
                    log.borrow_mut().push(step);
                    if step == "b" { Err(Error::internal("stuck")) } else { Ok(()) }
                });
            }
            undo.push("d", || unreachable!("its claim was waived")).waive();
            Err::<(), _>(Error::internal("boom").hint("Do this"))
        })
        .unwrap_err();
        assert_eq!(*log.borrow(), ["c", "b", "a"]);
        assert_eq!(error.hints, [Hint::new("Do this"), Hint::leftovers(&["b (stuck)".to_owned()])]);
    }

    #[test]
    fn success_undoes_nothing() {
        assert_eq!(
            undoing(|undo| {
                undo.push("a", || unreachable!("nothing failed"));
                Ok(1)
            }),
            Ok(1)
        );
    }

    #[test]
    fn panic_undoes_everything() {
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
